"""Layer-wise reconstruction: lookup tables from a few hundred inputs, without labels and without training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lutc.config import LUTConfig
from lutc.nn.calibration import Record, call_model, initialise
from lutc.nn.eval_mode import eval_mode
from lutc.nn.layer import LUTLayer
from lutc.nn.least_squares import TableFit
from lutc.nn.lookup import codes_of
from lutc.nn.quantize import Config, chosen_settings, plan, swap


@dataclass(frozen=True)
class ReconstructRow:
    """One layer: the error of its output, relative to the variance of the float layer's, before and after the fit."""

    name: str
    tied_error: float
    fitted_error: float


@torch.no_grad()
def reconstruct_(
    model: nn.Module,
    config: Config = LUTConfig(),  # noqa: B008  (frozen)
    *,
    calibration: Iterable[object],
    filter_fn: Callable[[nn.Module, str], bool] | None = None,
    ridge: float = 1e-2,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[ReconstructRow]:
    batches = list(calibration)
    reference = copy.deepcopy(model).eval()
    _, twins, _ = plan(model, chosen_settings(model, config), filter_fn)
    order = _execution_order(reference, list(twins), batches[0])
    rows = []
    with eval_mode(model):
        for index, name in enumerate(order):
            inputs = _capture(model, name, batches, outputs=False)
            targets = _capture(reference, name, batches, outputs=True)
            twin = twins[name]
            record = Record(twin, seed + index)
            for x in inputs:
                record.add(x)
            initialise(name, record, seed + index)
            rows.append(_fit(name, twin, inputs, targets, ridge))
            swap(model, {model.get_submodule(name): twin})
            if progress is not None:
                progress(name, index + 1, len(order))
    return rows


def _fit(name: str, layer: LUTLayer, inputs: list[Tensor], targets: list[Tensor], ridge: float) -> ReconstructRow:
    fit = TableFit(layer.float_table())
    search, columns = layer.search(), layer.columns()
    wanted = [layer.output_rows(y) for y in targets]
    before = _error(layer, inputs, targets)
    for x, y in zip(inputs, wanted, strict=True):
        fit.add(codes_of(layer.column_input(x), columns, search), y if layer.bias is None else y - layer.bias)
    layer.free_table(fit.solve(ridge))
    return ReconstructRow(name, before, _error(layer, inputs, targets))


def _error(layer: LUTLayer, inputs: list[Tensor], targets: list[Tensor]) -> float:
    layer.eval()
    wrong = sum(float((layer(x) - y).double().square().sum()) for x, y in zip(inputs, targets, strict=True))
    rows = torch.cat([layer.output_rows(y) for y in targets])
    return wrong / max(float((rows - rows.mean(0)).double().square().sum()), 1e-30)


def _capture(model: nn.Module, name: str, batches: list[object], *, outputs: bool) -> list[Tensor]:
    found: list[Tensor] = []

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.append((output if outputs else inputs[0]).detach())

    handle = model.get_submodule(name).register_forward_hook(hook)
    try:
        for batch in batches:
            call_model(model, batch)
    finally:
        handle.remove()
    return found


def _execution_order(model: nn.Module, names: list[str], batch: object) -> list[str]:
    order: list[str] = []
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: order.append(name)) for name in names
    ]
    try:
        call_model(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return list(dict.fromkeys(order))
