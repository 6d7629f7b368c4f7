"""NaN and infinities in the input: nothing crashes, codes stay below K, and positions that hold none stay exact."""

from __future__ import annotations

import numpy as np
import pytest

from tests import oracle
from tests.execute import build_and_execute
from tests.tvm_ext.layers import Layer, module_of
from tests.tvm_ext.targets import COMPOSED, TARGETS

_CONV = {"length": 9, "kernel": (3, 3), "pads": (1, 1, 1, 1), "table": "identity"}
LAYERS = [
    Layer("u8", (19, 12), 3, table="identity"),
    Layer("s8", (19, 12), 3, table="identity", search="s8"),
    Layer("f32", (19, 12), 3, table="identity", search="f32"),
    Layer("k32", (19, 12), 3, table="identity", search="s8", centroids=32),
    Layer("k32_f32", (19, 12), 3, table="identity", search="f32", centroids=32),
    Layer("one_row", (1, 12), 3, table="identity"),
    Layer("conv_u8", (1, 3, 9, 9), 3, **_CONV),
    Layer("conv_f32", (1, 3, 9, 9), 3, search="f32", **_CONV),
]
_BAD = (np.nan, np.inf, -np.inf)


def _spoiled(layer: Layer) -> np.ndarray:
    """The inputs with NaN, inf and -inf in three rows (or pixels); int8 search also meets values far out of range."""
    x = layer.inputs()
    if layer.search != "f32":
        x.reshape(-1)[:2] = 1e30, -1e30
    spots = x.reshape(x.shape[1], -1).T[5::11] if layer.kernel else x[5:]
    for row, value in zip(spots, _BAD, strict=False):
        row[1] = value
    if len(x) == 1 and not layer.kernel:
        x[0, 3] = np.nan
    return x


def _positions_with(bad: np.ndarray, layer: Layer) -> np.ndarray:
    """bool [..., C] like the codes: whose subvector reads a bad element."""
    rows = bad.astype("float32")
    if layer.kernel:
        rows = oracle.im2col(rows, layer.kernel, layer.strides, layer.pads, layer.dilations)
    return rows.reshape(*rows.shape[:-1], layer.num_codebooks, layer.length).any(-1)


@pytest.fixture(scope="module", params=[isa for isa in TARGETS if isa not in COMPOSED])
def results(request: pytest.FixtureRequest) -> list[np.ndarray]:
    return build_and_execute(module_of(LAYERS), [_spoiled(layer) for layer in LAYERS], TARGETS[request.param])[0]


def test_codes_stay_in_range_and_other_rows_exact(results: list[np.ndarray]) -> None:
    for layer, y in zip(LAYERS, results, strict=True):
        x = _spoiled(layer)
        bad = ~np.isfinite(x)
        assert bad.any()
        y = np.moveaxis(y, 1, -1) if layer.kernel else y  # the table makes column c the code of codebook c
        assert ((y >= 0) & (y < layer.centroids) & (y == np.rint(y))).all(), layer.name
        _, codes = layer.reference(np.where(bad, 0, x).astype("float32"))
        keep = ~_positions_with(bad, layer)
        if layer.search == "f32":
            keep &= ~layer.near_ties()
        assert keep.mean() > 0.5 or layer.x[0] == 1
        np.testing.assert_array_equal(y[keep], codes[keep], err_msg=layer.name)
