"""Checkpoints of Quantization Networks (repository aliyun/alibabacloud-quantization-networks).

`state_dict` holds float weights; the lists `alpha` and `beta` hold one number for each convolution or dense layer but
the first and the last, in the order of the modules. The levels and biases of weights are not in the file (the training
code has them in its configuration): give them as settings. Activation quantizers are modules behind an activation
(`layer1.0.quan1`, ...) with alpha, beta, biases and scales in the state_dict. Old files hold variables of PyTorch 0.3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lutc.errors import ModelImportError
from lutc.importers.checkpoints.layer import QuantizedParts, Settings, State, scalar
from lutc.nn.levels import Levels, extract_levels

_UNUSED = "quan0"  # the training code computes it and goes on without it


def read_layers(
    content: dict[str, Any], state: State, module: nn.Module, settings: Settings
) -> dict[str, QuantizedParts]:
    """Qualified name -> parts, for every layer between the first and the last."""
    names = [name for name, layer in module.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))][1:-1]
    if "alpha" not in content:
        return {}
    alphas, betas = content["alpha"], content.get("beta", ())
    if not len(names) == len(alphas) == len(betas):
        raise _mismatch(
            f"it has {len(alphas)} alpha and {len(betas)} beta, the network {len(names)} layers to quantize"
        )
    if settings.level_set is None or settings.biases is None:
        raise ModelImportError(
            "the checkpoint does not say the levels of its weights",
            where="level_set, biases",
            reason="the training code keeps them in its configuration",
            fix='give a JSON file, --settings FILE with {"level_set": [-1, 0, 1], "biases": [[...], ...]}',
        )
    if len(settings.biases) != len(names):
        raise _mismatch(f"the settings have biases for {len(settings.biases)} layers, the network {len(names)}")
    found = {}
    for name, alpha, beta, biases in zip(names, alphas, betas, settings.biases, strict=True):
        values = [torch.as_tensor(value).float().flatten()[0] for value in (alpha, beta)]
        found[name] = QuantizedParts(_weight(state[f"{name}.weight"], *values, settings.level_set, biases, name))
    return found


def read_activations(state: State) -> dict[str, Levels]:
    """Qualified name of each activation quantizer that the network runs -> its thresholds and levels."""
    names = sorted(key.removesuffix(".scales") for key in state if key.endswith(".scales"))
    return {name: _activation(state, name) for name in names if name.rsplit(".", 1)[-1] != _UNUSED}


def _weight(weight: Tensor, alpha: Tensor, beta: Tensor, level_set: Any, biases: Any, name: str) -> Tensor:
    levels, steps = (torch.tensor(values, dtype=torch.float32) for values in (level_set, biases))
    if len(steps) != len(levels) - 1:
        raise _mismatch(f'"{name}" has {len(steps)} biases and {len(levels)} levels; a step lies between two levels')
    return _steps(weight * beta, steps, levels.diff(), (levels[-1] - levels[0]) / 2) * alpha


def _activation(state: State, name: str) -> Levels:
    alpha, beta = (scalar(state[f"{name}.{key}"]) for key in ("alpha", "beta"))
    biases, rises = (state[f"{name}.{key}"].flatten() for key in ("biases", "scales"))
    return extract_levels(lambda x: _steps(x * beta, biases, rises, torch.tensor(0.0)) * alpha)


def _steps(x: Tensor, biases: Tensor, rises: Tensor, offset: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    for bias, rise in zip(biases, rises, strict=True):
        y = y + ((x - bias) > 0) * rise
    return y - offset


def _mismatch(reason: str) -> ModelImportError:
    return ModelImportError(
        "the checkpoint and the settings do not fit together",
        where="alpha, beta, biases",
        reason=reason,
        fix="choose the --arch it was trained with, and give biases for each layer but the first and the last",
    )
