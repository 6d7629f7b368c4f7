"""ExportedProgram to Relax through TVM's importer, with converters for torch.ops.lutc and names for float layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import tvm
from torch.fx import Node
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from lutc.errors import ModelImportError
from lutc.importers.lut_call import lut_call
from lutc.importers.lut_layer import ARGUMENTS, LUTLayer, layer_error
from lutc.importers.onnx_layers import named
from lutc.importers.palette import palette_error, palette_weight
from lutc.importers.quantizer import Quantizer, quantizer_error
from lutc.importers.relax_types import static_shape

_GEOMETRY = ("kernel_shape", "strides", "pads", "dilations")
_CONV_OPS = ("conv2d.default", "convolution.default")
_DENSE_OPS = ("linear.default", "addmm.default", "mm.default", "matmul.default", "bmm.default")


def from_program(program: torch.export.ExportedProgram, source: str) -> tuple[tvm.IRModule, dict[str, str]]:
    """(module, layer name -> place) of a program with static shapes.

    Raises
    ------
    ModelImportError : operators without a converter (all are listed), or an inconsistent lutc layer.
    """
    program = program.run_decompositions()
    converters = ExportedProgramImporter()
    known = converters.create_convert_map()
    _check_supported(program, set(known), source)
    constants = _constants(program)
    places: dict[str, str] = {}
    custom: dict[str, Callable[[Node, Any], relax.Var]] = {
        f"lut_{kind}.default": lambda node, importer: _convert_lut(node, importer, constants, places, source)
        for kind in ("dense", "conv2d")
    }
    custom["lut_palette.default"] = lambda node, importer: _convert_palette(node, constants, source)
    custom["lut_quantize.default"] = lambda node, importer: _convert_quantizer(node, importer, constants, source)
    custom |= {name: _naming_converter(name, places) for name in (*_CONV_OPS, *_DENSE_OPS)}
    mod = from_exported_program(
        program, custom_convert_map=custom, unwrap_unit_return_tuple=True, run_ep_decomposition=False
    )
    return mod, places


def _check_supported(program: torch.export.ExportedProgram, known: set[str], source: str) -> None:
    missing: dict[str, list[str]] = {}
    for node in program.graph.nodes:
        if node.op != "call_function" or str(node.target).startswith("lutc.lut_"):
            continue
        if node.target.__name__ not in known:
            missing.setdefault(str(node.target), []).append(node.name)
    if missing:
        lines = [f"{target} ({len(names)}: {', '.join(names[:5])})" for target, names in missing.items()]
        raise ModelImportError(
            "the program calls operators that cannot be imported",
            where=source,
            reason="\n".join(lines),
            fix="rewrite these parts of the model, or export it to ONNX with lutc.export_model and give that file",
        )


def _constants(program: torch.export.ExportedProgram) -> dict[str, np.ndarray]:
    """Placeholder name -> value, for parameters, buffers and lifted constants."""
    values = dict(program.constants) | dict(program.state_dict)
    found = {}
    for spec in program.graph_signature.input_specs:
        if spec.target in values and isinstance(values[spec.target], torch.Tensor):
            found[spec.arg.name] = values[spec.target].detach().cpu().numpy()
    return found


def _convert_lut(
    node: Node, importer: Any, constants: dict[str, np.ndarray], places: dict[str, str], source: str
) -> relax.Var:
    values = _arguments(node)
    place = f'node "{node.name}" ({node.target}, layer "{values["layer"]}")'
    layer = LUTLayer(
        values["layer"] or node.name,
        {name: _constant(values[name], name, constants, f"{source}, {place}") for name in ARGUMENTS},
        encode_dtype=values["encode_dtype"],
        encoder=values["encoder"],
        input_signed=values["input_signed"],
        geometry={name: tuple(values[name]) for name in _GEOMETRY if name in values},
        subvector_len=values["subvector_len"],
    )
    x = importer.env[values["x"]]
    problem = layer.problem() or layer.input_problem(static_shape(x) or ())
    if problem:
        raise layer_error([(place, problem)], source)
    places[layer.name] = place
    return importer.block_builder.emit(lut_call(layer, x))


def _convert_palette(node: Node, constants: dict[str, np.ndarray], source: str) -> relax.Expr:
    values = _arguments(node)
    where = f'{source}, node "{node.name}" ({node.target}, "{values["layer"]}")'
    try:
        return relax.const(
            palette_weight(*(_constant(values[name], name, constants, where) for name in ("codes", "levels")))
        )
    except ValueError as error:
        raise palette_error(where, error) from error


def _convert_quantizer(node: Node, importer: Any, constants: dict[str, np.ndarray], source: str) -> relax.Var:
    values = _arguments(node)
    where = f'{source}, node "{node.name}" ({node.target}, "{values["layer"]}")'
    tables = [_constant(values[name], name, constants, where) for name in ("thresholds", "levels")]
    quantizer = Quantizer(values["layer"] or node.name, *tables, axis=int(values["axis"]))  # type: ignore[arg-type]
    x = importer.env[values["x"]]
    problem = quantizer.problem() or quantizer.input_problem(static_shape(x) or ())
    if problem:
        raise quantizer_error(where, problem)
    return importer.block_builder.emit(quantizer.call(x))


def _arguments(node: Node) -> dict[str, Any]:
    """The call's arguments by their name in the operator's schema, defaults included."""
    values = dict(node.kwargs)
    for index, argument in enumerate(node.target._schema.arguments):
        if index < len(node.args):
            values[argument.name] = node.args[index]
        elif argument.name not in values:
            values[argument.name] = argument.default_value
    return values


def _constant(value: Any, name: str, constants: dict[str, np.ndarray], where: str) -> np.ndarray | None:
    if value is None:
        return None
    if isinstance(value, Node) and value.name in constants:
        return constants[value.name]
    raise ModelImportError(
        "cannot import a lookup-table layer",
        where=where,
        reason=f"its {name} is computed while the model runs",
        fix="register it as a buffer: tables and centroids must be constants",
    )


def _naming_converter(op: str, places: dict[str, str]) -> Callable[[Node, Any], relax.Var]:
    def convert(node: Node, importer: Any) -> relax.Var:
        name = _layer_name(node)
        places.setdefault(name, f'node "{node.name}" ({node.target}, layer "{name}")')
        builder = importer.block_builder
        importer.block_builder = _NamingBuilder(builder, name)
        try:
            return importer.create_convert_map()[op](node)
        finally:
            importer.block_builder = builder

    return convert


def _layer_name(node: Node) -> str:
    """The qualified name of the module that made the node, or the node's own name outside modules."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return (stack[-1][0] if stack else "") or node.name


class _NamingBuilder:
    """A block builder that gives conv2d and matmul calls a span with the layer's name."""

    def __init__(self, builder: relax.BlockBuilder, name: str) -> None:
        self._builder, self._name = builder, name
        self._ops = (tvm.ir.Op.get("relax.nn.conv2d"), tvm.ir.Op.get("relax.matmul"))

    def emit(self, expr: relax.Expr, *args: Any, **kwargs: Any) -> relax.Var:
        if isinstance(expr, relax.Call) and expr.op in self._ops:
            expr = named(expr, self._name)
        return self._builder.emit(expr, *args, **kwargs)

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._builder, attribute)
