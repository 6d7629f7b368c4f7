"""ResNet-20 for 32x32 images as torch code, real weights and real images from the folder LUTC_DATA."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

_MEAN = np.array([0.491, 0.482, 0.447], np.float32)
_STD = np.array([0.247, 0.243, 0.262], np.float32)


class Block(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer)
        self.conv2, self.bn2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False), nn.BatchNorm2d(outer)
        self.downsample = None
        if stride != 1 or inner != outer:
            self.downsample = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        short = x if self.downsample is None else self.downsample(x)
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + short)


class ResNet20(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1), Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
        self.layer3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer3(self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x))))))
        return self.fc(x.mean((2, 3)))


def data_folder() -> Path:
    """LUTC_DATA, or skip."""
    folder = os.environ.get("LUTC_DATA")
    if not folder:
        pytest.skip("LUTC_DATA is not set: no trained ResNet-20")
    return Path(folder)


def resnet20() -> ResNet20:
    net = ResNet20()
    net.load_state_dict(load_file(data_folder() / "resnet20-cifar10-jpeg.safetensors"))
    return net.eval()


def images(split: str, count: int) -> torch.Tensor:
    """The first `count` images of a split, float32 [count, 3, 32, 32], normalised."""
    image = pytest.importorskip("PIL.Image", reason="Pillow decodes the images")
    with np.load(data_folder() / f"cifar10-{split}.npz") as pack:
        header, scans, sizes = pack["header"].tobytes(), pack["scans"].tobytes(), pack["sizes"][:count]
    pixels, at = [], 0
    for size in sizes.tolist():
        pixels.append(np.asarray(image.open(io.BytesIO(header + scans[at : at + size] + b"\xff\xd9"))))
        at += size
    scaled = (np.stack(pixels).astype(np.float32) / 255 - _MEAN) / _STD
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32))
