"""A function that returns what chosen layers read, in place of the model's results."""

from __future__ import annotations

from collections.abc import Collection

import tvm
from tvm import relax

from tvm_ext.transform._rewrite import layer_name

_LAYERS = tuple(tvm.ir.Op.get(f"relax.{name}") for name in ("nn.conv2d", "matmul"))


def expose_inputs(mod: tvm.IRModule, names: Collection[str]) -> tuple[tvm.IRModule, list[tuple[str, int]]]:
    """(module, calls): its "main" returns a tuple; every (layer name, item) in `calls` tells the input of one call.

    What computes nothing that the layers read is left out.
    """
    func = mod["main"]
    bindings = [binding for block in func.body.blocks for binding in block.bindings]
    read: dict[relax.Expr, int] = {}
    calls: list[tuple[str, int]] = []
    for binding in bindings:
        value = binding.value
        name = layer_name(value, "") if isinstance(value, relax.Call) and value.op in _LAYERS else ""
        if name in names:
            calls.append((name, read.setdefault(value.args[0], len(read))))
    result = relax.Var("read", relax.TupleType([x.ty for x in read]))
    block = relax.DataflowBlock([*bindings, relax.VarBinding(result, relax.Tuple(list(read)))])
    body = relax.SeqExpr([block], result)
    exposed = relax.Function(func.params, body, result.ty, attrs=func.attrs)
    new = tvm.IRModule({gv: f for gv, f in mod.functions_items() if gv.name_hint != "main"}, attrs=mod.attrs)
    new["main"] = relax.analysis.remove_all_unused(exposed)
    return new, calls
