"""Table read and accumulation: ``y[n, m] = bias[m] + table_scale[m] * sum_c mult[c] * table[c, code[n, c], m]``.

Two forms of one meaning: `lookup_gather` reads the logical layouts and is the oracle and the kernel for any K;
`lookup_shuffle` is the one-hot form over packed layouts that the shuffle intrinsics are tensorized into.
Both give feature-major ``[B, M, N]`` (N positions an image) or row-major ``[N, M]`` results.
"""

from __future__ import annotations

from tvm import te, tirx

from tvm_ext.tensor_intrin import TABLE_ENTRIES, TableRead

ACTIVATIONS = ("", "relu")


def _epilogue(total, table_scale, bias, residual, activation: str, feature_major: bool, shape: tuple[int, ...]):
    """Scale, bias, residual add and activation of `total(batch, n, m)`, as one block named "lut_out"."""

    def value(*index):
        b, n, m = (index[0], index[2], index[1]) if feature_major else (0, index[0], index[1])
        y = total(b, n, m).astype("float32") * table_scale[m]
        if bias is not None:
            y = y + bias[m]
        if residual is not None:
            y = y + residual[index]
        return tirx.max(y, tirx.const(0, "float32")) if activation == "relu" else y

    return te.compute(shape, value, name="lut_out")


def lookup_gather(
    codes, table, table_scale, bias, mult, residual, *, activation: str, feature_major: bool, narrow: bool
) -> te.Tensor:
    """The logical form.

    codes uint8 [B, C, N] if `feature_major`, else [N, C]; table [C, K, M] int8 (sum in int32) or float32;
    residual like the result. `narrow`: int16 holds every sum.
    """
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
    return _epilogue(acc, table_scale, bias, residual, activation, feature_major, shape)


def lookup_shuffle(
    codes, table, table_scale, bias, mult, residual,
    *, read: TableRead, rows: int, outputs: int, chunk: int, activation: str, feature_major: bool, transpose: bool,
) -> te.Tensor:  # fmt: skip
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
        entry_code = (k + g * read.code_offset).astype("uint8") if read.code_offset else k.astype("uint8")
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
    shape = (batch, outputs, rows) if feature_major else (rows, outputs)
    if transpose:
        return _transposed_epilogue(acc, table_scale, bias, residual, activation, shape)
    return _epilogue(
        lambda b, n, m: acc[b, m, n], table_scale, bias, residual, activation, feature_major, shape
    )  # fmt: skip


def _transposed_epilogue(acc, table_scale, bias, residual, activation: str, shape: tuple[int, ...]) -> te.Tensor:
    """Row-major results of feature-major sums, acc [1, M, padded N]."""
    _, outputs, rows = (int(d) for d in acc.shape)

    def scale(m, n):
        y = acc[0, m, n].astype("float32") * table_scale[m]
        return y if bias is None else y + bias[m]

    scaled = te.compute((outputs, rows), scale, name="lut_scaled")
    turned = te.compute((rows, outputs), lambda n, m: scaled[m, n], name="lut_rows")

    def finish(n, m):
        y = turned[n, m] if residual is None else turned[n, m] + residual[n, m]
        return tirx.max(y, tirx.const(0, "float32")) if activation == "relu" else y

    return te.compute(shape, finish, name="lut_out")
