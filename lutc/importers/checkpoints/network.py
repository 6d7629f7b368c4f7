"""import_checkpoint: a training checkpoint and the network it belongs to -> that network with palettes and levels."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lutc.errors import LutcError, ModelImportError
from lutc.importers.checkpoints import apot, llt, nulsq, quantization_networks
from lutc.importers.checkpoints.architectures import ARCHITECTURES
from lutc.importers.checkpoints.layer import QuantizedParts, Settings, State
from lutc.importers.checkpoints.reader import load_float_state, read_checkpoint, state_of
from lutc.importers.names import did_you_mean
from lutc.nn.frozen_quantized import (
    FrozenPalette,
    FrozenQuantizedConv2d,
    FrozenQuantizedLinear,
    FrozenQuantizer,
    FrozenWeight,
)
from lutc.nn.levels import find_palette

Reader = Callable[[dict[str, Any], State, nn.Module, Settings], dict[str, QuantizedParts]]
_READERS: dict[str, Reader] = {
    "apot": apot.read_layers,
    "llt": llt.read_layers,
    "nulsq": nulsq.read_layers,
    "quantization-networks": quantization_networks.read_layers,
}


@dataclass(frozen=True, eq=False)
class ImportedNetwork:
    """A network in inference form (eval mode), and for each layer what it holds.

    input_shape is that of one image, without the batch; None for a module of your own. layers: qualified name ->
    "16 weight levels, 16 input levels".
    """

    module: nn.Module
    input_shape: tuple[int, ...] | None
    layers: dict[str, str]


@torch.no_grad()
def import_checkpoint(
    path: str | os.PathLike[str],
    format: str,
    arch: str | nn.Module,
    *,
    bits: int | None = None,
    level_set: Sequence[float] | None = None,
    biases: Sequence[Sequence[float]] | None = None,
    input_ranges: Mapping[str, float] | None = None,
) -> ImportedNetwork:
    """Read a checkpoint of one of the reference repositories (docs/quantizers.md says what each holds).

    Parameters
    ----------
    format : apot, llt, nulsq or quantization-networks.
    arch : name of a network (resnet20, ...), or the float torch module the checkpoint's names belong to; it is changed.
    bits : bit width, where the file does not say it: APoT always; LLT with 1; LSQ and LCQ.
    level_set, biases : Quantization Networks' weight levels, and for each quantized layer the biases of the steps.
    input_ranges : nuLSQ's first and last layer: largest input by layer name, to quantize their inputs too.

    Raises
    ------
    ModelImportError : the file cannot be read, is of another network, or needs settings that were not given.
    """
    path = Path(path)
    reader = _known(format, _READERS, "format")
    content = read_checkpoint(path)
    state = state_of(content, path)
    module, input_shape = arch, None
    if isinstance(arch, str):
        architecture = _known(arch, ARCHITECTURES, "arch")
        module, input_shape = architecture.make(state), architecture.input_shape
    assert isinstance(module, nn.Module)
    load_float_state(module, state, str(path))
    parts = reader(content, state, module, Settings(bits, level_set, biases, dict(input_ranges or {})))
    layers = {}
    for name, layer in list(module.named_modules()):
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            found = parts.get(name, QuantizedParts())
            layers[name] = _describe(found)
            if found.weight is not None or found.input is not None:
                _replace(module, name, _frozen(name, layer, found))
    for name, levels in quantization_networks.read_activations(state).items():
        _replace(module, name, FrozenQuantizer(levels))
        layers[name] = f"{len(levels.levels)} levels"
    return ImportedNetwork(module.eval(), input_shape, layers)


def _frozen(name: str, layer: nn.Conv2d | nn.Linear, parts: QuantizedParts) -> nn.Module:
    weight: nn.Module = FrozenWeight(layer.weight)
    if parts.weight is not None:
        try:
            weight = FrozenPalette(*find_palette(parts.weight, per_channel=False))
        except LutcError as error:
            raise ModelImportError(
                f'cannot import the weight of "{name}"',
                where=name,
                reason=error.reason,
                fix="check --bits and --format",
            ) from error
    quantizer = None if parts.input is None else FrozenQuantizer(parts.input)
    if isinstance(layer, nn.Linear):
        return FrozenQuantizedLinear(weight, layer.bias, quantizer)
    left, right, top, bottom = layer._reversed_padding_repeated_twice
    return FrozenQuantizedConv2d(
        weight,
        layer.bias,
        quantizer,
        strides=layer.stride,
        pads=(top, left, bottom, right),
        dilations=layer.dilation,
        groups=layer.groups,
    )


def _describe(parts: QuantizedParts) -> str:
    described = []
    if parts.weight is not None:
        described.append(f"{parts.weight.unique().numel()} weight levels")
    if parts.input is not None:
        described.append(f"{parts.input.levels.shape[-1]} input levels")
    return ", ".join(described) or "float"


def _replace(module: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, key = name.rpartition(".")
    try:
        setattr(module.get_submodule(parent), key, new)
    except AttributeError as error:
        raise ModelImportError(
            "the checkpoint is of another network",
            where=name,
            reason="the network has no place for this quantizer",
            fix="choose the --arch it was trained with, or give your own torch module as arch",
        ) from error


def _known(name: str, known: Mapping[str, Any], what: str) -> Any:
    if name not in known:
        raise ModelImportError(
            f"unknown {what} {name!r}",
            where=what,
            reason=f"known are {', '.join(known)}{did_you_mean(name, known)}",
            fix=f"choose one of them for --{what}",
        )
    return known[name]
