"""Every kernel of the integer layers gives the sums of the definition: one module an ISA, compiled once."""

from __future__ import annotations

import numpy as np
import pytest

from tests.execute import build_and_execute
from tests.tvm_ext.integer_layers import APOT, IntegerLayer, inputs_of, module_of
from tests.tvm_ext.targets import TARGETS

_SAME = (1, 1, 1, 1)
_BYTE = tuple(range(-127, 128))
LAYERS = [
    IntegerLayer("dense_one_row", (1, 20), 10),
    IntegerLayer("dense_in_place", (3, 100), 70, levels=(0, 1, 2, 3), weights=(-1, 0, 1), relu=True, residual=True),
    IntegerLayer("dense_in_place_drained", (1, 900), 37, levels=APOT),
    IntegerLayer("dense_rows", (37, 70), 33, residual=True),
    IntegerLayer("dense_rank3", (2, 5, 24), 7, levels=tuple(range(-4, 4)), residual=True),
    IntegerLayer("dense_bytes", (5, 300), 9, levels=tuple(range(256)), weights=_BYTE),
    IntegerLayer("dense_u7", (9, 130), 18, levels=(0, 5, 127), weights=_BYTE),
    IntegerLayer("dense_extreme", (5, 400), 9, levels=(0, 127), weights=(-127, 127), uneven=True),
    IntegerLayer("dense_words", (5, 70), 33, levels=(0, 700, 1500, 3000), weights=(-1000, 5, 1200)),
    IntegerLayer("dense_signed_words", (1, 33), 5, levels=(-3000, 0, 2999), weights=(-1000, 5, 1200), uneven=True),
    IntegerLayer("dense_one_value", (2, 12), 5, weights=(3,)),
    IntegerLayer("conv_3x3", (1, 21, 9, 10), 20, kernel=(3, 3), pads=_SAME, relu=True),
    IntegerLayer("conv_binary", (2, 5, 6, 6), 9, levels=(-1, 1), weights=(-1, 1), kernel=(3, 3), pads=_SAME),
    IntegerLayer("conv_few_channels", (2, 3, 7, 18), 16, levels=APOT, kernel=(3, 3), pads=(1, 0, 2, 1), strides=(2, 1)),
    IntegerLayer("conv_dilated", (1, 16, 9, 7), 5, kernel=(3, 3), pads=(2, 2, 2, 2), dilations=(2, 2), residual=True),
    IntegerLayer("conv_1x1_strided", (1, 18, 8, 8), 33, kernel=(1, 1), strides=(2, 2), weights=APOT),
    IntegerLayer("conv_5x1", (1, 4, 9, 2), 3, kernel=(5, 1), pads=(2, 0, 2, 0), weights=(-3, -1, 1, 3)),
    IntegerLayer("conv_signed", (1, 8, 5, 5), 8, levels=(-8, -3, -1, 0, 2, 7), uneven=True, kernel=(3, 3), pads=_SAME),
    IntegerLayer("conv_zero_is_no_level", (1, 6, 6, 6), 8, levels=(3, 5, 9), uneven=True, kernel=(3, 3), pads=_SAME),
    IntegerLayer("conv_one_position", (1, 40, 3, 3), 17, kernel=(3, 3), residual=True, relu=True),
    IntegerLayer("conv_words", (1, 5, 4, 6), 7, levels=(-300, 0, 400), weights=(-999, 800), kernel=(3, 3), pads=_SAME),
    IntegerLayer("conv_runs_7x7", (2, 3, 21, 34), 20, levels=tuple(range(-100, 27)), weights=_BYTE, kernel=(7, 7),
                 pads=(3, 3, 3, 3), strides=(2, 2), relu=True),
    IntegerLayer("conv_runs_gray", (1, 1, 12, 19), 9, levels=(0, 3, 99), weights=_BYTE, kernel=(3, 3), pads=_SAME),
    IntegerLayer("conv_runs_narrow", (1, 2, 9, 7), 5, levels=tuple(range(-4, 12)), kernel=(5, 5), pads=(2, 0, 1, 2)),
    IntegerLayer("conv_mixed_bytes", (1, 9, 6, 17), 8, levels=tuple(range(-150, 106)), weights=_BYTE, kernel=(1, 1)),
    IntegerLayer("conv_tall", (1, 64, 23, 3), 40, kernel=(1, 1), residual=True),
]  # fmt: skip


@pytest.fixture(scope="module", params=TARGETS)
def results(request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    values, _ = build_and_execute(module_of(LAYERS), inputs_of(LAYERS), TARGETS[request.param])
    return {layer.name: value for layer, value in zip(LAYERS, values, strict=True)}


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_sums_are_exact(layer: IntegerLayer, results: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(results[layer.name], layer.reference())
