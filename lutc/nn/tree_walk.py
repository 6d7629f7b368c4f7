"""The walk down hash trees: codes, and what the ways to differentiate them have in common."""

from __future__ import annotations

import torch
from torch import Tensor

from lutc.nn import kernels
from lutc.nn.columns import Columns, Workspace
from lutc.nn.input_grid import InputGrid
from lutc.nn.search import Search


class TreeWalk(Search):
    """The search of encoder "tree".

    split_dims int [C, L] and split_thresholds [C, K - 1] (breadth first, in units of x) with K = 2**L leaves; node i
    sends x >= t to 2i + 2. The margin of a comparison is (x - t) / temperature. Subclasses say what gradient it has.
    """

    flips: bool  # which backward of kernels.c

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

    def codes(self, x: Tensor, columns: Columns, work: Workspace) -> Tensor:
        """x as `columns` takes it -> int32 or int64 [B, C, L]."""
        if kernels.usable(self.num_centroids, columns.shape(x)[2], x):
            planes = self._grid.planes(x, columns, work)
            return kernels.tree_codes(planes, self._dims.int(), self._splits.contiguous())
        values = self._values(x, columns, work)
        node = torch.zeros_like(values[:, :, 0], dtype=torch.int64)
        for level in range(self._levels):
            threshold = self._splits[torch.arange(len(self._splits), device=node.device)[:, None], node]
            node = 2 * node + 1 + (values[:, :, level] >= threshold)
        return node - (self.num_centroids - 1)

    def compared(self, x: Tensor, columns: Columns) -> tuple[Tensor, Tensor, Tensor]:
        """What each level compares [B, C, levels, L], the thresholds [C, K - 1] it is compared with, and what one means
        in units of x, [C]: an integer search compares whole numbers."""
        return self._values(x, columns, Workspace()), self._splits.clone(), self._unit()

    def margins(self, x: Tensor, columns: Columns) -> Tensor:
        """The smallest |x - t| / temperature of the comparisons on each path: [B, C, L]."""
        margin = self._margins(x, columns, Workspace())
        return margin.abs().masked_fill_(~self._reached(margin)[0], torch.inf).amin(2)

    def _in_planes(
        self, planes: kernels.Planes, upstream: Tensor, table: Tensor, codes: Tensor | None, to_planes: Tensor,
        to_table: Tensor,
    ) -> list[Tensor]:  # fmt: skip
        thresholds, log_temperature = (parameter.detach() for parameter in self.parameters)
        sharpness = float((-log_temperature).exp())
        trees = (planes, self._dims.int(), thresholds.contiguous(), self._unit().contiguous(), sharpness)
        return list(kernels.tree_backward(*trees, self.flips, upstream, table, codes, to_planes, to_table))

    def _unit(self) -> Tensor:
        """What one is in units of x, [C]."""
        return self._splits.new_ones(len(self._splits)) if self._step is None else self._step.flatten()

    def _margins(self, x: Tensor, columns: Columns, work: Workspace) -> Tensor:
        """[B, C, K - 1, L], whatever the path."""
        values = self._values(x, columns, work)
        if self._step is not None:
            values = values * self._step
        thresholds, log_temperature = (parameter.detach() for parameter in self.parameters)
        return (values[:, :, self._level] - thresholds[:, :, None]) * (-log_temperature).exp()

    def _reached(self, margin: Tensor) -> tuple[Tensor, Tensor]:
        """The nodes [B, C, K - 1, L] and leaves [B, C, K, L] on each path, as booleans."""
        reached, nodes = torch.ones_like(margin[:, :, :1], dtype=torch.bool), []
        for level in range(self._levels):
            nodes.append(reached)
            right = of_level(margin, level) >= 0
            reached = torch.stack((reached & ~right, reached & right), 3).flatten(2, 3)
        return torch.cat(nodes, 2), reached

    def _from_margins(
        self, to_margin: Tensor, margin: Tensor, x: Tensor, columns: Columns, work: Workspace
    ) -> tuple[Tensor, list[Tensor]]:
        """Gradient of the margins -> gradients of x and of `parameters`."""
        to_values = to_margin * (-self.parameters[1].detach()).exp()
        batch, codebooks, length, positions = columns.shape(x)
        by_level = to_values.new_zeros(batch, codebooks, self._levels, positions)
        by_level.index_add_(2, self._level, to_values)
        to_columns = to_values.new_zeros(batch, codebooks, length, positions)
        to_columns.scatter_add_(2, self._looked_at(to_columns), by_level)
        parameters = [-to_values.sum((0, 3)), -(to_margin * margin).sum()]
        return self._grid.scatter(to_columns, x, columns, work), parameters

    def _values(self, x: Tensor, columns: Columns, work: Workspace) -> Tensor:
        """The elements looked at on each level, on the grid with encode_dtype="int8": [B, C, levels, L]."""
        inputs = work.get("tree", columns.shape(x), x)
        self._grid.gather(x, columns, inputs)
        return inputs.gather(2, self._looked_at(inputs))

    def _looked_at(self, of_columns: Tensor) -> Tensor:
        """The index of each level's element, [B, C, levels, L], in [B, C, V, L]."""
        return self._dims[None, :, :, None].expand(of_columns.shape[0], -1, -1, of_columns.shape[3])


def of_level(of_nodes: Tensor, level: int) -> Tensor:
    """[B, C, K - 1, L] -> the part of one level, [B, C, 2**level, L]."""
    return of_nodes[:, :, (1 << level) - 1 : (2 << level) - 1]


def integer_thresholds(thresholds: Tensor, inv_scale: Tensor, input_signed: bool) -> Tensor:
    """Thresholds [C, K - 1] in units of x -> in units of the 8-bit inputs: whole numbers, as float32."""
    low, high = (-128, 127) if input_signed else (0, 255)
    scaled = (thresholds.double() * inv_scale.double()[:, None]).ceil().clamp(low, high + 1)
    return scaled.nan_to_num(high + 1).to(thresholds.dtype)
