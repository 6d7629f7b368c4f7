"""A converted torch model as an ONNX ModelProto: lutc nodes with their functions, and readable names."""

from __future__ import annotations

import ast
import json
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import onnx
import torch
from onnx import helper
from onnx.defs import OpSchema
from onnxscript import values
from torch import nn

from lutc.export.onnx_functions import (
    COMMON_ATTRIBUTES,
    CONV_ATTRIBUTES,
    DOMAIN,
    DOMAIN_VERSION,
    INPUTS,
    L2_INPUTS,
    TREE_ATTRIBUTES,
    Variant,
    make_function,
)
from lutc.export.onnx_levels import (
    PALETTE_INPUTS,
    QUANTIZE_ATTRIBUTES,
    QUANTIZE_INPUTS,
    LevelsVariant,
    make_levels_function,
)

OPSET = 18
_NEEDED = ("x", "codes", "table", "table_scale", "thresholds", "levels")
_WEIGHTED = ("Conv", "Gemm", "MatMul", "BatchNormalization")
_LAYER_CLASSES = (".Linear", ".Conv1d", ".Conv2d", ".FrozenQuantizedLinear", ".FrozenQuantizedConv2d")
_SCOPES = "pkg.torch.onnx.name_scopes"
_CLASSES = "pkg.torch.onnx.class_hierarchy"


def to_onnx(
    model: nn.Module,
    example_inputs: tuple[torch.Tensor, ...],
    *,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
    metadata: dict[str, str],
) -> onnx.ModelProto:
    """Export a model in eval mode; the batch is that of the example. The same model gives the same bytes."""
    with _quiet():
        program = torch.onnx.export(
            model,
            example_inputs,
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
            input_names=input_names,
            output_names=output_names,
            custom_translation_table=_translations(),
        )
    assert program is not None
    proto = program.model_proto
    _name_nodes(proto)
    _add_functions(proto)
    _strip(proto)
    proto.producer_name, proto.producer_version = "lutc", metadata["lutc.version"]
    for key, value in sorted(metadata.items()):
        proto.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(proto)
    return proto


def layer_metadata(configs: dict[str, dict[str, object]]) -> str:
    return json.dumps(configs, sort_keys=True, separators=(",", ":"))


def _translations() -> dict[Callable, Callable]:
    dense = _operator("LUTDense", INPUTS, COMMON_ATTRIBUTES | TREE_ATTRIBUTES)
    conv2d = _operator("LUTConv2d", INPUTS, COMMON_ATTRIBUTES | TREE_ATTRIBUTES | CONV_ATTRIBUTES)
    quantize = _operator("LUTQuantize", QUANTIZE_INPUTS, QUANTIZE_ATTRIBUTES)
    palette = _operator("LUTPalette", PALETTE_INPUTS, {})

    def lut_dense(
        x, centroids, table, table_scale, bias, inv_scale, score_bias, mult, encode_dtype, encoder, input_signed, layer,
        split_dims=None, split_thresholds=None, subvector_len=0,
    ):  # fmt: skip
        return dense(
            x, centroids, table, table_scale, bias, inv_scale, score_bias, mult, split_dims, split_thresholds,
            encode_dtype=encode_dtype, encoder=encoder, input_signed=int(input_signed), layer=layer,
            subvector_len=subvector_len,
        )  # fmt: skip

    def lut_conv2d(
        x, centroids, table, table_scale, bias, inv_scale, score_bias, mult,
        kernel_shape, strides, pads, dilations, encode_dtype, encoder, input_signed, layer,
        split_dims=None, split_thresholds=None, subvector_len=0,
    ):  # fmt: skip
        return conv2d(
            x, centroids, table, table_scale, bias, inv_scale, score_bias, mult, split_dims, split_thresholds,
            kernel_shape=kernel_shape, strides=strides, pads=pads, dilations=dilations, group=1,
            encode_dtype=encode_dtype, encoder=encoder, input_signed=int(input_signed), layer=layer,
            subvector_len=subvector_len,
        )  # fmt: skip

    def lut_quantize(x, thresholds, levels, axis, layer):
        return quantize(x, thresholds, levels, axis=axis, layer=layer)

    def lut_palette(codes, levels, layer):
        return palette(codes, levels, layer=layer)

    ops = torch.ops.lutc
    return {
        ops.lut_dense.default: lut_dense,
        ops.lut_conv2d.default: lut_conv2d,
        ops.lut_quantize.default: lut_quantize,
        ops.lut_palette.default: lut_palette,
    }


