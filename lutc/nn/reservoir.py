"""A stratified random sample of a stream of rows in bounded memory, and the range of all of them."""

from __future__ import annotations

import torch
from torch import Tensor


class Reservoir:
    """Keeps `capacity` rows of all that were added, every row with the same chance whatever the order of the stream.

    Each row draws a random key and the largest keys stay, so the kept rows are shuffled too. The keys of a batch are
    spread evenly over 0..1, one in each of as many parts as it has rows: every batch, a stratum, is represented by its
    share of the sample, less a row by chance. Deterministic per seed.
    """

    def __init__(self, capacity: int, seed: int) -> None:
        self._capacity = capacity
        self._generator = torch.Generator().manual_seed(seed)
        self._keys = torch.empty(0, dtype=torch.float64)
        self._rows: Tensor | None = None

    @property
    def rows(self) -> Tensor | None:
        """The sample [S, D], S <= capacity, or None where nothing was added."""
        return self._rows

    def add(self, rows: Tensor) -> None:
        """Offer rows [N, D]."""
        keys = torch.rand(rows.shape[0], generator=self._generator, dtype=torch.float64)
        keys = (torch.randperm(len(keys), generator=self._generator) + keys) / max(len(keys), 1)
        keys, order = keys.topk(min(self._capacity, rows.shape[0]))
        picked = rows.detach()[order.to(rows.device)].to("cpu")
        if self._rows is None:
            self._keys, self._rows = keys, picked
            return
        self._keys, order = torch.cat((self._keys, keys)).topk(min(self._capacity, len(self._keys) + len(keys)))
        self._rows = torch.cat((self._rows, picked))[order]


class InputRange:
    """Smallest and largest value of every column of a stream of rows."""

    def __init__(self) -> None:
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        """Look at rows [N, D], N >= 0."""
        if not len(rows):
            return
        low, high = torch.aminmax(rows.detach(), dim=0)
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)
