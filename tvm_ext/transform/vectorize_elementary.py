"""VectorizeElementary: exp, erf, tanh and sigmoid of float32 become polynomials (see `compute.elementary`).

Divisions by a constant become products with its reciprocal, which are eight times faster in vectors of 16 and differ by
a rounding: less than the polynomials do.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import tirx
from tvm.ir import Op

from tvm_ext.compute import elementary
from tvm_ext.transform._rewrite import map_kernels

_FUNCTIONS = {
    Op.get("tirx.exp"): elementary.exp,
    Op.get("tirx.erf"): elementary.erf,
    Op.get("tirx.tanh"): elementary.tanh,
    Op.get("tirx.sigmoid"): elementary.sigmoid,
}


@tvm.transform.module_pass(opt_level=0, name="VectorizeElementary")
class VectorizeElementary:
    """Rewrites every PrimFunc; calls on other dtypes than float32 stay."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        return map_kernels(mod, (tvm.ir.Call, _rewrite), (tirx.Div, _multiplied))


def _rewrite(call: tvm.ir.Call) -> tvm.ir.Expr:
    function = _FUNCTIONS.get(call.op)
    if function is None or str(call.args[0].dtype if hasattr(call.args[0], "dtype") else call.args[0].ty) != "float32":
        return call
    return function(call.args[0])


def _multiplied(division: tirx.Div) -> tvm.ir.Expr:
    divisor = division.b
    if str(division.ty.dtype) != "float32" or not isinstance(divisor, tirx.FloatImm) or divisor.value == 0:
        return division
    reciprocal, numbers = 1 / float(divisor.value), np.finfo(np.float32)
    normal = float(numbers.tiny) <= abs(reciprocal) <= float(numbers.max)
    return division.a * tirx.const(reciprocal, "float32") if normal else division
