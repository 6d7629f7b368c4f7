"""LUTLinear: torch.nn.Linear whose products are read from tables."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lutc.config import LUTConfig
from lutc.nn.columns import RowColumns
from lutc.nn.layer import LUTLayer


class LUTLinear(LUTLayer):
    """Dense layer as closest-centroid search and table read; constructor arguments of torch.nn.Linear plus `config`.

    x float32 [..., in_features] -> [..., out_features]. in_features need not be a multiple of subvector_len: the last
    subvector is zero-padded. In training hard codes forward; backward the softmax of LUT-NN (MobiCom 2023, section 3)
    over the distances of `config.metric`, or for trees what `config.tree_gradient` says.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        config: LUTConfig = LUTConfig(),  # noqa: B008  (frozen)
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._build(nn.Linear(in_features, out_features, bias, device=device, dtype=dtype), config)

    @classmethod
    def from_float(cls, module: nn.Linear, config: LUTConfig = LUTConfig()) -> LUTLinear:  # noqa: B008
        """The lookup-table twin of a float layer; weight and bias are shared, not copied."""
        layer = cls.__new__(cls)
        layer._build(module, config)
        layer.train(module.training)
        return layer

    def _build(self, module: nn.Linear, config: LUTConfig) -> None:
        super().__init__(module.weight, module.bias, config, module.in_features, config.subvector_len_for(None))
        self.in_features, self.out_features = module.in_features, module.out_features

    def columns(self) -> RowColumns:
        return RowColumns(self.num_codebooks, self.subvector_len)

    def input_rows(self, x: Tensor) -> Tensor:
        return self.column_input(x)

    def column_input(self, x: Tensor) -> Tensor:
        return x.reshape(-1, self.in_features)

    def output_rows(self, y: Tensor) -> Tensor:
        return y.reshape(-1, self.out_features)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and not self.integer_lookup:
            return torch.ops.lutc.lut_dense(x, **self.constants(), **self.attributes())
        lookup = self.soft_forward if self.training else self.hard_forward
        y = lookup(self.column_input(x)).reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    def attributes(self) -> dict[str, object]:
        """The attributes of the op, as torch.ops.lutc.lut_dense takes them."""
        return self.search_attributes()

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, {self.lut_repr()}"
