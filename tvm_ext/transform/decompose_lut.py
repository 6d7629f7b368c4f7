"""DecomposeLUT: R.lut.dense and R.lut.conv2d -> R.lut.encode + R.lut.lookup_accumulate."""

from __future__ import annotations

import tvm
from tvm import relax

from tvm_ext.op.conv2d import OP as CONV2D
from tvm_ext.op.conv2d import decompose as decompose_conv2d
from tvm_ext.op.dense import OP as DENSE
from tvm_ext.op.dense import decompose as decompose_dense
from tvm_ext.transform._rewrite import rewrite_module


@tvm.transform.module_pass(opt_level=0, name="DecomposeLUT")
class DecomposeLUT:
    """Splits layers into closest-centroid search and table read, which are compiled apart."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        def rewrite(rewriter, call: relax.Call) -> relax.Expr | None:
            if call.op == DENSE:
                return decompose_dense(rewriter.builder_, call)
            if call.op == CONV2D:
                return decompose_conv2d(rewriter.builder_, call)
            return None

        return rewrite_module(mod, rewrite)
