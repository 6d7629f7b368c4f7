"""Table read by byte shuffles of AArch64, feature-major: y[b, m, n] for positions n of images.

The rows of a step (8 or 16 positions, in one or two registers of int16 sums) are the grain: an image is cut into blocks
of some steps, and no step is spent on positions that are padding only. Results leave in whole vectors whatever the size
of an image is: the last one takes some positions of the one before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from tvm_ext.compute.lookup import Epilogue
from tvm_ext.compute.lookup_rows import FLOAT_HIGH, FLOAT_ZERO, finished
from tvm_ext.tensor_intrin import TABLE_ENTRIES, TableRead
from tvm_ext.tensor_intrin._tbl import STEPS
from tvm_ext.threads import SHARES, worth_threads

_LANES = 8
"""Results that are finished together."""
PANEL_BYTES = 1 << 20
"""Of a table: what stays in a core's second cache beside the codes."""
_LOOKUPS_PER_NS = 16
_CODE_VECTORS = 8
"""Vectors of codes that registers hold beside the sums."""
_ZIP = [i + half for i in range(_LANES) for half in (0, _LANES)]
_LOAD = 0.1
"""Of a load of 16 bytes, beside 16 lookups."""


@dataclass(frozen=True)
class StepTile:
    """Sums that stay in registers: `steps` steps x `outputs` outputs."""

    steps: int
    outputs: int


