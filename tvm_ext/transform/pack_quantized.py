"""PackQuantized: layers over integer levels get an ISA's kernels, and quantized activations the planes these read."""

from __future__ import annotations

import numpy as np
import tvm
import tvm_ffi
from tvm import relax
from tvm.target import Target

from tvm_ext.op._product import packed_layer
from tvm_ext.op._register import given, int_tuple, present
from tvm_ext.op.levels import OP as LEVELS
from tvm_ext.op.quantized_conv2d import OP as CONV2D
from tvm_ext.op.quantized_dense import OP as DENSE
from tvm_ext.target import best_isa
from tvm_ext.tensor_intrin import Product
from tvm_ext.transform._rewrite import (
    CallRewriter,
    add_layer_rows,
    array,
    is_constant,
    layer_rows,
    rewrite_module,
    with_args,
)

_MAX_POOL, _PERMUTE = tvm.ir.Op.get("relax.nn.max_pool2d"), tvm.ir.Op.get("relax.permute_dims")


@tvm.transform.module_pass(opt_level=0, name="PackQuantized")
class PackQuantized:
    """Uses `target`, or the current one. Where a conv's result is only pooled, or only quantized for another conv, it
    stays channels last, as pooling and the planes like it."""

    def __init__(self, target: Target | None = None) -> None:
        self.target = target

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        isa = best_isa(self.target or Target.current(allow_none=False))
        rows: list[dict] = []

        def rewrite(rewriter: CallRewriter, call: relax.Call) -> relax.Expr | None:
            if call.op not in (CONV2D, DENSE) or str(call.attrs["layout"]):
                return None
            source = rewriter.producer(call.args[0], LEVELS)
            constants = [*call.args[1:3], *(a for a in map(given, call.args[3:5]) if a is not None)]
            if source is None or not all(map(is_constant, [*source.args[1:], *constants])):
                return None
            packed, row = _pack(rewriter, call, source, isa.name, isa.product)
            rows.append(row)
            return packed

        known = {row["name"]: row for row in layer_rows(mod)}
        new = rewrite_module(mod, rewrite)
        new = rewrite_module(new, _channels_last)
        return add_layer_rows(new, [known.get(row["name"], {}) | row for row in rows])


def _pack(rewriter: CallRewriter, call: relax.Call, source: relax.Call, isa: str, product: Product):
    """(the call with its kernel, or a reshape of it; its row for reports)"""
    values = array(source.args[2]).astype(np.int64)
    dtype, zero_point = _stored(values, product)
    largest = int(max(values.max() - zero_point, zero_point - values.min(), abs(zero_point)))
    logical = int_tuple(source.args[0].ty.shape)
    conv = call.op == CONV2D
    image = logical if conv else (int(np.prod(logical[:-1], dtype=np.int64)), logical[-1])
    weight = array(call.args[1])
    sums = weight.astype(np.int64).reshape(len(weight), -1).sum(1)
    start = array(call.args[4]).astype(np.int64) if present(call.args[4]) else 0
    args = [*call.args[:4], relax.const((start + zero_point * sums).astype(np.int32)), call.args[5]]
    if present(args[5]) and not conv and logical != image:
        args[5] = rewriter.builder_.emit(relax.op.reshape(args[5], (image[0], len(weight))))
    shaped = with_args(call, args, layout=isa, image=list(image), largest=largest)
    layer = packed_layer(shaped)
    if layer.steps.word:
        dtype = "int16"
    x = source.args[0]
    if not conv and logical != image:
        x = rewriter.builder_.emit(relax.op.reshape(x, image))
    origin = layer.patches.pads[:2] if conv else (0, 0)
    key = (x, source.args[1], source.args[2], layer.plane, tuple(origin), dtype)
    if key not in rewriter.memo:
        rewriter.memo[key] = rewriter.builder_.emit(
            with_args(
                source, [x, *source.args[1:]], layout=isa, dtype=dtype, plane=list(layer.plane.shape),
                origin=list(origin), channels_last=int(not conv), zero_point=zero_point,
            )
        )  # fmt: skip
    args[0] = rewriter.memo[key]
    result = rewriter.builder_.emit(with_args(shaped, args))
    row = {
        "name": str(call.attrs["layer"]), "kernel": f"product {isa}", "weight_bits": layer.bits,
        "table_bytes": int(np.prod(layer.weight_shape)) * np.dtype(layer.weight_dtype).itemsize,
    }  # fmt: skip
    same = tvm_ffi.structural_equal(result.ty, call.ty)
    return (result if same else relax.op.reshape(result, call.ty.shape)), row


def _stored(values: np.ndarray, product: Product) -> tuple[str, int]:
    """(dtype, zero point) of levels as the ISA multiplies them: ``stored = value - zero_point``; 0 can be stored."""
    low, high = int(min(values.min(), 0)), int(max(values.max(), 0))
    if high - low > 255:
        return "int16", 0
    if product.level_dtype == "uint8":
        return "uint8", low
    return "int8", 0 if low >= -128 and high <= 127 else low + 128


def _channels_last(rewriter: CallRewriter, call: relax.Call) -> relax.Expr | None:
    """Turns the result of a packed conv that only one plane or one pooling reads, and a pooled one for its plane."""
    if call.op == _MAX_POOL:
        turned = _turned_conv(rewriter, call.args[0])
        if turned is None or str(call.attrs.layout) != "NCHW":
            return None
        a = call.attrs
        pooled = relax.op.nn.max_pool2d(
            turned, a.pool_size, a.strides, a.padding, a.dilation, bool(a.ceil_mode), bool(a.count_include_pad), "NHWC"
        )
        return relax.op.permute_dims(rewriter.builder_.emit(pooled), [0, 3, 1, 2])
    if call.op != LEVELS or not str(call.attrs["layout"]) or int(call.attrs["channels_last"]):
        return None
    turned = _turned_conv(rewriter, call.args[0])
    if turned is None:
        back = rewriter.producer(call.args[0], _PERMUTE, only_use=True)
        if back is None or int_tuple(back.attrs.axes or ()) != (0, 3, 1, 2):
            return None
        turned = back.args[0]
    return with_args(call, [turned, *call.args[1:]], channels_last=1)


def _turned_conv(rewriter: CallRewriter, expr: relax.Expr) -> relax.Expr | None:
    """What `expr` is with channels last, if it is a packed conv without a residual that nothing else reads."""
    conv = rewriter.producer(expr, CONV2D, only_use=True)
    if conv is None or not str(conv.attrs["layout"]) or present(conv.args[5]):
        return None
    return rewriter.builder_.emit(with_args(conv, list(conv.args), channels_last=1))
