"""Small float ONNX models for the calibration tests."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from tests.importers.models import model


def floats(*shape: int) -> np.ndarray:
    """The same values for the same shape."""
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def cnn(batch: int | str = "n") -> onnx.ModelProto:
    """stem (reads the image) -> relu -> conv1 3x3, down 1x1 on one tensor -> add -> relu -> mean -> fc."""
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c0"], name="stem", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], name="conv1", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Conv", ["r0", "w2"], ["c2"], name="down", strides=[2, 2]),
        helper.make_node("Conv", ["r0", "w3"], ["c3"], name="depthwise", group=8, strides=[2, 2]),
        helper.make_node("Sum", ["c1", "c2", "c3"], ["s"]),
        helper.make_node("ReduceMean", ["s", "axes"], ["m"], keepdims=0),
        helper.make_node("Gemm", ["m", "w4", "b4"], ["y"], name="fc", transB=1),
    ]
    tensors = {
        "w0": floats(8, 3, 3, 3), "b0": floats(8), "w1": floats(8, 8, 3, 3), "w2": floats(8, 8, 1, 1),
        "w3": floats(8, 1, 1, 1), "w4": floats(5, 8), "b4": floats(5), "axes": np.array([2, 3]),
    }  # fmt: skip
    return model(nodes, {"x": [batch, 3, 8, 10]}, {"y": [batch, 5]}, tensors)


def attention() -> onnx.ModelProto:
    """q and k read one tensor; their product is no layer."""
    nodes = [
        helper.make_node("MatMul", ["x", "wq"], ["q"], name="query"),
        helper.make_node("MatMul", ["x", "wk"], ["k"], name="key"),
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["y"], name="scores"),
    ]
    return model(nodes, {"x": ["n", "s", 24]}, {"y": ["n", "s", "s"]}, {"wq": floats(24, 24), "wk": floats(24, 24)})
