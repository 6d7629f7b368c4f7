"""Packed trees walked in numpy give the codes of the definition, also where a threshold has no int8 form."""

from __future__ import annotations

import numpy as np
import pytest

from tests import oracle
from tvm_ext.compute.patches import Patches
from tvm_ext.compute.search import Search
from tvm_ext.compute.tree_columns import Columns
from tvm_ext.compute.tree_pack import pack_trees
from tvm_ext.tensor_intrin import get_isa


@pytest.mark.parametrize("levels", [1, 2, 4])
@pytest.mark.parametrize("signed", [True, False])
def test_every_threshold_at_every_input(levels: int, signed: bool) -> None:
    """All 256 values against thresholds at and around both ends."""
    low, high = (-128, 127) if signed else (0, 255)
    rng, read = np.random.default_rng(levels), get_isa("avx512_vbmi").table_read
    odd = np.array([low - 5, low, low + 0.5, low + 1, 3, high - 1, high, high + 0.1, high + 1, np.inf, -np.inf, np.nan])
    count, length, depth = 60, 3, 179  # the last codebook's last element is behind the row
    thresholds = rng.choice(odd, (count, 2**levels - 1)).astype("float32")
    dims = rng.integers(0, length, (count, levels)).astype("int32")
    dims[-1, 0] = 2
    rows = np.tile(np.arange(low, high + 1, dtype="float32")[:, None], (1, depth))
    rows[:, 1::2] = rng.permutation(rows[:, 0])[:, None]
    search = Search("int8", signed, 0 if signed else -128, "tree")
    columns = Columns(Patches((256, depth)), "int8", 256)
    leaves, starts, packed = pack_trees(
        dims, thresholds, length=length, search=search, columns=columns, read=read, codebooks=count
    )
    stored = rows.astype(int) + search.zero_point
    node = np.ones((256, count), int)
    for level in range(levels):
        taken = stored[:, starts[:, level]]
        node = 2 * node + (taken > packed[np.arange(count), node])
    codes = leaves[np.arange(count), node % 16] - np.arange(count) % read.group * read.code_offset
    table = np.zeros((count, 2**levels, 1), "int8")
    _, expected = oracle.dense(
        rows, None, table, np.ones(1, "f4"), inv_scale=np.ones(count, "f4"), split_dims=dims,
        split_thresholds=thresholds, subvector_len=length, encoder="tree", encode_dtype="int8", input_signed=signed,
    )  # fmt: skip
    np.testing.assert_array_equal(codes, expected)
