"""Quantization Networks: a sum of sigmoids that hardens into steps (Yang et al., CVPR 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lutc.nn.quantizers.base import EPSILON, ScalarQuantizer, sums_by_index

_HIGHEST_TEMPERATURE = 2000.0
_SAMPLE, _ROUNDS = 20_000, 60


class QuantizationNetwork(ScalarQuantizer):
    """y = alpha * (Y_0 + sum_i (Y_{i+1} - Y_i) * sigmoid(T * (beta * x - b_i))); deployed with a strict step.

    The levels Y are given integers, the biases b stay where k-means put them; parameters alpha and beta float32 [G].
    The temperature T rises by `temperature_step` an epoch, from that value.

    Parameters
    ----------
    level_set : increasing integers; None takes 0..2^b-1 for unsigned values, else (-1, 1), (-1, 0, 1),
        (-4, -2, -1, 0, 1, 2, 4), 0 and 1, 2, 3, 4, 5, 7, 10 of either sign, and -(2^(b-1)-1)..2^(b-1)-1 for 1, 2, 3, 4
        and more bits.
    epochs : of the training, by which progress is turned into temperature.
    fit_alpha : start alpha at the least squared error of the deployed form, instead of the paper's 1 / beta.
    """

    method = "quantization_network"

    def __init__(
        self,
        bits: int,
        *,
        signed: bool,
        level_set: Sequence[float] | None = None,
        temperature_step: float = 5.0,
        epochs: int = 55,
        fit_alpha: bool = False,
        **place,
    ) -> None:
        super().__init__(bits, signed=signed, **place)
        chosen = default_level_set(bits, signed) if level_set is None else tuple(level_set)
        if len(chosen) < 2 or list(chosen) != sorted(set(chosen)):
            raise ValueError(f"level_set must be two or more increasing numbers, not {level_set}")
        self.temperature_step, self.epochs, self.fit_alpha = temperature_step, epochs, fit_alpha
        self.temperature = temperature_step
        self.register_buffer("level_set", torch.tensor(chosen, dtype=torch.float32))
        self.register_buffer("biases", torch.zeros(self.groups, len(chosen) - 1))
        self.alpha = nn.Parameter(torch.ones(self.groups))
        self.beta = nn.Parameter(torch.ones(self.groups))

    def initialize(self, rows: Tensor) -> None:
        beta = 1.25 * self.level_set.abs().max() / rows.abs().amax(1).clamp_min(EPSILON)
        self.beta.copy_(beta)
        self.alpha.copy_(1 / beta)
        self.biases.copy_(cluster_boundaries(rows * beta[:, None], self.level_set))
        if self.fit_alpha:
            y = self.hard(rows) / self.alpha[:, None]
            self.alpha.copy_((rows * y).sum(1) / y.square().sum(1).clamp_min(EPSILON))

    def set_progress(self, progress: float) -> None:
        epoch = progress * self.epochs
        self.temperature = min((epoch + 1) * self.temperature_step, _HIGHEST_TEMPERATURE)

    def fake(self, rows: Tensor) -> Tensor:
        scaled = rows * self.beta[:, None]
        y = self.level_set[0].expand_as(scaled)
        for index, rise in enumerate(self.level_set.diff()):
            y = y + rise * torch.sigmoid(self.temperature * (scaled - self.biases[:, index, None]))
        return y * self.alpha[:, None]

    def hard(self, rows: Tensor) -> Tensor:
        codes = torch.searchsorted(self.biases, (rows * self.beta[:, None]).contiguous())
        return self.level_set[codes] * self.alpha[:, None]


def default_level_set(bits: int, signed: bool) -> tuple[int, ...]:
    if not signed:
        return tuple(range(2**bits))
    known = {
        1: (-1, 1),
        2: (-1, 0, 1),
        3: (-4, -2, -1, 0, 1, 2, 4),
        4: (-10, -7, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 7, 10),  # near the centers of normal data
    }
    most = 2 ** (bits - 1) - 1
    return known.get(bits) or tuple(range(-most, most + 1))


def cluster_boundaries(rows: Tensor, level_set: Tensor) -> Tensor:
    """Midway between neighbouring k-means centers of rows [G, N], one for each level: [G, L - 1].

    The center of level 0 stays at 0. Where levels are symmetric, so are the centers: those of magnitudes are found.
    """
    if rows.shape[1] > _SAMPLE:
        chosen = torch.randperm(rows.shape[1], generator=torch.Generator().manual_seed(0))[:_SAMPLE]
        rows = rows[:, chosen.to(rows.device)]
    if not torch.equal(level_set, -level_set.flip(0)):
        return _midpoints(_centers(rows, level_set))
    positive = _centers(rows.abs(), level_set[level_set >= 0])
    mirrored = -positive.flip(1)
    return _midpoints(torch.cat([mirrored[:, :-1] if bool((level_set == 0).any()) else mirrored, positive], 1))


def _centers(rows: Tensor, level_set: Tensor) -> Tensor:
    """Lloyd's algorithm from evenly spaced centers; one that loses all its values stays."""
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    place = torch.linspace(0, 1, len(level_set), device=rows.device, dtype=rows.dtype)
    centers = low + (high - low) * place
    zero = level_set == 0
    for _ in range(_ROUNDS):
        centers[:, zero] = 0
        centers = centers.sort(1).values
        codes = torch.searchsorted(_midpoints(centers).contiguous(), rows.contiguous())
        counts = sums_by_index(codes, None, len(level_set))
        means = sums_by_index(codes, rows, len(level_set)).to(rows.dtype) / counts.clamp(min=1)
        centers = torch.where(counts > 0, means, centers)
    centers[:, zero] = 0
    return centers.sort(1).values


def _midpoints(centers: Tensor) -> Tensor:
    return (centers[:, 1:] + centers[:, :-1]) / 2
