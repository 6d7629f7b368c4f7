"""Compiled layers equal the numpy oracle: every ISA over odd shapes, searches, tables and epilogues."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from tests.execute import build_and_execute
from tests.tvm_ext.layers import Layer, check, check_codes, inputs_of, module_of
from tests.tvm_ext.targets import COMPOSED, TARGETS, least_table_bits

DENSE = [
    Layer("one_row", (1, 12), 5),
    Layer("three_rows", (3, 10), 1, search="s8"),
    Layer("few_rows_ties", (9, 19), 5, table="identity", coarse=True),
    Layer("few_rows_k8", (11, 18), 2, length=9, centroids=8, table="identity", search="s8"),
    Layer("few_rows_long", (2, 96), 3, length=32, table="identity", search="s8"),
    Layer("few_rows_wide", (2, 12), 256, affine=True, relu=True),
    Layer("few_rows_odd", (3, 12), 40),
    Layer("seventeen", (17, 10), 5, search="s8", codes=True),
    Layer("outputs_12", (33, 20), 12),
    Layer("outputs_33", (17, 20), 33),
    Layer("outputs_1", (40, 12), 1),
    Layer("k4", (17, 12), 5, centroids=4, codes=True),
    Layer("k8_one_codebook", (5, 9), 5, length=9, centroids=8),
    Layer("k32", (17, 12), 5, centroids=32, search="s8", codes=True),
    Layer("k256", (6, 10), 7, centroids=256),
    Layer("long_subvector", (17, 150), 5, length=75, search="s8"),
    Layer("codes_u8", (35, 33), 11, length=3, table="identity"),
    Layer("codes_s8", (35, 32), 11, length=3, table="identity", search="s8"),
    Layer("codes_k8", (19, 12), 3, centroids=8, table="identity"),
    Layer("codes_k12", (19, 12), 3, centroids=12, table="identity", search="s8", coarse=True),
    Layer("codes_f32", (35, 32), 11, length=3, table="identity", search="f32", codes=True),
    Layer("ties_u8", (64, 20), 5, table="identity", coarse=True),
    Layer("ties_s8", (64, 19), 5, table="identity", coarse=True, search="s8"),
    Layer("ties_k32", (64, 19), 5, coarse=True, search="s8", centroids=32),
    Layer("dead_u8", (17, 12), 3, table="identity", dead=True),
    Layer("codes_scored", (35, 32), 11, length=3, table="identity", search="f32", scored=True, codes=True),
    Layer("scored_k32", (17, 10), 5, centroids=32, search="f32", scored=True),
    Layer("dead_f32", (17, 12), 3, table="identity", dead=True, search="f32"),
    Layer("float_k8", (17, 10), 5, centroids=8, search="f32"),
    Layer("float_k32", (17, 10), 5, centroids=32, search="f32"),
    Layer("float_table", (17, 12), 5, table="float32"),
    Layer("float_table_f32", (17, 12), 33, table="float32", search="f32", affine=True),
    Layer("mult", (33, 18), 5, mult=True),
    Layer("mult_float_table", (17, 12), 5, mult=True, table="float32"),
    Layer("mult_one_row", (1, 18), 5, mult=True, search="s8"),
    Layer("affine", (17, 16), 8, affine=True),
    Layer("relu", (17, 16), 8, relu=True),
    Layer("relu6", (17, 16), 8, relu6=True, affine=True),
    Layer("residual", (17, 16), 9, residual=True, relu=True, affine=True),
    Layer("residual_one_row", (1, 16), 9, residual=True, relu=True),
    Layer("rank1", (12,), 5, codes=True),
    Layer("rank3", (2, 9, 12), 7, codes=True),
    Layer("rank3_residual", (3, 5, 10), 7, residual=True, relu=True, search="s8"),
    Layer("int6_one_row", (1, 12), 5, search="s6"),
    Layer("int6_few_rows", (9, 19), 5, table="identity", coarse=True, search="u6"),
    Layer("int6_u", (35, 33), 11, length=3, table="identity", search="u6", codes=True),
    Layer("int6_s", (35, 32), 8, table="identity", search="s6", codes=True),
    Layer("int6_runs", (40, 64), 4, length=16, table="identity", search="s6"),
    Layer("int6_long", (18, 64), 2, length=32, table="identity", search="u6", affine=True),
    Layer("int6_ties", (64, 19), 5, table="identity", coarse=True, search="s6"),
    Layer("int6_k8", (19, 12), 3, centroids=8, table="identity", search="s6"),
    Layer("int6_k32", (17, 12), 5, centroids=32, search="u6"),
    Layer("drain", (40, 600), 5, length=1, table="extreme"),
    Layer("drain_odd", (33, 607), 3, length=1, table="extreme", search="s8"),
    Layer("drain_affine", (35, 600), 8, length=1, table="extreme", affine=True, relu=True, residual=True),
]

_SAME = (1, 1, 1, 1)
CONV = [
    Layer("c3x3", (1, 3, 7, 7), 5, length=9, kernel=(3, 3), pads=_SAME, codes=True),
    Layer("c_stride", (1, 2, 9, 8), 12, length=9, kernel=(3, 3), pads=(0, 1, 2, 0), strides=(2, 2), search="s8"),
    Layer("c_dilation", (1, 1, 9, 9), 5, length=9, kernel=(3, 3), pads=(2, 2, 2, 2), dilations=(2, 2)),
    Layer("c_dilation_stride", (1, 3, 11, 10), 5, length=9, kernel=(3, 3), pads=(2, 1, 0, 3), dilations=(2, 1),
          strides=(1, 2), search="s8", codes=True),
    Layer("c1x1", (1, 6, 5, 5), 33, kernel=(1, 1)),
    Layer("c1x1_stride", (1, 8, 7, 7), 5, kernel=(1, 1), strides=(2, 2), search="s8"),
    Layer("c1x1_padded", (2, 8, 3, 3), 2, kernel=(1, 1), pads=_SAME, search="s8", table="identity"),
    Layer("c1x1_wide", (2, 12, 5, 19), 5, kernel=(1, 1), search="s8", codes=True),
    Layer("c1x1_wide_u8", (1, 8, 3, 32), 2, kernel=(1, 1), table="identity"),
    Layer("c1x1_long", (1, 16, 5, 6), 2, length=8, kernel=(1, 1), table="identity", search="s8"),
    Layer("c1x1_stride_wide", (2, 8, 9, 37), 2, kernel=(1, 1), strides=(2, 2), table="identity"),
    Layer("c1x1_stride_odd", (1, 8, 7, 50), 2, kernel=(1, 1), strides=(1, 3), table="identity", search="s8"),
    Layer("c1x1_stride_padded", (1, 8, 5, 20), 2, kernel=(1, 1), strides=(2, 2), pads=(1, 0, 1, 0), table="identity"),
    Layer("c1x1_f32", (2, 8, 5, 19), 2, kernel=(1, 1), strides=(2, 2), table="identity", search="f32"),
    Layer("c3x3_stride_wide", (2, 2, 23, 38), 2, length=9, kernel=(3, 3), pads=_SAME, strides=(2, 2), search="s8",
          table="identity"),
    Layer("c5x5_stride", (1, 2, 20, 33), 2, length=25, kernel=(5, 5), pads=(2, 2, 2, 2), strides=(3, 2),
          dilations=(2, 1), table="identity"),
    Layer("c_stride_f32", (2, 3, 6, 21), 3, length=9, kernel=(3, 3), pads=_SAME, strides=(2, 2), search="f32",
          table="identity"),
    Layer("c_split", (1, 2, 5, 7), 5, length=5, kernel=(3, 3), pads=_SAME, codes=True),
    Layer("c_split_s8", (1, 5, 6, 5), 9, length=5, kernel=(3, 3), pads=(1, 0, 0, 1), search="s8", table="identity"),
    Layer("c_scored", (2, 3, 6, 21), 3, length=9, kernel=(3, 3), pads=_SAME, search="f32", table="identity",
          scored=True),
    Layer("c_split_scored", (1, 2, 5, 7), 5, length=5, kernel=(3, 3), pads=_SAME, search="f32", scored=True),
    Layer("c_split_f32", (1, 2, 5, 7), 5, length=5, kernel=(3, 3), pads=_SAME, search="f32"),
    Layer("c_two_channels", (1, 3, 6, 5), 2, length=18, kernel=(3, 3), pads=_SAME, search="s8", table="identity"),
    Layer("c_two_channels_u8", (1, 5, 6, 5), 3, length=18, kernel=(3, 3), pads=_SAME, table="identity"),
    Layer("c_two_channels_f32", (1, 3, 6, 5), 2, length=18, kernel=(3, 3), pads=_SAME, search="f32", table="identity"),
    Layer("c_batch", (3, 3, 5, 5), 5, length=9, kernel=(3, 3), pads=_SAME),
    Layer("c_batch_f32", (3, 3, 5, 5), 3, length=9, kernel=(3, 3), pads=_SAME, search="f32", table="identity",
          codes=True),
    Layer("c_1x3", (1, 4, 4, 9), 6, length=3, kernel=(1, 3), pads=(0, 1, 0, 1), strides=(1, 2)),
    Layer("c_one_position", (1, 3, 3, 3), 5, length=9, kernel=(3, 3), search="s8"),
    Layer("c_k4", (1, 3, 5, 5), 1, length=9, kernel=(3, 3), pads=_SAME, centroids=4),
    Layer("c_k8_f32", (1, 3, 5, 5), 5, length=9, kernel=(3, 3), pads=_SAME, centroids=8, search="f32"),
    Layer("c_k8", (1, 3, 5, 5), 3, length=9, kernel=(3, 3), pads=_SAME, centroids=8, search="s8", table="identity"),
    Layer("c_k12_f32", (1, 3, 5, 5), 3, length=9, kernel=(3, 3), pads=_SAME, centroids=12, search="f32",
          table="identity"),
    Layer("c_long_f32", (1, 4, 5, 5), 2, length=18, kernel=(3, 3), pads=_SAME, search="f32", table="identity"),
    Layer("c_k32", (2, 3, 5, 5), 5, length=9, kernel=(3, 3), pads=_SAME, centroids=32, codes=True),
    Layer("c_k256", (1, 4, 3, 3), 5, length=4, kernel=(1, 1), centroids=256, search="s8"),
    Layer("c_float_table", (2, 3, 5, 5), 5, length=9, kernel=(3, 3), pads=_SAME, table="float32", residual=True),
    Layer("c_mult", (2, 5, 5, 5), 5, length=9, kernel=(3, 3), pads=_SAME, mult=True),
    Layer("c_mult_relu", (1, 5, 5, 5), 5, length=9, kernel=(3, 3), pads=_SAME, mult=True, affine=True, relu=True),
    Layer("c_residual", (3, 3, 5, 5), 8, length=9, kernel=(3, 3), pads=_SAME, affine=True, relu=True, residual=True),
    Layer("c_relu6", (1, 8, 7, 7), 8, length=9, kernel=(3, 3), pads=_SAME, affine=True, relu6=True, residual=True),
    Layer("c_ties", (1, 5, 8, 8), 5, length=9, kernel=(3, 3), pads=_SAME, coarse=True, table="identity"),
    Layer("c_dead", (1, 3, 5, 5), 3, length=9, kernel=(3, 3), pads=_SAME, dead=True, table="identity", search="s8"),
    Layer("c_int6", (1, 5, 9, 10), 5, length=9, kernel=(3, 3), pads=_SAME, search="u6", table="identity", codes=True),
    Layer("c_int6_s", (2, 3, 7, 7), 3, length=9, kernel=(3, 3), pads=_SAME, search="s6", table="identity"),
    Layer("c_int6_stride", (1, 3, 9, 20), 5, length=9, kernel=(3, 3), pads=_SAME, strides=(2, 2), search="u6"),
    Layer("c_int6_1x1", (2, 12, 5, 19), 3, kernel=(1, 1), search="s6", table="identity"),
    Layer("c_int6_split", (1, 2, 5, 7), 5, length=5, kernel=(3, 3), pads=_SAME, search="u6"),
    Layer("c_int6_k8", (1, 3, 5, 5), 3, length=9, kernel=(3, 3), pads=_SAME, centroids=8, search="u6",
          table="identity", coarse=True),
    Layer("c_int6_k32", (1, 3, 5, 5), 5, length=9, kernel=(3, 3), pads=_SAME, centroids=32, search="s6"),
    Layer("c_drain", (2, 600, 3, 3), 5, length=1, kernel=(1, 1), table="extreme"),
    Layer("c_rows", (1, 12, 3, 3), 20, length=9, kernel=(3, 3), pads=_SAME, affine=True, relu=True, residual=True),
    Layer("c_rows_chunks", (2, 40, 7, 7), 130, length=9, kernel=(3, 3), pads=_SAME, search="s8", affine=True),
    Layer("c_drain_relu", (1, 600, 5, 4), 6, length=1, kernel=(1, 1), table="extreme", relu=True, residual=True),
]  # fmt: skip
_OF_TILES = {
    "one_row", "seventeen", "outputs_33", "k8_one_codebook", "codes_s8", "codes_k8", "codes_f32", "drain_affine",
    "c3x3", "c1x1", "c_stride", "c_split_s8", "c_batch", "c_residual", "c_one_position", "c_k12_f32", "c_batch_f32",
    "c_drain", "c_drain_relu", "c_relu6", "c_rows", "c_rows_chunks", "int6_one_row", "int6_s", "int6_runs", "c_int6",
    "c_int6_1x1", "codes_scored", "c_scored",
}  # fmt: skip
GROUPS = {"dense": DENSE, "conv2d": CONV}


@dataclass(frozen=True)
class Results:
    """Everything the layers of a group give on an ISA, from one compile: by name, codes as "NAME.codes"."""

    values: dict[str, np.ndarray]
    table_bits: dict[str, int]

    def check(self, layer: Layer) -> None:
        if layer.name not in self.values:
            pytest.skip("covered by the ISAs that this one is made of")
        check(layer, self.values[layer.name], self.table_bits[layer.name])


def _run(group: str, isa: str) -> Results:
    layers, target = _layers(group, isa), TARGETS[isa]
    values, built = build_and_execute(module_of(layers), inputs_of(layers), target, table_bits=least_table_bits(isa))
    names = [layer.name for layer in layers] + [f"{layer.name}.codes" for layer in layers if layer.codes]
    bits = {row["name"]: row["table_bits"] for row in built.layers}
    assert isa.endswith("_narrow") == any(count < 8 for count in bits.values())
    return Results(dict(zip(names, values, strict=True)), bits)


def _layers(group: str, isa: str) -> list[Layer]:
    """All of a group, or a few for ISAs made of the parts of others: what their own tiles of codes take part in."""
    return [layer for layer in GROUPS[group] if isa not in COMPOSED or layer.name in _OF_TILES]


@pytest.fixture(scope="module", params=TARGETS)
def dense(request: pytest.FixtureRequest) -> Results:
    return _run("dense", request.param)


@pytest.fixture(scope="module", params=TARGETS)
def conv2d(request: pytest.FixtureRequest) -> Results:
    return _run("conv2d", request.param)


@pytest.mark.parametrize("layer", DENSE, ids=lambda layer: layer.name)
def test_dense(layer: Layer, dense: Results) -> None:
    dense.check(layer)


@pytest.mark.parametrize("layer", CONV, ids=lambda layer: layer.name)
def test_conv2d(layer: Layer, conv2d: Results) -> None:
    conv2d.check(layer)


def test_logical_codes_of_dense(dense: Results) -> None:
    """Codes that no table read consumes come from the same search, in logical layout."""
    for layer in DENSE:
        if layer.codes and layer.name in dense.values:
            check_codes(layer, dense.values[f"{layer.name}.codes"])


def test_logical_codes_of_conv2d(conv2d: Results) -> None:
    for layer in CONV:
        if layer.codes and layer.name in conv2d.values:
            check_codes(layer, conv2d.values[f"{layer.name}.codes"])
