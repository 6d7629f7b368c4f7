"""A float ONNX model and codebooks -> the annotated model they mean, with tables computed in plain numpy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lutc.errors import VerifyError
from lutc.importers.codebook import Codebook
from lutc.importers.lut_layer import ARGUMENTS
from lutc.importers.onnx_domains import LUTC_DOMAIN
from lutc.importers.onnx_graph import constants, weight_rows


def annotate(model: onnx.ModelProto, codebooks: Mapping[str, Codebook], source: str) -> None:
    """Replace the named Conv, Gemm and MatMul nodes of a prepared model by lutc nodes, in place.

    Raises
    ------
    VerifyError : a layer's padding depends on the input size (auto_pad), or its weight is not constant.
    """
    known = constants(model.graph)
    nodes = list(model.graph.node)
    replaced = {id(node): _lut_nodes(node, codebooks[node.name], known, model.graph, source)
                for node in nodes if node.name in codebooks}  # fmt: skip
    flat = [copy for node in nodes for copy in replaced.get(id(node), [node])]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in flat]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    _add_functions(model)


def table_of(centroids: np.ndarray, weight: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """(table [C, K, M], table_scale float32 [M]) of centroids [C, K, V] and weight [M, D], zero-padded to [M, C * V].

    An int8 table is rounded half to even to 127 steps of each column's largest magnitude; a float32 one has scale 1.
    """
    count, _, length = centroids.shape
    padded = np.zeros((weight.shape[0], count * length))
    padded[:, : weight.shape[1]] = weight
    split = padded.reshape(-1, count, length).transpose(1, 2, 0)
    exact = centroids.astype(np.float64) @ split
    if dtype == "float32":
        return exact.astype(np.float32), np.ones(weight.shape[0], np.float32)
    scale = (np.abs(exact).max((0, 1)) / 127).astype(np.float32)
    scale = np.where(scale > 0, scale, np.float32(1))
    return np.clip(np.rint(exact / scale.astype(np.float64)), -127, 127).astype(np.int8), scale


def _lut_nodes(
    node: onnx.NodeProto,
    codebook: Codebook,
    known: Mapping[str, onnx.TensorProto],
    graph: onnx.GraphProto,
    source: str,
) -> list[onnx.NodeProto]:
    """The lutc node, and an Add for a bias."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.input[1] not in known or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise VerifyError(
            "cannot work out what the artifact should compute",
            where=f'{source}, layer "{node.name}"',
            reason="its weight or its padding is not fixed in the model",
            fix="export the model with constant weights and explicit pads",
        )
    weight = numpy_helper.to_array(known[node.input[1]])
    table, scale = table_of(codebook.centroids, weight_rows(node.op_type, weight, attributes), codebook.table_dtype)
    values = {"centroids": codebook.centroids, "table": table, "table_scale": scale}
    options: dict[str, object] = {"encode_dtype": codebook.encode_dtype, "encoder": codebook.encoder}
    if codebook.encoder == "tree":
        options["subvector_len"] = codebook.subvector_len
        del values["centroids"]
        values["split_dims"], values["split_thresholds"] = codebook.tree_form()
        values |= {} if codebook.inv_scale is None else {"inv_scale": codebook.inv_scale}
    elif codebook.inv_scale is not None:
        values["centroids"], values["inv_scale"], values["score_bias"] = codebook.integer_form()
    else:
        values["centroids"], score_bias = codebook.float_form()
        values |= {} if score_bias is None else {"score_bias": score_bias}
    for name, value in values.items():
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), f"{node.name}.{name}"))
    has_bias = len(node.input) > 2 and node.input[2] != ""
    result = f"{node.name}.sum" if has_bias else node.output[0]
    inputs = [node.input[0], *(f"{node.name}.{name}" if name in values else "" for name in ARGUMENTS)]
    while not inputs[-1]:
        inputs.pop()
    lut = helper.make_node(
        "LUTConv2d" if node.op_type == "Conv" else "LUTDense", inputs, [result], name=node.name, domain=LUTC_DOMAIN,
        input_signed=int(codebook.input_signed), **options, **_geometry(node.op_type, weight, attributes),
    )  # fmt: skip
    return [lut, *bias_nodes(node, result, known, attributes, graph)] if has_bias else [lut]


def _geometry(op_type: str, weight: np.ndarray, attributes: Mapping[str, object]) -> dict[str, object]:
    if op_type != "Conv":
        return {}
    defaults = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "group": 1}
    return {"kernel_shape": weight.shape[2:]} | {name: attributes.get(name, value) for name, value in defaults.items()}


def bias_nodes(
    node: onnx.NodeProto,
    result: str,
    known: Mapping[str, onnx.TensorProto],
    attributes: Mapping[str, object],
    graph: onnx.GraphProto,
) -> list[onnx.NodeProto]:
    """The node's bias added to `result`, as its output."""
    bias, beta = node.input[2], float(attributes.get("beta", 1.0))  # type: ignore[arg-type]
    name = f"{node.name}.shift"
    if node.op_type == "Conv":
        shape = numpy_helper.from_array(np.array([1, -1, 1, 1]), f"{name}.shape")
        make = helper.make_node("Reshape", [bias, shape.name], [name])
    else:
        shape = numpy_helper.from_array(np.float32(beta), f"{name}.beta")
        make = helper.make_node("Mul", [bias, shape.name], [name])
    graph.initializer.append(shape)
    return [make, helper.make_node("Add", [result, name], [node.output[0]])]


def _add_functions(model: onnx.ModelProto) -> None:
    """Give every lutc node the model-local function that says what it computes."""
    from lutc.export.onnx_functions import Variant, make_function

    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    variants = {}
    for node in model.graph.node:
        if node.domain == LUTC_DOMAIN:
            variant = Variant.of_node(node)
            node.overload = variant.overload
            variants[variant] = make_function(variant, max(opset, 18))
    model.functions.extend(variants.values())
    model.ir_version = max(model.ir_version, 10)
    if all(o.domain != LUTC_DOMAIN for o in model.opset_import):
        model.opset_import.append(helper.make_opsetid(LUTC_DOMAIN, 1))
