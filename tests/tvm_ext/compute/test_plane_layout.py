"""PlaneLayout: bordered rows phase by phase, and what is left out."""

from __future__ import annotations

import pytest

from tvm_ext.compute.patches import Patches
from tvm_ext.compute.plane_layout import PlaneLayout


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_rows_do_not_overlap_and_output_rows_follow_each_other(stride: int) -> None:
    layout = PlaneLayout.of(Patches((1, 1, 9, 11), (3, 3), (stride, stride), (1, 1, 1, 1)))
    assert (layout.pitch, layout.columns, layout.phases) == (13, 11, stride)
    starts = sorted(layout.row(r) for r in range(9 + 2))
    assert len(set(starts)) == len(starts) and all(start % layout.pitch == 0 for start in starts)
    assert starts[-1] + layout.pitch <= layout.elements
    for r in range(11 - stride):
        assert layout.row(r + stride) == layout.row(r) + layout.pitch


def test_what_no_1x1_kernel_reads_is_left_out() -> None:
    layout = PlaneLayout.of(Patches((1, 1, 9, 11), (1, 1), (2, 2)))
    assert (layout.phases, layout.phase_rows, layout.columns, layout.pitch, layout.elements) == (1, 5, 6, 6, 30)
    assert [layout.row(r) for r in (0, 2, 4)] == [0, 6, 12]


def test_a_border_keeps_all_columns() -> None:
    layout = PlaneLayout.of(Patches((1, 1, 9, 11), (1, 1), (2, 2), (0, 1, 0, 1)))
    assert (layout.phases, layout.column_step, layout.pitch) == (1, 1, 13)
