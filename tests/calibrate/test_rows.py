"""The rows a layer reads: the same patches as the oracle cuts, sampled evenly, in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest

from lutc.calibrate import rows as rows_module
from lutc.calibrate.layers import Geometry
from lutc.calibrate.rows import RowSample, patch_rows
from tests.oracle import im2col

RNG = np.random.default_rng(2)
GEOMETRIES = [
    Geometry((3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    Geometry((3, 2), (2, 1), (1, 2), (0, 1, 2, 3)),
    Geometry((1, 1), (2, 2), (1, 1), (0, 0, 0, 0)),
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_patches_are_the_oracle_s(geometry: Geometry) -> None:
    x = RNG.standard_normal((2, 3, 7, 9)).astype(np.float32)
    count, cut = patch_rows(x, geometry)
    expected = im2col(x, geometry.kernel_shape, geometry.strides, geometry.pads, geometry.dilations)
    expected = expected.reshape(-1, expected.shape[-1])
    assert count == len(expected)
    np.testing.assert_array_equal(cut(np.arange(count)), expected)
    np.testing.assert_array_equal(cut(np.array([5, 1])), expected[[5, 1]])
    assert cut(np.array([], int)).shape == (0, expected.shape[1])  # a full sample may want none of a batch


def test_same_upper_keeps_the_size() -> None:
    x = RNG.standard_normal((1, 2, 7, 7)).astype(np.float32)
    count, cut = patch_rows(x, Geometry((3, 3), (2, 2), (1, 1), "SAME_UPPER"))
    np.testing.assert_array_equal(cut(np.arange(count)).reshape(1, 4, 4, 18), im2col(x, (3, 3), (2, 2), (1, 1, 1, 1)))


def test_small_streams_are_kept_whole() -> None:
    sample = RowSample(None, seed=0)
    parts = [RNG.standard_normal((4, 5, 6)).astype(np.float32) for _ in range(3)]
    for part in parts:
        sample.add(part)
    everything = np.concatenate(parts).reshape(-1, 6)
    assert sample.rows is not None
    np.testing.assert_array_equal(sample.rows, everything)
    np.testing.assert_array_equal(sample.low, everything.min(0))
    np.testing.assert_array_equal(sample.high, everything.max(0))


def test_every_row_has_the_same_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "_LEAST_ROWS", 50)
    monkeypatch.setattr(rows_module, "_MOST_ROWS", 50)
    hits = np.zeros(200)
    for seed in range(200):
        sample = RowSample(None, seed)
        for start in range(0, 200, 40):
            sample.add(np.arange(start, start + 40, dtype=np.float32)[:, None])
        assert sample.rows is not None and len(sample.rows) == len(np.unique(sample.rows)) == 50
        hits[sample.rows[:, 0].astype(int)] += 1
    thirds = hits.reshape(5, 40).mean(1)  # expected 50 each, standard deviation of a mean about 1
    assert np.abs(thirds - 50).max() < 5


def test_ranges_are_of_channels_and_padding_is_zero() -> None:
    sample = RowSample(Geometry((2, 2), (1, 1), (1, 1), (0, 0, 0, 1)), seed=0)
    sample.add(np.stack([np.full((3, 3), 2.0), np.full((3, 3), -1.0)])[None].astype(np.float32))
    assert sample.low is not None and sample.low.tolist() == [0, 0, 0, 0, -1, -1, -1, -1]
    assert sample.high is not None and sample.high.tolist() == [2, 2, 2, 2, 0, 0, 0, 0]
