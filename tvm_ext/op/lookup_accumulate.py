"""R.lut.lookup_accumulate: read the table at the codes, sum over codebooks, scale, add bias and residual, activate."""

from __future__ import annotations

import tvm
from tvm import relax, te, topi

from tvm_ext.compute.kernel import call_kernel, emit_kernel
from tvm_ext.compute.lookup import ACTIVATIONS, Epilogue, lookup_gather, lookup_shuffle
from tvm_ext.compute.lookup_image_rows import lookup_image_rows
from tvm_ext.compute.lookup_rows import lookup_rows
from tvm_ext.compute.lookup_tiles import lookup_tiles
from tvm_ext.compute.pack import transpose_lanes
from tvm_ext.compute.search import Search
from tvm_ext.op._register import attributes, check, dtype_of, given, optional, present, register, static_shape
from tvm_ext.op._search import check_tensor
from tvm_ext.tensor_intrin import get_isa
from tvm_ext.tensor_intrin.spec import ROW_READ

NAME = "lut.lookup_accumulate"


def lookup_accumulate(
    codes: relax.Expr, table: relax.Expr, table_scale: relax.Expr, bias: relax.Expr | None = None,
    mult: relax.Expr | None = None, residual: relax.Expr | None = None, inv_scale: relax.Expr | None = None,
    *, axis: int = -1, activation: str = "", layout: str = "", rows: int = 0, chunk: int = 0,
    narrow: bool = False, preadd: int = 0, quantized: str = "", encode_dtype: str = "int8", input_signed: bool = True,
    zero_point: int = 0, keep_float: bool = True, layer: str = "",
) -> relax.Call:  # fmt: skip
    """``act(bias[m] + table_scale[m] * sum_c mult[c] * table[c, code[n, c], m] + residual)`` as float32.

    Parameters
    ----------
    codes : uint8 [..., C] for ``axis=-1``, [B, C, OH, OW] for ``axis=1``; values below K.
    table : [C, K, M] int8 (the sum is exact in int32) or float32.
    table_scale, bias : float32 [M].
    mult : uint8 [C], factors 1..127 of the codebooks; absent means 1.
    residual : float32, shaped like the result.
    activation : "", "relu" or "relu6".
    layout : see `encode`; "rowwise" and packed layouts give [N, M] or [B, M, N], with `rows` N and, for packed int16
        sums, `chunk` groups between drains (0: none is needed); `narrow` promises that int16 holds every sum.
    preadd : neighbouring codebooks whose entries int8 can add. With "rowwise" or NAME/rows the table is that of
        `pack_rows`; 0 for logical tables.
    inv_scale, quantized, encode_dtype, input_signed, zero_point : float32 [M], and how the layer that reads the result
        quantizes it to the dtype `quantized` (see `plane`; set by FuseInputQuantization). The result is then what that
        layer reads, or with `keep_float` a tuple of float32 and that.

    Raises
    ------
    ValueError : by type inference, for shapes or dtypes that do not fit.
    """
    attrs = attributes(
        axis=axis, activation=activation, layout=layout, rows=rows, chunk=chunk, narrow=bool(narrow), preadd=preadd,
        quantized=quantized, encode_dtype=encode_dtype, input_signed=bool(input_signed), zero_point=zero_point,
        keep_float=bool(keep_float), layer=layer,
    )  # fmt: skip
    args = [codes, table, table_scale, *map(optional, (bias, mult, residual, inv_scale))]
    return relax.Call(OP, args, attrs)


