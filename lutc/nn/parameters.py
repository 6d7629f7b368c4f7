"""Optimizer groups: centroids, temperatures and free tables learn at their own rates."""

from __future__ import annotations

from torch import nn

from lutc.nn.layer import LUTLayer
from lutc.nn.quantizers import ScalarQuantizer


def param_groups(
    model: nn.Module,
    lr: float = 2e-3,
    centroid_lr: float = 5e-4,
    temperature_lr: float = 1e-2,
    *,
    table_lr: float | None = None,
    weight_decay: float = 0.0,
) -> list[dict[str, object]]:
    """Groups for any torch optimizer: ordinary parameters, centroids and trees, temperatures, and free tables if any.

    Only the ordinary parameters decay, and of these not the thresholds and levels of scalar quantizers; frozen
    parameters are left out. table_lr None means centroid_lr.

    The defaults are for Adam and distances; trees did best with 3e-3, 2e-3 and 2e-2 (docs/accuracy.md). LUT-NN itself
    (MobiCom 2023) has 1e-3 for all but the temperatures, 1e-1 for those.
    """
    layers = [module for module in model.modules() if isinstance(module, LUTLayer)]
    centroids = [layer.centroids for layer in layers]
    centroids += [layer.split_thresholds for layer in layers if layer.config.encoder == "tree"]
    temperatures = [layer.log_temperature for layer in layers]
    tables = [layer.table for layer in layers if layer.table is not None]
    scalar = [p for module in model.modules() if isinstance(module, ScalarQuantizer) for p in module.parameters()]
    special = {id(parameter) for parameter in centroids + temperatures + tables + scalar}
    others = [parameter for parameter in model.parameters() if id(parameter) not in special]
    groups = [(others, lr, weight_decay), (centroids, centroid_lr, 0.0), (temperatures, temperature_lr, 0.0)]
    if scalar:
        groups.append((scalar, lr, 0.0))
    if tables:
        groups.append((tables, centroid_lr if table_lr is None else table_lr, 0.0))
    return [{"params": _trainable(parameters), "lr": rate, "weight_decay": decay} for parameters, rate, decay in groups]


def _trainable(parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    """Each parameter once: layers may share them."""
    return list({id(parameter): parameter for parameter in parameters if parameter.requires_grad}.values())
