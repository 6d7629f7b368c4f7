"""Constants as numpy arrays: tables from weights, and the layouts that an ISA's kernels read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvm_ext.compute.encode_lanes import search_order
from tvm_ext.compute.search import GRID, Search
from tvm_ext.compute.windows import linear_slots
from tvm_ext.tensor_intrin import TABLE_ENTRIES, Dot, Isa, TableRead
from tvm_ext.tensor_intrin._lane_search import LANES, ROWS

_INT16_MAX = 32767
_NEVER = -(2**30)
"""Score of a centroid that does not exist: below any other."""
_DRAIN_STRETCH = 32
"""Codebooks between drains of int16 sums, at least: 32 * 128 always fits, and a drain costs as much as a few reads."""


def build_table(centroids: np.ndarray, weight: np.ndarray, table_dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """(table [C, K, M], table_scale float32 [M]) from centroids float32 [C, K, V] and weight float32 [M, D].

    int8 tables have one scale per output column: ``table_scale[m] = max|T[:, :, m]| / 127``.
    """
    c, _, v = centroids.shape
    outputs, depth = weight.shape
    padded = np.zeros((outputs, c * v), np.float64)
    padded[:, :depth] = weight
    table = np.einsum("ckv,mcv->ckm", centroids.astype(np.float64), padded.reshape(outputs, c, v), optimize=True)
    if table_dtype == "float32":
        return table.astype(np.float32), np.ones(outputs, np.float32)
    scale = (np.abs(table).max(axis=(0, 1)) / 127).astype(np.float32)
    scale[scale <= 1e-30 / 127] = 1  # dead columns
    return np.clip(np.rint(table / scale), -127, 127).astype(np.int8), scale


@dataclass(frozen=True)
class RegisterTile:
    """Accumulators kept in registers: `row_tiles` row tiles x `outputs` outputs."""

    row_tiles: int
    outputs: int


def transpose_lanes(outputs: int, isa: Isa) -> int:
    """Side of the tiles in which row-major results are transposed, or 0 where none divides the outputs."""
    return next((lanes for lanes in (16, 8, 4) if lanes <= isa.float_lanes and outputs % lanes == 0), 0)


def register_tile(tiles: int, outputs: int, codebooks: int, read: TableRead, lanes: int = 0) -> RegisterTile:
    """The tile that reads a table of `codebooks` x 16 x `outputs` for `tiles` row tiles in the least estimated time.

    Rows and outputs are padded to whole tiles; with `lanes`, the tile's outputs divide it. A lookup costs its
    instructions and a share of the loads of codes and table rows.
    """

    def cost(tile: RegisterTile) -> float:
        row_blocks, blocks = -(-tiles // tile.row_tiles), -(-outputs // tile.outputs)
        lookups = row_blocks * tile.row_tiles * read.rows * blocks * tile.outputs * codebooks
        return lookups * (1 + read.load_cost * (1 / tile.row_tiles + 1 / tile.outputs))

    candidates = [RegisterTile(r, q) for r in range(1, read.tiles + 1) for q in range(1, read.tiles // r + 1)]
    return min((tile for tile in candidates if not lanes or lanes % tile.outputs == 0), key=cost)


def padded_codebooks(table: np.ndarray, read: TableRead) -> int:
    """C of an int8 table [C, K, M] rounded up to whole groups, and to whole stretches where its sum needs drains."""
    unit = read.group if read.acc_dtype != "int16" or fits_int16(table) else _DRAIN_STRETCH
    return -(-len(table) // unit) * unit


def drain_chunk(table: np.ndarray, read: TableRead, codebooks: int) -> int:
    """Groups of codebooks that an int16 accumulator can sum without overflow whatever the codes are; 0 means all.

    The table, int8 [C, K, M], is constant, so the bound ``sum_c max_k |T[c, k, m]|`` is known for every output. The
    result divides the groups of `codebooks`, which is at least `padded_codebooks`.
    """
    if read.acc_dtype != "int16" or fits_int16(table):
        return 0
    largest = _pad(np.abs(table.astype(np.int64)).max(axis=1), codebooks)  # [codebooks, M]
    groups = codebooks // read.group
    chunks = (d for d in range(groups - 1, 0, -1) if groups % d == 0)
    return next(
        chunk
        for chunk in chunks
        if largest.reshape(groups // chunk, chunk * read.group, -1).sum(axis=1).max() <= _INT16_MAX
    )


def fits_int16(table: np.ndarray) -> bool:
    """Whether int16 holds the sum over all codebooks of an int8 table [C, K, M], whatever the codes are."""
    return _sum_bound(table) <= _INT16_MAX


def _sum_bound(table: np.ndarray) -> int:
    """The largest magnitude that a sum over all codebooks can have in any output column."""
    return int(np.abs(table.astype(np.int64)).max(axis=1).sum(axis=0).max())


def pack_table(table: np.ndarray, read: TableRead, codebooks: int, block: int) -> np.ndarray:
    """int8 [C, K, M] -> int8 [ceil(M / block), codebooks / G, block, G, 16], zeros where padded.

    The outputs of a register tile (`block`) lie side by side, so that it reads one stream.
    """
    c, k, m = table.shape
    blocks = -(-m // block)
    packed = np.zeros((blocks * block, codebooks, TABLE_ENTRIES), np.int8)
    packed[:m, :c, :k] = table.transpose(2, 0, 1)
    split = packed.reshape(blocks, block, codebooks // read.group, read.group, TABLE_ENTRIES)
    return np.ascontiguousarray(split.transpose(0, 2, 1, 3, 4))


def pack_mult(mult: np.ndarray, read: TableRead, codebooks: int) -> np.ndarray:
    """uint8 [C] -> uint8 [codebooks / G, G]."""
    return _pad(mult, codebooks).reshape(-1, read.group)


def pack_search(
    centroids: np.ndarray, inv_scale: np.ndarray | None, score_bias: np.ndarray | None, codebooks: int, dot: Dot,
    search: Search, slots: np.ndarray, row_depth: int, stored: str = "",
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, int]:  # fmt: skip
    """(centroids [codebooks, K, T, depth], inv_scale, score_bias [codebooks, K], zero_point) for `encode_tiled`.

    slots: int [T, depth], the element of the subvector that each slot holds, -1 for padding (`Windows.slots`).
    row_depth: D; behind it a row is zero, so centroids get no weight there, whatever a kernel reads.
    int8 inputs are stored as ``xq + zero_point`` in `stored`, by default the dot product's type; its share of scores,
    ``zero_point * sum_v cq``, is a constant and goes into the bias, so that scores stay exact. Where they are multiples
    of 16, the bias also adds 15 - k, see `tagged`.

    Raises
    ------
    ValueError : constants of an int6 search that are not on its grid.
    """
    c, k, v = centroids.shape
    packed = np.zeros((codebooks, k, *slots.shape), dot.c_dtype)
    exact = centroids.astype(np.int64 if search.integer else np.float64)
    weights = exact if search.integer else exact - exact.mean(axis=1, keepdims=True)
    weights = np.where((np.arange(c)[:, None] * v + np.arange(v) < row_depth)[:, None], weights, 0)
    packed[:c] = np.where(slots >= 0, weights[:, :, slots], 0)
    if inv_scale is None or score_bias is None:
        if score_bias is not None:  # what all scores have in common decides nothing, and would be rounded with them
            bias = score_bias - score_bias.mean(axis=1, keepdims=True, dtype=np.float64)
        else:
            # |x - P|^2 compares as x . (P - mean) - (|P|^2 - |mean|^2) / 2, which cancels less than x . P - |P|^2 / 2
            bias = (np.square(exact.mean(axis=1)).sum(axis=1)[:, None] - np.square(exact).sum(axis=2)) / 2
        return packed, None, _pad(bias.astype(np.float32), codebooks), 0
    signed = search.input_signed
    zero_point = {"uint8": 128 if signed else 0, "int8": 0 if signed else -128, "int16": 0}[stored or dot.x_dtype]
    bias = score_bias.astype(np.int64) - zero_point * weights.sum(axis=2)
    bias = _pad(bias.astype(np.int32), codebooks)
    if search.scores_hold_index:
        if (exact % GRID[search.encode_dtype]).any() or (score_bias % TABLE_ENTRIES).any():
            raise ValueError("centroids of an int6 search are multiples of 4, its score_bias of 16")
        bias += TABLE_ENTRIES - 1 - np.arange(k, dtype=np.int32)  # codes of padding codebooks are read too
    return packed, _pad(inv_scale, codebooks), bias, zero_point


def pack_lanes(
    centroids: np.ndarray, score_bias: np.ndarray, read: TableRead, search: Search
) -> tuple[np.ndarray, np.ndarray]:
    """The constants of `pack_search`, T steps of 4, as `encode_lanes` reads them: in J = ceil(K / 4) vectors.

    centroids int8 [codebooks, T, J, 16], score_bias int32 [codebooks, 4, 4 * J], both in the order of `search_order`
    and such that sums are -1 - score, or 15 - score where that holds the index: k in its low bits. No centroid is -128.
    """
    padded, k, steps, depth = centroids.shape
    order, vectors = search_order(read, padded), -(-k // LANES)
    wide = np.zeros((padded, vectors * LANES, steps, depth), np.int8)
    wide[:, :k] = -centroids
    turned = wide[order].transpose(0, 2, 1, 3).reshape(padded, steps, vectors, -1)
    most = TABLE_ENTRIES - 1 if search.scores_hold_index else -1
    bias = np.full((padded, vectors * LANES), -1 - _NEVER, np.int32)
    bias[:, :k] = most - score_bias
    return np.ascontiguousarray(turned), np.ascontiguousarray(np.repeat(bias[order][:, None], ROWS, axis=1))


def pack_float_lanes(centroids: np.ndarray, score_bias: np.ndarray, read: TableRead) -> tuple[np.ndarray, np.ndarray]:
    """The float32 constants of `pack_search`, steps of 1, as `encode_float_lanes` reads them.

    centroids float32 [codebooks, V, J, 4], bias float32 [codebooks, 4, 4 * J], J = ceil(K / 4), both in the order of
    `search_order`; lane l of vector j is centroid J * l + j.
    """
    padded, k, length, _ = centroids.shape
    order, vectors = search_order(read, padded), -(-k // LANES)
    lanes = np.arange(LANES * vectors).reshape(LANES, vectors).T.ravel()
    wide = np.zeros((padded, LANES * vectors, length), np.float32)
    wide[:, :k] = centroids[..., 0]
    bias = np.full((padded, LANES * vectors), -np.inf, np.float32)
    bias[:, :k] = score_bias
    turned = wide[order][:, lanes].transpose(0, 2, 1).reshape(padded, length, vectors, LANES)
    return np.ascontiguousarray(turned), np.ascontiguousarray(np.repeat(bias[order][:, None, lanes], ROWS, axis=1))


def pack_few_rows(
    centroids: np.ndarray, score_bias: np.ndarray, dot: Dot, search: Search
) -> tuple[np.ndarray, np.ndarray, int]:
    """(centroids [C, T, 16, depth], score_bias int32 [C, 16], zero_point) for `encode_few_rows`.

    From centroids int8 [C, K, V] and score_bias int32 [C, K]; the zero point is that of `pack_search`. Lanes without a
    centroid never win.
    """
    c, k, v = centroids.shape
    packed, _, bias, zero_point = pack_search(
        centroids, np.ones(c, np.float32), score_bias, c, dot, search, linear_slots(v, dot.depth), c * v
    )
    lanes = np.zeros((c, packed.shape[2], TABLE_ENTRIES, dot.depth), packed.dtype)
    lanes[:, :, :k] = packed.transpose(0, 2, 1, 3)
    padded = np.full((c, TABLE_ENTRIES), _NEVER, np.int32)
    padded[:, :k] = bias
    return lanes, padded, zero_point


def _pad(values: np.ndarray, length: int) -> np.ndarray:
    """`values` with zeros appended along the first axis up to `length`."""
    return np.concatenate([values, np.zeros((length - len(values), *values.shape[1:]), values.dtype)])
