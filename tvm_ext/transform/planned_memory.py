"""What a run of a lowered module allocates, as planned when it was compiled."""

from __future__ import annotations

import tvm
from tvm import relax, tirx

_ALLOC = "relax.vm.alloc_storage"


def planned_memory(mod: tvm.IRModule) -> int:
    """Bytes of the storages of "main" together: all are held until the next run. Those of open sizes count as none."""
    sizes: list[int] = []

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Call) and getattr(expr.op, "name", "") == _ALLOC:
            size = expr.args[0].values[0]
            sizes.append(int(size) if isinstance(size, tirx.IntImm) else 0)

    relax.analysis.post_order_visit(mod["main"], visit)
    return sum(sizes)
