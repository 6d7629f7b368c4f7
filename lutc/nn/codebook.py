"""Constants of a lookup-table layer from its centroids and weight: the table, and the integer form of the codebooks.

Everything is computed in float64 from float32 inputs, so that any other implementation of the same formulas
gives the same integers.
"""

from __future__ import annotations

import torch
from torch import Tensor

SCORE_BIAS_LIMIT = 2**28
_SMALLEST_RANGE = 1e-30  # below this the reciprocal overflows float32; such a channel is as good as dead


def pad_weight(weight: Tensor, num_codebooks: int, subvector_len: int) -> Tensor:
    """Weight [M, D] (any trailing shape) -> [C, V, M], the last subvector zero-padded."""
    flat = weight.reshape(weight.shape[0], -1)
    padded = torch.nn.functional.pad(flat, (0, num_codebooks * subvector_len - flat.shape[1]))
    return padded.reshape(-1, num_codebooks, subvector_len).permute(1, 2, 0)


def float_table(centroids: Tensor, weight: Tensor) -> Tensor:
    """Centroid . weight products: centroids [C, K, V], weight [M, D] -> [C, K, M]."""
    num_codebooks, _, subvector_len = centroids.shape
    return torch.bmm(centroids, pad_weight(weight, num_codebooks, subvector_len))


def table_scale(table: Tensor, limit: int = 127) -> Tensor:
    """One scale per output column of a float table [C, K, M]: float32 [M], 1.0 for an all-zero column."""
    peak = table.detach().abs().amax(dim=(0, 1)).double()
    scale = (peak / limit).float()
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def quantize_table(table: Tensor, scale: Tensor, limit: int = 127) -> Tensor:
    """Float table [C, K, M] and its scale [M] -> integers in -limit..limit, as float64."""
    return (table.detach().double() / scale.double()).round().clamp(-limit, limit)


def linear_scores(centroids: Tensor, metric: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Float64 S [C, K, V] and n [C, K] with |x - P|^2 = |x|^2 - 2 x.S + n: the closest has the largest x.S - n / 2.

    With a metric [C, V, V], symmetric, |d|^2 is d.(metric d) everywhere.
    """
    exact = centroids.detach().double()
    pulls = exact if metric is None else torch.bmm(exact, metric.double())
    return pulls, (exact * pulls).sum(-1)


def integer_codebook(
    centroids: Tensor, inv_scale: Tensor, grid: int = 1, metric: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Integer form of float centroids [C, K, V] for inputs scaled by inv_scale [C].

    Returns (centroids int8 [C, K, V], score_bias int32 [C, K], scale float64 [C]) with centroids ~ S * scale, multiples
    of `grid`, and score_bias a multiple of its square; S are the centroids P, or those of `linear_scores`. The score
    `xq . cq + score_bias` is x.S - |P|^2 / 2 in units of 1 / (inv_scale * scale), so the closest centroid has the
    largest.
    """
    exact, norm = linear_scores(centroids, metric)
    peak = exact.abs().amax(dim=(1, 2))
    alive = peak > _SMALLEST_RANGE
    limit = 127 // grid * grid
    scale = torch.where(alive, limit / torch.where(alive, peak, 1.0), 1.0)
    integers = ((exact * scale[:, None, None]) / grid).round().mul(grid).clamp(-limit, limit)
    rounded = integers / scale[:, None, None]
    if metric is None:  # of the rounded centroids, which distances are then measured to
        norm = (rounded**2).sum(-1)
    else:  # so that a score loses nothing to rounding where the input is its centroid
        norm = norm + 2 * (centroids.detach().double() * (rounded - exact)).sum(-1)
    bias = (-0.5 * norm * (inv_scale.double() * scale)[:, None] / grid**2).round().mul(grid**2)
    bias = bias.clamp(-SCORE_BIAS_LIMIT, SCORE_BIAS_LIMIT)
    return integers.to(torch.int8), bias.to(torch.int32), scale


def inverse_scale(low: Tensor, high: Tensor, signed: bool, grid: int = 1) -> Tensor:
    """Range of the inputs of each codebook, [C] and [C] -> the factor float32 [C] that maps it onto the grid."""
    peak = torch.maximum(-low, high) if signed else high
    alive = peak > _SMALLEST_RANGE
    steps = (127 if signed else 255) // grid * grid
    return torch.where(alive, steps / torch.where(alive, peak.double(), 1.0), 1.0).float()
