"""Static shapes and tensor specs of Relax expressions and functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import tvm
from tvm import relax

from lutc.artifact.manifest import TensorSpec
from lutc.errors import ModelImportError


def static_shape(expr: relax.Expr) -> list[int] | None:
    """The shape as ints, or None when a dimension is symbolic or the rank unknown."""
    return _shape_of_type(expr.ty)


def _shape_of_type(type_: tvm.ir.Type) -> list[int] | None:
    shape = getattr(type_, "shape", None)
    if shape is None or not all(isinstance(dim, tvm.tirx.IntImm) for dim in shape):
        return None
    return [int(dim) for dim in shape]


def tensor_specs(
    mod: tvm.IRModule, inputs: Sequence[str], outputs: Sequence[str], source: str
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Specs of the inputs and outputs of "main" under the given names.

    Raises
    ------
    ModelImportError : a shape is not fixed.
    """
    main = mod["main"]
    returned = main.ret_ty
    types = list(returned.fields) if isinstance(returned, relax.TupleType) else [returned]
    parameters = [parameter.ty for parameter in main.params]
    return _specs(inputs, parameters, source), _specs(outputs, types, source)


def _specs(names: Sequence[str], types: Iterable[tvm.ir.Type], source: str) -> tuple[TensorSpec, ...]:
    specs = []
    for name, type_ in zip(names, types, strict=True):
        shape = _shape_of_type(type_)
        if shape is None or not isinstance(type_, relax.TensorType):
            raise ModelImportError(
                f'the shape of "{name}" is not known before the model runs',
                where=f'{source}, "{name}"',
                reason=f"its type is {type_}",
                fix="export the model without operators whose output size depends on values (NonZero, NMS, Unique)",
            )
        specs.append(TensorSpec(name, str(type_.dtype), shape))
    return tuple(specs)
