"""Convolution and dense layers with quantized weights and inputs, in their training form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from lutc.config import ScalarConfig
from lutc.errors import LutcError
from lutc.nn.frozen_quantized import (
    FrozenPalette,
    FrozenQuantizedConv2d,
    FrozenQuantizedLinear,
    FrozenQuantizer,
    FrozenWeight,
)
from lutc.nn.levels import find_palette
from lutc.nn.quantizers import QUANTIZERS, ScalarQuantizer


class QuantizedLayer(nn.Module):
    """Base class: a float layer whose weight has its quantizer as parametrization, and whose input goes through one.

    state_dict keys: parametrizations.weight.original (the float weight), parametrizations.weight.0.*,
    input_quantizer.*. In eval() the forward is exactly what `export_model` writes after conversion.
    """

    config: ScalarConfig
    input_quantizer: ScalarQuantizer | None
    weight: Tensor
    bias: Tensor | None

    def _set_up(self, config: ScalarConfig, signed: bool, channels: int) -> None:
        self.config = config
        self.input_quantizer = None
        if config.input_bits is not None:
            self.input_quantizer = make_quantizer(
                config.method_of_inputs,
                config.input_bits,
                config.input_options,
                signed=signed,
                num_channels=channels if config.input_per_channel else None,
                axis=1 if isinstance(self, nn.Conv2d) else -1,
            ).to(self.weight.device)
        if config.weight_bits is not None:
            quantizer = make_quantizer(
                config.method_of_weights,
                config.weight_bits,
                config.weight_options,
                signed=True,
                num_channels=len(self.weight) if config.per_channel else None,
                axis=0,
                is_weight=True,
            ).to(self.weight.device)
            quantizer.observe(self.weight)
            parametrize.register_parametrization(self, "weight", quantizer)

    @property
    def weight_quantizer(self) -> ScalarQuantizer | None:
        """The parametrization of the weight, or None where it stays float."""
        if not parametrize.is_parametrized(self, "weight"):
            return None
        return self.get_submodule("parametrizations.weight.0")  # pyright: ignore[reportReturnType]

    @property
    def original_weight(self) -> Tensor:
        """The float weight that is trained."""
        return self.weight if self.weight_quantizer is None else self.get_parameter("parametrizations.weight.original")

    def quantized_input(self, x: Tensor) -> Tensor:
        return x if self.input_quantizer is None else self.input_quantizer(x)

    @torch.no_grad()
    def frozen_parts(self) -> tuple[nn.Module, Tensor | None, FrozenQuantizer | None]:
        """Weight, bias and input quantizer of the inference form."""
        training = self.training
        self.eval()
        weight: nn.Module = FrozenWeight(self.weight)
        if self.weight_quantizer is not None:
            weight = FrozenPalette(*find_palette(self.weight, self.config.per_channel))
        quantizer = None
        if self.input_quantizer is not None and self.input_quantizer.enabled:
            quantizer = FrozenQuantizer(self.input_quantizer.levels(), self.input_quantizer.axis)
        self.train(training)
        return weight, self.bias, quantizer

    def scalar_repr(self) -> str:
        config = self.config
        parts = []
        if config.weight_bits is not None:
            channels = " a channel" if config.per_channel else ""
            parts.append(f"weight={config.method_of_weights} {config.weight_bits} bit{channels}")
        if self.input_quantizer is not None:
            sign = "signed" if self.input_quantizer.signed else "unsigned"
            parts.append(f"input={config.method_of_inputs} {config.input_bits} bit {sign}")
        return ", ".join(parts)


class QuantizedLinear(QuantizedLayer, nn.Linear):
    """x float32 [..., D] -> [..., M]."""

    @classmethod
    def from_float(cls, layer: nn.Linear, config: ScalarConfig, signed: bool = False) -> QuantizedLinear:
        """A layer that shares the float layer's parameters."""
        made = cls(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        made.weight, made.bias = layer.weight, layer.bias
        made._set_up(config, signed, layer.in_features)
        return made.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.quantized_input(x), self.weight, self.bias)

    def frozen(self) -> FrozenQuantizedLinear:
        return FrozenQuantizedLinear(*self.frozen_parts())


class QuantizedConv2d(QuantizedLayer, nn.Conv2d):
    """x float32 [B, Cin, H, W] -> [B, M, OH, OW].

    The input is padded with zeros and then quantized; where 0 is a level of its quantizer that is the same as zeros
    after it, which costs less and is what happens then.
    """

    @classmethod
    def from_float(cls, layer: nn.Conv2d, config: ScalarConfig, signed: bool = False) -> QuantizedConv2d:
        """A layer that shares the float layer's parameters."""
        made = cls(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            layer.bias is not None,
            device="meta",
        )
        made.weight, made.bias = layer.weight, layer.bias
        made._set_up(config, signed, layer.in_channels)
        return made.train(layer.training)

    @property
    def pads(self) -> tuple[int, int, int, int]:
        """Top, left, bottom, right."""
        left, right, top, bottom = self._reversed_padding_repeated_twice
        return top, left, bottom, right

    @property
    def pad_first(self) -> bool:
        """Whether padding zeros before the quantizer makes a difference."""
        quantizer = self.input_quantizer
        return quantizer is not None and quantizer.enabled and any(self.pads) and not quantizer.keeps_zero()

    def forward(self, x: Tensor) -> Tensor:
        padding = self.padding
        if self.pad_first:
            x, padding = F.pad(x, self._reversed_padding_repeated_twice), 0
        x = self.quantized_input(x)
        return F.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def frozen(self) -> FrozenQuantizedConv2d:
        return FrozenQuantizedConv2d(
            *self.frozen_parts(),
            strides=self.stride,
            pads=self.pads,
            dilations=self.dilation,
            groups=self.groups,
            pad_first=self.pad_first,
        )


def unsupported_scalar(layer: nn.Linear | nn.Conv2d) -> str | None:
    """Why a layer cannot be scalar-quantized, or None."""
    mode = getattr(layer, "padding_mode", "zeros")
    return None if mode == "zeros" else f"padding_mode is {mode!r}"


def quantized_twin(name: str, layer: nn.Linear | nn.Conv2d, config: ScalarConfig, signed: bool) -> QuantizedLayer:
    """The training form of a float layer; `signed` says whether its inputs can be negative.

    Raises
    ------
    LutcError : the method has no form for what is asked.
    """
    form = QuantizedConv2d if isinstance(layer, nn.Conv2d) else QuantizedLinear
    try:
        return form.from_float(layer, config, signed)
    except ValueError as error:
        raise LutcError(
            f'cannot quantize layer "{name}"',
            where=f"{config.method_of_weights} weights, {config.method_of_inputs} inputs",
            reason=str(error),
            fix="choose other bits, options or methods in ScalarConfig for this layer, or None to keep it float",
        ) from error


def make_quantizer(method: str, bits: int, options: Mapping[str, Any], **place: Any) -> ScalarQuantizer:
    """The quantizer of a method by name.

    Raises
    ------
    ValueError : unknown options, or bits or signs the method has no form for.
    """
    try:
        return QUANTIZERS[method](bits, **place, **options)
    except TypeError as error:
        raise ValueError(f"{method}: {error}") from error
