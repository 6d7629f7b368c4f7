"""Conv, Gemm and MatMul: same values as ONNX Runtime, names in spans, constants still constants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

import lutc
from lutc.importers import import_model
from tests.execute import execute
from tests.importers.models import model

RNG = np.random.default_rng(7)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def check_values(proto: onnx.ModelProto) -> tvm.IRModule:
    """The imported module gives what ONNX Runtime gives; returns the module."""
    imported = import_model(proto)
    arrays = {spec.name: floats(*spec.shape) for spec in imported.inputs}
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, arrays)
    got = execute(imported.mod, list(arrays.values()), {"kind": "llvm"})
    assert [list(a.shape) for a in got] == [spec.shape for spec in imported.outputs]
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    return imported.mod


def spans(mod: tvm.IRModule) -> dict[str, str]:
    """Layer name -> operator, of the calls that carry a span."""
    found: dict[str, str] = {}

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Call) and expr.span is not None:
            found[expr.span.source_name.name] = expr.op.name

    relax.analysis.post_order_visit(mod["main"], visit)
    return found


CONVS = [
    {"pads": [1, 1, 1, 1]},
    {"pads": [0, 1, 2, 3], "strides": [2, 1]},
    {"dilations": [2, 2]},
    {"group": 2},
    {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    {"auto_pad": "SAME_LOWER", "strides": [2, 3]},
    {"auto_pad": "VALID"},
]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "plain"])
@pytest.mark.parametrize("attributes", CONVS, ids=str)
def test_conv(attributes: dict, bias: bool) -> None:
    tensors = {"w": floats(6, 4 // attributes.get("group", 1), 3, 3)} | ({"b": floats(6)} if bias else {})
    node = helper.make_node("Conv", ["x", *tensors], ["y"], name="stage.conv", kernel_shape=[3, 3], **attributes)
    mod = check_values(model([node], {"x": [1, 4, 9, 8]}, {"y": [None] * 4}, tensors))
    assert spans(mod) == {"stage.conv": "relax.nn.conv2d"}


def test_conv_bias_is_one_constant_add() -> None:
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], name="c")
    mod = import_model(
        model([node], {"x": [1, 2, 4, 4]}, {"y": [None] * 4}, {"w": floats(3, 2, 1, 1), "b": floats(3)})
    ).mod
    calls = [binding.value for binding in mod["main"].body.blocks[0].bindings if isinstance(binding.value, relax.Call)]
    assert [call.op.name for call in calls] == ["relax.nn.conv2d", "relax.add"]
    assert isinstance(calls[1].args[1], tvm.ir.GenericConst)
    assert list(calls[1].args[1].value.shape) == [1, 3, 1, 1]


def test_conv1d_is_left_to_tvm() -> None:
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], name="c", pads=[1, 1])
    check_values(model([node], {"x": [1, 4, 9]}, {"y": [None] * 3}, {"w": floats(6, 4, 3), "b": floats(6)}))


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("alpha, beta", [(1.0, 1.0), (0.5, 2.0), (1.0, 0.0)])
def test_gemm(transposed: int, alpha: float, beta: float) -> None:
    weight = floats(5, 8) if transposed else floats(8, 5)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="fc", transB=transposed, alpha=alpha, beta=beta)
    mod = check_values(model([node], {"x": [3, 8]}, {"y": [3, 5]}, {"w": weight, "b": floats(5)}))
    assert spans(mod) == {"fc": "relax.matmul"}
    matmul = mod["main"].body.blocks[0].bindings[0].value
    assert matmul.op.name == "relax.matmul" and isinstance(matmul.args[1], tvm.ir.GenericConst)


def test_gemm_of_two_inputs() -> None:
    node = helper.make_node("Gemm", ["a", "b", "c"], ["y"], name="g", transA=1, transB=1, alpha=2.0, beta=3.0)
    check_values(model([node], {"a": [8, 3], "b": [5, 8], "c": [3, 5]}, {"y": [3, 5]}))


@pytest.mark.parametrize("shape", [[3, 8], [2, 3, 8], [2, 1, 3, 8]])
def test_matmul(shape: list[int]) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="proj")
    mod = check_values(model([node], {"x": shape}, {"y": [*shape[:-1], 5]}, {"w": floats(8, 5)}))
    assert spans(mod) == {"proj": "relax.matmul"}


def test_names_of_unnamed_and_equal_nodes() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["b"]),
        helper.make_node("MatMul", ["b", "w"], ["c"], name="fc"),
        helper.make_node("MatMul", ["c", "w"], ["y"], name="fc"),
    ]
    imported = import_model(model(nodes, {"x": [2, 8]}, {"y": [2, 8]}, {"w": floats(8, 8)}))
    assert spans(imported.mod) == dict.fromkeys(["MatMul_1", "fc", "fc_3"], "relax.matmul")
    assert imported.nodes["fc_3"] == 'node 3 (MatMul "fc_3")'


def test_spans_survive_the_passes_that_run_before_the_rewrite() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], name="conv"),
        helper.make_node("Flatten", ["a"], ["f"]),
        helper.make_node("Gemm", ["f", "v"], ["y"], name="fc"),
    ]
    tensors = {"w": floats(3, 2, 1, 1), "b": floats(3), "v": floats(48, 5)}
    mod = import_model(model(nodes, {"x": [1, 2, 4, 4]}, {"y": [1, 5]}, tensors)).mod
    passes = [relax.transform.FoldConstant(), relax.transform.EliminateCommonSubexpr(), relax.transform.Normalize()]
    assert set(spans(tvm.transform.Sequential(passes)(mod))) == {"conv", "fc"}


def test_an_embedding_never_reads_outside_of_its_table(tmp_path: Path) -> None:
    table = np.arange(40, dtype=np.float32).reshape(10, 4)
    index = helper.make_tensor_value_info("i", TensorProto.INT64, [2, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3, 4])
    node = helper.make_node("Gather", ["w", "i"], ["y"], "embedding")
    graph = helper.make_graph([node], "g", [index], [y], [numpy_helper.from_array(table, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "e.onnx")
    artifact = lutc.compile(tmp_path / "e.onnx", output=tmp_path / "e.lutc")
    (rows,) = lutc.load(artifact.path).run({"i": np.array([[0, -1, 9], [10**9, -10, -11]])}).values()
    np.testing.assert_array_equal(rows, table[[[0, 9, 9], [9, 0, 0]]])
