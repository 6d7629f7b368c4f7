"""FuseInputQuantization: a table read gives the next layer's input as that layer stores it, in 8 bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm
import tvm_ffi
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_ext.op._register import int_tuple, present
from tvm_ext.op.encode import OP as ENCODE
from tvm_ext.op.encode import stored_dtype
from tvm_ext.op.lookup_accumulate import OP as LOOKUP
from tvm_ext.op.plane import OP as PLANE
from tvm_ext.transform._rewrite import array, count_uses, with_args

_RESHAPE, _MAX_POOL = tvm.ir.Op.get("relax.reshape"), tvm.ir.Op.get("relax.nn.max_pool2d")


@dataclass(frozen=True, eq=False)
class Quantization:
    """How a layer stores its input: inv_scale float32, one a channel or column, and the attributes of the op."""

    inv_scale: np.ndarray
    dtype: str
    encode_dtype: str
    signed: bool
    zero_point: int

    def same(self, other: Quantization) -> bool:
        mine, others = ((q.dtype, q.encode_dtype, q.signed, q.zero_point) for q in (self, other))
        return mine == others and np.array_equal(self.inv_scale, other.inv_scale)


@tvm.transform.module_pass(opt_level=0, name="FuseInputQuantization")
class FuseInputQuantization:
    """Where a packed layer reads what a table read computed, quantizing moves into the table read's epilogue.

    Float32 results are kept only for what else reads them. Of several layers that quantize one tensor differently, the
    first decides; the others quantize for themselves. A maximum over windows between the two, which nothing else reads,
    is taken of quantized values: that gives the same, as quantizing keeps their order.
    """

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        for gv, func in mod.functions_items():
            if isinstance(func, relax.Function):
                plan = _Plan(func)
                if plan.producers:
                    mod.update_func(gv, _rewrite(mod, func, plan))
        return mod


def _rewrite(mod: tvm.IRModule, func: relax.Function, plan: _Plan) -> relax.Function:
    return relax.analysis.remove_all_unused(_Fuse(mod, plan).visit_expr(func))


class _Plan:
    """What changes in a function.

    producers : variable of a table read -> (quantization of its reader, whether float32 is read too).
    readers : variable of a plane or an encode -> the variable of the table read in front of it.
    pooled : variable of a reader -> the max_pool2d in front of it.
    dropped : variables of reshapes and pools that nothing needs any longer.
    """

    def __init__(self, func: relax.Function) -> None:
        self._values: dict[relax.Var, relax.Expr] = {}
        relax.analysis.post_order_visit(func, self._note)
        self.producers: dict[relax.Var, tuple[Quantization, bool]] = {}
        self.readers: dict[relax.Var, relax.Var] = {}
        self.pooled: dict[relax.Var, relax.Call] = {}
        self.dropped: set[relax.Var] = set()
        uses = self._uses = count_uses(func)
        chosen: dict[relax.Var, Quantization] = {}
        calls = {var: value for var, value in self._values.items() if isinstance(value, relax.Call)}
        for var, call in calls.items():
            wanted, source = self._wanted(call), self._source(call)
            if wanted is None or source is None or not chosen.setdefault(source, wanted).same(wanted):
                continue
            self.readers[var] = source
            pool = self._pool(call)
            if pool is not None:
                self.pooled[var] = pool
            uses[call.args[0]] -= 1
        for var, call in reversed(calls.items()):
            if call.op in (_RESHAPE, _MAX_POOL) and uses[var] == 0:
                self.dropped.add(var)
                uses[call.args[0]] -= 1
        for source in set(self.readers.values()):
            self.producers[source] = chosen[source], uses[source] > 0

    def _note(self, expr: relax.Expr) -> None:
        if isinstance(expr, relax.SeqExpr):
            for block in expr.blocks:
                if isinstance(block, relax.DataflowBlock):
                    self._values |= {b.var: b.value for b in block.bindings}

    def _source(self, reader: relax.Call) -> relax.Var | None:
        """The variable of the table read that a call's input is, perhaps reshaped and pooled."""
        if not reader.args:
            return None
        pool = self._pool(reader)
        x = reader.args[0] if pool is None else pool.args[0]
        reshape = self._call(x, _RESHAPE)
        var = x if reshape is None else reshape.args[0]
        read = self._call(var, LOOKUP)
        return var if read is not None and str(read.attrs["layout"]) else None

    def _pool(self, reader: relax.Call) -> relax.Call | None:
        """The max_pool2d that only this call reads."""
        pool = self._call(reader.args[0], _MAX_POOL) if reader.op == PLANE else None
        scale = reader.args[1] if pool is not None else None
        if pool is None or scale is None or not present(scale) or not (array(scale) > 0).all():
            return None
        return pool if self._uses[reader.args[0]] == 1 else None

    def _call(self, var: relax.Expr, op: tvm.ir.Op) -> relax.Call | None:
        """The call of `op` that a variable is bound to."""
        value = self._values.get(var, var) if isinstance(var, relax.Var) else var
        return value if isinstance(value, relax.Call) and value.op == op else None

    def _wanted(self, call: relax.Call) -> Quantization | None:
        """How a call quantizes its input, if that is all it wants of it."""
        if call.op not in (PLANE, ENCODE):
            return None
        attrs = call.attrs
        inv_scale = call.args[1 if call.op == PLANE else 2]
        if not present(inv_scale):
            return None
        how = str(attrs["encode_dtype"]), bool(int(attrs["input_signed"])), int(attrs["zero_point"])
        if call.op == PLANE:
            return Quantization(array(inv_scale), str(attrs["dtype"]), *how)
        layout, length = str(attrs["layout"]), int(attrs["subvector_len"])
        columns = int(attrs["num_codebooks"]) * length
        whole = columns == int(call.args[0].ty.shape[-1])  # else zeros behind a row would have to be quantized too
        if layout in ("", "rowwise") or int_tuple(attrs["kernel_shape"]) or not whole:
            return None
        per_column = np.repeat(array(inv_scale), length)[:columns]
        return Quantization(per_column, stored_dtype(attrs), *how)


