"""Gradients of hash trees from what flips: the jump at each threshold of the path, spread over a temperature."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lutc.nn.columns import Columns, Workspace
from lutc.nn.tree_walk import TreeWalk, of_level


class TreeFlips(TreeWalk):
    """Backward each comparison on the path is (1 + tanh(margin)) / 2 by itself, and the others are as they fell.

    The gradient of x is then the difference between the table's entries on both sides of a threshold, times the slope
    there; as the temperature goes to zero it is that of the forward, which jumps. The table's is that of the forward.
    """

    flips = True

    def attention(self, x: Tensor, columns: Columns, work: Workspace) -> tuple[Tensor, Any]:
        margin = self._margins(x, columns, work)
        nodes, leaves = self._reached(margin)
        return leaves.to(x.dtype), (margin, nodes)

    def gradients(
        self, x: Tensor, saved: Any, attention: Tensor, upstream: Tensor, columns: Columns, work: Workspace
    ) -> tuple[Tensor, list[Tensor]]:
        margin, reached = saved
        changes, wanted = [], upstream
        for level in reversed(range(self._levels)):
            left, right = wanted[:, :, 0::2], wanted[:, :, 1::2]
            changes.insert(0, right - left)
            wanted = torch.where(of_level(margin, level) >= 0, right, left)
        slope = (1 - torch.tanh(margin) ** 2) / 2
        return self._from_margins(torch.cat(changes, 2) * slope * reached, margin, x, columns, work)
