"""Read the lutc nodes of an ONNX graph (docs/ops) and check them all before the import starts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from lutc.importers.lut_layer import ARGUMENTS, LUTLayer, Problem, layer_error
from lutc.importers.onnx_domains import LUTC_DOMAIN
from lutc.importers.onnx_graph import all_nodes, constants, describe

_LAYERS = ("LUTDense", "LUTConv2d")
_COMMON = {"encode_dtype": "float32", "encoder": "l2", "input_signed": 1, "subvector_len": 0}
_GEOMETRY = {"kernel_shape": None, "strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "group": 1}


def read_lut_nodes(graph: onnx.GraphProto, source: str, places: Mapping[str, str] | None = None) -> dict[str, LUTLayer]:
    """Node name -> layer, for every LUTDense and LUTConv2d node; ``places`` says where a named node is in the file.

    Raises
    ------
    ModelImportError : one or more nodes are inconsistent; all of them are named.
    """
    known = constants(graph)
    layers: dict[str, LUTLayer] = {}
    problems: list[tuple[str, Problem]] = []
    for index, node in enumerate(all_nodes(graph)):
        if node.domain != LUTC_DOMAIN or node.op_type not in _LAYERS:
            continue
        layer, problem = _read(node, known)
        problem = problem or layer.problem()
        if problem:
            problems.append(((places or {}).get(node.name) or describe(index, node), problem))
        layers[node.name] = layer
    if problems:
        raise layer_error(problems, source)
    return layers


def _read(node: onnx.NodeProto, known: Mapping[str, onnx.TensorProto]) -> tuple[LUTLayer, Problem | None]:
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    is_conv = node.op_type == "LUTConv2d"
    allowed = _COMMON | (_GEOMETRY if is_conv else {})
    values = allowed | attributes
    tensors, problem = _tensors(node, known)
    problem = problem or _attribute_problem(values, allowed)
    geometry = {} if problem or not is_conv else {n: tuple(values[n]) for n in _GEOMETRY if n != "group"}
    layer = LUTLayer(
        node.name,
        tensors,
        encode_dtype=_text(values["encode_dtype"]),
        encoder=_text(values["encoder"]),
        input_signed=bool(values["input_signed"]),
        geometry=geometry,
        subvector_len=int(values["subvector_len"]) if isinstance(values["subvector_len"], int) else 0,
    )
    return layer, problem


def _tensors(
    node: onnx.NodeProto, known: Mapping[str, onnx.TensorProto]
) -> tuple[dict[str, np.ndarray | None], Problem | None]:
    found: dict[str, np.ndarray | None] = dict.fromkeys(ARGUMENTS)
    if len(node.input) > 1 + len(ARGUMENTS) or not node.input or len(node.output) != 1:
        return found, (
            f"it has {len(node.input)} inputs and {len(node.output)} outputs",
            f"a {node.op_type} takes x and up to {len(ARGUMENTS)} constants, and gives one output",
        )
    for argument, name in zip(ARGUMENTS, node.input[1:], strict=False):
        if not name:
            continue
        if name not in known:
            return found, (
                f'its {argument} ("{name}") is computed while the model runs',
                "store it as an initializer: tables and centroids must be constants",
            )
        found[argument] = numpy_helper.to_array(known[name])
    return found, None


def _attribute_problem(values: Mapping[str, object], allowed: Mapping[str, object]) -> Problem | None:
    unknown = sorted(set(values) - set(allowed))
    if unknown:
        return (
            f"it has the unknown attribute {', '.join(unknown)}",
            "upgrade lutc: the file may come from a newer version",
        )
    if "kernel_shape" in allowed and not isinstance(values["kernel_shape"], (list, tuple)):
        return "it has no kernel_shape", "export the model again with lutc.export_model"
    if values.get("group", 1) != 1:
        return f"its group is {values['group']}; a table layer has group 1", "keep grouped convs in float"
    return None


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
