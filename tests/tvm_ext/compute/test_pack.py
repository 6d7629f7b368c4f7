"""Packed constants: what every entry means, checked entry by entry."""

from __future__ import annotations

import numpy as np
import pytest

from tvm_ext.compute import pack
from tvm_ext.compute.search import Search
from tvm_ext.compute.windows import linear_slots
from tvm_ext.tensor_intrin import list_isas
from tvm_ext.tensor_intrin.spec import FLOAT_DOT

ISAS = {isa.name: isa for isa in list_isas()}


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize(
    ("c", "k", "m", "block"), [(1, 1, 1, 1), (5, 16, 3, 3), (6, 9, 4, 4), (4, 16, 5, 2), (7, 16, 13, 4)]
)
def test_table(name: str, c: int, k: int, m: int, block: int) -> None:
    rng = _rng()
    read = ISAS[name].table_read
    table = rng.integers(-128, 128, (c, k, m)).astype("int8")
    padded = pack.padded_codebooks(table, read)
    assert padded >= c and padded % read.group == 0 and padded - c < read.group
    packed = pack.pack_table(table, read, padded, block)
    assert packed.dtype == np.int8 and packed.flags.c_contiguous
    assert packed.shape == (-(-m // block), padded // read.group, block, read.group, 16)
    for i, j, n in np.ndindex(c, k, m):
        assert packed[n // block, i // read.group, n % block, i % read.group, j] == table[i, j, n]
    assert np.abs(packed.astype(int)).sum() == np.abs(table.astype(int)).sum(), "padding must be zero"


@pytest.mark.parametrize("name", ISAS)
def test_mult(name: str) -> None:
    read = ISAS[name].table_read
    mult = np.arange(1, 8, dtype="uint8")
    packed = pack.pack_mult(mult, read, 8)
    assert packed.shape == (8 // read.group, read.group)
    np.testing.assert_array_equal(packed.reshape(-1)[:7], mult)


@pytest.mark.parametrize("name", ISAS)
def test_register_tiles_fit_and_large_tables_are_read_once(name: str) -> None:
    read = ISAS[name].table_read
    for tiles, outputs, codebooks in ((1, 1, 1), (13, 256, 256), (49, 64, 64), (4, 512, 512), (7, 3, 5)):
        tile = pack.register_tile(tiles, outputs, codebooks, read)
        assert 1 <= tile.row_tiles * tile.outputs <= read.tiles and tile.outputs <= max(outputs, 4)
    if read.tiles > 8:  # 4 MiB of table for four row tiles: one pass over it
        assert pack.register_tile(4, 512, 512, read).row_tiles == 4


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", ISAS)
def test_int8_search_scores_are_unchanged(name: str, signed: bool) -> None:
    """sum_v (xq + zero_point) * packed + packed bias == sum_v xq * cq + score_bias, in the types the dot takes."""
    rng = _rng()
    read, dot = ISAS[name].table_read, ISAS[name].dot
    c, k, v = 5, 16, 7
    cents = rng.integers(-127, 128, (c, k, v)).astype("int8")
    inv, bias = rng.uniform(1, 2, c).astype("float32"), rng.integers(-(2**28), 2**28, (c, k)).astype("int32")
    padded, slots = -(-c // read.group) * read.group, linear_slots(v, dot.depth)
    packed, packed_inv, packed_bias, zero_point = pack.pack_search(
        cents, inv, bias, padded, dot, Search("int8", signed), slots, c * v
    )
    assert packed.dtype == dot.c_dtype
    assert packed.shape == (-(-c // read.group) * read.group, k, -(-v // dot.depth), dot.depth)
    np.testing.assert_array_equal(packed_inv[:c], inv)
    low, high = (-128, 127) if signed else (0, 255)
    for value in (low, high, *rng.integers(low, high + 1, 3)):
        xq = np.full(v, value)
        stored = xq + zero_point
        limits = np.iinfo(dot.x_dtype)
        assert limits.min <= stored.min() and stored.max() <= limits.max
        weights = packed.reshape(len(packed), k, -1)[:c, :, :v].astype(np.int64)
        got = weights @ stored + packed_bias[:c].astype(np.int64)
        np.testing.assert_array_equal(got, cents.astype(np.int64) @ xq + bias)


@pytest.mark.parametrize("name", ISAS)
def test_int6_scores_hold_their_index(name: str) -> None:
    """The four low bits of every score are 15 - k, also of codebooks that are padding."""
    rng = _rng()
    read, dot = ISAS[name].table_read, ISAS[name].dot
    cents, bias = rng.integers(-31, 32, (5, 9, 7)) * 4, rng.integers(-(2**20), 2**20, (5, 9)).astype("int32") * 16
    inv, padded, slots = np.ones(5, "float32"), -(-5 // read.group) * read.group, linear_slots(7, dot.depth)
    search = Search("int6", True)
    packed, _, packed_bias, zero_point = pack.pack_search(
        cents.astype("int8"), inv, bias, padded, dot, search, slots, 35
    )
    stored = rng.integers(-32, 32, 7) * 4 + zero_point
    scores = packed.reshape(padded, 9, -1)[:, :, :7].astype(np.int64) @ stored + packed_bias
    np.testing.assert_array_equal(scores & 15, np.broadcast_to(15 - np.arange(9), scores.shape))
    np.testing.assert_array_equal(scores[:5] >> 4, (cents @ (stored - zero_point) + bias) >> 4)
    with pytest.raises(ValueError, match="multiples of 4"):
        pack.pack_search((cents + 1).astype("int8"), inv, bias, padded, dot, search, slots, 35)


@pytest.mark.parametrize("name", ISAS)
def test_float_search(name: str) -> None:
    rng = _rng()
    read = ISAS[name].table_read
    cents = rng.standard_normal((5, 8, 7)).astype("float32")
    padded = -(-5 // read.group) * read.group
    packed, inv, norm, zero_point = pack.pack_search(
        cents, None, None, padded, FLOAT_DOT, Search("float32", True), linear_slots(7, 1), 33
    )
    assert inv is None and zero_point == 0 and packed.dtype == norm.dtype == np.float32
    assert (packed[4, :, 5:] == 0).all(), "no weight behind the end of a row"
    x = rng.standard_normal((4, 5, 7))
    x[:, 4, 5:] = 0
    score = np.einsum("ncv,ckv->nck", x, packed[:5].reshape(5, 8, 7)) + norm[:5]
    distance = ((x[:, :, None] - cents) ** 2).sum(-1)
    apart = score * 2 + distance  # the same for all centroids: scores rank as distances do
    np.testing.assert_allclose(apart, np.broadcast_to(apart[..., :1], apart.shape), atol=1e-5)


@pytest.mark.parametrize("name", [n for n, isa in ISAS.items() if isa.table_read.acc_dtype == "int16"])
@pytest.mark.parametrize("c", [2, 257, 258, 259, 260, 600, 607])
def test_no_chunk_can_overflow_int16(name: str, c: int) -> None:
    read = ISAS[name].table_read
    for table in (np.full((c, 16, 2), 127, "int8"), np.full((c, 16, 2), -128, "int8")):
        codebooks = pack.padded_codebooks(table, read)
        chunk, groups = pack.drain_chunk(table, read, codebooks), codebooks // read.group
        assert groups % (chunk or groups) == 0
        assert min(c, (chunk or groups) * read.group) * np.abs(table.astype(int)).max() <= 32767


@pytest.mark.parametrize("name", [n for n, isa in ISAS.items() if isa.table_read.acc_dtype == "int16"])
def test_drains_are_rare_whatever_the_number_of_codebooks(name: str) -> None:
    """A drain costs as much as several table reads: with a prime number of groups there must not be one after each."""
    read = ISAS[name].table_read
    table = np.full((607 * read.group, 16, 1), 127, "int8")
    codebooks = pack.padded_codebooks(table, read)
    assert codebooks - len(table) < 32
    assert pack.drain_chunk(table, read, codebooks) * read.group >= 32


@pytest.mark.parametrize("dtype", ["int8", "float32"])
@pytest.mark.parametrize(("c", "k", "v", "d"), [(3, 16, 4, 10), (1, 4, 5, 5), (4, 8, 3, 12)])
def test_table_from_weights(dtype: str, c: int, k: int, v: int, d: int) -> None:
    rng = _rng()
    cents, weight = rng.standard_normal((c, k, v)).astype("float32"), rng.standard_normal((5, d)).astype("float32")
    weight[3] = 0
    table, scale = pack.build_table(cents, weight, dtype)
    assert table.shape == (c, k, 5) and table.dtype == dtype and scale.dtype == np.float32
    padded = np.zeros((5, c * v))
    padded[:, :d] = weight
    exact = np.stack([cents[i].astype("float64") @ padded[:, i * v : (i + 1) * v].T for i in range(c)])
    if dtype == "float32":
        np.testing.assert_array_equal(scale, np.ones(5, "float32"))
        np.testing.assert_allclose(table, exact, rtol=1e-6, atol=1e-7)
        return
    assert scale[3] == 1 and (table[..., 3] == 0).all()
    assert (np.abs(table.astype(int)).max((0, 1))[[0, 1, 2, 4]] == 127).all()
    assert (np.abs(table * scale - exact) <= scale * 0.5001).all()
