"""Compiled layers of hash trees equal the numpy oracle, every ISA: all of it is comparisons, so nothing may differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tests.execute import build_and_execute
from tests.tvm_ext.layers import Layer, check, check_codes, inputs_of, module_of
from tests.tvm_ext.targets import COMPOSED, TARGETS

_SAME = (1, 1, 1, 1)
LAYERS = [
    Layer("codes_u8", (70, 33), 11, length=3, table="identity"),
    Layer("codes_s8", (35, 35), 12, length=3, table="identity", search="s8"),
    Layer("float", (35, 32), 11, length=3, table="identity", search="f32"),
    Layer("k2", (17, 12), 3, centroids=2, table="identity"),
    Layer("k8_f32", (600, 12), 3, centroids=8, table="identity", search="f32"),
    Layer("k64", (17, 12), 3, centroids=64, table="identity", search="s8"),
    Layer("many_rows", (1100, 8), 2, table="identity", search="s8"),
    Layer("c_batch", (2, 3, 7, 9), 3, length=9, kernel=(3, 3), pads=_SAME, table="identity"),
    Layer("c_wide", (1, 5, 20, 37), 5, length=9, kernel=(3, 3), pads=_SAME, table="identity", search="s8"),
    Layer("c_stride", (1, 2, 9, 40), 2, length=9, kernel=(3, 3), pads=(0, 1, 2, 0), strides=(2, 2), search="s8",
          table="identity"),
    Layer("c_stride_f32", (1, 2, 9, 40), 2, length=9, kernel=(3, 3), pads=_SAME, strides=(1, 2), search="f32",
          table="identity"),
    Layer("c_split", (1, 2, 5, 7), 4, length=5, kernel=(3, 3), pads=_SAME, table="identity"),
]  # fmt: skip
MORE = [
    Layer("one_row", (1, 12), 5),
    Layer("three_rows", (3, 10), 1, search="s8"),
    Layer("logical_codes", (17, 10), 5, search="s8", codes=True),
    Layer("float_one_level", (9, 10), 4, centroids=2, search="f32"),
    Layer("coarse", (64, 19), 5, table="identity", coarse=True, search="s8"),
    Layer("coarse_u8", (64, 20), 5, table="identity", coarse=True),
    Layer("long", (40, 75), 3, length=25, table="identity"),
    Layer("k4", (17, 12), 3, centroids=4, table="identity", search="s8"),
    Layer("k256", (6, 10), 7, centroids=256, search="f32", codes=True),
    Layer("float_table", (17, 12), 5, table="float32"),
    Layer("mult_relu", (33, 18), 5, mult=True, affine=True, relu=True, residual=True),
    Layer("rank3", (2, 9, 12), 7),
    Layer("c_wide_f32", (1, 2, 36, 37), 2, length=9, kernel=(3, 3), pads=_SAME, table="identity", search="f32"),
    Layer("c_stride3", (2, 2, 9, 11), 2, length=9, kernel=(3, 3), pads=_SAME, strides=(3, 3), table="identity"),
    Layer("c_dilation", (1, 3, 11, 10), 3, length=9, kernel=(3, 3), pads=(2, 1, 0, 3), dilations=(2, 1),
          strides=(1, 2), search="s8", codes=True, table="identity"),
    Layer("c1x1_stride", (1, 8, 7, 7), 5, kernel=(1, 1), strides=(2, 2), search="s8"),
    Layer("c_split_f32", (2, 2, 5, 7), 4, length=5, kernel=(3, 3), pads=_SAME, search="f32", table="identity"),
    Layer("c_two_channels", (1, 3, 6, 5), 2, length=18, kernel=(3, 3), pads=_SAME, search="s8", table="identity"),
    Layer("c_one_position", (1, 3, 3, 3), 5, length=9, kernel=(3, 3), search="s8"),
    Layer("c_k64", (2, 3, 5, 5), 3, length=9, kernel=(3, 3), pads=_SAME, centroids=64, codes=True, table="identity"),
    Layer("c_drain", (1, 600, 3, 3), 5, length=1, kernel=(1, 1), table="extreme"),
]  # fmt: skip


@pytest.mark.parametrize("isa", [isa for isa in TARGETS if isa not in {"neon_dotprod"} | COMPOSED])
def test_every_isa(isa: str) -> None:
    _check(LAYERS, isa)


@pytest.mark.parametrize("isa", ["neon_dotprod", "neon_little_narrow", "neon_wide_narrow"])
def test_every_order_of_codes(isa: str) -> None:
    """The walk is NEON's on all of them; what differs is how codes lie in a tile."""
    _check([layer for layer in LAYERS if layer.name in ("codes_u8", "c_batch")], isa)


def test_more_shapes() -> None:
    """What depends on the shape alone, on the ISA whose tiles are the most intricate."""
    _check(MORE, "avx512_vbmi")


def _check(layers: Sequence[Layer], isa: str) -> None:
    """From one compile of all layers; codes that no table read consumes come in logical layout."""
    layers = [Layer(**vars(layer) | {"tree": True}) for layer in layers]
    results, _ = build_and_execute(module_of(layers), inputs_of(layers), TARGETS[isa])
    for layer, got in zip(layers, results, strict=False):
        check(layer, got)
    for layer, got in zip([layer for layer in layers if layer.codes], results[len(layers) :], strict=True):
        check_codes(layer, got)


def test_not_a_number_goes_to_the_first_child() -> None:
    """A float comparison with NaN is false; an infinity is larger or smaller than any threshold but itself."""
    layer = Layer("float", (35, 32), 11, length=3, table="identity", search="f32", tree=True)
    x = layer.inputs()
    x[::3, ::2], x[1::3, 1::2], x[2::3] = np.nan, np.inf, -np.inf
    (got,), _ = build_and_execute(module_of([layer]), [x], TARGETS["generic"])
    np.testing.assert_array_equal(got, layer.reference(x)[0])
