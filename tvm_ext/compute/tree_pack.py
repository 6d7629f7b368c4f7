"""Constants of hash trees as `tree_kernel` reads them: thresholds numbered like a heap, and the codes of leaves."""

from __future__ import annotations

import numpy as np

from tvm_ext.compute.search import Search
from tvm_ext.compute.tree_columns import Columns
from tvm_ext.tensor_intrin import TABLE_ENTRIES, TableRead


def pack_trees(
    split_dims: np.ndarray,
    split_thresholds: np.ndarray,
    *,
    length: int,
    search: Search,
    columns: Columns,
    read: TableRead,
    codebooks: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(leaves uint8 [codebooks, 16], starts int32 [codebooks, L], thresholds [codebooks, 16]).

    A node that all inputs leave to the right has no int8 threshold (256 values have 257 splits): it gets one that they
    all leave to the left, and what is below it changes sides. Elements behind the end of a row are zero, so nodes that
    look there go one way; they look at element 0 instead.
    """
    (count, levels), integer = split_dims.shape, search.encode_dtype == "int8"
    elements = np.arange(count)[:, None] * length + split_dims
    inside = elements < columns.patches.depth
    low = search.bounds[0] if integer else -np.inf
    always, never = split_thresholds <= low, ~(split_thresholds <= (search.bounds[1] if integer else np.inf))
    level_of = np.floor(np.log2(np.arange(1, 2**levels))).astype(int)
    outside = ~inside[:, level_of]
    always = np.where(outside, split_thresholds <= 0, always & integer)  # -inf is a float32 threshold like any other
    never = np.where(outside, ~(split_thresholds <= 0), never)
    steps = np.where(always | never, 0, split_thresholds)
    # of int8 values those greater than the threshold go right, and none is greater than 127
    values = np.where(never | always, 127, np.ceil(steps) - 1 + search.zero_point) if integer else steps
    if not integer:
        values = np.where(never | always, np.nan, steps)
    leaves = np.zeros((codebooks, TABLE_ENTRIES), np.uint8)
    leaves += read.code_start(np.arange(codebooks) % read.group).astype(np.uint8)[:, None]
    thresholds = np.zeros((codebooks, TABLE_ENTRIES), np.int8 if integer else np.float32)
    for c in range(count):
        _place(values[c], always[c], levels, thresholds[c], leaves[c])
    starts = np.zeros((codebooks, levels), np.int32)
    starts[:count] = columns.start(np.where(inside, elements, 0))
    return leaves, starts, thresholds


def _place(values, swapped, levels: int, thresholds: np.ndarray, leaves: np.ndarray, node: int = 0, h: int = 1) -> None:
    """Write the tree below `node` to heap position h; `leaves` holds what is added to the codes of the leaves."""
    if node >= len(values):
        leaves[h % TABLE_ENTRIES] += node - len(values)
        return
    thresholds[h] = values[node]
    for side in (0, 1):
        _place(values, swapped, levels, thresholds, leaves, 2 * node + 1 + side, 2 * h + (side ^ int(swapped[node])))
