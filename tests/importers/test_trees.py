"""Hash trees from ONNX files, torch programs and codebook files: the oracle's values, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from lutc.compiler import compile
from lutc.errors import ModelImportError
from lutc.importers import import_model
from lutc.importers.codebooks import Codebook, Codebooks
from lutc.report.inspect import inspect
from lutc.verify import verify
from lutc.verify.annotate import table_of
from tests import oracle
from tests.calibrate.nets import cnn, floats
from tests.execute import execute
from tests.importers.models import lut_dense_model, lut_node, model, prefixed, tree_tensors

OPTIONS = {"encode_dtype": "int8", "encoder": "tree", "subvector_len": 4}


@pytest.mark.parametrize("encode_dtype", ["int8", "float32"])
def test_dense_has_the_oracle_s_values(encode_dtype: str) -> None:
    rng, options = np.random.default_rng(1), OPTIONS | {"encode_dtype": encode_dtype}
    tensors = tree_tensors(rng, 3, 16, 4, 10, encode_dtype=encode_dtype)
    imported = import_model(lut_dense_model(tensors, 11, 10, **options))
    x = rng.standard_normal((2, 11)).astype(np.float32)
    (y,) = execute(imported.mod, [x], {"kind": "llvm"})
    np.testing.assert_allclose(y, oracle.dense(x, None, **tensors, **options)[0], rtol=1e-6, atol=1e-6)


def test_conv2d_has_the_oracle_s_values() -> None:
    rng = np.random.default_rng(2)
    tensors = tree_tensors(rng, 4, 8, 9, 6)
    geometry = {"kernel_shape": [3, 3], "strides": [2, 1], "pads": [1, 0, 1, 1], "dilations": [1, 2]}
    options = {"encode_dtype": "int8", "encoder": "tree", "subvector_len": 9, "input_signed": 0}
    node = lut_node("c1", "x", "y", tensors, group=1, **options, **geometry)
    proto = model([node], {"x": [1, 4, 9, 8]}, {"y": [None] * 4}, prefixed("c1", tensors), domains={"lutc": 1})
    x = rng.uniform(0, 4, (1, 4, 9, 8)).astype(np.float32)
    (y,) = execute(import_model(proto).mod, [x], {"kind": "llvm"})
    expected, _ = oracle.conv2d(x, None, **tensors, **geometry, **options | {"input_signed": False})
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)


def good() -> dict[str, np.ndarray]:
    return tree_tensors(np.random.default_rng(5), 3, 16, 4, 10)


def without(tensors: dict[str, np.ndarray], *names: str) -> dict[str, np.ndarray]:
    return {key: value for key, value in tensors.items() if key not in names}


BREAKS: dict[str, Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]] = {
    "no-dims": lambda t: without(t, "split_dims"),
    "no-thresholds": lambda t: without(t, "split_thresholds"),
    "no-table": lambda t: without(t, "table"),
    "dims-dtype": lambda t: t | {"split_dims": t["split_dims"].astype(np.int64)},
    "thresholds-dtype": lambda t: t | {"split_thresholds": t["split_thresholds"].astype(np.int8)},
    "dims-shape": lambda t: t | {"split_dims": t["split_dims"][:, :3]},
    "thresholds-shape": lambda t: t | {"split_thresholds": t["split_thresholds"][:, :14]},
    "dims-large": lambda t: t | {"split_dims": t["split_dims"] + 4},
    "dims-negative": lambda t: t | {"split_dims": t["split_dims"] - 4},
    "no-power": lambda t: t | {"table": t["table"][:, :12]},
    "centroids": lambda t: t | {"centroids": np.zeros((3, 16, 4), np.int8)},
    "score-bias": lambda t: t | {"score_bias": np.zeros((3, 16), np.int32)},
    "no-inv-scale": lambda t: without(t, "inv_scale"),
}


@pytest.mark.parametrize("case", BREAKS)
def test_inconsistent_trees(case: str, golden: Callable[[str, str], None]) -> None:
    with pytest.raises(ModelImportError) as caught:
        import_model(lut_dense_model(BREAKS[case](good()), 11, 10, **OPTIONS))
    golden(str(caught.value), f"importers/tree-{case}.txt")


@pytest.mark.parametrize(
    "case, options, width",
    [("no-length", without(OPTIONS, "subvector_len"), 11), ("l2", OPTIONS | {"encoder": "l2"}, 11),
     ("other-input", OPTIONS, 13)],
)  # fmt: skip
def test_attributes_and_inputs_that_do_not_fit(
    case: str, options: dict, width: int, golden: Callable[[str, str], None]
) -> None:
    tensors = good()
    if case == "l2":
        tensors |= {"centroids": np.zeros((3, 16, 4), np.int8), "score_bias": np.zeros((3, 16), np.int32)}
    with pytest.raises(ModelImportError) as caught:
        import_model(lut_dense_model(tensors, width, 10, **options))
    golden(str(caught.value), f"importers/tree-{case}.txt")


def test_any_threshold_is_legal() -> None:
    tensors = good()
    tensors["split_thresholds"][:, :4] = np.nan, np.inf, -np.inf, 1e9
    x = np.random.default_rng(3).standard_normal((2, 11)).astype(np.float32)
    (y,) = execute(import_model(lut_dense_model(tensors, 11, 10, **OPTIONS)).mod, [x], {"kind": "llvm"})
    np.testing.assert_allclose(y, oracle.dense(x, None, **tensors, **OPTIONS)[0], rtol=1e-6, atol=1e-6)


def book(name: str, c: int, v: int, k: int = 16, *, encode_dtype: str = "int8", signed: bool = True) -> Codebook:
    rng = np.random.default_rng(c)
    return Codebook(
        name,
        rng.standard_normal((c, k, v)).astype(np.float32),
        rng.uniform(10, 20, c).astype(np.float32) if encode_dtype == "int8" else None,
        encode_dtype,
        "tree",
        input_signed=signed,
        split_dims=rng.integers(0, v, (c, k.bit_length() - 1)).astype(np.int32),
        split_thresholds=rng.standard_normal((c, k - 1)).astype(np.float32),
    )


def test_codebook_file(tmp_path: Path) -> None:
    saved = Codebooks([book("a", 3, 9), book("b", 2, 4, 64, encode_dtype="float32")])
    saved.save(tmp_path / "books.safetensors")
    loaded = Codebooks.load(tmp_path / "books.safetensors")
    for name in saved:
        for part in ("centroids", "inv_scale", "split_dims", "split_thresholds"):
            np.testing.assert_array_equal(getattr(loaded[name], part), getattr(saved[name], part))
        assert loaded[name].encoder == "tree"
    assert [row["encoder"] for row in inspect(tmp_path / "books.safetensors").rows] == ["tree", "tree"]


WRONG: dict[str, dict[str, object]] = {
    "missing": {"split_dims": None},
    "l2": {"encoder": "l2"},
    "range": {"split_dims": np.full((3, 4), 9, np.int32)},
    "no-power": {"centroids": np.zeros((3, 12, 9), np.float32)},
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_codebooks(case: str, golden: Callable[[str, str], None]) -> None:
    with pytest.raises(ModelImportError) as caught:
        Codebook(**vars(book("a", 3, 9)) | WRONG[case])
    golden(str(caught.value), f"importers/codebook-tree-{case}.txt")


def test_integer_thresholds_agree_with_the_torch_layers() -> None:
    torch = pytest.importorskip("torch")
    from lutc.nn.tree_walk import integer_thresholds

    for signed in (True, False):
        one = book("a", 5, 4, signed=signed)
        assert one.split_thresholds is not None and one.inv_scale is not None
        one.split_thresholds[0, :5] = np.nan, np.inf, -np.inf, 1e30, -1e30
        thresholds, scale = torch.from_numpy(one.split_thresholds), torch.from_numpy(one.inv_scale)
        np.testing.assert_array_equal(one.tree_form()[1], integer_thresholds(thresholds, scale, signed).numpy())


@pytest.mark.parametrize("encode_dtype", ["int8", "float32"])
def test_float_model_and_codebooks_with_trees(tmp_path: Path, encode_dtype: str) -> None:
    """Compiled and verified: outputs against ONNX Runtime, codes against the definition."""
    onnx.save(cnn(2), tmp_path / "net.onnx")
    books = Codebooks([
        book("conv1", 8, 9, encode_dtype=encode_dtype),
        book("down", 2, 4, 4, encode_dtype=encode_dtype, signed=False),
    ])  # fmt: skip
    books.save(tmp_path / "books.safetensors")
    artifact = tmp_path / "net.lutc"
    compile(tmp_path / "net.onnx", "native", output=artifact, codebooks=tmp_path / "books.safetensors")
    report = verify(artifact, codebooks=tmp_path / "books.safetensors")
    assert report.passed and [(row.name, row.encoder) for row in report.rows[1:]] == [
        ("conv1", "tree"),
        ("down", "tree"),
    ]
    assert [row.flips for row in report.rows[1:]] == [0, 0]
    rows = {row["name"]: row for row in inspect(artifact).rows}
    assert (rows["conv1"]["encoder"], rows["down"]["num_centroids"]) == ("tree", 4)
    assert "encoder" in str(inspect(artifact)) and "tree" in str(report)


def test_the_table_is_of_the_centroids_of_the_leaves() -> None:
    """A leaf's row of the table is its centroid times the weight."""
    one = book("fc", 3, 4, encode_dtype="float32")
    weight = floats(5, 12)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")
    proto = model([node], {"x": [7, 12]}, {"y": [7, 5]}, {"w": np.ascontiguousarray(weight.T)})
    from tvm_ext.pipeline import rewrite

    mod = rewrite(import_model(proto).mod, {"fc": one})
    x = floats(7, 12)
    (y,) = execute(mod, [x], {"kind": "llvm"})
    table, scale = table_of(one.centroids, weight, "int8")
    dims, thresholds = one.tree_form()
    expected, _ = oracle.dense(
        x, None, table, scale, split_dims=dims, split_thresholds=thresholds, subvector_len=4, encoder="tree"
    )
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)


def test_torch_programs() -> None:
    torch = pytest.importorskip("torch")
    from tests.nn.trees import tree_net

    net, x = tree_net(), torch.randn(2, 4, 9, 8)
    imported = import_model(torch.export.export(net, (x,)))
    (y,) = execute(imported.mod, [x.numpy()], {"kind": "llvm"})
    np.testing.assert_allclose(y, net(x).numpy(), rtol=1e-6, atol=1e-6)
