"""A model in eval mode for a while, module by module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode; afterwards each has its own mode back.

    Transformers run module by module, so that hooks see what each takes: not through torch's fused operation, which
    passes by the linears within.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module in training:
            module.training = True
