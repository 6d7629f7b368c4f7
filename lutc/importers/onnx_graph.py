"""Bring an ONNX graph into the form the importer reads: every node named once, foreign functions inlined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import onnx.inliner
from onnx import numpy_helper

from lutc.importers.onnx_domains import LUTC_DOMAIN
from lutc.importers.onnx_fold import fold_constants


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Name the nodes of ``model`` (in place), inline functions other than lutc's, and fold constants.

    Unnamed nodes become "Conv_12" after their operator and place; a second node of the same name gets its place added.
    """
    name_nodes(model.graph)
    if any(function.domain != LUTC_DOMAIN for function in model.functions):
        keep = [(function.domain, function.name) for function in model.functions if function.domain == LUTC_DOMAIN]
        model = onnx.inliner.inline_selected_functions(model, keep, exclude=True)
        name_nodes(model.graph)
    for node in all_nodes(model.graph):
        if node.op_type == "Constant":
            _make_tensor_constant(node)
    fold_constants(model)
    return model


def name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node of the graph and its branches a name of its own."""
    taken: set[str] = set()
    for index, node in enumerate(all_nodes(graph)):
        name = node.name or f"{node.op_type}_{index}"
        while name in taken:
            name = f"{name}_{index}"
        taken.add(name)
        if node.name != name:
            node.name = name


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of the graph in file order, those of If and Loop bodies after the node that holds them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            inner = [attribute.g] if attribute.HasField("g") else attribute.graphs
            for body in inner:
                yield from all_nodes(body)


def constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Tensors known at compile time: initializers and the outputs of Constant nodes, branches included."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                found[node.output[0]] = attribute.t
            for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                found |= constants(body)
    return found


def describe(index: int, node: onnx.NodeProto) -> str:
    """`node 47 (Conv "layer2.0.conv1")`: how error messages name a node."""
    return f'node {index} ({node.op_type} "{node.name}")'


def _make_tensor_constant(node: onnx.NodeProto) -> None:
    """Turn the short forms (value_int, value_floats, ...) into the one form, `value`."""
    short = node.attribute[0] if node.attribute else None
    if short is None or short.name not in ("value_int", "value_ints", "value_float", "value_floats"):
        return
    dtype = np.int64 if "int" in short.name else np.float32
    value = numpy_helper.from_array(np.asarray(onnx.helper.get_attribute_value(short), dtype))
    del node.attribute[:]
    node.attribute.append(onnx.helper.make_attribute("value", value))


def weight_rows(op_type: str, weight: np.ndarray, attributes: Mapping[str, object]) -> np.ndarray:
    """The weight as [M, D]."""
    if op_type == "Conv":
        return weight.reshape(weight.shape[0], -1)
    transposed = op_type == "Gemm" and attributes.get("transB", 0)
    rows = weight if transposed else weight.T
    return rows * np.float32(attributes.get("alpha", 1.0)) if op_type == "Gemm" else rows
