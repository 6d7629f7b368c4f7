"""Checkpoints of Nonuniform Learned Step Size Quantization and its LSQ and LCQ (repository DensoITLab/nuLSQ).

Keys `CONV.x_scale` and `CONV.w_scale` beside `CONV.weight`: 2^b - 1 steps for nuLSQ (weights: the 2^(b-1) steps below
zero first, each side from zero outwards), one step for LSQ; `CONV.{x,w}_{threshold,theta,dst}` for LCQ. The bit width
of LSQ and LCQ layers is not in the file unless another quantizer of the network tells it. First and last layers
quantize to 8 bits by the largest value of each batch: weights import as they are, inputs stay float without a range in
the settings.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lutc.errors import ModelImportError
from lutc.importers.checkpoints.layer import QuantizedParts, Settings, State, scalar
from lutc.nn.levels import Levels, extract_levels
from lutc.nn.quantizers.base import integer_range
from lutc.nn.quantizers.lcq import LCQ
from lutc.nn.quantizers.nulsq import staircase

_LARGEST_CODE = 127
_MERGE_ULPS = 4  # LCQ's saturated level and the one computed inside differ by rounding


def read_layers(
    content: dict[str, Any], state: State, module: nn.Module, settings: Settings
) -> dict[str, QuantizedParts]:
    """Qualified name -> parts, for every layer with quantizers."""
    if settings.bits is None:
        settings = replace(settings, bits=_bits_of_steps(state))
    found = {}
    for name, layer in module.named_modules():
        if not isinstance(layer, (nn.Conv2d, nn.Linear)) or f"{name}.init_state" not in state:
            continue
        found[name] = QuantizedParts(_weight(state, name, settings), input=_input(state, name, settings))
    return found


def _weight(state: State, name: str, settings: Settings) -> Tensor | None:
    weight = state[f"{name}.weight"]
    if f"{name}.w_scale" in state:
        return _weight_by_steps(weight, state[f"{name}.w_scale"], settings, name)
    if f"{name}.w_threshold" in state:
        return _companding(state, f"{name}.w", settings, is_weight=True)(weight).detach()
    if f"{name}.x_scale" in state or f"{name}.x_threshold" in state:
        return None
    return _largest_code(weight, weight.max())


def _input(state: State, name: str, settings: Settings) -> Levels | None:
    if f"{name}.x_scale" in state:
        steps = _checked_steps(state[f"{name}.x_scale"], name, "x_scale")
        if steps.numel() == 1:
            low, high = integer_range(settings.known_bits(_ONE_STEP), signed=False)
            return extract_levels(lambda x: (x / steps).clamp(low, high).round() * steps)
        none = steps.new_empty(1, 0)
        return extract_levels(lambda x: staircase(x[None], none, steps[None])[0])
    if f"{name}.x_threshold" in state:
        quantizer = _companding(state, f"{name}.x", settings, is_weight=False)
        return extract_levels(quantizer, merge_ulps=_MERGE_ULPS)
    if name in settings.input_ranges:
        largest = torch.tensor(settings.input_ranges[name])
        return extract_levels(lambda x: _largest_code(x.clamp(-largest, largest), largest))
    return None


def _weight_by_steps(weight: Tensor, steps: Tensor, settings: Settings, name: str) -> Tensor:
    steps = _checked_steps(steps, name, "w_scale")
    if steps.numel() == 1:
        low, high = integer_range(settings.known_bits(_ONE_STEP), signed=True)
        return (weight / steps).clamp(low, high).round() * steps
    half = (steps.numel() + 1) // 2
    return staircase(weight.reshape(1, -1), steps[None, :half], steps[None, half:]).reshape(weight.shape)


def _companding(state: State, prefix: str, settings: Settings, *, is_weight: bool) -> LCQ:
    theta = state[f"{prefix}_theta"].flatten()
    bits = settings.known_bits("LCQ's curve is the same for every bit width")
    quantizer = LCQ(bits, signed=is_weight, intervals=len(theta), is_weight=is_weight).eval()
    with torch.no_grad():
        quantizer.clip.copy_(scalar(state[f"{prefix}_threshold"]))
        quantizer.theta.copy_(theta)
        quantizer.initialized.fill_(True)
    return quantizer


def _largest_code(x: Tensor, largest: Tensor) -> Tensor:
    """8 bits up to the largest value; the lowest ones may get codes below -127, as in training."""
    return (x / largest * _LARGEST_CODE).round() * (largest / _LARGEST_CODE)


_ONE_STEP = "LSQ learns one step, whatever the number of levels"


def _bits_of_steps(state: State) -> int | None:
    """The bit width that some nuLSQ quantizer of the network shows by its number of steps."""
    counts = {value.numel() for key, value in state.items() if key.endswith((".x_scale", ".w_scale"))} - {1}
    widths = {math.log2(count + 1) for count in counts}
    return int(widths.pop()) if len(widths) == 1 else None


def _checked_steps(steps: Tensor, name: str, key: str) -> Tensor:
    steps = steps.flatten()
    count = steps.numel()
    if count & (count + 1) or not bool((steps >= 0).all()):
        raise ModelImportError(
            f'cannot import the quantizer of "{name}"',
            where=f"{name}.{key}",
            reason=f"it has {count} steps, the smallest {float(steps.min()):.3g}",
            fix="nuLSQ has 2^b - 1 steps, none negative: continue its training with a smaller learning rate for steps",
        )
    return steps
