"""R.lut.quantized_conv2d: a convolution over integer levels and weights, with all per channel behind it."""

from __future__ import annotations

import tvm
from tvm import relax

from tvm_ext.op._product import ARGUMENTS, check_operands, legalize_logical, legalize_packed, patches_of
from tvm_ext.op._register import attributes, check, int_tuple, optional, register, static_shape

NAME = "lut.quantized_conv2d"


def quantized_conv2d(
    x: relax.Expr, weight: relax.Expr, scale: relax.Expr, bias: relax.Expr | None = None,
    start: relax.Expr | None = None, residual: relax.Expr | None = None,
    *, strides: tuple[int, int] = (1, 1), pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilations: tuple[int, int] = (1, 1), activation: str = "", layout: str = "", image: tuple[int, ...] = (),
    largest: int = 0, channels_last: bool = False, axis: int = 1, kernel_shape: tuple[int, ...] = (), layer: str = "",
) -> relax.Call:  # fmt: skip
    """``act(scale[m] * (sum_d x[n, d] * weight[m, d] + start[m]) + bias[m] + residual)`` as float32.

    Parameters
    ----------
    x : integer levels [B, Cin, H, W], uint8, int8 or int16, zero padded by `pads` (top, left, bottom, right).
    weight : int8 or int16 [M, Cin, kh, kw]; every sum fits int32.
    scale, bias : float32 [M]. start : int32 [M].
    residual : float32, shaped like the result [B, M, OH, OW].
    activation : "", "relu" or "relu6".
    layout : "" is the definition. The name of an ISA gives its kernel: x is then the plane (see `levels`) of an image
        of shape `image`, with stored levels of at most `largest`; all but x and residual must be constant; with
        `channels_last` the result is [B, OH, OW, M] (made by PackQuantized).

    axis, kernel_shape : of the channels of the result, 1; that of the weight. They are told for the passes.

    Raises
    ------
    ValueError : by type inference, for shapes or dtypes that do not fit.
    """
    kernel = tuple(kernel_shape) or tuple(int(d) for d in list(weight.ty.shape)[2:])
    attrs = attributes(
        kernel_shape=kernel, strides=tuple(strides), pads=tuple(pads), dilations=tuple(dilations),
        activation=activation, axis=axis, layout=layout, image=tuple(image), largest=largest,
        channels_last=channels_last, layer=layer,
    )  # fmt: skip
    return relax.Call(OP, [x, weight, scale, *(optional(a) for a in (bias, start, residual))], attrs)


def _infer(call: relax.Call, _bb: relax.BlockBuilder) -> relax.TensorType:
    x, weight = call.args[:2]
    image = int_tuple(call.attrs["image"]) or static_shape(x, NAME, "x")
    shape = static_shape(weight, NAME, "weight")
    check(len(image) == 4 and len(shape) == 4, NAME, f"x and weight must have 4 axes, got {list(image)}, {list(shape)}")
    check(shape[2:] == int_tuple(call.attrs["kernel_shape"]), NAME, "kernel_shape is not that of the weight")
    patches = patches_of(call.attrs, image)
    check(min(patches.output_size) > 0, NAME, f"kernel {list(shape[2:])} is larger than the padded input")
    size = patches.output_size
    last = bool(int(call.attrs["channels_last"]))
    result = (image[0], *size, shape[0]) if last else (image[0], shape[0], *size)
    check_operands(NAME, call, (image[1], *shape[2:]), result, shape[0])
    return relax.TensorType(list(result), "float32")


def _legalize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    return (legalize_packed if str(call.attrs["layout"]) else legalize_logical)(bb, call, NAME)


OP: tvm.ir.Op = register("quantized_conv2d", ARGUMENTS, _infer, _legalize, quantized_conv2d)
