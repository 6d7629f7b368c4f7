"""LiftConstants: large constants of "main" become parameters, so that they can be stored beside the code."""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import relax

MIN_BYTES = 1 << 16
"""Smaller constants stay in the code."""


def lift_constants(mod: tvm.IRModule, min_total: int) -> tuple[tvm.IRModule, list[tvm.runtime.Tensor]]:
    """(module, values of the new parameters in their order); unchanged if constants sum up to less than `min_total`.

    A constant that is used twice is lifted once.
    """
    main = mod["main"]
    found: dict[tvm.ir.GenericConst, relax.Var] = {}

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, tvm.ir.GenericConst) and expr not in found and _size(expr) >= MIN_BYTES:
            found[expr] = relax.Var(f"constant_{len(found)}", expr.ty)

    relax.analysis.post_order_visit(main, visit)
    if sum(_size(c) for c in found) < min_total:
        return mod, []
    body = tvm_ffi.structural_map(main.body, (tvm.ir.GenericConst, lambda c: found.get(c, c)))
    lifted = relax.Function([*main.params, *found.values()], body, main.ret_ty, main.is_pure, main.attrs)
    result = mod.clone()
    result["main"] = lifted
    return result, [c.value for c in found]


def _size(constant: tvm.ir.GenericConst) -> int:
    value = constant.value
    size = (value.dtype.bits + 7) // 8 if hasattr(value.dtype, "bits") else value.numpy().itemsize
    for d in value.shape:
        size *= int(d)
    return size
