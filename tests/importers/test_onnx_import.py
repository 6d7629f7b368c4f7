"""What import_model makes of whole ONNX files, and how it says what it cannot do."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tvm.relax.frontend.onnx import onnx_frontend

from lutc.errors import LutcError, ModelImportError
from lutc.importers import import_model
from tests.execute import execute
from tests.importers.models import model


def relu(shape: list, name: str = "r") -> onnx.ModelProto:
    return model([helper.make_node("Relu", ["x"], ["y"], name=name)], {"x": shape}, {"y": shape})


def test_specs_and_source(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(relu([2, 3]), path)
    imported = import_model(path)
    assert [str(spec) for spec in (*imported.inputs, *imported.outputs)] == ["x float32[2,3]", "y float32[2,3]"]
    assert imported.source == str(path)
    assert imported.source_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert import_model(str(path)).source_sha256 == imported.source_sha256


def test_names_that_are_no_identifiers() -> None:
    proto = model([helper.make_node("Relu", ["0/in.x:0"], ["out:0"])], {"0/in.x:0": [2]}, {"out:0": [2]})
    imported = import_model(proto)
    assert (imported.inputs[0].name, imported.outputs[0].name) == ("0/in.x:0", "out:0")
    assert execute(imported.mod, [np.float32([-1, 2])], {"kind": "llvm"})[0].tolist() == [0, 2]


def test_integer_input() -> None:
    nodes = [helper.make_node("Gather", ["w", "ids"], ["y"])]
    proto = model(
        nodes, {"ids": [2, 3]}, {"y": [2, 3, 4]}, {"w": np.zeros((9, 4), np.float32)}, dtype=TensorProto.INT64
    )
    assert str(import_model(proto).inputs[0]) == "ids int64[2,3]"


def test_two_outputs() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Neg", ["x"], ["b"])]
    imported = import_model(model(nodes, {"x": [2]}, {"a": [2], "b": [2]}))
    got = execute(imported.mod, [np.float32([-1, 2])], {"kind": "llvm"})
    assert [g.tolist() for g in got] == [[0, 2], [1, -2]]


@pytest.mark.parametrize("given", [{"x": (1, 3)}, {"x": [np.int64(1), 3]}])
def test_given_shape(given: dict) -> None:
    assert import_model(relu(["n", 3]), input_shapes=given).inputs[0].shape == [1, 3]


def test_a_named_dimension_has_one_size() -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    proto = model(nodes, {"a": ["n", 3], "b": ["n", 3]}, {"y": ["n", 3]})
    assert [s.shape for s in import_model(proto, input_shapes={"a": (4, 3)}).inputs] == [[4, 3], [4, 3]]


SHAPE_ERRORS = {
    "dynamic": (["batch", 3, None, 32], None),
    "zero-batch": ([0, 3], None),
    "negative-size": (["n", 3], {"x": (-1, 3)}),
    "zero-size": (["n", 3], {"x": (0, 3)}),
    "fraction": (["n", 3], {"x": (1.5, 3)}),
    "other-rank": (["n", 3], {"x": (1, 3, 3)}),
    "other-size": (["n", 3], {"x": (1, 4)}),
    "unknown-input": (["n", 3], {"input": (1, 3)}),
}


@pytest.mark.parametrize("case", SHAPE_ERRORS)
def test_shape_errors(case: str, golden: Callable[[str, str], None]) -> None:
    shape, given = SHAPE_ERRORS[case]
    with pytest.raises(ModelImportError) as caught:
        import_model(relu(shape), input_shapes=given)
    golden(str(caught.value), f"importers/shape-{case}.txt")


def test_shape_arithmetic_is_folded() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Concat", ["n", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"], name="flat"),
    ]
    tensors = {"zero": np.array([0]), "rest": np.array([-1])}
    proto = model(nodes, {"x": ["n", 3, 4]}, {"y": ["n", 12]}, tensors)
    imported = import_model(proto, input_shapes={"x": (2, 3, 4)})
    assert imported.outputs[0].shape == [2, 12]
    assert imported.nodes["flat"] == 'node 3 (Reshape "flat")'


def test_all_unsupported_operators_are_listed(golden: Callable[[str, str], None]) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("LSTM", ["a", "w", "w"], ["b"], name="rnn.1", hidden_size=3),
        helper.make_node("Mystery", ["b"], ["c"], name="m1", domain="acme"),
        helper.make_node("Mystery", ["c"], ["d"], name="m2", domain="acme"),
        helper.make_node("STFT", ["d", "w"], ["y"]),
    ]
    proto = model(nodes, {"x": [2, 3]}, {"y": [2, 3]}, {"w": np.zeros(3, np.float32)}, domains={"acme": 1})
    with pytest.raises(ModelImportError) as caught:
        import_model(proto)
    golden(str(caught.value), "importers/unsupported-operators.txt")


def test_unsupported_operators_in_branches_are_found() -> None:
    def branch(name: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])
        return helper.make_graph([helper.make_node("Mystery", ["x"], [name], domain="acme")], name, [], [out])

    nodes = [
        helper.make_node("Cast", ["x"], ["flags"], to=TensorProto.BOOL),
        helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0),
        helper.make_node("Cast", ["top"], ["cond"], to=TensorProto.BOOL),
        helper.make_node("If", ["cond"], ["y"], then_branch=branch("t"), else_branch=branch("e")),
    ]
    with pytest.raises(ModelImportError, match="2 nodes"):
        import_model(model(nodes, {"x": [2]}, {"y": [2]}, domains={"acme": 1}))


def test_a_converter_s_failure_names_the_node_and_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [helper.make_node("Reshape", ["x", "s"], ["y"], name="view")]
    with pytest.raises(ModelImportError) as caught:
        import_model(model(nodes, {"x": [2, 3]}, {"y": [None, None]}, {"s": np.array([5, 7])}))
    assert 'node 0 (Reshape "view")' in caught.value.where
    assert "Reshape expects" in caught.value.reason and "\n" not in caught.value.reason
    assert capsys.readouterr().out == ""


def test_output_without_a_fixed_size() -> None:
    nodes = [helper.make_node("NonZero", ["x"], ["i"]), helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT)]
    with pytest.raises(ModelImportError, match='shape of "y" is not known'):
        import_model(model(nodes, {"x": [2, 3]}, {"y": [None, None]}))


def test_invalid_graph() -> None:
    nodes = [helper.make_node("Relu", ["nowhere"], ["y"])]
    with pytest.raises(ModelImportError, match="not valid ONNX") as caught:
        import_model(model(nodes, {"x": [2]}, {"y": [2]}))
    assert "nowhere" in caught.value.reason


def test_foreign_functions_are_inlined() -> None:
    body = [helper.make_node("Relu", ["a"], ["t"]), helper.make_node("Neg", ["t"], ["b"])]
    function = helper.make_function("acme", "NegRelu", ["a"], ["b"], body, [helper.make_opsetid("", 18)])
    node = helper.make_node("NegRelu", ["x"], ["y"], domain="acme")
    proto = model([node], {"x": [3]}, {"y": [3]}, domains={"acme": 1}, functions=[function])
    got = execute(import_model(proto).mod, [np.float32([-1, 2, 3])], {"kind": "llvm"})
    assert got[0].tolist() == [0, -2, -3]


@pytest.mark.parametrize("attribute", [{"value_int": 2}, {"value_float": 2.0}, {"value_floats": [2.0, 2.0]}])
def test_short_constants(attribute: dict) -> None:
    nodes = [helper.make_node("Constant", [], ["c"], **attribute)]
    nodes += [helper.make_node("Cast", ["c"], ["f"], to=TensorProto.FLOAT), helper.make_node("Mul", ["x", "f"], ["y"])]
    got = execute(import_model(model(nodes, {"x": [2]}, {"y": [2]})).mod, [np.float32([3, 4])], {"kind": "llvm"})
    assert got[0].tolist() == [6, 8]


def test_an_object_that_is_no_model() -> None:
    with pytest.raises(LutcError, match="cannot import this object"):
        import_model({"not": "a model"})


def test_importing_the_package_loads_neither_tvm_nor_torch() -> None:
    code = "import sys, lutc.importers; print([m for m in ('tvm', 'torch', 'onnx') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_what_is_overridden_in_tvm_s_importer() -> None:
    """The importer relies on these internals of TVM; a new TVM must be checked against lutc/importers/onnx.py."""
    cls = onnx_frontend.ONNXGraphImporter
    code = cls._construct_nodes.__code__
    assert cls._convert_operator.__code__.co_varnames[:5] == ("self", "op_name", "inputs", "attrs", "opset")
    assert cls._check_for_unsupported_ops.__code__.co_varnames[:2] == ("self", "graph")
    assert cls.__init__.__code__.co_varnames[1:3] == ("shape_dict", "dtype_dict")
    assert {"tvm_custom", "name"} <= set(code.co_consts)
    assert "_convert_operator" in code.co_names
    assert {"_check_for_unsupported_ops", "_construct_nodes"} <= set(cls.from_onnx.__code__.co_names)
    assert {"Conv", "Gemm", "MatMul", "Relu"} <= set(onnx_frontend._get_convert_map())


def test_a_torch_model_without_torch_installed(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(b"PK")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from lutc.importers import import_model\n"
        "from lutc.errors import ModelImportError\n"
        "try: import_model(sys.argv[1])\n"
        "except ModelImportError as error: print(error.reason, '|', error.fix)\n"
    )
    out = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert out.stdout.startswith('PyTorch is not installed | pip install "lutc[torch]"')
