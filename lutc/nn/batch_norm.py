"""Statistics of batch normalisation measured again: the outputs of hard lookups are not those of the float layers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from lutc.errors import LutcError
from lutc.nn.calibration import call_model
from lutc.nn.eval_mode import eval_mode


@torch.no_grad()
def reestimate_batch_norm_(model: nn.Module, batches: Iterable[object]) -> None:
    """Replace running means and variances by their averages over `batches`, run in eval mode but for these layers.

    Raises
    ------
    LutcError : there are no batches; the statistics stay as they were.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    first, batches = _peek(batches)
    if not first:
        raise LutcError(
            "cannot measure batch-norm statistics",
            where="reestimate_batch_norm_",
            reason="there are no batches",
            fix="pass batches of training inputs",
        )
    momenta = [norm.momentum for norm in norms]
    with eval_mode(model):
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a plain average over batches
                norm.train()
            for batch in batches:
                call_model(model, batch)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
                norm.eval()


def freeze_batch_norm_(model: nn.Module) -> None:
    """Batch norms in eval mode: a training step then sees the statistics it will be deployed with.

    model.train() undoes it. Their scales and shifts still learn.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def _peek(batches: Iterable[object]) -> tuple[bool, Iterable[object]]:
    iterator = iter(batches)
    for first in iterator:
        return True, _chain(first, iterator)
    return False, ()


def _chain(first: object, rest: Iterable[object]) -> Iterable[object]:
    yield first
    yield from rest
