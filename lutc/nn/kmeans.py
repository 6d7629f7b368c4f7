"""k-means over many small codebooks at once: one batch of matrix products instead of a loop over codebooks."""

from __future__ import annotations

import torch
from torch import Tensor


def kmeans(data: Tensor, num_centroids: int, *, iterations: int = 25, seed: int = 0) -> Tensor:
    """Cluster every codebook's subvectors: data float32 [C, N, V] -> centroids [C, K, V].

    Seeding is k-means++ (Arthur and Vassilvitskii, 2007), then Lloyd's iterations; a centroid that loses all its points
    moves onto the point farthest from its own centroid. With fewer than K distinct points the remaining centroids
    repeat. The same data and seed give the same centroids.

    Raises
    ------
    ValueError : there are no rows, or a value is not finite.
    """
    if data.shape[1] == 0:
        raise ValueError("k-means needs at least one row")
    if not bool(torch.isfinite(data).all()):
        raise ValueError("k-means needs finite values")
    generator = torch.Generator().manual_seed(seed)
    centroids = _plus_plus(data, num_centroids, generator)
    previous = None
    for _ in range(iterations):
        distance, codes = squared_distances(data, centroids).min(-1)
        if previous is not None and torch.equal(codes, previous):
            break
        centroids = _update(data, centroids, codes, distance)
        previous = codes
    return centroids


def squared_distances(data: Tensor, centroids: Tensor) -> Tensor:
    """|x - P|^2 of data [C, N, V] and centroids [C, K, V] -> [C, N, K], never negative."""
    norms = (data**2).sum(-1)[:, :, None] + (centroids**2).sum(-1)[:, None, :]
    return torch.baddbmm(norms, data, centroids.mT, alpha=-2.0).clamp_min(0.0)


def _plus_plus(data: Tensor, num_centroids: int, generator: torch.Generator) -> Tensor:
    """Each further centroid is a point drawn with probability proportional to its squared distance to the nearest."""
    codebooks, rows, length = data.shape
    each = torch.arange(codebooks)
    chosen = torch.empty(codebooks, num_centroids, length, dtype=data.dtype, device=data.device)
    chosen[:, 0] = data[each, torch.randint(rows, (codebooks,), generator=generator)]
    nearest = torch.full((codebooks, rows), torch.inf, dtype=data.dtype, device=data.device)
    for k in range(1, num_centroids):
        nearest = torch.minimum(nearest, ((data - chosen[:, k - 1 : k]) ** 2).sum(-1))
        cumulative = nearest.double().cumsum(-1)
        draw = torch.rand(codebooks, 1, generator=generator, dtype=torch.float64).to(data.device) * cumulative[:, -1:]
        picked = torch.searchsorted(cumulative, draw, right=True).clamp_max(rows - 1)[:, 0]
        chosen[:, k] = data[each, picked]
    return chosen


def _update(data: Tensor, centroids: Tensor, codes: Tensor, distance: Tensor) -> Tensor:
    """Means of the points of each centroid; empty ones take the points that fit worst, one each."""
    _, num_centroids, length = centroids.shape
    one_hot = torch.nn.functional.one_hot(codes, num_centroids).to(data.dtype)
    count = one_hot.sum(1)
    mean = torch.bmm(one_hot.mT, data) / count.clamp_min(1.0)[:, :, None]
    empty = count == 0
    worst = distance.topk(min(num_centroids, data.shape[1]), dim=1).indices
    rank = (empty.cumsum(1) - 1).clamp(0, worst.shape[1] - 1)
    farthest = torch.gather(data, 1, torch.gather(worst, 1, rank)[:, :, None].expand(-1, -1, length))
    return torch.where(empty[:, :, None], farthest, mean)
