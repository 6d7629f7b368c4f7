"""Soft product quantization: hard codes forward, softmax over distances backward (LUT-NN, MobiCom 2023, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from lutc.nn import kernels
from lutc.nn.codebook import integer_codebook, linear_scores
from lutc.nn.columns import Columns, Workspace
from lutc.nn.input_grid import InputGrid
from lutc.nn.search import Search

_DISTANCE_FLOOR = 1e-12  # keeps the derivative of the square root finite where an input sits on its centroid
_EXACT_IN_FLOAT32 = 2**24


class ClosestCentroid(Search):
    """The search of encoder "l2": codes, and the softmax over un-squared distances that stands for them backward.

    centroids [C, K, V] and log_temperature [] are those of the layer; inv_scale [C] of an integer search, else None;
    `grid` is the step between its integers. Gradients come in the order of `parameters`. Columns are [B, C, V, L]; of
    an integer search all arithmetic on them is done in integers held in float, and the scales are in the factors.
    Distances are Euclidean, or with a metric [C, V, V], symmetric, the root of d.(metric d).
    """

    def __init__(
        self,
        centroids: Tensor,
        log_temperature: Tensor,
        inv_scale: Tensor | None,
        input_signed: bool,
        grid: int = 1,
        metric: Tensor | None = None,
    ) -> None:
        self.parameters = (centroids, log_temperature)
        self.num_centroids = centroids.shape[1]
        self._grid, self._integer = InputGrid(inv_scale, input_signed, grid), inv_scale is not None
        self._rank = torch.arange(self.num_centroids - 1, -1, -1, device=centroids.device)[:, None]
        self._base = 1 << (self.num_centroids - 1).bit_length()
        self._metric = metric
        exact, squares = linear_scores(centroids, metric)
        step = exact.new_ones(len(exact)) if inv_scale is None else 1 / inv_scale.double()
        if inv_scale is None:
            self._score = torch.cat((exact, -0.5 * squares[..., None]), -1).to(centroids.dtype)
        else:
            integers, score_bias, scale = integer_codebook(centroids, inv_scale, grid, metric)
            if (
                metric is None
            ):  # to the rounded centroids; a rounded S is that of no point, so with a metric it stays exact
                exact = integers.double() / scale[:, None, None]
                squares = (exact**2).sum(-1)
            # one sixteenth of the integer score: the shift by 4 is then the floor, and 1 / 16 loses nothing
            score = torch.cat((integers.double(), score_bias.double()[..., None]), -1) / 16
            reach = (255 * 127 * centroids.shape[2] + int(score_bias.abs().max())) / 16 * self._base
            self._score = score.to(centroids.dtype if reach < _EXACT_IN_FLOAT32 else torch.float64)
        self._inverse_square = (-2 * log_temperature.detach().double()).exp()
        squares, column_step = squares[..., None], step[:, None, None]
        factors = (-2 * exact * column_step, squares, (column_step**2).expand_as(squares))
        # columns, a row of ones and a row of |x|^2 times these: |x - P|^2 over the squared temperature
        self._factors = (torch.cat(factors, -1) * self._inverse_square).to(centroids.dtype)
        pull = torch.cat((exact, torch.ones_like(squares)), -1) * self._inverse_square
        self._pull = pull.mT.to(centroids.dtype)
        self._drag = (step[:, None] * self._inverse_square).expand(exact.shape[:2]).to(centroids.dtype)
        self._targets, self._step = exact.to(centroids.dtype), step.to(centroids.dtype)

    def codes(self, x: Tensor, columns: Columns, work: Workspace) -> Tensor:
        """x as `columns` takes it -> int32 or int64 [B, C, L]; lowest index on ties."""
        same = self._integer and self._score.dtype == x.dtype
        if same and kernels.usable(self.num_centroids, columns.shape(x)[2], x):
            return kernels.codes(self._grid.planes(x, columns, work), self._score, self._base)
        grid = self._augmented(x, columns, work)
        batch, codebooks, _, positions = grid.shape
        rows = grid[:, :, : self._score.shape[2]].flatten(0, 1).to(self._score.dtype)
        factors = _repeat(self._score, batch)
        out = work.get("score", (batch * codebooks, self.num_centroids, positions), self._score)
        score = torch.bmm(factors, rows, out=out)
        if not self._integer:
            rank = torch.where(score == score.amax(1, keepdim=True), self._rank, 0).amax(1)
        else:
            # the index sits below the score, so the largest number is the best score with the lowest index
            rank = score.floor_().mul_(self._base).add_(self._rank).amax(1).long() & (self._base - 1)
        codes = (self.num_centroids - 1 - rank).clamp_(0, self.num_centroids - 1)  # NaN has no rank
        return codes.reshape(batch, codebooks, positions)

    def attention(self, x: Tensor, columns: Columns, work: Workspace) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Softmax over centroids [B, C, K, L], and what `gradients` needs; both live in the workspace."""
        grid = self._augmented(x, columns, work)
        batch, codebooks, _, positions = grid.shape
        inputs = grid[:, :, :-2]
        square = torch.mul(inputs, self._seen(inputs), out=work.get("square", inputs.shape, grid))
        torch.sum(square, 2, out=grid[:, :, -1])
        shape = (batch, codebooks, self.num_centroids, positions)
        ratio, attention = work.get("ratio", shape, grid), work.get("attention", shape, grid)
        torch.bmm(_repeat(self._factors, batch), grid.flatten(0, 1), out=ratio.flatten(0, 1))
        ratio.clamp_min_(_DISTANCE_FLOOR).sqrt_()
        torch.sub(ratio.amin(2, keepdim=True), ratio, out=attention).exp_()
        attention.mul_(attention.sum(2, keepdim=True).reciprocal_())
        return attention, (grid, ratio)

    def gradients(
        self,
        x: Tensor,
        saved: tuple[Tensor, Tensor],
        attention: Tensor,
        upstream: Tensor,
        columns: Columns,
        work: Workspace,
    ) -> tuple[Tensor, list[Tensor]]:
        """Gradient of the attention -> gradients of x and of `parameters`; the buffers of both
        attentions are used up."""
        grid, ratio = saved
        batch, codebooks, rows, _ = grid.shape
        pull = upstream.mul_(attention)
        inner = pull.sum(2, keepdim=True)
        pull.sub_(attention.mul_(inner))  # the gradient of -ratio
        temperature = torch.dot(pull.flatten(), ratio.flatten())
        pull.div_(ratio)  # (x - P) times this, over t^2, is the gradient of P
        flat = pull.flatten(0, 1)
        sums = torch.bmm(_repeat(self._pull, batch), flat).unflatten(0, (batch, codebooks))
        drag = sums[:, :, -1:] * self._step[:, None, None]
        to_columns = sums[:, :, :-1].addcmul_(self._seen(grid[:, :, :-2]), drag, value=-1)
        moments = torch.bmm(flat, grid[:, :, : rows - 1].flatten(0, 1).mT).unflatten(0, (batch, codebooks)).sum(0)
        return self._grid.scatter(to_columns, x, columns, work), [self._to_centroids(moments), temperature]

    def _in_planes(
        self, planes: kernels.Planes, upstream: Tensor, table: Tensor, codes: Tensor | None, to_planes: Tensor,
        to_table: Tensor,
    ) -> list[Tensor]:  # fmt: skip
        constants = (self._pull[:, :-1].contiguous(), self._drag.contiguous(), self._metric)
        moments, temperature = kernels.backward(
            planes, self._factors, _DISTANCE_FLOOR, upstream, table, codes, *constants, to_planes, to_table
        )
        return [self._to_centroids(moments), temperature]

    def _to_centroids(self, moments: Tensor) -> Tensor:
        """Sums [C, K, V + 1] over positions, of columns and ones -> gradient of the centroids."""
        sums = moments[..., :-1] if self._metric is None else torch.bmm(moments[..., :-1], self._metric)
        targets = self._targets * moments[..., -1:]
        return (sums * self._step[:, None, None] - targets) * self._inverse_square.to(moments.dtype)

    def _seen(self, inputs: Tensor) -> Tensor:
        """Columns [B, C, V, L] times the metric."""
        return inputs if self._metric is None else torch.matmul(self._metric, inputs)

    def _augmented(self, x: Tensor, columns: Columns, work: Workspace) -> Tensor:
        """Columns [B, C, V + 2, L] as the search reads them, then a row of ones and an empty row."""
        batch, codebooks, length, positions = columns.shape(x)
        grid = work.get("grid", (batch, codebooks, length + 2, positions), x)
        self._grid.gather(x, columns, grid[:, :, :length])
        grid[:, :, length] = 1
        return grid


def _repeat(matrices: Tensor, batch: int) -> Tensor:
    """[C, ...] -> [batch * C, ...], as bmm takes them."""
    return matrices if batch == 1 else matrices.expand(batch, *matrices.shape).flatten(0, 1)
