"""Annotated ONNX: lutc nodes become R.lut calls with the oracle's values; inconsistent ones are refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper

from lutc.errors import ModelImportError
from lutc.importers import import_model
from tests import oracle
from tests.execute import execute
from tests.importers.models import lut_dense_model, lut_node, lut_tensors, model, prefixed


@pytest.mark.parametrize("encode_dtype", ["int8", "float32"])
def test_dense_has_the_oracle_s_values(encode_dtype: str) -> None:
    rng = np.random.default_rng(1)
    tensors = lut_tensors(rng, 3, 16, 4, 10, encode_dtype=encode_dtype)
    imported = import_model(lut_dense_model(tensors, 11, 10, encode_dtype=encode_dtype))
    call = imported.mod["main"].body.blocks[0].bindings[0].value
    assert call.op.name == "relax.lut.dense" and str(call.attrs["layer"]) == "fc1"
    x = rng.standard_normal((2, 11)).astype(np.float32)
    (y,) = execute(imported.mod, [x], {"kind": "llvm"})
    np.testing.assert_allclose(y, oracle.dense(x, **tensors, encode_dtype=encode_dtype)[0], rtol=1e-5, atol=1e-5)


def test_conv2d_has_the_oracle_s_values() -> None:
    rng = np.random.default_rng(2)
    tensors = lut_tensors(rng, 4, 16, 9, 6, bias=False) | {"mult": np.array([1, 2, 127, 5], np.uint8)}
    attributes = {"kernel_shape": [3, 3], "strides": [2, 1], "pads": [1, 0, 1, 1], "dilations": [1, 2]}
    node = lut_node("c1", "x", "y", tensors, encode_dtype="int8", input_signed=0, group=1, **attributes)
    proto = model([node], {"x": [1, 4, 9, 8]}, {"y": [None] * 4}, prefixed("c1", tensors), domains={"lutc": 1})
    imported = import_model(proto)
    assert imported.mod["main"].body.blocks[0].bindings[0].value.op.name == "relax.lut.conv2d"
    x = rng.uniform(0, 4, (1, 4, 9, 8)).astype(np.float32)
    (y,) = execute(imported.mod, [x], {"kind": "llvm"})
    expected, _ = oracle.conv2d(x, **tensors, **attributes, encode_dtype="int8", input_signed=False)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    assert imported.outputs[0].shape == list(expected.shape)


def test_default_attributes() -> None:
    tensors = lut_tensors(np.random.default_rng(3), 2, 16, 4, 5, encode_dtype="float32")
    call = import_model(lut_dense_model(tensors, 8, 5)).mod["main"].body.blocks[0].bindings[0].value
    assert str(call.attrs["encode_dtype"]) == "float32" and int(call.attrs["input_signed"]) == 1


def test_constants_may_come_from_constant_nodes() -> None:
    tensors = lut_tensors(np.random.default_rng(4), 2, 16, 4, 5)
    proto = lut_dense_model(tensors, 8, 5, encode_dtype="int8")
    table = next(t for t in proto.graph.initializer if t.name == "fc1.table")
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["fc1.table"], value=table))
    proto.graph.initializer.remove(table)
    assert import_model(proto).outputs[0].shape == [2, 5]


def good() -> dict[str, np.ndarray]:
    return lut_tensors(np.random.default_rng(5), 3, 16, 4, 10)


BREAKS: dict[str, tuple[Callable[[dict], dict], str]] = {
    "table-m": (lambda t: t | {"table_scale": t["table_scale"][:-1]}, "table_scale is float32[9]"),
    "table-k": (lambda t: t | {"table": t["table"][:, :15]}, "centroids is int8[3, 16, 4]"),
    "table-dtype": (lambda t: t | {"table": t["table"].astype(np.int16)}, "table is int16"),
    "rank": (lambda t: t | {"centroids": t["centroids"][0]}, "centroids have shape [16, 4]"),
    "bias": (lambda t: t | {"bias": t["bias"].astype(np.float64)}, "bias is float64"),
    "float-centroids": (lambda t: t | {"centroids": t["centroids"].astype(np.float32)}, "centroids is float32"),
    "no-inv-scale": (lambda t: {k: v for k, v in t.items() if k != "inv_scale"}, "inv_scale is missing"),
    "inv-scale-shape": (lambda t: t | {"inv_scale": t["inv_scale"][:2]}, "inv_scale is float32[2]"),
    "score-bias-dtype": (lambda t: t | {"score_bias": t["score_bias"].astype(np.int64)}, "score_bias is int64"),
    "nan-scale": (lambda t: t | {"table_scale": np.full(10, np.nan, np.float32)}, "table_scale holds NaN"),
    "inf-bias": (lambda t: t | {"bias": np.full(10, np.inf, np.float32)}, "bias holds NaN or infinity"),
    "negative-inv-scale": (lambda t: t | {"inv_scale": -t["inv_scale"]}, "not positive"),
    "mult-zero": (lambda t: t | {"mult": np.array([1, 0, 2], np.uint8)}, "mult"),
    "mult-large": (lambda t: t | {"mult": np.array([1, 200, 2], np.uint8)}, "mult holds 200"),
    "one-centroid": (lambda t: t | {k: t[k][:, :1] for k in ("centroids", "table", "score_bias")}, "1 centroids"),
    "no-table": (lambda t: {k: v for k, v in t.items() if k != "table"}, "table is missing"),
}  # fmt: skip


@pytest.mark.parametrize("case", BREAKS)
def test_inconsistent_constants(case: str) -> None:
    change, told = BREAKS[case]
    with pytest.raises(ModelImportError) as caught:
        import_model(lut_dense_model(change(good()), 11, 10, encode_dtype="int8"))
    assert told in caught.value.reason
    assert 'node 0 (LUTDense "fc1")' in caught.value.where


def test_nan_centroids() -> None:
    tensors = lut_tensors(np.random.default_rng(5), 3, 16, 4, 10, encode_dtype="float32")
    tensors["centroids"][1, 2, 3] = np.nan
    with pytest.raises(ModelImportError, match="cannot import a lookup-table layer") as caught:
        import_model(lut_dense_model(tensors, 11, 10))
    assert "centroids holds NaN" in caught.value.reason


@pytest.mark.parametrize(
    "attributes, told",
    [
        ({"encoder": "hash"}, "encoder is 'hash'"),
        ({"encoder": "tree"}, "centroids are given with encoder 'tree'"),
        ({"encode_dtype": "int4"}, "encode_dtype is 'int4'"),
        ({"encode_dtype": "int6"}, "centroids are not multiples of 4"),
        ({"encode_dtype": "int6", "encoder": "tree"}, "'int6' with encoder 'tree'"),
        ({"encode_dtype": "float32"}, "encode_dtype 'float32'"),
        ({"turbo": 1}, "unknown attribute turbo"),
    ],
)
def test_bad_attributes(attributes: dict, told: str) -> None:
    with pytest.raises(ModelImportError) as caught:
        import_model(lut_dense_model(good(), 11, 10, **({"encode_dtype": "int8"} | attributes)))
    assert told in caught.value.reason


@pytest.mark.parametrize(
    "attributes, told",
    [
        ({"strides": [1]}, "strides is [1]"),
        ({"strides": [0, 1]}, "strides is [0, 1]"),
        ({"pads": [-1, 0, 0, 0]}, "pads is [-1, 0, 0, 0]"),
        ({"group": 2}, "group is 2"),
    ],
)
def test_bad_geometry(attributes: dict, told: str) -> None:
    tensors = lut_tensors(np.random.default_rng(5), 4, 16, 9, 6)
    node = lut_node("c1", "x", "y", tensors, kernel_shape=[3, 3], encode_dtype="int8", **attributes)
    proto = model([node], {"x": [1, 4, 9, 8]}, {"y": [None] * 4}, prefixed("c1", tensors), domains={"lutc": 1})
    with pytest.raises(ModelImportError) as caught:
        import_model(proto)
    assert told in caught.value.reason


def test_input_that_the_codebooks_do_not_cover() -> None:
    with pytest.raises(ModelImportError) as caught:
        import_model(lut_dense_model(good(), 13, 10, encode_dtype="int8"))
    assert "13 values a row" in caught.value.reason and "3 codebooks x 4" in caught.value.reason
    assert 'node 0 (LUTDense "fc1")' in caught.value.where


def test_all_bad_layers_are_named(golden: Callable[[str, str], None]) -> None:
    first, second = good(), good()
    first["table_scale"] = first["table_scale"][:-1]
    second["bias"][0] = np.nan
    nodes = [
        lut_node("a", "x", "h", first, encode_dtype="int8"),
        helper.make_node("Relu", ["h"], ["r"]),
        lut_node("b", "x", "y", second, encode_dtype="int8"),
    ]
    tensors = prefixed("a", first) | prefixed("b", second)
    proto = model(nodes, {"x": [2, 11]}, {"y": [2, 10], "r": [2, 10]}, tensors, domains={"lutc": 1})
    with pytest.raises(ModelImportError) as caught:
        import_model(proto)
    golden(str(caught.value), "importers/two-bad-layers.txt")


def test_table_computed_at_run_time() -> None:
    proto = lut_dense_model(good(), 11, 10, encode_dtype="int8")
    table = next(t for t in proto.graph.initializer if t.name == "fc1.table")
    proto.graph.initializer.remove(table)
    proto.graph.input.append(helper.make_tensor_value_info("fc1.table", table.data_type, table.dims))
    with pytest.raises(ModelImportError) as caught:
        import_model(proto)
    assert "computed while the model runs" in caught.value.reason


def test_table_behind_an_identity_is_a_constant() -> None:
    proto = lut_dense_model(good(), 11, 10, encode_dtype="int8")
    proto.graph.node.insert(0, helper.make_node("Identity", ["fc1.table"], ["late"]))
    proto.graph.node[1].input[2] = "late"
    assert import_model(proto).nodes["fc1"] == 'node 1 (LUTDense "fc1")'


def test_newer_version_of_the_domain(golden: Callable[[str, str], None]) -> None:
    proto = lut_dense_model(good(), 11, 10, encode_dtype="int8")
    next(o for o in proto.opset_import if o.domain == "lutc").version = 2
    with pytest.raises(ModelImportError) as caught:
        import_model(proto)
    golden(str(caught.value), "importers/newer-lutc-domain.txt")


def test_unknown_operator_of_the_domain() -> None:
    node = helper.make_node("LUTDens", ["x"], ["y"], name="fc1", domain="lutc")
    with pytest.raises(ModelImportError) as caught:
        import_model(model([node], {"x": [2, 11]}, {"y": [2, 10]}, domains={"lutc": 1}))
    assert 'lutc::LUTDens (1 node: fc1); did you mean "LUTDense"?' in caught.value.reason


@pytest.mark.parametrize("op_type", ["LUTDense", "Conv", "Relu"])
def test_same_name_in_another_domain_is_not_ours(op_type: str) -> None:
    node = helper.make_node(op_type, ["x"], ["y"], name="n", domain="acme")
    with pytest.raises(ModelImportError) as caught:
        import_model(model([node], {"x": [2, 11]}, {"y": [2, 11]}, domains={"acme": 1}))
    assert f"acme::{op_type} (1 node: n)" in caught.value.reason


def test_the_given_proto_is_not_changed() -> None:
    proto = lut_dense_model(good(), 11, 10, encode_dtype="int8")
    proto.graph.node.append(helper.make_node("Relu", ["y"], ["z"]))
    before = proto.SerializeToString(deterministic=True)
    import_model(proto)
    assert onnx.ModelProto.FromString(before) == proto
