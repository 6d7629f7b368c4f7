"""The float operator behind a table as an .onnx file, for the engines to compare with."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from lutc.benchmark.operators import Operator


class FloatLayer(Protocol):
    """An operator with its float input, weight [M, D] and bias [M]."""

    @property
    def operator(self) -> Operator: ...
    @property
    def x(self) -> np.ndarray: ...
    @property
    def weight(self) -> np.ndarray: ...
    @property
    def bias(self) -> np.ndarray: ...


def save_float_operator(layer: FloatLayer, path: Path) -> Path:
    """Conv + Relu, or MatMul + Add + Relu, with the layer's weight and bias; input "x", output "y"."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    o = layer.operator
    if o.is_conv:
        weight = layer.weight.reshape(o.outputs, o.inputs, *o.kernel_shape)
        nodes = [
            helper.make_node(
                "Conv", ["x", "weight", "bias"], ["sum"], kernel_shape=o.kernel_shape, pads=o.pads,
                strides=[o.stride] * 2, dilations=[o.dilation] * 2,
            )
        ]  # fmt: skip
    else:
        weight = layer.weight.T
        nodes = [
            helper.make_node("MatMul", ["x", "weight"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["sum"]),
        ]
    nodes.append(helper.make_node("Relu", ["sum"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "operator",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, o.input_shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, o.output_shape)],
        [numpy_helper.from_array(weight.copy(), "weight"), numpy_helper.from_array(layer.bias, "bias")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path
