from __future__ import annotations

import importlib

import numpy as np
import pytest

kmeans_module = importlib.import_module("lutc.calibrate.kmeans")  # the package has a function of this name
assign, kmeans = kmeans_module.assign, kmeans_module.kmeans

RNG = np.random.default_rng(5)


def test_finds_separate_clusters() -> None:
    centers = 10 * RNG.standard_normal((6, 16, 4)).astype(np.float32)
    pick = RNG.integers(0, 16, (6, 900))
    data = np.take_along_axis(centers, pick[:, :, None], 1) + 1e-3 * RNG.standard_normal((6, 900, 4)).astype(np.float32)
    found = kmeans(data, 16)
    assert found.shape == (6, 16, 4) and found.dtype == np.float32
    assert assign(data, found)[1].mean() < 0.5  # one merged pair in a codebook would cost tens


def test_assign_is_the_nearest() -> None:
    data, centroids = RNG.standard_normal((3, 50, 4)).astype("f4"), RNG.standard_normal((3, 16, 4)).astype("f4")
    codes, distance = assign(data, centroids)
    exact = ((data[:, :, None] - centroids[:, None]) ** 2).sum(-1)
    np.testing.assert_array_equal(codes, exact.argmin(-1))
    np.testing.assert_allclose(distance, exact.min(-1), rtol=1e-4, atol=1e-5)


def test_better_than_a_random_choice_of_points() -> None:
    data = np.maximum(RNG.standard_normal((8, 2000, 9)), 0).astype(np.float32)
    assert assign(data, kmeans(data, 16))[1].mean() < 0.8 * assign(data, data[:, :16].copy())[1].mean()


def test_fixed_point_is_the_mean_of_its_points() -> None:
    data = RNG.standard_normal((1, 300, 2)).astype(np.float32)
    centroids = kmeans(data, 8, iterations=300)
    codes, _ = assign(data, centroids)
    means = np.stack([data[0, codes[0] == k].mean(0) for k in range(8)])
    np.testing.assert_allclose(centroids[0], means, atol=1e-5)


def test_same_seed_same_centroids() -> None:
    data = RNG.standard_normal((3, 200, 4)).astype(np.float32)
    np.testing.assert_array_equal(kmeans(data, 16, seed=1), kmeans(data, 16, seed=1))
    assert not np.array_equal(kmeans(data, 16, seed=1), kmeans(data, 16, seed=2))


@pytest.mark.parametrize("rows", [1, 3, 15])
def test_fewer_rows_than_centroids(rows: int) -> None:
    data = RNG.standard_normal((2, rows, 4)).astype(np.float32)
    centroids = kmeans(data, 16)
    assert centroids.shape == (2, 16, 4) and np.isfinite(centroids).all()
    assert assign(data, centroids)[1].max() < 1e-5


def test_dead_codebook() -> None:
    data = np.zeros((2, 100, 4), np.float32)
    data[1] = RNG.standard_normal((100, 4))
    assert kmeans(data, 16)[0].tolist() == np.zeros((16, 4)).tolist()


def test_blocks_do_not_mix_codebooks(monkeypatch: pytest.MonkeyPatch) -> None:
    data = (100 * np.arange(7)[:, None, None] + RNG.standard_normal((7, 40, 2))).astype(np.float32)
    monkeypatch.setattr(kmeans_module, "_BLOCK", 40 * 4 * 2)
    centroids = kmeans(data, 4)
    np.testing.assert_allclose(centroids.mean((1, 2)), 100 * np.arange(7), atol=3)
