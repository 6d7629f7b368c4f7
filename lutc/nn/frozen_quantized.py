"""Inference forms of scalar-quantized layers: thresholds, levels, palettes. `quantize_(step="convert")` makes them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lutc.nn.levels import Levels


class FrozenQuantizer(nn.Module):
    """x float32 [...] -> its levels, through torch.ops.lutc.lut_quantize. Buffers thresholds, levels as in docs/ops."""

    def __init__(self, levels: Levels, axis: int = 1, name: str = "") -> None:
        super().__init__()
        self.register_buffer("thresholds", levels.thresholds.clone())
        self.register_buffer("levels", levels.levels.clone())
        self.axis, self.name = axis, name

    def set_name(self, name: str) -> None:
        """The quantizer's qualified name in its model: how files, reports and errors call it."""
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.lutc.lut_quantize(x, self.thresholds, self.levels, self.axis % max(x.dim(), 1), self.name)

    def extra_repr(self) -> str:
        return f"levels={self.levels.shape[-1]}" + (f", axis={self.axis}" if self.levels.dim() == 2 else "")


class FrozenPalette(nn.Module):
    """A weight float32 [M, ...], through torch.ops.lutc.lut_palette. Buffers codes and levels as in docs/ops."""

    def __init__(self, codes: Tensor, levels: Tensor, name: str = "") -> None:
        super().__init__()
        self.register_buffer("codes", codes.clone())
        self.register_buffer("levels", levels.clone())
        self.name = name

    def set_name(self, name: str) -> None:
        self.name = name

    def forward(self) -> Tensor:
        return torch.ops.lutc.lut_palette(self.codes, self.levels, self.name)

    def extra_repr(self) -> str:
        return f"shape={list(self.codes.shape)}, levels={list(self.levels.shape)}"


class _FrozenLayer(nn.Module):
    """What the two layers share: weight is a FrozenPalette or, where it is not quantized, a FrozenWeight."""

    def __init__(self, weight: nn.Module, bias: Tensor | None, input_quantizer: FrozenQuantizer | None) -> None:
        super().__init__()
        self.weight, self.input_quantizer = weight, input_quantizer
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def quantized_input(self, x: Tensor) -> Tensor:
        return x if self.input_quantizer is None else self.input_quantizer(x)


class FrozenWeight(nn.Module):
    """A weight that stays float32."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().clone())

    def forward(self) -> Tensor:
        return self.weight


class FrozenQuantizedLinear(_FrozenLayer):
    """x float32 [..., D] -> [..., M]: LUTQuantize, then a dense layer with a palette weight."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.quantized_input(x), self.weight(), self.bias)


class FrozenQuantizedConv2d(_FrozenLayer):
    """x float32 [B, Cin, H, W] -> [B, M, OH, OW]: LUTQuantize, then a convolution with a palette weight.

    pads are (top, left, bottom, right); with pad_first they are zeros of x, else zeros after the quantizer.
    """

    def __init__(
        self,
        weight: nn.Module,
        bias: Tensor | None,
        input_quantizer: FrozenQuantizer | None,
        *,
        strides: tuple[int, int] = (1, 1),
        pads: tuple[int, int, int, int] = (0, 0, 0, 0),
        dilations: tuple[int, int] = (1, 1),
        groups: int = 1,
        pad_first: bool = False,
    ) -> None:
        super().__init__(weight, bias, input_quantizer)
        self.strides, self.dilations, self.groups = strides, dilations, groups
        self.pads, self.pad_first = pads, pad_first

    def forward(self, x: Tensor) -> Tensor:
        top, left, bottom, right = self.pads
        around = (left, right, top, bottom)
        padding = 0 if self.pad_first else (top, left)
        if self.pad_first:
            x = F.pad(x, around)
        x = self.quantized_input(x)
        if not self.pad_first and (top, left) != (bottom, right):
            x, padding = F.pad(x, around), 0
        return F.conv2d(x, self.weight(), self.bias, self.strides, padding, self.dilations, self.groups)
