"""How images are cut into blocks of positions that a table read keeps in registers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tvm_ext.compute.lookup_tiles import blocks_of, panels, step_tile
from tvm_ext.tensor_intrin import list_isas

READS = {isa.name: isa.table_read for isa in list_isas() if isa.table_read.step}


@given(st.integers(1, 500), st.integers(1, 16), st.sampled_from([1, 2]))
def test_blocks_cover_an_image(steps: int, limit: int, grain: int) -> None:
    start = 0
    for count, size in blocks_of(steps, limit, grain):
        assert count >= 1 and 1 <= size <= limit
        for _ in range(count):
            assert start % grain == 0 or limit < grain  # where a tile of codes starts
            start += size
    assert start == steps


def test_no_step_is_left_alone_behind_larger_blocks() -> None:
    assert blocks_of(7, 7, 2) == [(1, 7)]
    assert blocks_of(25, 4, 2) == [(5, 4), (1, 2), (1, 3)]
    assert blocks_of(26, 4, 2) == [(6, 4), (1, 2)]
    assert blocks_of(5, 4, 1) == [(1, 2), (1, 3)]
    assert blocks_of(9, 3, 2) == [(4, 2), (1, 1)]


def test_tiles_fit_registers_and_waste_no_step() -> None:
    for read in READS.values():
        for rows in (1, 9, 49, 196, 784, 3136):
            for outputs in (1, 3, 64, 512):
                tile = step_tile(rows, outputs, read)
                assert tile.steps * tile.outputs * read.step <= read.tiles * read.rows
                assert tile.steps * read.step < rows + read.step and tile.outputs <= max(outputs, 4)
    assert step_tile(49, 512, READS["neon_dotprod"]).steps == 7


def test_panels_stay_in_the_cache_and_give_threads_their_shares() -> None:
    assert panels(128, 1, 4 << 20, False) == 1
    assert panels(128, 2, 4 << 20, False) == 4
    assert panels(128, 2, 1 << 16, True) == 4
    assert panels(2, 1, 1 << 16, True) == 2
