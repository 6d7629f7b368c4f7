"""MaskPadding: a model whose results do not depend on what lies beyond the true size of an axis."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_ext.transform.padding_sites import BIAS, EXCLUDE, MEAN, PLACE, Site


@tvm.transform.module_pass(opt_level=0, name="MaskPadding")
class MaskPadding:
    """A mask for each dimension becomes a parameter of "main", behind the others: float32 [size], 0 where there is data
    and -inf where there is padding. Softmaxes and maxima add it, sums take 0 instead, means divide by what is left.

    Parameters
    ----------
    sites : dimension -> its `padding_sites` in this module.
    sizes : dimension -> its padded size here; one parameter for each, in this order, whether or not it has sites.
    """

    def __init__(self, sites: Mapping[str, Sequence[Site]], sizes: Mapping[str, int]) -> None:
        self.sites, self.sizes = sites, sizes

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        masks = {name: relax.Var(f"padding_{name}", relax.TensorType([size], "float32"))
                 for name, size in self.sizes.items()}  # fmt: skip
        main, by_call = mod["main"], defaultdict(list)
        bindings = [binding for block in main.body.blocks for binding in block.bindings]
        for name, sites in self.sites.items():
            for site in (site for site in sites if site.kind != PLACE):
                by_call[bindings[site.binding].value].append((site, masks[name]))
        masker = _Masker(mod, by_call)
        body = masker.visit_expr(main.body)
        function = relax.Function([*main.params, *masks.values()], body, main.ret_ty, main.is_pure, main.attrs)
        result = mod.clone()
        result["main"] = function
        return result


@mutator
class _Masker(PyExprMutator):
    """Rewrites the calls at the sites."""

    def __init__(self, mod: tvm.IRModule, sites: Mapping[relax.Call, list[tuple[Site, relax.Var]]]) -> None:
        super().__init__(mod)
        self.sites = sites

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        sites = self.sites.get(call)
        call = self.visit_expr_post_order(call)
        return self._masked(call, sites) if sites else call

    def _masked(self, call: relax.Call, sites: list[tuple[Site, relax.Var]]) -> relax.Expr:
        args, divisor = list(call.args), None
        for site, mask in sites:
            x = args[site.operand]
            rank = len(x.ty.shape)
            if site.kind == BIAS:
                args[3:] = [self._attention_bias(mask, args[3:])]
            elif site.kind == EXCLUDE and "float" not in str(x.ty.dtype):
                valid = self._along(self._valid(mask, "bool"), site.axis, rank)
                args[site.operand] = self.builder_.emit(relax.op.where(valid, x, _least(str(x.ty.dtype))))
            elif site.kind == EXCLUDE:
                args[site.operand] = self.builder_.emit(relax.op.add(x, self._along(mask, site.axis, rank)))
            else:
                valid = self._along(self._valid(mask, str(x.ty.dtype)), site.axis, rank)
                args[site.operand] = self.builder_.emit(relax.op.multiply(x, valid))
            if site.kind == MEAN:
                row = self.builder_.emit(relax.op.reshape(self._valid(mask, "float32"), [1, mask.ty.shape[0]]))
                divisor = self.builder_.emit(relax.op.mean(row, axis=[1]))
        name = "relax.nn.attention_bias" if sites[0][0].kind == BIAS else str(call.op.name)
        made = relax.Call(tvm.ir.Op.get(name), args, call.attrs, call.ty_args, call.span)
        return made if divisor is None else relax.op.divide(self.builder_.emit(made), divisor)

    def _along(self, vector: relax.Expr, axis: int, rank: int) -> relax.Expr:
        """[size] as a tensor that is broadcast along all axes but one."""
        size = vector.ty.shape[0]
        if axis == rank - 1:
            return vector
        return self.builder_.emit(relax.op.reshape(vector, [size, *[1] * (rank - 1 - axis)]))

    def _valid(self, mask: relax.Var, dtype: str) -> relax.Expr:
        """1 where there is data, 0 where there is padding."""
        there = self.builder_.emit(relax.op.equal(mask, relax.const(0, "float32")))
        return there if dtype == "bool" else self.builder_.emit(relax.op.astype(there, dtype))

    def _attention_bias(self, mask: relax.Var, given: list[relax.Expr]) -> relax.Expr:
        if given:
            return self.builder_.emit(relax.op.add(given[0], mask))
        return self.builder_.emit(relax.op.reshape(mask, [1, 1, 1, mask.ty.shape[0]]))


def _least(dtype: str) -> relax.Expr:
    return relax.const(False if dtype == "bool" else np.iinfo(dtype).min, dtype)
