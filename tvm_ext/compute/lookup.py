"""Table read and accumulation: ``y[n, m] = bias[m] + table_scale[m] * sum_c mult[c] * table[c, code[n, c], m]``.

Two forms of one meaning: `lookup_gather` reads the logical layouts and is the oracle and the kernel for any K;
`lookup_shuffle` is the one-hot form over packed layouts that the shuffle intrinsics are tensorized into.
Both give feature-major ``[B, M, N]`` (N positions an image) or row-major ``[N, M]`` results, in float32 or quantized
for the layer that reads them, or both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import te, tirx
from tvm.tirx import PrimFunc

from tvm_ext.compute.search import Search
from tvm_ext.tensor_intrin import TABLE_ENTRIES, TableRead

ACTIVATIONS = ("", "relu", "relu6")
"""None, max(y, 0), and that up to 6."""


def activated(y, activation: str, lanes: int = 1):
    """`y`, float32 of so many lanes, behind one of ACTIVATIONS."""

    def same(value: float):
        one = tirx.const(value, "float32")
        return one if lanes == 1 else tirx.Broadcast(one, lanes)

    if activation:
        y = tirx.max(y, same(0))
    return tirx.min(y, same(6)) if activation == "relu6" else y


@dataclass(frozen=True)
class Epilogue:
    """What is done with the sums.

    Parameters
    ----------
    feature_major : results are [B, M, N], else [N, M].
    activation : one of ACTIVATIONS.
    quantized : dtype of results quantized by `search` for their reader, or "".
    search : how that reader quantizes.
    keep_float : float32 results are wanted too.
    """

    feature_major: bool
    activation: str = ""
    quantized: str = ""
    search: Search | None = None
    keep_float: bool = True

    def value(self, scaled, index: tuple, residual):
        """The result at `index`, from a sum that was scaled and has its bias."""
        y = scaled if residual is None else scaled + residual[index]
        return activated(y, self.activation)

    def without_unused(self, kernel: PrimFunc, bias: bool, residual: bool) -> PrimFunc:
        """`kernel`(codes, table, scale, shift, residual, inv_scale, y, quantized) without what it does not touch."""
        fused = self.search is not None
        given = (True, True, True, bias, residual, fused, self.keep_float or not fused, fused)
        params = [param for param, there in zip(kernel.params, given, strict=True) if there]
        return PrimFunc(params, kernel.body, kernel.ret_type, kernel.attrs)

    def results(self, value: Callable, shape: tuple[int, ...], inv_scale) -> list[te.Tensor]:
        """`value(*index)` as block "lut_out", and quantized as block "lut_quantized" (instead if float is not kept)."""
        if self.search is None:
            return [te.compute(shape, value, name="lut_out")]
        search, channel = self.search, 1 if len(shape) == 3 else -1

        def quantized(y: Callable):
            return lambda *index: search.quantize(y(*index), inv_scale[index[channel]], self.quantized)

        if not self.keep_float:
            return [te.compute(shape, quantized(value), name="lut_out")]
        out = te.compute(shape, value, name="lut_out")
        return [out, te.compute(shape, quantized(out), name="lut_quantized")]


def _scaled(total: Callable, table_scale, bias) -> Callable:
    """scaled(b, n, m) of the sums total(b, n, m)."""

    def scaled(b, n, m):
        y = total(b, n, m).astype("float32") * table_scale[m]
        return y if bias is None else y + bias[m]

    return scaled


def _results(total: Callable, table_scale, bias, residual, inv_scale, epilogue: Epilogue, shape) -> list[te.Tensor]:
    """Scale, bias, residual add and activation of the sums."""
    scaled = _scaled(total, table_scale, bias)

    def value(*index):
        at = (index[0], index[2], index[1]) if epilogue.feature_major else (0, index[0], index[1])
        return epilogue.value(scaled(*at), index, residual)

    return epilogue.results(value, shape, inv_scale)


def lookup_gather(
    codes, table, table_scale, bias, mult, residual, inv_scale, *, epilogue: Epilogue, narrow: bool
) -> list[te.Tensor]:
    """The logical form.

    codes uint8 [B, C, N] if feature-major, else [N, C]; table [C, K, M] int8 (sum in int32) or float32;
    residual like the result; inv_scale float32 [M] to quantize it. `narrow`: int16 holds every sum.
    """
    feature_major = epilogue.feature_major
    num_codebooks, _, outputs = (int(d) for d in table.shape)
    acc_dtype = "float32" if table.dtype == "float32" else "int16" if narrow else "int32"
    batch, rows = (int(codes.shape[0]), int(codes.shape[2])) if feature_major else (1, int(codes.shape[0]))
    c = te.reduce_axis((0, num_codebooks), "c")

    def entry(b, n, m):
        code = codes[b, c, n] if feature_major else codes[n, c]
        read = table[c, code.astype("int32"), m].astype(acc_dtype)
        return read if mult is None else mult[c].astype(acc_dtype) * read

    acc = te.compute((batch, rows, outputs), lambda b, n, m: te.sum(entry(b, n, m), axis=c), name="lut_acc")
    shape = (batch, outputs, rows) if feature_major else (rows, outputs)
    return _results(acc, table_scale, bias, residual, inv_scale, epilogue, shape)


def lookup_shuffle(
    codes, table, table_scale, bias, mult, residual, inv_scale,
    *, read: TableRead, rows: int, outputs: int, chunk: int, epilogue: Epilogue, transpose: bool,
) -> list[te.Tensor]:  # fmt: skip
    """The packed one-hot form.

    codes uint8 [B, tiles, groups, *read.code_shape]; table int8 [blocks, groups, outputs a block, G, 16]; mult uint8
    [groups, G]. `chunk`: groups that an accumulator of `read.acc_dtype` may sum before it is drained to int32; 0 for
    all of them. Row-major results with `transpose` are scaled feature-major first, tile by tile ("lut_scaled"), then
    transposed ("lut_rows").
    """
    batch, tiles, groups = (int(d) for d in codes.shape[:3])
    block = int(table.shape[2])
    padded = int(table.shape[0]) * block
    chunk = chunk or groups
    if groups % chunk:
        raise ValueError(f"chunk {chunk} does not divide {groups} codebook groups")
    chunks, dtype = groups // chunk, read.acc_dtype
    c, g, k = (te.reduce_axis((0, e), n) for e, n in ((chunk, "c"), (read.group, "g"), (TABLE_ENTRIES, "k")))

    def entry(part, b, m, n):
        group = part * chunk + c
        code = codes[(b, n // read.rows, group, *read.code_index(n % read.rows, g))]
        value = table[m // block, group, m % block, g, k].astype(dtype)
        if mult is not None:
            value = mult[group, g].astype(dtype) * value
        entry_code = (k + read.code_start(g)).astype("uint8") if read.code_offset else k.astype("uint8")
        return tirx.Select(code == entry_code, value, tirx.const(0, dtype))

    size = (batch, padded, tiles * read.rows)
    if chunks == 1:
        acc = te.compute(size, lambda b, m, n: te.sum(entry(0, b, m, n), axis=[c, g, k]), name="lut_acc")
    else:
        part = te.compute(
            (batch, chunks, padded, tiles * read.rows),
            lambda b, p, m, n: te.sum(entry(p, b, m, n), axis=[c, g, k]),
            name="lut_acc",
        )
        p = te.reduce_axis((0, chunks), "p")
        acc = te.compute(size, lambda b, m, n: te.sum(part[b, p, m, n].astype("int32"), axis=p), name="lut_drain")
    shape = (batch, outputs, rows) if epilogue.feature_major else (rows, outputs)
    if not transpose:
        return _results(lambda b, n, m: acc[b, m, n], table_scale, bias, residual, inv_scale, epilogue, shape)
    scaled = _scaled(lambda b, n, m: acc[b, m, n], table_scale, bias)
    tile = te.compute((padded, tiles * read.rows), lambda m, n: scaled(0, n, m), name="lut_scaled")
    turned = te.compute((tiles * read.rows, padded), lambda n, m: tile[m, n], name="lut_rows")
    return epilogue.results(lambda n, m: epilogue.value(turned[n, m], (n, m), residual), shape, inv_scale)
