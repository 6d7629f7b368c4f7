"""Differentiable hash trees: hard comparisons forward, tanh and softmax backward (Schoenleber et al., 2023)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lutc.nn.columns import Columns, Workspace
from lutc.nn.tree_walk import TreeWalk


class SoftTree(TreeWalk):
    """Backward a comparison is the tanh of its margin, and the code a softmax over the leaves.

    A leaf scores the sum of the comparisons on its path, each with the sign of its side. Of 16 leaves the one that is
    reached gets no more than 0.6, however far from all thresholds.
    """

    flips = False

    def attention(self, x: Tensor, columns: Columns, work: Workspace) -> tuple[Tensor, Any]:
        margin = self._margins(x, columns, work)
        side = torch.tanh(margin)
        return torch.softmax(torch.matmul(_paths(self._levels, side), side), 2), (margin, side)

    def gradients(
        self, x: Tensor, saved: Any, attention: Tensor, upstream: Tensor, columns: Columns, work: Workspace
    ) -> tuple[Tensor, list[Tensor]]:
        margin, side = saved
        scores = attention * (upstream - (attention * upstream).sum(2, keepdim=True))
        to_margin = torch.matmul(_paths(self._levels, side).mT, scores) * (1 - side**2)
        return self._from_margins(to_margin, margin, x, columns, work)


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
