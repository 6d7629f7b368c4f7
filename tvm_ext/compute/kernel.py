"""A TE function becomes a PrimFunc that carries what it computes, so that the right schedule rule finds it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from tvm import relax, te
from tvm.tirx import PrimFunc

KERNEL_ATTR = "lut.kernel"
_OPAQUE = 8
"""TVM's operator pattern that FuseOps leaves alone: epilogues are fused before, on the lut ops."""


def emit_kernel(
    bb: relax.BlockBuilder,
    compute: Callable,
    args: Sequence[relax.Expr | None],
    ty: relax.TensorType | relax.TupleType,
    name: str,
    info: dict,
) -> relax.Expr:
    """Add the PrimFunc of ``compute(*placeholders)``, a tensor or a list of them, to the module and call it.

    None among `args` is handed on as None and takes no parameter. `info` is stored as the attribute "lut.kernel".
    """
    placeholders = [
        None if a is None else te.placeholder([int(d) for d in a.ty.shape], str(a.ty.dtype), name=f"p{i}")
        for i, a in enumerate(args)
    ]
    result = compute(*placeholders)
    results = list(result) if isinstance(result, (list, tuple)) else [result]
    func = te.create_prim_func([p for p in placeholders if p is not None] + results)
    return call_kernel(bb, func, args, ty, name, info)


def call_kernel(
    bb: relax.BlockBuilder,
    func: PrimFunc,
    args: Sequence[relax.Expr | None],
    ty: relax.TensorType | relax.TupleType,
    name: str,
    info: dict,
) -> relax.Expr:
    """Add `func` to the module, named and marked as `emit_kernel` does, and call it with the arguments given."""
    func = func.with_attr(KERNEL_ATTR, info).with_attr("op_pattern", _OPAQUE)
    layer = re.sub(r"\W+", "_", str(info.get("layer", ""))).strip("_")
    symbol = f"{name}_{layer}" if layer else name
    gv = bb.add_func(func.without_attr("global_symbol"), symbol)
    types = list(ty.fields) if isinstance(ty, relax.TupleType) else ty
    return relax.call_tir(gv, [a for a in args if a is not None], types)
