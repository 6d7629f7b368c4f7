"""Statistics of batch normalisation measured again: the outputs of hard lookups are not those of the float layers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


class BatchRenorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm whose training forward has the values of inference: x [B, M, ...] by the running statistics.

    The gradient is that of batch norm, through the batch's own statistics. Codes then do not change with the company
    an input is in, and few images a batch (or a process) suffice. Batch renormalization, Ioffe 2017, Algorithm 1,
    without limits to r and d: the statistics a calibrated network starts from are its own.
    With momentum=None (`reestimate_batch_norm_`) a plain batch norm.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        running_mean, running_var = self.running_mean, self.running_var
        if not self.training or self.momentum is None or running_mean is None or running_var is None:
            return super().forward(input)
        count = input.numel() // input.shape[1]
        mean, variance = torch.zeros_like(running_mean), torch.zeros_like(running_var)
        with torch.no_grad():
            # batch norm's own statistics, three times as fast as var_mean on a CPU
            F.batch_norm(input, mean, variance, training=True, momentum=1.0, eps=self.eps)
            scale = (running_var + self.eps).rsqrt()
            r = (variance * ((count - 1) / count) + self.eps).sqrt() * scale
            d = (mean - running_mean) * scale
        weight, bias = (r, d) if self.weight is None else (self.weight * r, self.bias + self.weight * d)
        output = F.batch_norm(input, None, None, weight, bias, True, 0.0, self.eps)
        running_mean.lerp_(mean, self.momentum)
        running_var.lerp_(variance, self.momentum)
        return output


def renormalize_batch_norm_(model: nn.Module) -> None:
    """Replace the batch norms within a model by `BatchRenorm` with the same parameters, statistics and names.

    Hooks of the modules replaced are lost; optimizers stay valid.
    """
    for parent in list(model.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.track_running_stats:
                twin = BatchRenorm(norm.num_features, norm.eps, norm.momentum, norm.affine, device="meta")
                for state in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                    setattr(twin, state, getattr(norm, state))
                setattr(parent, name, twin.train(norm.training))


def _peek(batches: Iterable[object]) -> tuple[bool, Iterable[object]]:
    iterator = iter(batches)
    for first in iterator:
        return True, _chain(first, iterator)
    return False, ()


def _chain(first: object, rest: Iterable[object]) -> Iterable[object]:
    yield first
    yield from rest
