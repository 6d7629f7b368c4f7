"""Small networks of each shape the compiler meets, as torch code with tables from k-means, and their files."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lutc.config import LUTConfig
from lutc.export import export_model
from lutc.nn import quantize_

torch.set_num_threads(1)


class MLP(nn.Module):
    """x [B, T, 20] -> [B, T, 10]; 20 is no multiple of the subvector length, and one layer has a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(20, 32), nn.Linear(32, 32, bias=False), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        return self.last(x + torch.relu(self.middle(x)))


class Block(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer)
        self.conv2, self.bn2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False), nn.BatchNorm2d(outer)
        self.downsample = nn.Identity()
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + self.downsample(x))


class CNN(nn.Module):
    """x [B, 3, 13, 13] -> [B, 10]: float stem, two residual blocks of which one halves an odd size, float pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.layer1, self.layer2 = Block(8, 8, 1), Block(8, 16, 2)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer2(self.layer1(torch.relu(self.bn(self.stem(x)))))
        return self.fc(x.mean((2, 3)))


@dataclass(frozen=True)
class Kind:
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    float_layers: tuple[str, ...] = ()


KINDS = {"mlp": Kind(MLP, (3, 5, 20)), "cnn": Kind(CNN, (3, 3, 13, 13), ("stem",))}


def float_network(kind: str, seed: int = 0) -> nn.Module:
    """In eval mode, with batch norms that have seen data."""
    torch.manual_seed(seed)
    net = KINDS[kind].make()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    net.train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(16, *KINDS[kind].shape[1:]))
    return net.eval()


def inputs(kind: str, seed: int = 1) -> torch.Tensor:
    return torch.randn(KINDS[kind].shape, generator=torch.Generator().manual_seed(seed))


def table_network(kind: str, config: LUTConfig, *, seed: int = 0) -> nn.Module:
    """The float network with its layers (but the stem) as tables, ready to export."""
    return to_tables(float_network(kind, seed), kind, config)


def to_tables(net: nn.Module, kind: str, config: LUTConfig) -> nn.Module:
    net = copy.deepcopy(net)
    keep = KINDS[kind].float_layers
    samples = torch.randn(24, *KINDS[kind].shape[1:], generator=torch.Generator().manual_seed(2))
    quantize_(net, config, filter_fn=lambda _module, name: name not in keep, calibration=[samples])
    quantize_(net, step="convert")
    return net


def without_batch_norm(net: nn.Module) -> nn.Module:
    """Batch norms folded into the convolutions before them, in place: weights as an ONNX file of the network has."""
    pairs = {"bn": "stem", "bn1": "conv1", "bn2": "conv2", "1": "0"}
    for parent in list(net.modules()):
        for norm, conv in pairs.items():
            if isinstance(getattr(parent, norm, None), nn.BatchNorm2d):
                setattr(parent, conv, fuse_conv_bn_eval(getattr(parent, conv), getattr(parent, norm)))
                setattr(parent, norm, nn.Identity())
    return net


def export(net: nn.Module, example: torch.Tensor, path: Path) -> Path:
    return export_model(net, example, path, input_names=["x"], output_names=["y"])


def run_torch(net: nn.Module, x: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return net(x).numpy()


def run_onnxruntime(path: Path, x: torch.Tensor) -> np.ndarray:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x.numpy()})
    return y
