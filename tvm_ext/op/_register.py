"""How a lut op becomes a Relax operator: registered from Python, printed and parsed as ``R.lut.<name>``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import tvm
from tvm import relax
from tvm.ir import Op, register_op_attr
from tvm.script import relax as script_relax
from tvm.script.parser import relax as parser_relax

_NAMESPACE = SimpleNamespace()
script_relax.lut = _NAMESPACE
parser_relax.lut = _NAMESPACE


def register(name: str, arguments: Sequence[str], infer: Callable, legalize: Callable, constructor: Callable) -> Op:
    """Register ``relax.lut.<name>`` taking `arguments`; returns the Op.

    infer(call, block_builder) -> type; legalize(block_builder, call) -> expression.
    """
    full = f"relax.lut.{name}"
    register_op_attr(full, "FInferType", infer)
    register_op_attr(full, "FPurity", True)
    register_op_attr(full, "FLegalize", legalize)
    register_op_attr(full, "TScriptPrinterName", f"lut.{name}")
    op = Op.get(full)
    op.set_num_inputs(len(arguments))
    for argument in arguments:
        op.add_argument(argument, "Tensor", argument)
    setattr(_NAMESPACE, name, constructor)
    return op


def attributes(**values) -> tvm.ir.Attrs:
    """A DictAttrs node; tuples become arrays, booleans become 0 or 1."""
    plain = {k: int(v) if isinstance(v, bool) else list(v) if isinstance(v, tuple) else v for k, v in values.items()}
    return tvm.ir.make_node("ir.DictAttrs", **plain)


def optional(expr: relax.Expr | None) -> relax.Expr:
    """An argument that may be absent: an empty tuple stands for None, so that positions stay fixed."""
    return relax.Tuple([]) if expr is None else expr


def present(expr: relax.Expr) -> bool:
    """Whether an optional argument was given."""
    return not (isinstance(expr, relax.Tuple) and len(expr.fields) == 0)


def given(expr: relax.Expr) -> relax.Expr | None:
    """An optional argument back as None or expression."""
    return expr if present(expr) else None


def static_shape(expr: relax.Expr, op: str, argument: str) -> tuple[int, ...]:
    """The shape of a tensor argument as ints; raises ValueError naming `op` and `argument` if it is not static."""
    ty = expr.ty
    shape = getattr(ty, "shape", None)
    if shape is None or not isinstance(ty, relax.TensorType) or not isinstance(shape, relax.ShapeExpr):
        raise ValueError(f"{op}: {argument} must be a tensor of known shape, got {ty}")
    try:
        return tuple(int(dim) for dim in shape.values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{op}: {argument} must have a static shape, got {list(shape.values)}") from error


def dtype_of(expr: relax.Expr) -> str:
    return str(expr.ty.dtype)


def check(condition: bool, op: str, message: str) -> None:
    """Raise ValueError ``op: message`` unless `condition`."""
    if not condition:
        raise ValueError(f"{op}: {message}")


def int_tuple(values) -> tuple[int, ...]:
    return tuple(int(v) for v in values)
