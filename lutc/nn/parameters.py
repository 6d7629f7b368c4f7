"""Optimizer groups: centroids, temperatures and free tables learn at their own rates."""

from __future__ import annotations

from torch import nn

from lutc.nn.layer import LUTLayer


def param_groups(
    model: nn.Module,
    lr: float,
    centroid_lr: float,
    temperature_lr: float,
    *,
    table_lr: float | None = None,
    weight_decay: float = 0.0,
) -> list[dict[str, object]]:
    """Groups for any torch optimizer: ordinary parameters, centroids and trees, temperatures, and free tables if any.

    Only the ordinary parameters decay; frozen parameters are left out. table_lr None means centroid_lr. LUT-NN's own
    rates with Adam: 1e-3 for all but the temperatures, 1e-1 for those.
    """
    layers = [module for module in model.modules() if isinstance(module, LUTLayer)]
    centroids = [layer.centroids for layer in layers]
    centroids += [layer.split_thresholds for layer in layers if layer.config.encoder == "tree"]
    temperatures = [layer.log_temperature for layer in layers]
    tables = [layer.table for layer in layers if layer.table is not None]
    special = {id(parameter) for parameter in centroids + temperatures + tables}
    others = [parameter for parameter in model.parameters() if id(parameter) not in special]
    groups = [(others, lr, weight_decay), (centroids, centroid_lr, 0.0), (temperatures, temperature_lr, 0.0)]
    if tables:
        groups.append((tables, centroid_lr if table_lr is None else table_lr, 0.0))
    return [{"params": _trainable(parameters), "lr": rate, "weight_decay": decay} for parameters, rate, decay in groups]


def _trainable(parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    """Each parameter once: layers may share them."""
    return list({id(parameter): parameter for parameter in parameters if parameter.requires_grad}.values())
