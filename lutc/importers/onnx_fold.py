"""Compute at import what depends on constants and fixed shapes only: exporters leave shape arithmetic in the graph."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.shape_inference
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from lutc.importers.onnx_domains import STANDARD_DOMAINS

_MOST_ELEMENTS = 2**26  # larger results (a broadcast constant) stay in the graph
_PROTOBUF_LIMIT = 2**31
_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout"}
)


def fold_constants(model: onnx.ModelProto) -> None:
    """Replace nodes of the main graph whose inputs are constants by their value, in place."""
    graph = model.graph
    known = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    kept = []
    for node in graph.node:
        values = _evaluate(node, known, model.opset_import) if _is_foldable(node, known, outputs) else None
        if values is None:
            kept.append(node)
            continue
        for name, value in values.items():
            known[name] = numpy_helper.from_array(value, name)
            graph.initializer.append(known[name])
    if len(kept) < len(graph.node):
        _set_nodes(graph, kept)


def fold_shapes(model: onnx.ModelProto, shapes: Mapping[str, list[int]]) -> onnx.ModelProto:
    """Fix the input shapes, then replace Shape and Size of tensors with known shapes, and what follows from them."""
    for value in model.graph.input:
        if value.name in shapes:
            dims = value.type.tensor_type.shape
            del dims.dim[:]
            for size in shapes[value.name]:
                dims.dim.add().dim_value = size
    while any(node.op_type in ("Shape", "Size") for node in model.graph.node):
        if model.ByteSize() >= _PROTOBUF_LIMIT or not _fold_shape_nodes(model):
            break
        fold_constants(model)  # a folded Reshape target makes further shapes known
    return model


def _fold_shape_nodes(model: onnx.ModelProto) -> bool:
    """Replace the Shape and Size nodes whose input has a known shape; False when there was none."""
    shapes = _inferred_shapes(model)
    kept = []
    for node in model.graph.node:
        shape = shapes.get(node.input[0]) if node.op_type in ("Shape", "Size") and node.domain == "" else None
        if shape is None:
            kept.append(node)
            continue
        limits = {attribute.name: attribute.i for attribute in node.attribute}
        value = shape[limits.get("start", 0) : limits.get("end", len(shape))] if node.op_type == "Shape" else None
        array = np.asarray(np.prod(shape) if value is None else value, np.int64)
        model.graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
    found = len(kept) < len(model.graph.node)
    if found:
        _set_nodes(model.graph, kept)
    return found


def _inferred_shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    del model.graph.value_info[:]  # an exporter's annotation may hold the old, open shapes
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    found = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            found[value.name] = [dim.dim_value for dim in tensor.shape.dim]
    return found


def _is_foldable(node: onnx.NodeProto, known: Mapping[str, onnx.TensorProto], outputs: set[str]) -> bool:
    return (
        node.domain in STANDARD_DOMAINS
        and node.op_type not in _RANDOM
        and all(name in known for name in node.input if name)
        and not any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
        and not outputs.intersection(node.output)
    )


def _evaluate(
    node: onnx.NodeProto, known: Mapping[str, onnx.TensorProto], opsets: list[onnx.OperatorSetIdProto]
) -> dict[str, np.ndarray] | None:
    """Output name -> value, or None when the reference cannot compute it or it is too large."""
    tensors = [known[name] for name in dict.fromkeys(node.input) if name]
    names = [name for name in node.output if name]
    graph = onnx.helper.make_graph([node], "fold", [], [onnx.ValueInfoProto(name=name) for name in names], tensors)
    try:
        values = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=list(opsets))).run(names, {})
    except Exception:  # the node stays, and the importer tells what is wrong with it
        return None
    if not all(isinstance(value, (np.ndarray, np.generic)) and value.size <= _MOST_ELEMENTS for value in values):
        return None
    return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}


def _set_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
