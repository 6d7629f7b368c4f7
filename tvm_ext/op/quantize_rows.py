"""R.lut.quantize_rows: quantized rows of a dense layer, for an encode with centroids in lanes to read by element."""

from __future__ import annotations

import tvm
from tvm import relax

from tvm_ext.compute.kernel import call_kernel
from tvm_ext.compute.quantize_rows import quantize_rows_kernel, quantized_size
from tvm_ext.op._register import attributes, check, register, static_shape
from tvm_ext.op._search import check_tensor, patches_of, search_of

NAME = "lut.quantize_rows"


def quantize_rows(
    x: relax.Expr, inv_scale: relax.Expr,
    *, encode_dtype: str, input_signed: bool, subvector_len: int, width: int, zero_point: int = 0, layer: str = "",
) -> relax.Call:  # fmt: skip
    """int8 [N * C * width + 16] from x float32 [N, D]; made by PackLUTConstants.

    Parameters
    ----------
    inv_scale : float32 [C], one a subvector.
    width : bytes from one subvector to the next, at least `subvector_len`.

    Raises
    ------
    ValueError : by type inference, for shapes or dtypes that do not fit.
    """
    attrs = attributes(
        encoder="l2", encode_dtype=encode_dtype, input_signed=bool(input_signed), subvector_len=subvector_len,
        width=width, zero_point=zero_point, layer=layer,
    )  # fmt: skip
    return relax.Call(OP, [x, inv_scale], attrs)


def _infer(call: relax.Call, _: relax.BlockBuilder) -> relax.TensorType:
    x, inv_scale = call.args
    length, width = int(call.attrs["subvector_len"]), int(call.attrs["width"])
    rows, depth = static_shape(x, NAME, "x")
    codebooks = -(-depth // length)
    check(width >= length, NAME, f"width {width} does not hold subvectors of {length}")
    check_tensor(NAME, "inv_scale", inv_scale, (codebooks,), "float32")
    return relax.TensorType([quantized_size(rows, codebooks, width)], "int8")


def _legalize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    x, inv_scale = call.args
    attrs = call.attrs
    kernel = quantize_rows_kernel(
        patches_of(NAME, x, attrs), search_of(NAME, attrs, int(attrs["zero_point"])), int(inv_scale.ty.shape[0]),
        int(attrs["subvector_len"]), int(attrs["width"]),
    )  # fmt: skip
    info = {"kind": "quantize_rows", "layer": str(attrs["layer"])}
    kernel = kernel.with_attr("tirx.is_scheduled", True)
    return call_kernel(bb, kernel, [x, inv_scale], call.ty, "lut_quantize", info)


OP: tvm.ir.Op = register("quantize_rows", ["x", "inv_scale"], _infer, _legalize, quantize_rows)
