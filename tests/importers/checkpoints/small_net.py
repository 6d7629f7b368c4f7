"""A float network of four layers, small enough to check every value of an imported one."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SmallNet(nn.Module):
    """conv1 (first), body, shortcut (1x1, on the same tensor), fc (last); `quan1` is a place for a quantizer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.quan1 = nn.Identity()
        self.body = nn.Conv2d(4, 6, 3, padding=1, stride=2, bias=False)
        self.shortcut = nn.Conv2d(4, 6, 1, stride=2, bias=False)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.quan1(torch.relu(self.conv1(x)))
        return self.fc(torch.relu(self.body(x) + self.shortcut(x)).mean((2, 3)))


def float_state(seed: int = 0) -> dict[str, Tensor]:
    """Float parameters of a SmallNet with the prefix of DataParallel."""
    torch.manual_seed(seed)
    return {f"module.{key}": value for key, value in SmallNet().state_dict().items()}
