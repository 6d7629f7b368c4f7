"""LegalizeFloat: operators become PrimFuncs, float matmuls and convolutions in the form that register tiles take."""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import relax, te
from tvm.target import Target

from tvm_ext.compute import float_conv2d, float_matmul
from tvm_ext.compute.float_conv2d import Conv2d
from tvm_ext.compute.layer_norm import layer_norm
from tvm_ext.compute.max_pool import max_pool_2x2
from tvm_ext.compute.register_tile import choose_tile
from tvm_ext.compute.softmax import softmax
from tvm_ext.op._register import int_tuple
from tvm_ext.target import vector_unit
from tvm_ext.transform._rewrite import array, has_static_shape, is_constant

_PERMUTE = tvm.ir.Op.get("relax.permute_dims")
_SUMS = 4
_REDUCES = 3
_OPAQUE = 8
"""TVM's operator patterns: what follows a sum is fused into it; what comes before a reduction is."""
_POOLED = ("float32", "int8", "uint8")


@tvm.transform.module_pass(opt_level=0, name="LegalizeFloat")
class LegalizeFloat:
    """TVM's LegalizeOps with own forms of matmul, conv2d (channels last, constant weight), layer norm and softmax.

    What has no static shape, is not float32, or is no form that fits here is legalized as TVM does.
    """

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        own = {
            "relax.matmul": _matmul,
            "relax.nn.conv2d": _conv2d,
            "relax.nn.layer_norm": _layer_norm,
            "relax.nn.softmax": _softmax,
        }
        customized: dict[str, Callable] = {name: _or_default(function) for name, function in own.items()}
        customized["relax.nn.max_pool2d"] = _max_pool2d
        customized["relax.permute_dims"] = lambda _bb, call: call  # convolutions look for those before them
        mod = relax.transform.LegalizeOps(customized)(mod)
        return relax.transform.LegalizeOps()(relax.transform.DeadCodeElimination()(mod))


def _or_default(legalize: Callable) -> Callable:
    def function(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        fits = all(has_static_shape(a) and str(a.ty.dtype) == "float32" for a in call.args)
        made = legalize(bb, call) if fits else None
        return call.op.get_attr("FLegalize")(bb, call) if made is None else made

    return function


def _call(bb: relax.BlockBuilder, compute: Callable, args: list, name: str, call: relax.Call, pattern: int):
    tensors = [te.placeholder([int(d) for d in a.ty.shape], "float32", name=f"p{i}") for i, a in enumerate(args)]
    func = te.create_prim_func([*tensors, compute(*tensors)], index_dtype_override="int64").with_attr(
        "op_pattern", pattern
    )
    return relax.call_tir(bb.add_func(func.without_attr("global_symbol"), name), args, call.ty)


def _shape(expr: relax.Expr) -> list[int]:
    return [int(d) for d in expr.ty.shape]


def _matmul(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr | None:
    x, y = call.args
    if str(call.attrs["out_dtype"] or "float32") != "float32" or min(len(_shape(x)), len(_shape(y))) < 2:
        return None
    *_, rows, depth = _shape(x)
    outputs = _shape(y)[-1]
    tile = choose_tile(vector_unit(Target.current(allow_none=False)), 1, rows, outputs, depth)
    if is_constant(y) and len(_shape(y)) == 2:
        packed = relax.const(float_matmul.pack(array(y), tile))
        return _call(bb, lambda a, b: float_matmul.matmul(a, b, outputs, tile), [x, packed], "matmul", call, _SUMS)
    shape = _shape(call)
    return _call(bb, lambda a, b: float_matmul.batched_matmul(a, b, shape, tile), [x, y], "matmul", call, _SUMS)


def _conv2d(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr | None:
    x, weight = call.args
    attrs = call.attrs
    layouts = (str(attrs.data_layout), str(attrs.kernel_layout), str(attrs.out_layout))
    if layouts != ("NHWC", "OIHW", "NHWC") or not is_constant(weight):
        return None
    outputs, _, *kernel = _shape(weight)
    batch, height, width, channels = _shape(x)
    conv = Conv2d(
        batch, channels, (height, width), outputs, tuple(kernel), int_tuple(attrs.strides), int_tuple(attrs.padding),
        int_tuple(attrs.dilation), int(attrs.groups),
    )  # fmt: skip
    x, layout = _channels_first(bb, x) if conv.groups == 1 else (x, "NHWC")  # groups have their channels in lanes
    tile = conv.tile(vector_unit(Target.current(allow_none=False)), layout)
    packed = relax.const(conv.pack(array(weight), tile))
    return _call(bb, lambda a, b: float_conv2d.conv2d(a, b, conv, tile, layout), [x, packed], "conv2d", call, _SUMS)


def _channels_first(bb: relax.BlockBuilder, x: relax.Expr) -> tuple[relax.Expr, str]:
    """What was transposed to channels last to become x, and its layout: a convolution reads single values anyway."""
    made = bb.lookup_binding(x) if isinstance(x, relax.Var) else x
    transposed = isinstance(made, relax.Call) and made.op == _PERMUTE and int_tuple(made.attrs.axes) == (0, 2, 3, 1)
    return (made.args[0], "NCHW") if transposed else (x, "NHWC")


def _max_pool2d(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    attrs, x = call.attrs, call.args[0]
    plain = str(attrs.layout) == "NCHW" and not any(int_tuple(attrs.padding)) and not bool(attrs.ceil_mode)
    sizes = (int_tuple(attrs.pool_size), int_tuple(attrs.strides), int_tuple(attrs.dilation))
    dtype = str(x.ty.dtype)
    if not plain or sizes != ((2, 2), (2, 2), (1, 1)) or dtype not in _POOLED or not has_static_shape(x):
        return call.op.get_attr("FLegalize")(bb, call)
    batch, channels, height, width = _shape(x)
    if height < 2 or width < 4:  # one result a line fills no vector
        return call.op.get_attr("FLegalize")(bb, call)
    unit = vector_unit(Target.current(allow_none=False))
    kernel = max_pool_2x2((batch, channels, height, width), dtype, 4 * unit.lanes).with_attr("op_pattern", _OPAQUE)
    return relax.call_tir(bb.add_func(kernel.without_attr("global_symbol"), "max_pool2d"), [x], call.ty)


def _layer_norm(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr | None:
    axes, rank = int_tuple(call.attrs.axes), len(_shape(call.args[0]))
    if [axis % rank for axis in axes] != list(range(rank - len(axes), rank)) or len(axes) == rank:
        return None
    epsilon = float(call.attrs.epsilon)
    return _call(bb, lambda *a: layer_norm(*a, len(axes), epsilon), list(call.args), "layer_norm", call, _REDUCES)


def _softmax(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr | None:
    rank = len(_shape(call))
    if rank < 2:
        return None
    axis = int(call.attrs.axis) % rank
    return _call(bb, lambda x: softmax(x, axis), list(call.args), "softmax", call, _REDUCES)
