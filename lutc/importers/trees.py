"""What makes hash trees consistent, wherever they are read from."""

from __future__ import annotations

import numpy as np

MAX_LEVELS = 8
_EXAMPLE = "split_dims is [C, L] and split_thresholds [C, K - 1], with K = 2^L leaves a tree"


def tree_problem(
    split_dims: np.ndarray | None, split_thresholds: np.ndarray | None, count: int, leaves: int, subvector_len: int
) -> tuple[str, str] | None:
    """The first thing wrong with `count` trees of so many leaves each, as (reason, fix), or None.

    Thresholds may be any numbers, in any order, infinite, or NaN (which nothing reaches).
    """
    for name, array, dtype in (("split_dims", split_dims, "int32"), ("split_thresholds", split_thresholds, "float32")):
        if array is None:
            return f"its {name} is missing with encoder 'tree'", _EXAMPLE
        if array.dtype.name != dtype:
            return f"its {name} is {array.dtype.name}{list(array.shape)}, expected {dtype}", f"store it as {dtype}"
    assert split_dims is not None and split_thresholds is not None
    levels = leaves.bit_length() - 1
    if leaves != 2**levels or not 1 <= levels <= MAX_LEVELS:
        return f"it has {leaves} centroids a codebook; a tree has 2, 4, 8, ... or 256 leaves", "use a power of two"
    for name, array, shape in (
        ("split_dims", split_dims, (count, levels)),
        ("split_thresholds", split_thresholds, (count, leaves - 1)),
    ):
        if array.shape != shape:
            return f"its {name} has shape {list(array.shape)}, expected {list(shape)} for K = {leaves}", _EXAMPLE
    if subvector_len < 1:
        return f"its subvector_len is {subvector_len}", "trees need it: the number of elements of a subvector"
    low, high = int(split_dims.min()), int(split_dims.max())
    if low < 0 or high >= subvector_len:
        wrong = low if low < 0 else high
        return (
            f"its split_dims hold {wrong}, a subvector has elements 0..{subvector_len - 1}",
            "count the elements from the start of the subvector, not of the row",
        )
    return None
