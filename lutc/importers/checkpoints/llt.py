"""Checkpoints of Learnable Lookup Table (repository The-Learning-And-Vision-Atelier-LAVA/LLT).

Keys `CONV.act_quant.{scale,table,T,table_q}` and `CONV.kernel_quant.{...}` beside `CONV.weight`, and `CONV.kernel_q`,
the weight already quantized. scale is the logarithm of the clip. table_q and kernel_q are there only in files written
after an evaluation; without them they are made from scale and table, with inputs that are never negative.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lutc.importers.checkpoints.layer import QuantizedParts, Settings, State, scalar
from lutc.nn.levels import extract_levels


def read_layers(
    content: dict[str, Any], state: State, module: nn.Module, settings: Settings
) -> dict[str, QuantizedParts]:
    """Qualified name -> parts, for every layer with quantizers."""
    found = {}
    for name, layer in module.named_modules():
        if not isinstance(layer, (nn.Conv2d, nn.Linear)):
            continue
        weight = levels = None
        if f"{name}.kernel_q" in state:
            weight = state[f"{name}.kernel_q"]
        elif f"{name}.kernel_quant.table" in state:
            table = _table(state, f"{name}.kernel_quant", is_weight=True, one_bit=settings.bits == 1)
            weight = _lookup(
                state[f"{name}.weight"], table, scalar(state[f"{name}.kernel_quant.scale"]), is_weight=True
            )
        if f"{name}.act_quant.table" in state:
            table, scale = _table(state, f"{name}.act_quant"), scalar(state[f"{name}.act_quant.scale"])
            levels = extract_levels(lambda x, table=table, scale=scale: _lookup(x, table, scale))
        if weight is not None or levels is not None:
            found[name] = QuantizedParts(weight, input=levels)
    return found


def _lookup(x: Tensor, table: Tensor, log_scale: Tensor, *, is_weight: bool = False) -> Tensor:
    """The training code's evaluation: clamp, round half to even to a cell, read the table."""
    scale = log_scale.exp()
    inside = (x / scale).clamp(-1, 1)
    if is_weight:
        index = ((inside + 1) / 2 * (len(table) - 1)).round().long()
    else:
        half = len(table) // 2
        index = (inside * half).round().long() + half
    return table[index.clamp(0, len(table) - 1)] * scale


def _table(state: State, prefix: str, *, is_weight: bool = False, one_bit: bool = False) -> Tensor:
    """Value of each cell, in units of the clip: 2n + 1 cells over -1..1, or n + 1 for one-bit weights.

    One-bit and two-bit weights have logits of the same shape, so the settings must say one bit.
    """
    if f"{prefix}.table_q" in state:
        return state[f"{prefix}.table_q"].flatten()
    logits = state[f"{prefix}.table"]
    rows, cells = logits.shape
    height = F.one_hot(logits.argmax(1), cells).flatten().cumsum(0).float()
    zero = height.new_zeros(1)
    if not is_weight:
        return torch.cat([torch.zeros(rows * cells + 1), height]) / rows
    if one_bit:
        return torch.cat([zero - 1, height * 2 - 1])
    return torch.cat([-height.flip(0), zero, height]) / rows
