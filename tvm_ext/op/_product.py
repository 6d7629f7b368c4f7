"""What quantized_dense and quantized_conv2d share: their checks, their meaning in TE, and the packed kernel."""

from __future__ import annotations

import numpy as np
from tvm import relax, te, topi

from tvm_ext.compute.kernel import call_kernel, emit_kernel
from tvm_ext.compute.lookup import ACTIVATIONS, activated
from tvm_ext.compute.patches import Patches
from tvm_ext.compute.product import ProductLayer, pack_weight, pad_outputs, product_layer, weight_bits
from tvm_ext.compute.product_kernel import Epilogue, product_kernel
from tvm_ext.op._register import check, dtype_of, given, int_tuple, present, static_shape
from tvm_ext.op._search import check_tensor
from tvm_ext.op.levels import LEVEL_DTYPES
from tvm_ext.tensor_intrin import get_isa
from tvm_ext.tensor_intrin.product_steps import product_steps

ARGUMENTS = ["x", "weight", "scale", "bias", "start", "residual"]


def patches_of(attrs, shape: tuple[int, ...]) -> Patches:
    """The geometry of a conv over x of `shape`, or of rows where the op has no kernel."""
    if "kernel_shape" not in attrs:
        return Patches(shape)
    return Patches(shape, *(int_tuple(attrs[name]) for name in ("kernel_shape", "strides", "pads", "dilations")))  # type: ignore[arg-type]


def packed_layer(call: relax.Call) -> ProductLayer:
    """How a call with a layout is computed; its weight must be constant."""
    attrs, weight = call.attrs, call.args[1].value.numpy()
    product = get_isa(str(attrs["layout"])).product
    patches = patches_of(attrs, int_tuple(attrs["image"]))
    steps = product_steps(product, int(attrs["largest"]), _largest(weight))
    return product_layer(patches, len(weight), steps, weight_bits(weight, steps))


def _largest(weight: np.ndarray) -> int:
    # an int16 tensor is never narrowed: its levels are int16 too
    return 1 << 15 if weight.dtype == np.int16 else int(np.abs(weight.astype(np.int32)).max(initial=0))


def check_operands(
    op: str, call: relax.Call, depth_axes: tuple[int, ...], result: tuple[int, ...], outputs: int
) -> None:
    """Raise ValueError unless scale, bias, start, residual and dtypes fit a weight of shape [M, *depth_axes]."""
    x, weight, scale, bias, start, residual = call.args
    check(dtype_of(x) in LEVEL_DTYPES, op, f"x must be one of {LEVEL_DTYPES}, got {dtype_of(x)}")
    check(dtype_of(weight) in ("int8", "int16"), op, f"weight must be int8 or int16, got {dtype_of(weight)}")
    check_tensor(op, "weight", weight, (outputs, *depth_axes), dtype_of(weight))
    check_tensor(op, "scale", scale, (outputs,), "float32")
    for name, expr, shape, dtype in (
        ("bias", bias, (outputs,), "float32"),
        ("start", start, (outputs,), "int32"),
        ("residual", residual, result, "float32"),
    ):
        if present(expr):
            check_tensor(op, name, expr, shape, dtype)
    check(str(call.attrs["activation"]) in ACTIVATIONS, op, f"activation must be one of {ACTIVATIONS}")


def legalize_logical(bb: relax.BlockBuilder, call: relax.Call, name: str) -> relax.Expr:
    """The definition as loops: sums in int32, then the epilogue."""
    attrs, shape = call.attrs, static_shape(call.args[0], name, "x")
    conv = "kernel_shape" in attrs
    rows = shape if conv else (int(np.prod(shape[:-1], dtype=np.int64)), shape[-1])
    patches = patches_of(attrs, rows)
    result = [int(d) for d in call.ty.shape]
    activation = str(attrs["activation"])

    def compute(x, weight, scale, bias, start, residual) -> te.Tensor:
        outputs = int(weight.shape[0])
        flat = topi.reshape(weight, (outputs, patches.depth))
        x = x if conv else topi.reshape(x, rows)
        d = te.reduce_axis((0, patches.depth), "d")

        def product(b, n, m):
            return patches.element(x, b, n, 0, patches.depth, d).astype("int32") * flat[m, d].astype("int32")

        size = (patches.batch, patches.rows, outputs)
        total = te.compute(size, lambda b, n, m: te.sum(product(b, n, m), axis=d), name="lut_acc")

        def value(*i):
            b, n, m = (i[0], i[2] * result[3] + i[3], i[1]) if conv else (0, i[0], i[1])
            y = total[b, n, m] if start is None else total[b, n, m] + start[m]
            y = y.astype("float32") * scale[m]
            y = y if bias is None else y + bias[m]
            y = y if residual is None else y + residual[i]
            return activated(y, activation)

        if conv:
            return te.compute(result, value, name="lut_out")
        if residual is not None:
            residual = topi.reshape(residual, (patches.rows, outputs))
        return topi.reshape(te.compute((patches.rows, outputs), value, name="lut_out"), result)

    info = {"kind": "oracle", "layer": str(attrs["layer"])}
    args = [*call.args[:3], *(given(a) for a in call.args[3:])]
    return emit_kernel(bb, compute, args, call.ty, name.replace(".", "_"), info)


def legalize_packed(bb: relax.BlockBuilder, call: relax.Call, name: str) -> relax.Expr:
    """The ISA's kernel, with the weights packed for it."""
    x, weight, scale, bias, start, residual = call.args
    attrs = call.attrs
    layer, outputs = packed_layer(call), int(scale.ty.shape[0])
    conv = "kernel_shape" in attrs
    epilogue = Epilogue(str(attrs["activation"]), present(residual), conv and not int(attrs["channels_last"]))
    stored, palette = pack_weight(layer, weight.value.numpy())
    vectors = [
        scale.value.numpy(),
        bias.value.numpy() if present(bias) else np.zeros(outputs, np.float32),
        start.value.numpy() if present(start) else np.zeros(outputs, np.int32),
    ]
    constants = [stored, *([] if palette is None else [palette]), *(pad_outputs(layer, v) for v in vectors)]
    kernel = product_kernel(layer, epilogue).with_attr("tirx.is_scheduled", True)
    args = [x, *map(relax.const, constants), given(residual)]
    info = {"kind": "product", "isa": str(attrs["layout"]), "layer": str(attrs["layer"])}
    return call_kernel(bb, kernel, args, call.ty, name.replace(".", "_"), info)