def _infer(call: relax.Call, _: relax.BlockBuilder) -> relax.TensorType | relax.TupleType:
    codes, table, table_scale, bias, mult, residual, inv_scale = call.args
    attrs = call.attrs
    axis, layout = int(attrs["axis"]), str(attrs["layout"])
    check(axis in (-1, 1), NAME, f"axis must be -1 or 1, got {axis}")
    check(str(attrs["activation"]) in ACTIVATIONS, NAME, f"activation must be one of {ACTIVATIONS}")
    check(dtype_of(codes) == "uint8", NAME, f"codes must be uint8, got {dtype_of(codes)}")
    code_shape, scale_shape = static_shape(codes, NAME, "codes"), static_shape(table_scale, NAME, "table_scale")
    check(len(scale_shape) == 1, NAME, f"table_scale must be [M], got shape {list(scale_shape)}")
    outputs = scale_shape[0]
    check_tensor(NAME, "table_scale", table_scale, (outputs,), "float32")
    if present(bias):
        check_tensor(NAME, "bias", bias, (outputs,), "float32")
    if layout not in ("", "rowwise") or int(attrs["preadd"]):
        rows = int(attrs["rows"])
        shape = (code_shape[0], outputs, rows) if axis == 1 else (rows, outputs)
    else:
        shape = _logical_shape(code_shape, axis, outputs)
        _check_table(code_shape[axis], outputs, table, mult)
    if present(residual):
        check_tensor(NAME, "residual", residual, shape, "float32")
    y, quantized = relax.TensorType(list(shape), "float32"), str(attrs["quantized"])
    check(present(inv_scale) == bool(quantized), NAME, "inv_scale and a quantized dtype go together")
    if not quantized:
        return y
    check_tensor(NAME, "inv_scale", inv_scale, (outputs,), "float32")
    for_reader = relax.TensorType(list(shape), quantized)
    return relax.TupleType([y, for_reader]) if int(attrs["keep_float"]) else for_reader


def _logical_shape(codes: tuple[int, ...], axis: int, outputs: int) -> tuple[int, ...]:
    check(axis == -1 or len(codes) in (3, 4), NAME, f"codes with axis 1 must have 3 or 4 axes, got {list(codes)}")
    return (*codes[:-1], outputs) if axis == -1 else (codes[0], outputs, *codes[2:])


def _check_table(num_codebooks: int, outputs: int, table, mult) -> None:
    shape = static_shape(table, NAME, "table")
    check(len(shape) == 3, NAME, f"table must be [C, K, M], got shape {list(shape)}")
    check(shape[0] == num_codebooks, NAME, f"table has {shape[0]} codebooks, codes have {num_codebooks}")
    check(shape[2] == outputs, NAME, f"table has {shape[2]} output columns, table_scale has {outputs}")
    check(dtype_of(table) in ("int8", "float32"), NAME, f"table must be int8 or float32, got {dtype_of(table)}")
    if present(mult):
        check_tensor(NAME, "mult", mult, (num_codebooks,), "uint8")


def _legalize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    attrs = call.attrs
    layout, feature_major, quantized = str(attrs["layout"]), int(attrs["axis"]) == 1, str(attrs["quantized"])
    y = call.ty.fields[0] if isinstance(call.ty, relax.TupleType) else call.ty
    shape = [int(d) for d in y.shape]
    signed, zero_point = bool(int(attrs["input_signed"])), int(attrs["zero_point"])
    reader = Search(str(attrs["encode_dtype"]), signed, zero_point) if quantized else None
    epilogue = Epilogue(feature_major, str(attrs["activation"]), quantized, reader, bool(int(attrs["keep_float"])))
    if int(attrs["preadd"]) and (layout == "rowwise" or not get_isa(layout).table_read.intrin):
        return _legalize_rows(bb, call, shape, epilogue)
    if feature_major and layout not in ("", "rowwise") and get_isa(layout).table_read.step:
        return _legalize_tiles(bb, call, shape, epilogue)

    def gather(codes, table, table_scale, bias, mult, residual, inv_scale) -> list[te.Tensor]:
        flat = _flat(shape, feature_major)
        if not layout:
            c = int(table.shape[0])
            codes = topi.reshape(codes, (flat[0], c, flat[2]) if feature_major else (flat[0], c))
            residual = None if residual is None else topi.reshape(residual, flat)
        results = lookup_gather(
            codes, table, table_scale, bias, mult, residual, inv_scale, epilogue=epilogue,
            narrow=bool(int(attrs["narrow"])),
        )  # fmt: skip
        return results if layout else [topi.reshape(y, shape) for y in results]

    def shuffle(codes, table, table_scale, bias, mult, residual, inv_scale) -> list[te.Tensor]:
        return lookup_shuffle(
            codes, table, table_scale, bias, mult, residual, inv_scale, read=get_isa(layout).table_read,
            rows=int(attrs["rows"]), outputs=shape[1], chunk=int(attrs["chunk"]), epilogue=epilogue,
            transpose=lanes > 0,
        )  # fmt: skip

    lanes = 0
    if layout not in ("", "rowwise") and not feature_major:
        lanes = transpose_lanes(shape[1], get_isa(layout))
    kind = {"": "oracle", "rowwise": "lookup_gather"}.get(layout, "lookup_shuffle")
    info = {"kind": kind, "isa": layout, "feature_major": int(feature_major), "mult": int(present(call.args[4])),
            "block": int(call.args[1].ty.shape[2]), "transpose": lanes, "layer": str(attrs["layer"])}  # fmt: skip
    args = [*call.args[:3], *(given(a) for a in call.args[3:])]
    return emit_kernel(bb, gather if layout in ("", "rowwise") else shuffle, args, call.ty, "lut_lookup", info)


