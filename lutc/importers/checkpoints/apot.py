"""Checkpoints of Additive Powers-of-Two Quantization, the CIFAR-10 part (repository yhhhli/APoT_Quantization).

Keys `CONV.act_alpha` and `CONV.weight_quant.wgt_alpha` beside `CONV.weight`. The bit width is not in the file. Weights
are standardised before they are quantized, and that is not undone; first convolution and last layer have 8-bit weights
and float inputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lutc.importers.checkpoints.layer import QuantizedParts, Settings, State, scalar
from lutc.nn.levels import extract_levels
from lutc.nn.quantizers.apot import additive_powers

_LARGEST_CODE = 127


def read_layers(
    content: dict[str, Any], state: State, module: nn.Module, settings: Settings
) -> dict[str, QuantizedParts]:
    """Qualified name -> parts, for every convolution and dense layer of the module."""
    found = {}
    for name, layer in module.named_modules():
        if not isinstance(layer, (nn.Conv2d, nn.Linear)):
            continue
        weight = state[f"{name}.weight"]
        if f"{name}.act_alpha" not in state:
            found[name] = QuantizedParts(_edge_weight(weight))
            continue
        bits = settings.known_bits("it holds clipping values only, the same for every bit width")
        clip, weight_clip = (scalar(state[f"{name}.{key}"]) for key in ("act_alpha", "weight_quant.wgt_alpha"))
        levels = extract_levels(lambda x, bits=bits, clip=clip: _activation(x, clip, bits))
        found[name] = QuantizedParts(_weight(weight, weight_clip, bits), input=levels)
    # the float network that training starts from has no clips, and float edges
    return found if any(parts.input for parts in found.values()) else {}


def _activation(x: Tensor, clip: Tensor, bits: int) -> Tensor:
    return _project((x / clip).clamp(max=1), bits) * clip


def _weight(weight: Tensor, clip: Tensor, bits: int) -> Tensor:
    unit = ((weight - weight.mean()) / weight.std() / clip).clamp(-1, 1)
    if bits == 1:
        return unit.sign() * clip
    return _project(unit.abs(), bits - 1) * unit.sign() * clip


def _project(unit: Tensor, bits: int) -> Tensor:
    """The level at the smallest distance, as the training code measures it; of two equal ones the lower."""
    levels = torch.tensor(additive_powers(bits))
    distances = (unit.flatten()[None] - levels[:, None]).abs()
    return levels[distances.argmin(0)].reshape(unit.shape)


def _edge_weight(weight: Tensor) -> Tensor:
    """8 bits up to the largest weight; smaller ones than its negative get codes below -127, as in training."""
    largest = weight.max()
    return (weight / largest * _LARGEST_CODE).round() / _LARGEST_CODE * largest