def step_tile(rows: int, outputs: int, read: TableRead) -> StepTile:
    """The tile that takes the fewest instructions for an image of `rows` positions, last blocks included."""
    steps, sums = -(-rows // read.step), _sums(read)

    def cost(tile: StepTile) -> float:
        blocks = sum(count for count, _ in blocks_of(steps, tile.steps, _grain(read)))
        loads = steps * read.step_vectors + blocks * tile.outputs * read.group
        return -(-outputs // tile.outputs) * (steps * tile.outputs * read.step_vectors + _LOAD * loads)

    tiles = (StepTile(r, q) for q in range(1, sums + 1) for r in range(1, min(steps, _most_steps(read, q)) + 1))
    return min(tiles, key=cost)


def _sums(read: TableRead) -> int:
    """Sums of a step that stay in registers."""
    return read.tiles * read.rows // read.step


def _grain(read: TableRead) -> int:
    """Steps of a tile of codes."""
    return read.rows // read.step


def _most_steps(read: TableRead, outputs: int) -> int:
    return max(1, min(_sums(read) // outputs, _CODE_VECTORS // read.step_vectors))


def blocks_of(steps: int, limit: int, grain: int) -> list[tuple[int, int]]:
    """(count, steps of each) of blocks of up to `limit` steps, no block of a single step behind larger ones.

    `grain`: steps of a tile of codes; a block of more than one step starts where a tile starts, so that it is known in
    the loop over codebooks where its codes are.
    """
    if steps <= limit:
        return [(1, steps)]
    limit = max(1, limit // grain * grain)
    full, rest = divmod(steps, limit)
    if rest == 1 and limit > 2:
        first = (limit + 1) // 2 // grain * grain
        return [(n, size) for n, size in ((full - 1, limit), (1, first), (1, limit + 1 - first)) if n]
    return [(full, limit)] + ([(1, rest)] if rest else [])


def panels(runs: int, row_blocks: int, table_bytes: int, shared: bool, panel_bytes: int = PANEL_BYTES) -> int:
    """Parts of the outputs that are finished one after the other: how many, of at most `runs`.

    A table beyond the cache is streamed once this way, not once for every block of rows; and a few blocks of rows alone
    would leave threads idle. `panel_bytes`: of the table, for one part.
    """
    fitting = -(-table_bytes // panel_bytes) if row_blocks > 1 else 1
    wanted = -(-SHARES // row_blocks) if shared else 1
    return min(runs, max(fitting, wanted))


def lookup_tiles(
    code_shape: tuple[int, ...], table_shape: tuple[int, ...], read: TableRead, shape: tuple[int, int, int],
    *, chunk: int, bias: bool, residual: bool, epilogue: Epilogue,
) -> PrimFunc:  # fmt: skip
    """Results `shape` [B, M, N] from codes, table (`pack_table`), table_scale and, if there, bias, residual, inv_scale.

    codes uint8 [B, tiles, groups, *read.code_shape]; `chunk`: groups that int16 may sum before these sums are added up
    in int32, 0 for all of them.
    """
    batch, outputs, rows = shape
    blocks, groups, width = table_shape[:3]
    cuts = _cuts(rows, read, _most_steps(read, width))
    row_blocks = cuts[-1].first + cuts[-1].count
    shared = worth_threads(batch * rows * outputs * groups * read.group / _LOOKUPS_PER_NS)
    parts = panels(blocks, batch * row_blocks, groups * read.group * TABLE_ENTRIES * outputs, shared)
    run = -(-blocks // parts)  # output blocks of a panel
    parts = -(-blocks // run)
    over_tasks = T.parallel if shared else T.serial
    step, lanes = STEPS[read.order], read.step

    def code(codes, b, position, g, i: int):
        """Vector i of the codes of the step that starts at `position`."""
        within = 0 if lanes == read.rows else position % read.rows
        return codes.vload([b, position // read.rows, g, *read.code_index(within, i)], "uint8x16")

    def accumulate(codes, table, acc, b, block, n, size: int, g) -> None:
        index = [[T.Bind(code(codes, b, n + s * lanes, g, i)) for i in range(read.step_vectors)] for s in range(size)]
        for q in range(width):
            entries = [T.Bind(table.vload([block, g, q, c, 0], "int8x16")) for c in range(read.group)]
            for s in range(size):
                at = T.ramp((q * size + s) * lanes, 1, lanes)
                T.buffer_store(acc, step(acc[at], index[s], entries), [at])

    def summed(codes, table, b, block, n, size: int, first, count: int):
        """int16 sums [Q * size * lanes] of `count` groups from `first` on; they start at -32768 if they are all."""
        acc = T.alloc_buffer((width * size * lanes,), "int16")
        for i in range(width * size):
            start = T.broadcast(T.int16(0 if chunk else -32768), lanes)
            T.buffer_store(acc, start, [T.ramp(i * lanes, 1, lanes)])
        with T.serial(count) as g:
            accumulate(codes, table, acc, b, block, n, size, first + g)
        return acc

    def drained(codes, table, b, block, n, size: int):
        """int32 sums of the same shape."""
        sums = T.alloc_buffer((width * size * lanes,), "int32")
        with T.serial(width * size) as i:
            T.buffer_store(sums, T.broadcast(T.int32(0), lanes), [T.ramp(i * lanes, 1, lanes)])
        with T.serial(groups // chunk) as part:
            acc = summed(codes, table, b, block, n, size, part * chunk, chunk)
            for i in range(width * size):
                at = T.ramp(i * lanes, 1, lanes)
                T.buffer_store(sums, sums[at] + T.cast(acc[at], f"int32x{lanes}"), [at])
        return sums

    def results(total: Callable, b, m, n, count: int, scale, shift, other, inv_scale, y, quantized) -> None:
        """`count` positions from n on of output m; `total(at, lanes)` are float32 sums."""

        def finish(at: int, lanes: int) -> None:
            store_results(
                total(at, lanes), b, m, n + at, lanes, epilogue, bias, residual, scale, shift, other, inv_scale, y,
                quantized,
            )  # fmt: skip

        for at in range(0, count - _LANES + 1, _LANES):
            finish(at, _LANES)
        if count >= _LANES and count % _LANES:
            finish(count - _LANES, _LANES)
        for at in range(count if count < _LANES else 0):
            finish(at, 1)

    def block_of(codes, table, b, block, n, cut: _Cut, *buffers) -> None:
        size = cut.steps
        if chunk:
            sums = drained(codes, table, b, block, n, size)
        else:
            sums = summed(codes, table, b, block, n, size, 0, groups)
        for q in range(width):
            m, first = block * width + q, q * size * lanes
            with T.If(m < outputs), T.Then():
                results(lambda at, n, first=first: _float(sums, first + at, n, chunk > 0), b, m, n, cut.rows, *buffers)

    def task_of(codes, table, b, panel, row_block, remaining: list[_Cut], *buffers) -> None:
        cut, *others = remaining

        def here() -> None:
            n = (cut.position + (row_block - cut.first) * cut.steps) * lanes
            with T.serial(T.min(run, blocks - panel * run)) as o:
                block_of(codes, table, b, panel * run + o, n, cut, *buffers)

        if not others:
            here()
            return
        with T.If(row_block < cut.first + cut.count):
            with T.Then():
                here()
            with T.Else():
                task_of(codes, table, b, panel, row_block, others, *buffers)

    @T.prim_func(s_tir=True)
    def kernel(
        codes: T.Buffer(code_shape, "uint8"),
        table: T.Buffer(table_shape, "int8"),
        scale: T.Buffer((outputs,), "float32"),
        shift: T.Buffer((outputs,), "float32"),
        other: T.Buffer((batch, outputs, rows), "float32"),
        inv_scale: T.Buffer((outputs,), "float32"),
        y: T.Buffer((batch, outputs, rows), "float32"),
        quantized: T.Buffer((batch, outputs, rows), epilogue.quantized or "int8"),
    ):
        T.func_attr({"tirx.noalias": True})
        with T.sblock("lookup"):  # one block: some Relax passes ask what blocks a PrimFunc has
            T.reads(table[0:blocks, 0:groups])
            T.writes(y[0:batch, 0:outputs])
            for task in over_tasks(batch * parts * row_blocks):
                task_of(
                    codes, table, task // (parts * row_blocks), task // row_blocks % parts, task % row_blocks, cuts,
                    scale, shift, other, inv_scale, y, quantized,
                )  # fmt: skip

    return epilogue.without_unused(kernel, bias, residual)


def store_results(
    total, b, m, n, lanes: int, epilogue: Epilogue, bias: bool, residual: bool, scale, shift, other, inv_scale, y,
    quantized,
) -> None:  # fmt: skip
    """Results of output m at `lanes` positions from n on; `total` are their sums as float32."""

    def same(value):
        return value if lanes == 1 else T.broadcast(value, lanes)

    here = n if lanes == 1 else T.ramp(n, 1, lanes)
    value = total * same(scale[m])
    value = value + same(shift[m]) if bias else value
    value = value + other[b, m, here] if residual else value
    value = finished(value, epilogue.activation, lanes)
    if epilogue.keep_float or epilogue.search is None:
        T.buffer_store(y, value, [b, m, here])
    if epilogue.search is not None:
        result = epilogue.search.quantize(value, inv_scale[m], epilogue.quantized, lanes)
        T.buffer_store(quantized, result, [b, m, here])


@dataclass(frozen=True)
class _Cut:
    """Blocks of positions that are alike: `count` blocks from number `first` on, from step `position` on.

    Each has `steps` steps and `rows` positions.
    """

    first: int
    count: int
    position: int
    steps: int
    rows: int


def _cuts(rows: int, read: TableRead, limit: int) -> list[_Cut]:
    """All blocks of an image; the last one is alone if it has padding."""
    step = read.step
    cuts: list[_Cut] = []
    first = position = 0
    for count, size in blocks_of(-(-rows // step), limit, _grain(read)):
        padded = (position + count * size) * step > rows
        for n in (count - padded, int(padded)):
            if n:
                cuts.append(_Cut(first, n, position, size, min(size * step, rows - position * step)))
                first, position = first + n, position + n * size
    return cuts


def _float(sums, at: int, lanes: int, drained: bool):
    """Sums `at` ... as float32 (1 or 8 lanes); those of int16 have started at -32768."""
    if lanes == 1:
        value = sums[at]
        return T.cast(value if drained else T.cast(T.reinterpret("uint16", value), "int32") - 32768, "float32")
    start, within = at // lanes * lanes, at % lanes
    value = sums[T.ramp(start, 1, lanes)]
    if within:
        value = T.Shuffle([value, sums[T.ramp(start + lanes, 1, lanes)]], list(range(within, within + lanes)))
    if drained:
        return T.cast(value, f"float32x{lanes}")
    pairs = T.Shuffle([value, T.broadcast(T.int16(FLOAT_HIGH), lanes)], _ZIP)
    return T.reinterpret(f"float32x{lanes}", pairs) - T.broadcast(T.float32(FLOAT_ZERO), lanes)
