"""k-means over many small codebooks at once, in numpy."""

from __future__ import annotations

import numpy as np

_BLOCK = 1 << 20  # distances held at a time; larger blocks fall out of the cache
_SEEDING_ROWS = 32  # rows a centroid that k-means++ looks at; more does not change what it finds


def kmeans(data: np.ndarray, num_centroids: int, *, iterations: int = 25, seed: int = 0) -> np.ndarray:
    """Cluster every codebook's subvectors: data float32 [C, N, V] -> centroids float32 [C, K, V].

    Seeding is k-means++ (Arthur and Vassilvitskii, 2007), then Lloyd's iterations; a centroid without points moves onto
    the point that fits worst. With fewer than K distinct points centroids repeat. The same data and seed give the same
    centroids.
    """
    codebooks, rows, _ = data.shape
    block = max(_BLOCK // (rows * num_centroids), 1)
    parts = [
        _cluster(data[start : start + block], num_centroids, iterations, np.random.default_rng([seed, start]))
        for start in range(0, codebooks, block)
    ]
    return np.concatenate(parts)


def assign(data: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(nearest centroid [C, N], its squared distance [C, N]) of data [C, N, V] and centroids [C, K, V]."""
    distance = (centroids**2).sum(-1)[:, None, :] - 2 * data @ centroids.transpose(0, 2, 1)
    codes = distance.argmin(-1)
    nearest = np.take_along_axis(distance, codes[:, :, None], 2)[:, :, 0] + (data**2).sum(-1)
    return codes, np.maximum(nearest, 0)


def means(data: np.ndarray, codes: np.ndarray, num_centroids: int) -> np.ndarray:
    """Means [C, K, V] of data [C, N, V] by codes [C, N]; that of all rows for a code without any."""
    sums, count = _sums(data, codes, num_centroids)
    return np.where(count > 0, sums / np.maximum(count, 1), data.mean(1, keepdims=True))


def _cluster(data: np.ndarray, num_centroids: int, iterations: int, rng: np.random.Generator) -> np.ndarray:
    centroids = _plus_plus(data, num_centroids, rng)
    previous = None
    for _ in range(iterations):
        codes, distance = assign(data, centroids)
        if previous is not None and np.array_equal(codes, previous):
            break
        centroids = _means(data, codes, distance, num_centroids)
        previous = codes
    return centroids


def _plus_plus(data: np.ndarray, num_centroids: int, rng: np.random.Generator) -> np.ndarray:
    """Each further centroid is a point drawn with probability proportional to its squared distance to the nearest."""
    codebooks, rows, length = data.shape
    if rows > _SEEDING_ROWS * num_centroids:
        data = data[:, rng.permutation(rows)[: _SEEDING_ROWS * num_centroids]]
        rows = data.shape[1]
    each = np.arange(codebooks)
    chosen = np.empty((codebooks, num_centroids, length), np.float32)
    chosen[:, 0] = data[each, rng.integers(rows, size=codebooks)]
    nearest = np.full((codebooks, rows), np.inf)
    for k in range(1, num_centroids):
        nearest = np.minimum(nearest, ((data - chosen[:, k - 1 : k]) ** 2).sum(-1))
        cumulative = nearest.cumsum(-1)
        draw = rng.random((codebooks, 1)) * cumulative[:, -1:]
        chosen[:, k] = data[each, np.minimum((cumulative <= draw).sum(-1), rows - 1)]
    return chosen


def _means(data: np.ndarray, codes: np.ndarray, distance: np.ndarray, num_centroids: int) -> np.ndarray:
    """Means of the points of each centroid; those without points take the points that fit worst, one each."""
    sums, count = _sums(data, codes, num_centroids)
    centroids = sums / np.maximum(count, 1)
    for codebook in np.flatnonzero((count == 0).any((1, 2))):
        empty = np.flatnonzero(count[codebook] == 0)
        worst = np.argsort(-distance[codebook], kind="stable")[: len(empty)]
        centroids[codebook, empty[: len(worst)]] = data[codebook, worst]
    return centroids


def _sums(data: np.ndarray, codes: np.ndarray, num_centroids: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums [C, K, V] and numbers [C, K, 1] of the points of each centroid."""
    one_hot = (codes[:, None, :] == np.arange(num_centroids)[:, None]).astype(np.float32)
    return one_hot @ data, one_hot.sum(-1, keepdims=True)