def _legalize_rows(bb: relax.BlockBuilder, call: relax.Call, shape: list[int], epilogue: Epilogue) -> relax.Expr:
    codes, table, _, bias, _, residual, inv_scale = call.args
    attrs, layout = call.attrs, str(call.attrs["layout"])
    finishing = {"bias": present(bias), "residual": present(residual), "epilogue": epilogue}
    table_shape, preadd, narrow = static_shape(table, NAME, "table"), int(attrs["preadd"]), bool(int(attrs["narrow"]))
    if epilogue.feature_major:
        check(narrow, NAME, "images read table rows only where int16 holds every sum")
        kernel = lookup_image_rows(
            static_shape(codes, NAME, "codes"), table_shape, ROW_READ, (shape[0], shape[1], shape[2]), preadd=preadd,
            **finishing,
        )  # fmt: skip
    else:
        kernel = lookup_rows(
            table_shape, *shape, None if layout == "rowwise" else ROW_READ, codebooks=int(codes.ty.shape[1]),
            preadd=preadd, narrow=narrow, **finishing,
        )  # fmt: skip
    info = {"kind": "lookup_rows", "isa": layout, "layer": str(attrs["layer"])}
    args = [*call.args[:3], given(bias), given(residual), given(inv_scale)]
    return call_kernel(bb, kernel.with_attr("tirx.is_scheduled", True), args, call.ty, "lut_lookup", info)


def _legalize_tiles(bb: relax.BlockBuilder, call: relax.Call, shape: list[int], epilogue: Epilogue) -> relax.Expr:
    codes, table, _, bias, mult, residual, inv_scale = call.args
    attrs, layout = call.attrs, str(call.attrs["layout"])
    check(not present(mult), NAME, f"{layout} has no table read with codebook multipliers")
    kernel = lookup_tiles(
        static_shape(codes, NAME, "codes"), static_shape(table, NAME, "table"), get_isa(layout).table_read,
        (shape[0], shape[1], shape[2]), chunk=int(attrs["chunk"]), bias=present(bias), residual=present(residual),
        epilogue=epilogue,
    )  # fmt: skip
    info = {"kind": "lookup_tiles", "isa": layout, "layer": str(attrs["layer"])}
    args = [*call.args[:3], given(bias), given(residual), given(inv_scale)]
    return call_kernel(bb, kernel.with_attr("tirx.is_scheduled", True), args, call.ty, "lut_lookup", info)


def _flat(shape: list[int], feature_major: bool) -> tuple[int, ...]:
    """The result with its positions flattened."""
    rows = 1
    for d in shape[2:] if feature_major else shape[:-1]:
        rows *= d
    return (shape[0], shape[1], rows) if feature_major else (rows, shape[-1])


OP: tvm.ir.Op = register(
    "lookup_accumulate",
    ["codes", "table", "table_scale", "bias", "mult", "residual", "inv_scale"],
    _infer,
    _legalize,
    lookup_accumulate,
)
