"""An ONNX model that gives the codes of every table layer of another one, each from an input of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests import oracle

_CONSTANTS = ("centroids", "table", "table_scale", "bias", "inv_scale", "score_bias", "mult")


@dataclass(frozen=True)
class TableLayer:
    """A LUT node of a model: the tensor it reads, its constants and its attributes."""

    node: onnx.NodeProto
    constants: dict[str, np.ndarray]
    attributes: dict[str, object]

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def input(self) -> str:
        return self.node.input[0]

    def codes(self, x: np.ndarray) -> np.ndarray:
        """uint8 [B, OH, OW, C], by the definition."""
        layer = oracle.conv2d if self.node.op_type == "LUTConv2d" else oracle.dense
        return layer(x, **self.constants, **self.attributes)[1]

    def distances(self, x: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the search minimises at the chosen centroids, |x - P|^2 or -2 (x.P + score_bias), and the size of the
        terms that a kernel makes it from; float64, like the codes. For conv layers."""
        geometry = (self.attributes[key] for key in ("kernel_shape", "strides", "pads", "dilations"))
        rows = oracle.im2col(x, *geometry)
        centroids = self.constants["centroids"].astype(np.float64)
        count, _, length = centroids.shape
        sub = rows.reshape(*rows.shape[:-1], count, length).astype(np.float64)
        chosen = centroids[np.arange(count), codes]
        if "score_bias" in self.constants:
            bias = self.constants["score_bias"].astype(np.float64)[np.arange(count), codes]
            return -2 * ((sub * chosen).sum(-1) + bias), 2 * (np.abs(sub * chosen).sum(-1) + np.abs(bias))
        distance = ((sub - chosen) ** 2).sum(-1)
        return distance, np.maximum(distance, (sub**2).sum(-1))


def table_layers(model: onnx.ModelProto) -> list[TableLayer]:
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    layers = []
    for node in model.graph.node:
        if node.domain == "lutc":
            named = zip(_CONSTANTS, node.input[1:], strict=False)
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            texts = {key: value.decode() for key, value in attributes.items() if isinstance(value, bytes)}
            layers.append(TableLayer(node, {key: values[name] for key, name in named if name}, attributes | texts))
    return layers


def codes_model(layers: list[TableLayer], shapes: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    """Inputs and outputs are called x0, x1, ... and y0, y1, ...; yI [.., C, ..] float32 holds the codes.

    The table of each layer is one that gives output c the code of codebook c, so what is compiled is the layer's own
    search. shapes: tensor name -> shape.
    """
    nodes, inputs, outputs, tensors = [], [], [], []
    for index, layer in enumerate(layers):
        count, centers, _ = layer.constants["centroids"].shape
        table = np.zeros((count, centers, count), np.int8)
        table[np.arange(count), :, np.arange(count)] = np.arange(centers)
        constants = layer.constants | {"table": table, "table_scale": np.ones(count, np.float32)}
        constants.pop("bias", None)
        node = onnx.NodeProto()
        node.CopyFrom(layer.node)
        del node.input[:], node.output[:]
        names = [f"{layer.name}.{key}" if key in constants else "" for key in _CONSTANTS]
        node.input.extend([f"x{index}", *names])
        node.output.append(f"y{index}")
        nodes.append(node)
        tensors += [numpy_helper.from_array(value, f"{layer.name}.{key}") for key, value in constants.items()]
        inputs.append(helper.make_tensor_value_info(f"x{index}", TensorProto.FLOAT, shapes[layer.input]))
        outputs.append(helper.make_tensor_value_info(f"y{index}", TensorProto.FLOAT, [None] * 4))
    graph = helper.make_graph(nodes, "codes", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("lutc", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
