"""Parallel loops: one where a kernel's work is worth waking threads for, enough iterations for them, and else none."""

from __future__ import annotations

import re

import pytest

from tests.tvm_ext.layers import Layer, module_of
from tests.tvm_ext.targets import TARGETS
from tvm_ext import pipeline
from tvm_ext.threads import SHARES

SMALL = [
    Layer("one_row", (1, 768), 768, length=16, search="s8"),
    Layer("image", (1, 8, 14, 14), 16, length=9, kernel=(3, 3), pads=(1, 1, 1, 1)),
]
LARGE = [
    Layer("map_7x7", (1, 512, 7, 7), 512, length=9, kernel=(3, 3), pads=(1, 1, 1, 1)),
    Layer("map_56x56", (1, 64, 56, 56), 64, length=9, kernel=(3, 3), pads=(1, 1, 1, 1)),
    Layer("dense", (128, 3072), 768, length=16, search="s8"),
    Layer("one_row_of_many", (1, 2048), 8192, length=16, search="s8"),
]


def _kernels(layer: Layer) -> dict[str, list[int]]:
    """Extents of the parallel loops of every lut kernel of a layer, by the kernel's name."""
    scheduled = pipeline.schedule(module_of([layer]), TARGETS["avx512_vbmi"])
    return {
        gv.name_hint: [int(n) for n in re.findall(r"T\.parallel\((\d+)\)", func.script())]
        for gv, func in scheduled.functions_items()
        if gv.name_hint.startswith("lut_")
    }


@pytest.mark.parametrize("layer", SMALL, ids=lambda layer: layer.name)
def test_a_small_kernel_stays_on_its_thread(layer: Layer) -> None:
    assert not any(_kernels(layer).values())


@pytest.mark.parametrize("layer", LARGE, ids=lambda layer: layer.name)
def test_a_large_table_read_is_shared_over_rows_or_outputs(layer: Layer) -> None:
    (loops,) = (loops for name, loops in _kernels(layer).items() if name.startswith("lut_lookup"))
    assert len(loops) == 1 and loops[0] >= SHARES


@pytest.mark.parametrize("layer", LARGE, ids=lambda layer: layer.name)
def test_there_is_one_parallel_region_at_most(layer: Layer) -> None:
    assert all(len(loops) <= 1 for loops in _kernels(layer).values())
