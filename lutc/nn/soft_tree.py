"""Differentiable hash trees: hard comparisons forward, tanh and softmax backward (Schoenleber et al., 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from lutc.nn import kernels
from lutc.nn.columns import Columns, Workspace
from lutc.nn.input_grid import InputGrid


class TreeWalk:
    """The search of encoder "tree"; see ClosestCentroid for the protocol.

    split_dims int [C, L] and split_thresholds [C, K - 1] (breadth first, in units of x) with K = 2**L leaves; node i
    sends x >= t to 2i + 2. Backward a comparison is tanh((x - t) / temperature), a leaf scores the sum of those on its
    path, each with the sign of its side, and the code is the softmax over the leaves' scores.
    """

    def __init__(
        self,
        split_dims: Tensor,
        split_thresholds: Tensor,
        log_temperature: Tensor,
        inv_scale: Tensor | None,
        input_signed: bool,
    ) -> None:
        self.parameters = (split_thresholds, log_temperature)
        self.num_centroids = split_thresholds.shape[1] + 1
        self._dims, self._levels = split_dims.long(), split_dims.shape[1]
        self._grid = InputGrid(inv_scale, input_signed)
        self._step = None if inv_scale is None else (1 / inv_scale)[:, None, None]
        if inv_scale is None:
            self._splits = split_thresholds.detach()
        else:
            self._splits = integer_thresholds(split_thresholds.detach(), inv_scale, input_signed)
        node = torch.arange(1, self.num_centroids, device=split_dims.device)
        self._level = (node.float() + 0.5).log2().floor().long()  # of each node, breadth first
        self._paths = _paths(self._levels, split_thresholds)

    def codes(self, x: Tensor, columns: Columns, work: Workspace) -> Tensor:
        """x as `columns` takes it -> int32 or int64 [B, C, L]."""
        if kernels.usable(self.num_centroids, columns.shape(x)[2], x):
            planes = self._grid.planes(x, columns, work)
            return kernels.tree_codes(planes, self._dims.int(), self._splits.contiguous())
        values = self._values(self._columns(x, columns, work))
        node = torch.zeros_like(values[:, :, 0], dtype=torch.int64)
        for level in range(self._levels):
            threshold = self._splits[torch.arange(len(self._splits), device=node.device)[:, None], node]
            node = 2 * node + 1 + (values[:, :, level] >= threshold)
        return node - (self.num_centroids - 1)

    def attention(self, x: Tensor, columns: Columns, work: Workspace) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Softmax over leaves [B, C, K, L], and what `gradients` needs."""
        values = self._values(self._columns(x, columns, work))
        if self._step is not None:
            values = values * self._step
        thresholds, log_temperature = (parameter.detach() for parameter in self.parameters)
        margin = (values[:, :, self._level] - thresholds[:, :, None]) * (-log_temperature).exp()
        side = torch.tanh(margin)
        return torch.softmax(torch.matmul(self._paths, side), 2), (margin, side)

    def gradients(
        self, x: Tensor, saved: tuple[Tensor, Tensor], attention: Tensor, upstream: Tensor, columns: Columns,
        work: Workspace,
    ) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
        """Gradient of the attention -> gradients of x and of `parameters`."""
        margin, side = saved
        scores = attention * (upstream - (attention * upstream).sum(2, keepdim=True))
        to_margin = torch.matmul(self._paths.mT, scores) * (1 - side**2)
        to_values = to_margin * (-self.parameters[1].detach()).exp()
        batch, codebooks, length, positions = columns.shape(x)
        by_level = to_values.new_zeros(batch, codebooks, self._levels, positions)
        by_level.index_add_(2, self._level, to_values)
        to_columns = to_values.new_zeros(batch, codebooks, length, positions)
        to_columns.scatter_add_(2, self._index(by_level), by_level)
        parameters = [-to_values.sum((0, 3)), -(to_margin * margin).sum()]
        return self._grid.scatter(to_columns, x, columns, work), parameters

    def backward(
        self,
        x: Tensor,
        upstream: Tensor,
        table: Tensor,
        codes: Tensor | None,
        to_table: Tensor,
        columns: Columns,
        work: Workspace,
    ) -> tuple[Tensor, list[Tensor]] | None:
        """See ClosestCentroid.backward."""
        if not kernels.usable(self.num_centroids, columns.shape(x)[2], x):
            return None
        planes = self._grid.planes(x, columns, work)
        to_planes = work.get("to_planes", planes.data.shape, planes.data).zero_()
        thresholds, log_temperature = (parameter.detach() for parameter in self.parameters)
        step = thresholds.new_ones(len(thresholds)) if self._step is None else self._step.flatten()
        sharpness = float((-log_temperature).exp())
        trees = (planes, self._dims.int(), thresholds.contiguous(), step.contiguous(), sharpness)
        found = kernels.tree_backward(*trees, upstream, table, codes, to_planes, to_table)
        return self._grid.from_planes(to_planes, planes, x, columns, work), list(found)

    def _columns(self, x: Tensor, columns: Columns, work: Workspace) -> Tensor:
        """[B, C, V, L], on the grid with encode_dtype="int8"."""
        inputs = work.get("tree", columns.shape(x), x)
        self._grid.gather(x, columns, inputs)
        return inputs

    def _values(self, inputs: Tensor) -> Tensor:
        """The elements looked at on each level: [B, C, levels, L]."""
        index = self._dims[None, :, :, None].expand(inputs.shape[0], -1, -1, inputs.shape[3])
        return inputs.gather(2, index)

    def _index(self, like: Tensor) -> Tensor:
        return self._dims[None, :, :, None].expand_as(like)


def integer_thresholds(thresholds: Tensor, inv_scale: Tensor, input_signed: bool) -> Tensor:
    """Thresholds [C, K - 1] in units of x -> in units of the 8-bit inputs: whole numbers, as float32."""
    low, high = (-128, 127) if input_signed else (0, 255)
    scaled = (thresholds.double() * inv_scale.double()[:, None]).ceil().clamp(low, high + 1)
    return scaled.nan_to_num(high + 1).to(thresholds.dtype)


def _paths(levels: int, like: Tensor) -> Tensor:
    """[K, K - 1]: +1 where a leaf is on the right of a node, -1 on its left, 0 where it is not below it."""
    leaves = 1 << levels
    paths = like.new_zeros(leaves, leaves - 1)
    for leaf in range(leaves):
        node = 0
        for level in range(levels):
            right = leaf >> (levels - 1 - level) & 1
            paths[leaf, node] = 2 * right - 1
            node = 2 * node + 1 + right
    return paths