@mutator
class _Fuse(PyExprMutator):
    def __init__(self, mod: tvm.IRModule, plan: _Plan) -> None:
        super().__init__(mod)
        self._plan = plan
        self._quantized: dict[relax.Var, relax.Var] = {}

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        var, plan = binding.var, self._plan
        if var in plan.producers:
            self._emit_read(var, self.visit_expr(binding.value), *plan.producers[var])
        elif var in plan.readers:
            self._emit_reader(var, binding.value, self._quantized[plan.readers[var]], plan.pooled.get(var))
        elif var not in plan.dropped:
            super().visit_var_binding_(binding)

    def _emit_read(self, var: relax.Var, call: relax.Call, wanted: Quantization, keep_float: bool) -> None:
        args = [*call.args[:6], relax.const(wanted.inv_scale)]
        read = self.builder_.emit(
            with_args(
                call, args, quantized=wanted.dtype, encode_dtype=wanted.encode_dtype, input_signed=int(wanted.signed),
                zero_point=wanted.zero_point, keep_float=int(keep_float),
            )
        )  # fmt: skip
        if keep_float:
            emit = self.builder_.emit if isinstance(var, relax.DataflowVar) else self.builder_.emit_output
            self.set_var_remap(var, emit(relax.TupleGetItem(read, 0)))
        self._quantized[var] = self.builder_.emit(relax.TupleGetItem(read, 1)) if keep_float else read

    def _emit_reader(self, var: relax.Var, call: relax.Call, x: relax.Var, pool: relax.Call | None) -> None:
        shape = (call if pool is None else pool).args[0].ty.shape
        if not tvm_ffi.structural_equal(x.ty.shape, shape):
            x = self.builder_.emit(relax.op.reshape(x, shape))
        if pool is not None:
            x = self.builder_.emit(relax.Call(pool.op, [x], pool.attrs))
        at = 1 if call.op == PLANE else 2
        args = [x, *call.args[1:]]
        args[at] = relax.Tuple([])
        self.set_var_remap(var, self.builder_.emit(with_args(call, args)))
