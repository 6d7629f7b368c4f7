"""The networks of the reference repositories, with their module names: what a state_dict says nothing about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; quan1 and quan2 are places for quantizers behind the activations."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.quan1 = nn.Identity()
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inner != outer:
            conv = nn.Conv2d(inner, outer, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outer))
        self.quan2 = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.quan1(F.relu(self.bn1(self.conv1(x))))
        return self.quan2(F.relu(self.bn2(self.conv2(y)) + self.downsample(x)))


class ResNet(nn.Module):
    """Residual networks with the activation behind the sum: for 32x32 images, and with `imagenet` for 224x224."""

    def __init__(self, widths: Sequence[int], blocks: int, classes: int, imagenet: bool = False) -> None:
        super().__init__()
        first = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False) if imagenet else None
        self.conv1 = first or nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.pool = nn.MaxPool2d(3, 2, 1) if imagenet else nn.Identity()
        self.stages = len(widths)
        inner = widths[0]
        for index, width in enumerate(widths):
            stage = [Block(inner if i == 0 else width, width, 2 if i == 0 and index else 1) for i in range(blocks)]
            setattr(self, f"layer{index + 1}", nn.Sequential(*stage))
            inner = width
        self.fc = nn.Linear(inner, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        for index in range(self.stages):
            x = getattr(self, f"layer{index + 1}")(x)
        return self.fc(x.mean((2, 3)))


class PreConv(nn.Module):
    """BN, ReLU, 3x3 convolution."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inner)
        self.conv = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)


class PreUnit(nn.Module):
    """The unit of pre-activation residual networks; a 1x1 shortcut starts behind the first activation."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Module()
        self.body.conv1, self.body.conv2 = PreConv(inner, outer, stride), PreConv(outer, outer, 1)
        if stride != 1 or inner != outer:
            self.identity_conv = nn.Conv2d(inner, outer, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.body.conv1, self.body.conv2
        active = F.relu(first.bn(x))
        y = second.conv(F.relu(second.bn(first.conv(active))))
        return y + (self.identity_conv(active) if hasattr(self, "identity_conv") else x)


class PreResNet(nn.Module):
    """Pre-activation residual networks for 32x32 images, with the names of pytorchcv."""

    def __init__(self, blocks: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential()
        self.features.add_module("init_block", nn.Conv2d(3, 16, 3, 1, 1, bias=False))
        inner = 16
        for index, width in enumerate((16, 32, 64)):
            stage = nn.Sequential()
            for unit in range(blocks):
                stage.add_module(f"unit{unit + 1}", PreUnit(inner, width, 2 if unit == 0 and index else 1))
                inner = width
            self.features.add_module(f"stage{index + 1}", stage)
        post = nn.Sequential()
        post.add_module("bn", nn.BatchNorm2d(inner))
        post.add_module("activ", nn.ReLU())
        self.features.add_module("post_activ", post)
        self.output = nn.Linear(inner, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.features(x).mean((2, 3)))


@dataclass(frozen=True)
class Architecture:
    """How to build a network for a number of classes, and the input it takes (without the batch)."""

    build: Callable[[int], nn.Module]
    input_shape: tuple[int, ...]
    classifier: str

    def make(self, state: dict[str, Tensor]) -> nn.Module:
        """The network, with as many classes as the checkpoint's classifier has rows."""
        weight = state.get(f"{self.classifier}.weight", torch.empty(10, 1))
        return self.build(len(weight))


def _cifar(blocks: int) -> Architecture:
    return Architecture(partial(ResNet, (16, 32, 64), blocks), (3, 32, 32), "fc")


def _preactivated(blocks: int) -> Architecture:
    return Architecture(partial(PreResNet, blocks), (3, 32, 32), "output")


ARCHITECTURES = {
    "resnet20": _cifar(3),
    "resnet32": _cifar(5),
    "resnet44": _cifar(7),
    "resnet56": _cifar(9),
    "preresnet20": _preactivated(3),
    "preresnet56": _preactivated(9),
    "resnet18": Architecture(partial(ResNet, (64, 128, 256, 512), 2, imagenet=True), (3, 224, 224), "fc"),
}
