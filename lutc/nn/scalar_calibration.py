"""Scalar quantizers at either end of training: values from the float model, then thresholds and levels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

from lutc.errors import LutcError
from lutc.nn.calibration import call_model
from lutc.nn.eval_mode import eval_mode
from lutc.nn.frozen_quantized import FrozenQuantizer
from lutc.nn.quantized_layer import QuantizedLayer
from lutc.nn.quantizers import ScalarQuantizer


def negative_inputs(model: nn.Module, names: Collection[str], batches: Iterable[object]) -> set[str]:
    """The layers that see a negative input in these batches."""
    found: set[str] = set()

    def look(name: str) -> Callable[[Tensor], None]:
        return lambda x: found.add(name) if bool((x < 0).any()) else None

    _watch_inputs(model, {name: look(name) for name in names}, batches)
    return found


@torch.no_grad()
def calibrate_quantizers(model: nn.Module, layers: Mapping[str, QuantizedLayer], batches: Iterable[object]) -> None:
    """Initialise the input quantizers of layers, named as the float layers they will replace, from the float model.

    Raises
    ------
    LutcError : a layer was never reached, or saw values that are not finite.
    """
    quantizers = {name: layer.input_quantizer for name, layer in layers.items() if layer.input_quantizer is not None}
    _watch_inputs(model, {name: quantizer.observe for name, quantizer in quantizers.items()}, batches)
    missed = [name for name, quantizer in quantizers.items() if not bool(quantizer.initialized)]
    if missed:
        raise LutcError(
            "calibration did not reach every layer",
            where=", ".join(missed),
            reason=f"the calibration batches never ran {len(missed)} of {len(quantizers)} layers",
            fix="pass batches that use these layers, or keep them float with filter_fn",
        )


def freeze_quantizers(model: nn.Module) -> dict[nn.Module, nn.Module]:
    """Quantizers that stand in a model by themselves -> their inference form."""
    owned = {id(inner) for layer in model.modules() if isinstance(layer, QuantizedLayer) for inner in layer.modules()}
    return {
        module: FrozenQuantizer(module.levels(), module.axis)
        for module in model.modules()
        if isinstance(module, ScalarQuantizer) and id(module) not in owned
    }


def _watch_inputs(
    model: nn.Module, watchers: Mapping[str, Callable[[Tensor], None]], batches: Iterable[object]
) -> None:
    if not watchers:
        return
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda _module, inputs, watch=watch: watch(inputs[0]))
        for name, watch in watchers.items()
    ]
    try:
        with eval_mode(model), torch.no_grad():
            for batch in batches:
                call_model(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
