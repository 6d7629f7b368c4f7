"""Optimizer groups: centroids and temperatures learn at their own rates."""

from __future__ import annotations

from torch import nn

from lutc.nn.layer import LUTLayer


def param_groups(
    model: nn.Module, lr: float, centroid_lr: float, temperature_lr: float, *, weight_decay: float = 0.0
) -> list[dict[str, object]]:
    """Groups for any torch optimizer. Only the ordinary parameters decay; frozen parameters are left out."""
    layers = [module for module in model.modules() if isinstance(module, LUTLayer)]
    centroids = [layer.centroids for layer in layers]
    temperatures = [layer.log_temperature for layer in layers]
    special = {id(parameter) for parameter in centroids + temperatures}
    others = [parameter for parameter in model.parameters() if id(parameter) not in special]
    groups = ((others, lr, weight_decay), (centroids, centroid_lr, 0.0), (temperatures, temperature_lr, 0.0))
    return [
        {"params": [p for p in parameters if p.requires_grad], "lr": rate, "weight_decay": decay}
        for parameters, rate, decay in groups
    ]
