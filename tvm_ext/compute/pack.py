"""Constants as numpy arrays: tables from weights, and the layouts that an ISA's kernels read."""

from __future__ import annotations

import numpy as np

from tvm_ext.tensor_intrin import TABLE_ENTRIES, Dot, TableRead

_INT16_MAX = 32767
_TILE_COST = {1: 1.6, 2: 1.1}
"""Time of a table read with R row tiles relative to R >= 3 (measured: loads of table rows are shared by R tiles)."""


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
    scale[scale == 0] = 1
    return np.clip(np.rint(table / scale), -127, 127).astype(np.int8), scale


def pack_table(table: np.ndarray, read: TableRead) -> np.ndarray:
    """int8 [C, K, M] -> int8 [M rounded up to `padded_outputs`, groups, G, 16], zeros where padded."""
    c, k, m = table.shape
    groups = -(-c // read.group)
    packed = np.zeros((padded_outputs(m), groups * read.group, TABLE_ENTRIES), np.int8)
    packed[:m, :c, :k] = table.transpose(2, 0, 1)
    return packed.reshape(-1, groups, read.group, TABLE_ENTRIES)


def padded_outputs(outputs: int) -> int:
    """Outputs rounded up so that register tiles of 4 divide them."""
    return outputs if outputs <= 4 else -(-outputs // 4) * 4


def padded_tiles(tiles: int, read: TableRead) -> int:
    """Row tiles rounded up so that register tiles divide them, at the least estimated time."""

    def cost(r: int) -> float:
        return -(-tiles // r) * r * _TILE_COST.get(r, 1.0)

    best = min(range(1, min(5, read.tiles) + 1), key=lambda r: (cost(r), -r))
    return -(-tiles // best) * best


def pack_mult(mult: np.ndarray, read: TableRead) -> np.ndarray:
    """uint8 [C] -> uint8 [groups, G]."""
    return _pad(mult, -(-len(mult) // read.group) * read.group).reshape(-1, read.group)


def drain_chunk(table: np.ndarray, read: TableRead) -> int:
    """Groups of codebooks that an int16 accumulator can sum without overflow whatever the codes are; 0 means all.

    The table is constant, so the bound ``sum_c max_k |T[c, k, m]|`` is known for every output.
    """
    if read.acc_dtype != "int16":
        return 0
    packed = np.abs(pack_table(table, read).astype(np.int64)).max(axis=3).sum(axis=2)  # [M, groups]
    groups = packed.shape[1]
    for chunk in (d for d in range(groups, 0, -1) if groups % d == 0):
        if packed.reshape(-1, groups // chunk, chunk).sum(axis=2).max() <= _INT16_MAX:
            return 0 if chunk == groups else chunk
    raise AssertionError("two int8 entries always fit int16")


def pack_search(
    centroids: np.ndarray, inv_scale: np.ndarray | None, score_bias: np.ndarray | None, read: TableRead, dot: Dot,
    input_signed: bool,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, int]:  # fmt: skip
    """(centroids [groups * G, K, T, depth], inv_scale, score_bias [groups * G, K], zero_point) for `encode_tiled`.

    int8 inputs are stored as ``xq + zero_point`` in the dot product's type; its share of every score,
    ``zero_point * sum_v cq``, is a constant and goes into the bias, so that scores stay exact.
    """
    c, k, v = centroids.shape
    padded, steps = -(-c // read.group) * read.group, -(-v // dot.depth)
    packed = np.zeros((padded, k, steps * dot.depth), dot.c_dtype)
    packed[:c, :, :v] = centroids
    packed = packed.reshape(padded, k, steps, dot.depth)
    if inv_scale is None or score_bias is None:
        half_norm = -0.5 * np.square(centroids.astype(np.float64)).sum(axis=2)
        return packed, None, _pad(half_norm.astype(np.float32), padded), 0
    zero_point = {"uint8": 128 if input_signed else 0, "int8": 0 if input_signed else -128, "int16": 0}[dot.x_dtype]
    bias = score_bias.astype(np.int64) - zero_point * centroids.astype(np.int64).sum(axis=2)
    return packed, _pad(inv_scale, padded), _pad(bias.astype(np.int32), padded), zero_point


def _pad(values: np.ndarray, length: int) -> np.ndarray:
    """`values` with zeros appended along the first axis up to `length`."""
    return np.concatenate([values, np.zeros((length - len(values), *values.shape[1:]), values.dtype)])
