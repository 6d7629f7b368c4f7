"""Distillation from the float model: its scores teach the lookup-table model more per image than labels do."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """Divergence of the student's softened class probabilities from the teacher's (Hinton et al., 2015).

    Scores [B, classes] of both; times temperature**2, so that its gradient has the size of cross entropy's.
    """
    target = F.log_softmax(teacher.detach() / temperature, -1)
    found = F.log_softmax(student / temperature, -1)
    return temperature**2 * F.kl_div(found, target, reduction="batchmean", log_target=True)
