"""LUTConv2d: torch.nn.Conv2d whose products are read from tables."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lutc.config import LUTConfig
from lutc.errors import LutcError
from lutc.nn.columns import ConvColumns
from lutc.nn.layer import LUTLayer
from lutc.nn.patches import extract_patches

_Size = int | tuple[int, int]


class LUTConv2d(LUTLayer):
    """Convolution as closest-centroid search and table read; constructor arguments of torch.nn.Conv2d plus `config`.

    x float32 [B, Cin, H, W] -> [B, Cout, OH, OW]. A patch is flattened channel first, so subvector_len = kh*kw gives
    one codebook per input channel. A grouped convolution has a table for all outputs, zero outside its groups. Training
    is that of LUTLinear.

    Raises
    ------
    LutcError : a padding mode other than zeros.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _Size,
        stride: _Size = 1,
        padding: _Size | Literal["same", "valid"] = 0,
        dilation: _Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        *,
        config: LUTConfig = LUTConfig(),  # noqa: B008  (frozen)
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode,
            device=device, dtype=dtype,
        )  # fmt: skip
        self._build(conv, config)

    @classmethod
    def from_float(cls, module: nn.Conv2d, config: LUTConfig = LUTConfig()) -> LUTConv2d:  # noqa: B008
        """The lookup-table twin of a float layer; weight and bias are shared, not copied."""
        layer = cls.__new__(cls)
        layer._build(module, config)
        layer.train(module.training)
        return layer

    def _build(self, module: nn.Conv2d, config: LUTConfig) -> None:
        reason = unsupported_conv(module)
        if reason is not None:
            raise LutcError(
                "cannot make a lookup-table convolution", where=repr(module), reason=reason, fix="keep this layer float"
            )
        kernel = (module.kernel_size[0], module.kernel_size[1])
        elements = module.in_channels * kernel[0] * kernel[1]
        super().__init__(module.weight, module.bias, config, elements, config.subvector_len_for(kernel))
        self.groups = module.groups
        self.in_channels, self.out_channels = module.in_channels, module.out_channels
        self.kernel_size, self.stride, self.dilation = kernel, tuple(module.stride), tuple(module.dilation)
        self.pads = _pads(module)

    def columns(self) -> ConvColumns:
        shape = (self.num_codebooks, self.subvector_len)
        return ConvColumns(*shape, self.kernel_size, self.stride, self.pads, self.dilation)

    def input_rows(self, x: Tensor) -> Tensor:
        return extract_patches(x, self.kernel_size, self.stride, self.pads, self.dilation)[0]

    def dense_weight(self) -> Tensor:
        """[M, Cin*kh*kw]. That of a grouped convolution holds zeros outside its blocks, and so does its table."""
        if self.weight is None or self.groups == 1:
            return super().dense_weight()
        blocks = self.weight.unflatten(0, (self.groups, -1)).flatten(2)
        weight = blocks.new_zeros(self.groups, blocks.shape[1], self.groups, blocks.shape[2])
        each = torch.arange(self.groups, device=blocks.device)
        weight[each, :, each] = blocks
        return weight.flatten(2).flatten(0, 1)

    def output_rows(self, y: Tensor) -> Tensor:
        return y.permute(0, 2, 3, 1).reshape(-1, self.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and not self.integer_lookup:
            return torch.ops.lutc.lut_conv2d(x, **self.constants(), **self.attributes())
        y = self.soft_forward(x) if self.training else self.hard_forward(x)
        return y if self.bias is None else y + self.bias[:, None, None]

    def attributes(self) -> dict[str, object]:
        """The attributes of the op, as torch.ops.lutc.lut_conv2d takes them."""
        return {
            "kernel_shape": list(self.kernel_size),
            "strides": list(self.stride),
            "pads": list(self.pads),
            "dilations": list(self.dilation),
            **self.search_attributes(),
        }

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"pads={self.pads}, dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}, "
            f"{self.lut_repr()}"
        )


def unsupported_conv(module: nn.Conv2d) -> str | None:
    """Why a convolution cannot become a lookup table, or None."""
    if module.padding_mode != "zeros":
        return f"padding_mode is {module.padding_mode!r}; only 'zeros' has a lookup-table form"
    return None


def _pads(module: nn.Conv2d) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of any padding torch.nn.Conv2d accepts."""
    if module.padding == "valid":
        return (0, 0, 0, 0)
    if module.padding == "same":
        total = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        top, left = total[0] // 2, total[1] // 2
        return (top, left, total[0] - top, total[1] - left)
    height, width = (int(p) for p in module.padding)
    return (height, width, height, width)
