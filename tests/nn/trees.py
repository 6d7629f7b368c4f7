"""Layers with given hash trees in their inference form, as training would hand them over."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lutc.config import LUTConfig
from lutc.nn.frozen import FrozenLUTConv2d, FrozenLUTLinear
from lutc.nn.tree_walk import integer_thresholds


class TreeLayer(nn.Module):
    """Random trees of C codebooks for subvectors of V elements; `geometry` makes it a convolution."""

    def __init__(
        self, codebooks: int, length: int, outputs: int, config: LUTConfig, geometry: dict[str, list[int]] | None = None
    ) -> None:
        super().__init__()
        self.config, self.geometry, self.length = config, geometry or {}, length
        self.signed = not geometry  # a convolution reads what a relu gives
        k = config.num_centroids
        self.weight = torch.empty(0)
        thresholds, self.inv_scale = torch.randn(codebooks, k - 1), None
        if geometry:
            thresholds = thresholds.abs()
        if config.encode_dtype == "int8":
            self.inv_scale = 40 * torch.rand(codebooks) + 20
            thresholds = integer_thresholds(thresholds, self.inv_scale, self.signed)
        self.thresholds = thresholds
        self.dims = torch.randint(length, (codebooks, k.bit_length() - 1), dtype=torch.int32)
        self.table = torch.randint(-127, 128, (codebooks, k, outputs), dtype=torch.int8)
        self.scale, self.bias = torch.rand(outputs) / 100, torch.randn(outputs)

    def constants(self) -> dict[str, Tensor | None]:
        return {
            "centroids": None, "table": self.table, "table_scale": self.scale, "bias": self.bias,
            "inv_scale": self.inv_scale, "score_bias": None, "mult": None, "split_dims": self.dims,
            "split_thresholds": self.thresholds,
        }  # fmt: skip

    def attributes(self) -> dict[str, object]:
        options = {"encode_dtype": self.config.encode_dtype, "encoder": "tree", "input_signed": self.signed}
        return {**self.geometry, **options, "subvector_len": self.length, "layer": ""}


class TreeNet(nn.Module):
    """x [B, 4, 9, 8]: a convolution and a dense layer of trees, relu between."""

    def __init__(self, encode_dtype: str = "int8") -> None:
        super().__init__()
        config = LUTConfig(16, encoder="tree", encode_dtype=encode_dtype)
        geometry = {"kernel_shape": [3, 3], "strides": [2, 1], "pads": [1, 1, 1, 1], "dilations": [1, 1]}
        self.conv = FrozenLUTConv2d(TreeLayer(4, 9, 6, config, geometry), "conv")
        self.fc = FrozenLUTLinear(TreeLayer(60, 4, 5, config), "fc")

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.conv(torch.relu(x))).flatten(1))


def tree_net(encode_dtype: str = "int8") -> TreeNet:
    torch.manual_seed(0)
    return TreeNet(encode_dtype).eval()
