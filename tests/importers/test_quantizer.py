"""LUTQuantize nodes and torch.ops.lutc.lut_quantize become R.lut.quantize; what is wrong with one is told."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lutc.errors import ModelImportError
from lutc.importers import import_model
from lutc.importers.quantizer import Quantizer

F = np.float32
T, Y = np.array([0.25, 0.5], F), np.array([0, 0.375, 1], F)


def _model(thresholds: np.ndarray, levels: np.ndarray, inputs: int = 3, axis: int = 1) -> onnx.ModelProto:
    node = helper.make_node("LUTQuantize", ["x", "t", "y"][:inputs], ["q"], name="quantizer", domain="lutc", axis=axis)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("q", TensorProto.FLOAT, [2, 3])],
        [numpy_helper.from_array(thresholds, "t"), numpy_helper.from_array(levels, "y")],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("lutc", 1)]
    function = helper.make_function(
        "lutc", "LUTQuantize", ["x", "t", "y"][:inputs], ["q"], [helper.make_node("Identity", ["x"], ["q"])],
        [helper.make_opsetid("", 18)], attributes=["axis"],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=[function])


def test_onnx() -> None:
    text = import_model(_model(T, Y)).mod.script()
    assert "R.lut.quantize(" in text and 'layer="quantizer"' in text


def test_pt2() -> None:
    torch = pytest.importorskip("torch")
    import lutc.nn  # noqa: F401 (registers the operator)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("t", torch.tensor(T))
            self.register_buffer("y", torch.tensor(Y))

        def forward(self, x):
            return torch.ops.lutc.lut_quantize(x, self.t, self.y, 1, "quantizer")

    text = import_model(torch.export.export(Net(), (torch.zeros(2, 3),))).mod.script()
    assert "R.lut.quantize(" in text


def test_rows_must_fit_the_axis() -> None:
    with pytest.raises(ModelImportError, match="rows do not fit axis 1"):
        import_model(_model(np.tile(T, (2, 1)), np.tile(Y, (2, 1))))


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("too-few-inputs", lambda: _model(T, Y, inputs=2)),
        ("other-counts", lambda: _model(T, Y[:2])),
        ("decreasing", lambda: _model(T[::-1].copy(), Y)),
        ("not-a-number", lambda: _model(np.array([0, np.nan], F), Y)),
        ("many-levels", lambda: _model(np.arange(300, dtype=F), np.arange(301, dtype=F))),
    ],
)
def test_messages(name: str, model: Callable[[], onnx.ModelProto], golden: Callable[[str, str], None]) -> None:
    with pytest.raises(ModelImportError) as caught:
        import_model(model())
    golden(str(caught.value), f"importers/quantizer-{name}.txt")


def test_constants_of_channels() -> None:
    quantizer = Quantizer("q", np.zeros((3, 1), F), np.zeros((3, 2), F), 1)
    assert quantizer.problem() is None and quantizer.input_problem((2, 3)) is None
    assert quantizer.input_problem((3, 2)) is not None
