"""How the papers train their quantizers: optimizers, schedules and phases for models made by `quantize_`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from lutc.errors import LutcError
from lutc.nn.quantized_layer import QuantizedLayer
from lutc.nn.quantizers import ScalarQuantizer

Phase = Literal["weights", "inputs", "both"]


@dataclass(frozen=True)
class Recipe:
    """Settings of a training run. `factor` gives the learning rate's course, `RECIPES` the papers' own values.

    Parameters
    ----------
    lr, weight_decay, momentum, nesterov : of the SGD for weights; quantizer_lr and quantizer_decay are those of
        quantizers, by AdamW where `adaptive`, else by the same SGD.
    clip : largest norm of the gradient, or None.
    milestones : parts of the training after which the rate falls to a tenth; None for a cosine, after a linear
        warm-up over the part `warmup`.
    phases : each a full training: weights alone, inputs alone with the weights held, or both.
    """

    lr: float
    weight_decay: float
    quantizer_lr: float
    quantizer_decay: float
    epochs: int
    batch: int
    adaptive: bool = False
    momentum: float = 0.9
    nesterov: bool = False
    clip: float | None = None
    milestones: tuple[float, ...] | None = None
    warmup: float = 0.0
    phases: tuple[Phase, ...] = ("both",)

    def factor(self, progress: float) -> float:
        """Of the learning rates at this part, 0..1, of a phase."""
        if self.milestones is not None:
            return 0.1 ** sum(progress >= milestone for milestone in self.milestones)
        if progress < self.warmup:
            return max(progress / self.warmup, 1e-3)
        return 0.5 * (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup)))

    def short(self, epochs: int, lr: float, quantizer_lr: float | None = None) -> Recipe:
        """The same recipe as a short fine-tuning from trained weights: a cosine after a short warm-up.

        The quantizers' rate keeps its proportion to the weights' unless it is given.
        """
        if quantizer_lr is None:
            quantizer_lr = self.quantizer_lr * lr / self.lr
        return replace(self, epochs=epochs, lr=lr, quantizer_lr=quantizer_lr, milestones=None, warmup=0.05)


# CIFAR-10 with ResNet-20 where the paper has it, else its ImageNet values
RECIPES: dict[str, Recipe] = {
    "llt": Recipe(0.01, 1e-4, 0.01, 1e-4, 200, 128, clip=5.0, milestones=(0.4, 0.6)),
    "nulsq": Recipe(0.04, 5e-4, 4e-4, 0.0, 300, 128, adaptive=True, warmup=1 / 30),
    "quantization_network": Recipe(
        1e-4, 1e-4, 1e-3, 0.0, 55, 256, clip=5.0, milestones=(30 / 55, 45 / 55), phases=("weights", "inputs", "both")
    ),
    "lsq": Recipe(0.01, 1e-4, 0.01, 0.0, 90, 256),
    "pact": Recipe(0.1, 2e-4, 0.1, 2e-4, 200, 128, milestones=(0.3, 0.6, 0.9)),
    "dorefa": Recipe(0.1, 1e-4, 0.1, 0.0, 200, 128, milestones=(0.4, 0.75)),
    "apot": Recipe(0.04, 1e-4, 0.02, 1e-4, 300, 128, milestones=(0.5, 0.75)),
    "lcq": Recipe(0.04, 1e-4, 0.02, 0.0, 300, 128, warmup=1 / 60),
    "lqnets": Recipe(0.1, 1e-4, 0.1, 0.0, 200, 128, milestones=(0.41, 0.61, 0.82)),
    "ttq": Recipe(0.1, 2e-4, 0.1, 0.0, 200, 128, milestones=(0.4, 0.6, 0.75)),
    "minmax": Recipe(0.01, 1e-4, 0.01, 0.0, 30, 128),
}


def make_optimizers(
    model: nn.Module, recipe: Recipe, others: Mapping[str, Recipe] = MappingProxyType({})
) -> list[Optimizer]:
    """An SGD for weights, with the quantizers' parameters as groups of their own or in an AdamW beside it.

    `others` holds the recipes of further methods: their quantizers take rate and decay from there. Parameters that do
    not require gradients are left out. Codebooks and temperatures of lookup-table layers count as weights here:
    `param_groups`, for one optimizer of your own, tells all kinds apart.
    """
    quantizers = [module for module in model.modules() if isinstance(module, ScalarQuantizer)]
    special = {id(parameter) for module in quantizers for parameter in module.parameters()}
    weights = [p for p in model.parameters() if id(p) not in special and p.requires_grad]
    groups: list[dict[str, object]] = [{"params": weights, "lr": recipe.lr, "weight_decay": recipe.weight_decay}]
    adaptive: list[dict[str, object]] = []
    for method, own in ({"": recipe} | dict(others)).items():
        chosen = [q for q in quantizers if (q.method if q.method in others else "") == method]
        found = [p for module in chosen for p in module.parameters() if p.requires_grad]
        if found:
            group = {"params": found, "lr": own.quantizer_lr, "weight_decay": own.quantizer_decay}
            (adaptive if own.adaptive else groups).append(group)
    optimizers: list[Optimizer] = []
    if weights or len(groups) > 1 or not recipe.adaptive:
        optimizers.append(SGD(groups, momentum=recipe.momentum, nesterov=recipe.nesterov))
    if adaptive:
        optimizers.append(AdamW(adaptive))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def set_progress(model: nn.Module, optimizers: list[Optimizer], recipe: Recipe, progress: float) -> None:
    """Move learning rates and the quantizers' temperatures to this part, 0..1, of a phase."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * recipe.factor(progress)
    for module in model.modules():
        if isinstance(module, ScalarQuantizer):
            module.set_progress(progress)


def clip_gradients(model: nn.Module, recipe: Recipe) -> None:
    """Clip all gradients together to the recipe's norm, if it has one."""
    if recipe.clip is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)


def set_phase(model: nn.Module, phase: Phase) -> None:
    """What a phase of Quantization Networks quantizes and trains; make the optimizers afterwards.

    weights: inputs stay float. inputs: weights are quantized and held. both: everything is quantized and trained.

    Raises
    ------
    LutcError : an unknown phase, or a model without quantized layers.
    """
    layers = [module for module in model.modules() if isinstance(module, QuantizedLayer)]
    if phase not in ("weights", "inputs", "both") or not layers:
        raise LutcError(
            "cannot set the training phase",
            where="set_phase",
            reason=f"{phase!r} is no phase" if layers else "the model holds no quantized layer",
            fix='use "weights", "inputs" or "both" on a model from quantize_ with a ScalarConfig',
        )
    for layer in layers:
        if layer.input_quantizer is not None:
            layer.input_quantizer.enabled = phase != "weights"
        layer.original_weight.requires_grad_(phase != "inputs")
        if layer.weight_quantizer is not None:
            for parameter in layer.weight_quantizer.parameters():
                parameter.requires_grad_(phase != "inputs")
