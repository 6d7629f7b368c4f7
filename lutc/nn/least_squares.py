"""Closed-form tables: given the codes, the table whose sums are closest to the wanted outputs (ridge regression)."""

from __future__ import annotations

import torch
from torch import Tensor

_PIECE = 2**24  # elements of the one-hot codes at a time, 64 MiB; counts up to it are exact in float32


class TableFit:
    """Accumulates batches of codes and targets; `solve` gives the table.

    The unknowns are the C * K rows of the table; one Gram matrix [C * K, C * K] serves all output columns. Float64:
    8 (C K)^2 bytes, 0.5 GiB for 512 codebooks of 16, and as much again while it is solved.
    """

    def __init__(self, start: Tensor) -> None:
        """start : the table [C, K, M] that the ridge pulls towards; codes that never occur keep its values."""
        self._start = start.detach().double().flatten(0, 1)
        self._shape = start.shape
        rows = len(self._start)
        self._gram = self._start.new_zeros(rows, rows)
        self._moment = torch.zeros_like(self._start)

    def add(self, codes: Tensor, targets: Tensor) -> None:
        """codes int64 [C, N], targets [N, M]: the outputs wanted of the sum over codebooks, without bias."""
        first = torch.arange(0, len(self._gram), self._shape[1], device=codes.device)
        each = max(_PIECE // len(self._gram), 1)
        for start in range(0, codes.shape[1], each):
            some = codes[:, start : start + each].T + first
            hot = targets.new_zeros(len(some), len(self._gram), dtype=torch.float32).scatter_(1, some, 1)
            self._gram += (hot.T @ hot).double()
            wanted = targets[start : start + each]
            self._moment += (hot.T.to(wanted.dtype) @ wanted).double()

    def solve(self, ridge: float) -> Tensor:
        """The table [C, K, M] in float64; `ridge` is in units of the mean count of a code."""
        step = _ridge_solution(self._gram, self._moment - self._gram @ self._start, ridge)
        return (self._start + step).reshape(self._shape)

    def solve_weight(self, ridge: float, centroids: Tensor) -> Tensor:
        """What to add to the weight [C, V, M] that made the start, so that centroids [C, K, V] times it fit best."""
        basis = torch.block_diag(*centroids.detach().double())
        left = basis.T @ (self._moment - self._gram @ self._start)
        return _ridge_solution(basis.T @ self._gram @ basis, left, ridge).reshape(len(centroids), -1, self._shape[2])


def _ridge_solution(gram: Tensor, moment: Tensor, ridge: float) -> Tensor:
    weight = max(ridge * float(gram.diagonal().mean()), 1e-9)
    matrix = gram + weight * torch.eye(len(gram), dtype=torch.float64, device=gram.device)
    return torch.cholesky_solve(moment, torch.linalg.cholesky(matrix))
