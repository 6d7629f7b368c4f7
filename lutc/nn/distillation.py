"""Distillation from the float model: its scores, and its layers' outputs, teach more per image than labels do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lutc.errors import LutcError


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """Divergence of the student's softened class probabilities from the teacher's (Hinton et al., 2015).

    Scores [B, classes] of both; times temperature**2, so that its gradient has the size of cross entropy's.
    """
    target = F.log_softmax(teacher.detach() / temperature, -1)
    found = F.log_softmax(student / temperature, -1)
    return temperature**2 * F.kl_div(found, target, reduction="batchmean", log_target=True)


class BlockError:
    """How far the outputs of named modules are from those of the float model, in the last forward of both.

    Called, it gives the mean over the modules of the squared error as a part of the float output's variance: a loss
    that reaches each block directly, not only through all the layers behind it. It watches both models until `close`.

    Raises
    ------
    LutcError : when called, where one of the modules has not run in both models.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._found: list[dict[str, Tensor]] = [{}, {}]
        self._hooks = [
            model.get_submodule(name).register_forward_hook(self._keep(found, name))
            for found, model in zip(self._found, (student, teacher), strict=True)
            for name in names
        ]

    @staticmethod
    def _keep(found: dict[str, Tensor], name: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda _module, _inputs, output: found.__setitem__(name, output)

    def __call__(self) -> Tensor:
        student, teacher = self._found
        missing = [name for name in self._names if name not in student or name not in teacher]
        if missing:
            raise LutcError(
                "cannot compare the blocks of two models",
                where=", ".join(missing),
                reason="not run in both models since the comparison was set up",
                fix="call student and teacher on the batch first, and `close` at the end only",
            )
        plain = torch.contiguous_format  # the float model may run in bfloat16 and channels last
        wanted = {
            name: output.detach().to(student[name].dtype, memory_format=plain) for name, output in teacher.items()
        }
        errors = [(student[name] - y).square().mean() / y.var().clamp_min(1e-12) for name, y in wanted.items()]
        return torch.stack(errors).mean()

    def close(self) -> None:
        """Leave the models as they were, and let go of the outputs: to save, copy or convert a model after training."""
        for hook in self._hooks:
            hook.remove()
        for found in self._found:
            found.clear()
