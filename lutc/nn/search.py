"""What the searches of layers have in common: codes, their gradient, and its way through the kernels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from lutc.nn import kernels
from lutc.nn.columns import Columns, Workspace
from lutc.nn.input_grid import InputGrid


class Search(ABC):
    """Finds codes; `attention`, a share of each entry of the table, is what a gradient takes in their place.

    Gradients come in the order of `parameters`. `_grid` is how inputs are read.
    """

    parameters: tuple[Tensor, ...]
    num_centroids: int
    _grid: InputGrid

    @abstractmethod
    def codes(self, x: Tensor, columns: Columns, work: Workspace) -> Tensor:
        """x as `columns` takes it -> int32 or int64 [B, C, L]."""

    @abstractmethod
    def attention(self, x: Tensor, columns: Columns, work: Workspace) -> tuple[Tensor, Any]:
        """[B, C, K, L], and what `gradients` needs."""

    @abstractmethod
    def gradients(
        self, x: Tensor, saved: Any, attention: Tensor, upstream: Tensor, columns: Columns, work: Workspace
    ) -> tuple[Tensor, list[Tensor]]:
        """Gradient of the attention, [B, C, K, L] -> gradients of x and of `parameters`; may use up its arguments."""

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
        """`attention`, its products with table and upstream [B, M, L], and `gradients` in one pass, or None where that
        cannot be had. Adds to to_table [C, K, M]."""
        if not kernels.usable(self.num_centroids, columns.shape(x)[2], x):
            return None
        planes = self._grid.planes(x, columns, work)
        to_planes = work.get("to_planes", planes.data.shape, planes.data).zero_()
        found = self._in_planes(planes, upstream, table, codes, to_planes, to_table)
        return self._grid.from_planes(to_planes, planes, x, columns, work), found

    @abstractmethod
    def _in_planes(
        self, planes: kernels.Planes, upstream: Tensor, table: Tensor, codes: Tensor | None, to_planes: Tensor,
        to_table: Tensor,
    ) -> list[Tensor]:  # fmt: skip
        """Gradients of `parameters`; adds to to_planes and to_table."""
