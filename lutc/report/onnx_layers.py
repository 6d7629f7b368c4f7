"""The layers of an ONNX model that are, or could become, lookup tables, and those whose weights are levels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from lutc.importers.onnx_graph import LUTC_DOMAIN, all_nodes, constants, prepare
from lutc.report.base import TensorInfo

Row = dict[str, Any]


def describe_model(model: onnx.ModelProto) -> dict[str, Any]:
    """Producer, opsets, inputs and outputs."""
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    weights = {tensor.name for tensor in model.graph.initializer}
    producer = f"{model.producer_name} {model.producer_version}".strip()
    return {
        "producer": producer or None,
        "lutc_version": metadata.get("lutc.version"),
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "inputs": [_tensor(value) for value in model.graph.input if value.name not in weights],
        "outputs": [_tensor(value) for value in model.graph.output],
        "nodes": len(model.graph.node),
    }


def _tensor(value: onnx.ValueInfoProto) -> TensorInfo:
    kind = value.type.tensor_type
    dims = [dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else "?") for dim in kind.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type) if kind.elem_type else "?"
    return TensorInfo(value.name, str(dtype), dims)


def list_layers(model: onnx.ModelProto) -> list[Row]:
    """Rows of lookup-table nodes, and of Conv, Gemm and MatMul nodes with a constant or palette weight, in file order.

    Names are those by which codebooks and --keep-float refer to the layers.
    """
    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    graph = prepare(prepared).graph
    known = constants(graph)
    made = {node.output[0]: node for node in all_nodes(graph) if node.op_type in ("LUTPalette", "LUTQuantize")}
    rows = (
        (node, _lut_row(node, known) if node.domain == LUTC_DOMAIN else _weight_row(node, known, made))
        for node in all_nodes(graph)
    )
    return [{"name": node.name, **row} for node, row in rows if row]


def _lut_row(node: onnx.NodeProto, known: Mapping[str, onnx.TensorProto]) -> Row | None:
    attributes = _attributes(node)
    centroids, table = (known.get(name) for name in (*node.input[1:3], "", "")[:2])
    if table is None or len(table.dims) != 3:
        return None  # compiling it says what is wrong
    encoder = attributes.get("encoder", b"l2").decode()
    if encoder == "l2" and (centroids is None or len(centroids.dims) != 3):
        return None
    num_codebooks, num_centroids, outputs = table.dims
    table_dtype = onnx.helper.tensor_dtype_to_np_dtype(table.data_type)
    return {
        "op": f"conv2d {_by(attributes.get('kernel_shape', []))}" if node.op_type == "LUTConv2d" else "dense",
        "kind": "lut",
        "num_centroids": num_centroids,
        "subvector_len": centroids.dims[2] if centroids is not None else attributes.get("subvector_len"),
        "num_codebooks": num_codebooks,
        "outputs": outputs,
        "encoder": encoder,
        "encode_dtype": attributes.get("encode_dtype", b"float32").decode(),
        "table_dtype": str(table_dtype),
        "bytes": math.prod(table.dims) * table_dtype.itemsize,
    }


def _weight_row(
    node: onnx.NodeProto, known: Mapping[str, onnx.TensorProto], made: Mapping[str, onnx.NodeProto]
) -> Row | None:
    """Of a layer with a float weight, or with a palette weight and perhaps a quantized input."""
    if len(node.input) < 2 or node.input[1] not in made:
        return _float_row(node, known, node.input[1] if len(node.input) > 1 else "")
    codes, levels = made[node.input[1]].input[:2]
    row = _float_row(node, known, codes)
    if row is None or levels not in known:
        return None  # compiling it says what is wrong
    quantizer = made.get(node.input[0])
    inputs = known.get(quantizer.input[2]) if quantizer is not None and len(quantizer.input) == 3 else None
    row |= {"kind": "levels", "weight_levels": known[levels].dims[-1]}
    return row | ({} if inputs is None else {"input_levels": inputs.dims[-1]})


def _float_row(node: onnx.NodeProto, known: Mapping[str, onnx.TensorProto], name: str) -> Row | None:
    weight = known.get(name)
    if weight is None or node.domain not in ("", "ai.onnx"):
        return None
    dims, attributes = list(weight.dims), _attributes(node)
    if node.op_type == "Conv" and len(dims) == 4:
        groups = "" if attributes.get("group", 1) == 1 else f" group {attributes['group']}"
        op, inputs, outputs = f"conv2d {_by(dims[2:])}{groups}", math.prod(dims[1:]), dims[0]
    elif node.op_type in ("Gemm", "MatMul") and len(dims) == 2:
        inputs, outputs = reversed(dims) if attributes.get("transB", 0) else dims
        op = "dense"
    else:
        return None
    size = math.prod(dims) * onnx.helper.tensor_dtype_to_np_dtype(weight.data_type).itemsize
    return {"op": op, "kind": "float", "inputs": inputs, "outputs": outputs, "bytes": size}


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
