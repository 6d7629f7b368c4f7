"""Layer-wise reconstruction: lookup tables from a few hundred inputs, without labels and without training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lutc.config import LUTConfig
from lutc.errors import LutcError
from lutc.nn.calibration import Record, call_model, initialise
from lutc.nn.eval_mode import eval_mode
from lutc.nn.layer import LUTLayer
from lutc.nn.least_squares import TableFit
from lutc.nn.lookup import codes_of
from lutc.nn.quantize import Config, chosen_settings, plan, shared_layers, swap


@dataclass(frozen=True)
class ReconstructRow:
    """One layer: the error of its output, as a part of the float output's variance about the mean of each column,
    before and after the fit."""

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
    share: Iterable[Sequence[str]] = (),
    ridge: float = 1e-2,
    free: bool = True,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[ReconstructRow]:
    """Swap layers of a model in place for lookup-table ones, one after another, in the order they run.

    Each layer's codebooks (or trees) are learned from what reaches it through the layers that are already tables; its
    table is then the one whose sums are closest to what the float layer gave on the same inputs, by least squares:
    later layers correct the errors of earlier ones. Tables are free afterwards: train on, or convert.

    With free=False it is the weight that is fitted, and tables stay the products of centroids and weight: in training
    a weight then learns from every input, where an entry of a free table learns from those with its code.

    Parameters
    ----------
    config, filter_fn, share, seed : as of quantize_; LUTConfigs only. Layers that share codebooks take those of the one
        that runs first.
    calibration : batches of inputs; they are kept, with one layer's inputs and outputs at a time.
    ridge : pull of a table towards centroids times weight, in units of the mean count of a code; of a weight towards
        the float one, in units of the mean square of what it multiplies.
    free : whether tables become parameters of their own. Those of grouped convolutions always do.
    progress : called with (name, layers done, layers in all).

    Raises
    ------
    LutcError : as of quantize_, and for a layer that does not run. Nothing is changed then, except where a value that
        is not finite first appears in the middle of the pass.
    """
    batches = list(calibration)
    reference = copy.deepcopy(model).eval()
    _, twins, scalar = plan(model, chosen_settings(model, config), filter_fn)
    if scalar:
        raise _scalar_settings(list(scalar))
    if not batches:
        raise LutcError(
            "cannot reconstruct layers without inputs",
            where="calibration",
            reason="it holds no batch",
            fix="pass batches of a few hundred inputs; a generator that was read before is empty",
        )
    groups = shared_layers(twins, share)
    order = _execution_order(reference, list(twins), batches)
    turn = {twins[name]: index for index, name in enumerate(order)}
    ordered = [sorted(group, key=turn.__getitem__) for group in groups]  # the first to run has the codebooks
    followers = {first: others for first, *others in ordered}
    leaders = {layer: first for first, others in followers.items() for layer in others}
    rows = []
    with eval_mode(model):
        for index, name in enumerate(order):
            inputs = _capture(model, name, batches, outputs=False)
            targets = _capture(reference, name, batches, outputs=True)
            layer = twins[name]
            freed = free or getattr(layer, "groups", 1) > 1
            if layer in leaders:
                layer.share_codebooks(leaders[layer])
            else:
                record = Record(layer, seed + index, followers.get(layer, ()))
                for x in inputs:
                    record.add(x)
                initialise(name, record, seed + index, free_trees=freed)
            rows.append(_fit(name, layer, inputs, targets, ridge, freed))
            swap(model, {model.get_submodule(name): layer})
            if progress is not None:
                progress(name, index + 1, len(order))
    return rows


def _fit(
    name: str, layer: LUTLayer, inputs: list[Tensor], targets: list[Tensor], ridge: float, free: bool
) -> ReconstructRow:
    layer.eval()
    before = _error(layer, inputs, targets)
    fit, search, columns = TableFit(layer.float_table()), layer.search(), layer.columns()
    for x, y in zip(inputs, targets, strict=True):
        wanted = layer.output_rows(y)
        fit.add(codes_of(layer.column_input(x), columns, search), wanted if layer.bias is None else wanted - layer.bias)
    if free:
        layer.free_table(fit.solve(ridge))
    else:
        layer.correct_weight(fit.solve_weight(ridge, layer.centroids))
    return ReconstructRow(name, before, _error(layer, inputs, targets))


def _error(layer: LUTLayer, inputs: list[Tensor], targets: list[Tensor]) -> float:
    wrong = sum(float((layer(x) - y).double().square().sum()) for x, y in zip(inputs, targets, strict=True))
    rows = torch.cat([layer.output_rows(y) for y in targets])
    return wrong / max(float((rows - rows.mean(0)).double().square().sum()), 1e-30)


def _capture(model: nn.Module, name: str, batches: list[object], *, outputs: bool) -> list[Tensor]:
    """Inputs or outputs of one layer, over all batches and all its uses."""
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


def _execution_order(model: nn.Module, names: list[str], batches: list[object]) -> list[str]:
    order: list[str] = []
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: order.append(name)) for name in names
    ]
    try:
        for batch in batches[:1]:
            call_model(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    missed = [name for name in names if name not in order]
    if missed:
        raise LutcError(
            "calibration did not reach every layer",
            where=", ".join(missed),
            reason=f"the first calibration batch never ran {len(missed)} of {len(names)} layers",
            fix="pass batches that use these layers, or keep them float with filter_fn",
        )
    return list(dict.fromkeys(order))


def _scalar_settings(names: list[str]) -> LutcError:
    return LutcError(
        "cannot reconstruct layers with scalar quantizers",
        where=", ".join(names),
        reason="a ScalarConfig has no tables to fit",
        fix="use quantize_ for these layers, and LUTConfig here",
    )