def _operator(name: str, arguments: Sequence[str], attributes: dict[str, int]) -> values.Op:
    """An onnxscript operator outside the standard; `layer` becomes the node's name afterwards."""
    tensors = ["tensor(float)", "tensor(int8)", "tensor(int32)", "tensor(uint8)"]
    option = OpSchema.FormalParameterOption
    inputs = [
        OpSchema.FormalParameter(key, f"T{i}", param_option=option.Single if key in _NEEDED else option.Optional)
        for i, key in enumerate(arguments)
    ]
    kinds = {**attributes, "layer": onnx.AttributeProto.STRING}
    schema = OpSchema(
        name,
        DOMAIN,
        DOMAIN_VERSION,
        inputs=inputs,
        outputs=[OpSchema.FormalParameter("y", "T1" if name == "LUTPalette" else "T0")],
        type_constraints=[(f"T{i}", tensors, "") for i in range(len(arguments))],
        attributes=[OpSchema.Attribute(k, OpSchema.AttrType(v), "", required=True) for k, v in kinds.items()],
    )
    return values.Op(values.Opset(DOMAIN, DOMAIN_VERSION), name, schema)


def _name_nodes(proto: onnx.ModelProto) -> None:
    """LUT and weighted nodes take their module's qualified name; the others say which module they are in."""
    weights = {t.name for t in proto.graph.initializer}
    seen: Counter[str] = Counter()
    for node in proto.graph.node:
        name = _node_name(node, weights)
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name] - 1}"


def _node_name(node: onnx.NodeProto, weights: set[str]) -> str:
    if node.domain == DOMAIN:
        layer = next(a for a in node.attribute if a.name == "layer")
        name = layer.s.decode()
        node.attribute.remove(layer)
        return name
    if node.op_type in _WEIGHTED:
        for value in node.input[1:2]:
            if value in weights and value.endswith(".weight"):
                return value.removesuffix(".weight")
    metadata = {entry.key: entry.value for entry in node.metadata_props}
    if _SCOPES not in metadata:
        return node.name
    *_, module, step = ["", *ast.literal_eval(metadata[_SCOPES])]
    classes = ast.literal_eval(metadata[_CLASSES])
    if node.op_type in _WEIGHTED and len(classes) > 1 and classes[-2].endswith(_LAYER_CLASSES):
        return module
    return f"{module}/{step}" if module else step


def _add_functions(proto: onnx.ModelProto) -> None:
    opset = next(o.version for o in proto.opset_import if o.domain == "")
    shapes = {tensor.name: tensor.dims for tensor in proto.graph.initializer}
    variants: dict[Variant | LevelsVariant, None] = {}
    for node in proto.graph.node:
        if node.domain == DOMAIN:
            is_levels = node.op_type in ("LUTQuantize", "LUTPalette")
            if not is_levels:
                _drop_unused(node)
            variant = LevelsVariant.of_node(node, shapes) if is_levels else Variant.of_node(node)
            node.overload = variant.overload
            variants[variant] = None
            ordered = sorted(node.attribute, key=lambda a: a.name)
            del node.attribute[:]
            node.attribute.extend(ordered)
    if not variants:
        return
    for variant in variants:
        make = make_levels_function if isinstance(variant, LevelsVariant) else make_function
        proto.functions.append(make(variant, opset))
    if all(o.domain != DOMAIN for o in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))


def _drop_unused(node: onnx.NodeProto) -> None:
    """A closest-centroid search has none of what belongs to trees."""
    attributes = {a.name: a for a in node.attribute}
    if attributes["encoder"].s == b"l2":
        node.attribute.remove(attributes["subvector_len"])
        del node.input[len(L2_INPUTS) :]


def _strip(proto: onnx.ModelProto) -> None:
    """Stack traces and graph signatures name files of the exporting machine and tell a reader nothing."""
    graph = proto.graph
    owners = [proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for owner in owners:
        owner.ClearField("metadata_props")
        owner.ClearField("doc_string")


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns about packages it would use if it had them, and about its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
