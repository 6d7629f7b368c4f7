"""Which layers of a float ONNX model can become lookup tables, and what each reads."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from lutc.errors import LoweringError
from lutc.importers.names import did_you_mean
from lutc.importers.onnx_domains import STANDARD_DOMAINS
from lutc.importers.onnx_graph import all_nodes, constants, weight_rows

_IMAGE_CHANNELS = 4


@dataclass(frozen=True)
class Geometry:
    """How a conv cuts patches; pads are top, left, bottom, right, or the auto_pad mode."""

    kernel_shape: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int] | str


@dataclass(frozen=True, eq=False)
class FloatLayer:
    """A conv (with geometry) or dense layer with a constant weight; `input` is the tensor it reads."""

    name: str
    input: str
    geometry: Geometry | None
    weight: np.ndarray
    """float32 [M, D]."""
    reads_image: bool = False


def choose_layers(
    model: onnx.ModelProto, source: str, layers: Sequence[str] | None, keep_float: Sequence[str]
) -> tuple[list[FloatLayer], dict[str, str]]:
    """(layers to make tables of, name -> why not) of a prepared model.

    Without ``layers`` all that can be are taken but a first conv on an image; with it those matching a pattern.

    Raises
    ------
    LoweringError : a pattern matches no layer, or no layer remains.
    """
    eligible, skipped = find_layers(model)
    known = [*(layer.name for layer in eligible), *skipped]
    for pattern in (*(layers or ()), *keep_float):
        if not fnmatch.filter(known, pattern):
            raise _no_match(pattern, known, source)
    chosen = []
    for layer in eligible:
        if any(fnmatch.fnmatchcase(layer.name, pattern) for pattern in keep_float):
            skipped[layer.name] = "asked to be kept in float"
        elif layers is None and layer.reads_image:
            skipped[layer.name] = "it reads the model's input, whose few channels hold too much detail for a table"
        elif layers is None or any(fnmatch.fnmatchcase(layer.name, pattern) for pattern in layers):
            chosen.append(layer)
        else:
            skipped[layer.name] = "not asked for"
    if not chosen:
        reasons = [f"{name}: {why}" for name, why in skipped.items()]
        raise LoweringError(
            "no layer of the model can become a lookup table",
            where=source,
            reason="\n".join(reasons) or "it has no Conv, Gemm or MatMul with a constant weight",
            fix="name layers to take, or give a model with group-1 convs or dense layers",
        )
    return chosen, skipped


def find_layers(model: onnx.ModelProto) -> tuple[list[FloatLayer], dict[str, str]]:
    """(layers that can become tables, layer name -> why it cannot) of a prepared model."""
    known = constants(model.graph)
    inputs = {value.name for value in model.graph.input}
    eligible, skipped = [], {}
    main = {node.name for node in model.graph.node}
    for node in all_nodes(model.graph):
        if node.domain not in STANDARD_DOMAINS or node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        reason = "it is inside a branch" if node.name not in main else _obstacle(node, attributes, known)
        if reason:
            skipped[node.name] = reason
            continue
        weight = known[node.input[1]]
        geometry = _geometry(attributes, list(weight.dims)) if node.op_type == "Conv" else None
        image = geometry is not None and node.input[0] in inputs and weight.dims[1] <= _IMAGE_CHANNELS
        rows = weight_rows(node.op_type, numpy_helper.to_array(weight), attributes)
        eligible.append(FloatLayer(node.name, node.input[0], geometry, rows, image))
    return eligible, skipped


def _obstacle(node: onnx.NodeProto, attributes: Mapping[str, object], known: Mapping[str, onnx.TensorProto]) -> str:
    """Why the node cannot become a table; empty when it can."""
    weight = known.get(node.input[1])
    if weight is None:
        return "its weight is computed while the model runs"
    if node.input[0] in known:
        return "its input is a constant"
    if weight.data_type != onnx.TensorProto.FLOAT:
        return f"its weight is {onnx.TensorProto.DataType.Name(weight.data_type).lower()}, not float32"
    if len(weight.dims) != (4 if node.op_type == "Conv" else 2):
        return f"its weight has {len(weight.dims)} axes"
    if attributes.get("group", 1) != 1:
        return f"it is a conv of {attributes['group']} groups"
    return "its input is transposed" if attributes.get("transA", 0) else ""


def _geometry(attributes: Mapping[str, object], dims: Sequence[int]) -> Geometry:
    def pair(name: str) -> tuple[int, int]:
        return tuple(attributes.get(name, (1, 1)))  # type: ignore[return-value]

    mode = attributes.get("auto_pad", b"NOTSET").decode()
    pads = tuple(attributes.get("pads", (0, 0, 0, 0))) if mode == "NOTSET" else mode
    return Geometry((dims[2], dims[3]), pair("strides"), pair("dilations"), pads)


def _no_match(pattern: str, known: Sequence[str], source: str) -> LoweringError:
    return LoweringError(
        f"no layer matches {pattern!r}",
        where=source,
        reason=f"the conv and dense layers are {', '.join(known) or 'none'}{did_you_mean(pattern, known)}",
        fix="use a name from this list, or a pattern such as 'layer1.*'",
    )
