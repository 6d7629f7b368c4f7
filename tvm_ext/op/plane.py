"""R.lut.plane: the zero-bordered, quantized input of a conv, which a packed encode reads windows of."""

from __future__ import annotations

import tvm
from tvm import relax

from tvm_ext.compute.kernel import call_kernel
from tvm_ext.compute.plane import plane_kernel
from tvm_ext.compute.plane_layout import MARGIN, PlaneLayout
from tvm_ext.op._register import attributes, check, dtype_of, given, optional, present, register
from tvm_ext.op._search import check_tensor, patches_of, search_of

NAME = "lut.plane"


def plane(
    x: relax.Expr, inv_scale: relax.Expr | None = None,
    *, encode_dtype: str, input_signed: bool, kernel_shape: tuple[int, ...], strides: tuple[int, ...] = (1, 1),
    pads: tuple[int, ...] = (0, 0, 0, 0), dilations: tuple[int, ...] = (1, 1), size: int, dtype: str,
    zero_point: int = 0, layer: str = "",
) -> relax.Call:  # fmt: skip
    """Plane [B, C, size] of `dtype` from x [B, C, H, W], as `PlaneLayout` has it; made by PackLUTConstants.

    Parameters
    ----------
    x : float32, or already of `dtype`.
    inv_scale : float32 [C], one a channel, to quantize float32 to an integer `dtype`; else absent.
    kernel_shape, strides, pads, dilations : of the conv; the border holds `zero_point`, or 0 for float32.
    size : elements of a channel's plane, at least its bordered rows and `MARGIN`; a multiple of 64.

    Raises
    ------
    ValueError : by type inference, for shapes or dtypes that do not fit.
    """
    attrs = attributes(
        encoder="l2", encode_dtype=encode_dtype, input_signed=bool(input_signed), kernel_shape=tuple(kernel_shape),
        strides=tuple(strides), pads=tuple(pads), dilations=tuple(dilations), size=size, dtype=dtype,
        zero_point=zero_point, layer=layer,
    )  # fmt: skip
    return relax.Call(OP, [x, optional(inv_scale)], attrs)


def _infer(call: relax.Call, _: relax.BlockBuilder) -> relax.TensorType:
    x, inv_scale = call.args
    attrs = call.attrs
    patches, size = patches_of(NAME, x, attrs, str(attrs["dtype"])), int(attrs["size"])
    (batch, channels, *_), needed = patches.shape, PlaneLayout.of(patches).elements + MARGIN
    check(size % 64 == 0 and size >= needed, NAME, f"size {size} is not a multiple of 64 that holds {needed} elements")
    quantize = dtype_of(x) != str(attrs["dtype"])
    check(present(inv_scale) == quantize, NAME, "inv_scale makes another type of x, and is needed for that alone")
    if present(inv_scale):
        check_tensor(NAME, "inv_scale", inv_scale, (channels,), "float32")
    return relax.TensorType([batch, channels, size], str(attrs["dtype"]))


def _legalize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    x, inv_scale = call.args
    attrs = call.attrs
    search = search_of(NAME, attrs, int(attrs["zero_point"]))
    kernel = plane_kernel(
        patches_of(NAME, x, attrs, str(attrs["dtype"])),
        search,
        int(attrs["size"]),
        str(attrs["dtype"]),
        quantize=present(inv_scale),
    )
    info = {"kind": "plane", "layer": str(attrs["layer"])}
    return call_kernel(
        bb, kernel.with_attr("tirx.is_scheduled", True), [x, given(inv_scale)], call.ty, "lut_plane", info
    )


OP: tvm.ir.Op = register("plane", ["x", "inv_scale"], _infer, _legalize, plane)
