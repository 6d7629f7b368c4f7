"""Networks that other papers measure lookup tables on, with seeded random weights: what is measured here is speed.

python examples/networks.py --output /tmp/networks resnet18 bert-base        # writes resnet18.onnx, bert-base.onnx
python examples/networks.py --output /tmp/networks --codebooks resnet18      # also resnet18.codebooks.safetensors
python examples/networks.py --output /tmp/networks --codebooks -v 32 --last 6 bert-base
python examples/networks.py --list
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from bert import EncoderLayer
from torch import Tensor, nn
from torch.nn import functional as F

from lutc.calibrate import calibrate
from lutc.config import LUTConfig
from lutc.export import export_model

WORDS = 30522
"""Token ids of BERT's vocabulary."""


class ConvNorm(nn.Sequential):
    """A convolution without bias and its batch norm."""

    def __init__(self, inner: int, outer: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        conv = nn.Conv2d(inner, outer, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outer))


class Squeeze(nn.Module):
    """A factor in 0..1 for every channel, from the means of all channels."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.reduce, self.expand = (
            nn.Linear(channels, channels // reduction),
            nn.Linear(channels // reduction, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.sigmoid(self.expand(F.relu(self.reduce(x.mean((2, 3))))))
        return x * scale[:, :, None, None]


class ResidualBlock(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int, squeeze: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = ConvNorm(inner, outer, 3, stride), ConvNorm(outer, outer, 3)
        self.squeeze = Squeeze(outer) if squeeze else nn.Identity()
        same = stride == 1 and inner == outer
        self.downsample = nn.Identity() if same else ConvNorm(inner, outer, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.squeeze(self.conv2(F.relu(self.conv1(x))))
        return F.relu(y + self.downsample(x))


class ResNet18(nn.Module):
    """Images [B, 3, S, S] -> [B, classes]; `small` is the form for 32 x 32 images, without the early halving."""

    def __init__(self, *, small: bool = False, squeeze: bool = False, classes: int = 1000) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 64, 3) if small else ConvNorm(3, 64, 7, 2)
        self.pool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        widths, blocks = (64, 64, 128, 256, 512), []
        for stage, (inner, outer) in enumerate(pairwise(widths)):
            blocks.append(ResidualBlock(inner, outer, 1 if stage == 0 else 2, squeeze))
            blocks.append(ResidualBlock(outer, outer, 1, squeeze))
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.blocks(self.pool(F.relu(self.stem(x)))).mean((2, 3)))


class VGG11(nn.Module):
    """Images [B, 3, S, S] -> [B, classes]: eight 3x3 convolutions, the mean of each channel, one dense layer."""

    def __init__(self, *, small: bool = False, classes: int = 1000) -> None:
        super().__init__()
        stages, inner, layers = ((64,), (128,), (256, 256), (512, 512), (512, 512)), 3, []
        for number, stage in enumerate(stages):
            for outer in stage:
                layers += [ConvNorm(inner, outer, 3), nn.ReLU()]
                inner = outer
            if number > 0 or not small:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class InvertedResidual(nn.Module):
    """1x1 to more channels, a depthwise 3x3, 1x1 to fewer."""

    def __init__(self, inner: int, outer: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = inner * expand
        self.expand = ConvNorm(inner, wide, 1) if expand > 1 else None
        self.depthwise, self.project = ConvNorm(wide, wide, 3, stride, groups=wide), ConvNorm(wide, outer, 1)
        self.residual = stride == 1 and inner == outer

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """Images [B, 3, S, S] -> [B, classes]."""

    STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    """Expansion, channels, blocks, stride of the first block."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.stem, inner, blocks = ConvNorm(3, 32, 3, 2), 32, []
        for expand, outer, count, stride in self.STAGES:
            for block in range(count):
                blocks.append(InvertedResidual(inner, outer, stride if block == 0 else 1, expand))
                inner = outer
        self.blocks, self.last = nn.Sequential(*blocks), ConvNorm(inner, 1280, 1)
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.relu6(self.last(self.blocks(F.relu6(self.stem(x))))).mean((2, 3)))


class BERT(nn.Module):
    """Token ids int64 [B, T] and mask float32 [B, T] (1 for a token, 0 for padding) -> [B, classes]."""

    def __init__(
        self, layers: int = 12, width: int = 768, heads: int = 12, inner: int = 3072, classes: int = 2
    ) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, width), nn.Embedding(512, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList(EncoderLayer(width, heads, inner) for _ in range(layers))
        self.pooler, self.classifier = nn.Linear(width, width), nn.Linear(width, classes)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.norm(self.words(ids) + self.places.weight[: ids.shape[1]])
        bias = (1 - mask[:, None, None, :]) * -1e4
        for layer in self.layers:
            x = layer(x, bias)
        return self.classifier(torch.tanh(self.pooler(x[:, 0])))


def minilm() -> BERT:
    """The shape of a six-layer MiniLM sentence encoder."""
    return BERT(layers=6, width=384, heads=12, inner=1536)


@dataclass(frozen=True)
class Network:
    """How to make a network, and the size of its input: pixels a side, or tokens."""

    make: Callable[[], nn.Module]
    size: int
    keep_float: tuple[str, ...] = ("stem*", "*classifier*")
    """Shell patterns of the layers that stay float when the others become tables."""
    tokens: bool = False

    def inputs(self, size: int | None = None, seed: int = 1) -> dict[str, Tensor]:
        """Random inputs for one image or sentence, by name."""
        generator, size = torch.Generator().manual_seed(seed), size or self.size
        if not self.tokens:
            return {"x": torch.randn(1, 3, size, size, generator=generator)}
        mask = torch.ones(1, size)
        mask[:, size - size // 8 :] = 0  # the end of the sentence is padding
        return {"ids": torch.randint(0, WORDS, (1, size), generator=generator), "mask": mask}

    def build(self, seed: int = 0) -> nn.Module:
        """In eval mode, with weights that keep the size of activations, and batch norms that do something."""
        torch.manual_seed(seed)
        net = self.make()
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                for tensor, low, high in ((module.weight, 0.5, 1.0), (module.bias, -0.2, 0.2)):
                    nn.init.uniform_(tensor, low, high)
                nn.init.uniform_(module.running_mean, -0.2, 0.2)
                nn.init.uniform_(module.running_var, 0.8, 1.2)
        return net.eval()

    def export(self, path: Path, *, size: int | None = None, net: nn.Module | None = None) -> Path:
        """Write the network, or `net` in its place (the same with tables), as ONNX for one input of `size`."""
        inputs = self.inputs(size)
        net = self.build() if net is None else net
        return export_model(net, tuple(inputs.values()), path, input_names=list(inputs), output_names=["y"])

    def calibrate(self, model: Path, *, size: int | None = None, length: int | None = None, last: int = 0) -> Path:
        """Codebooks of an exported network from a few random inputs, in NAME.codebooks.safetensors beside it.

        length : elements of a dense layer's subvector; last : only this many of the last encoder layers, 0 is all.
        """
        samples = [self.inputs(size, seed) for seed in range(2, 2 + (_SENTENCES if self.tokens else _IMAGES))]
        data = {name: torch.cat([sample[name] for sample in samples]).numpy() for name in samples[0]}
        count = len(self.make().layers) if last else 0
        layers = [f"layers.{number}.*" for number in range(count - last, count)] if last else None
        config = LUTConfig(subvector_len=length) if length else LUTConfig()
        keep = () if layers else self.keep_float
        path = model.with_suffix("").with_name(model.stem + ".codebooks.safetensors")
        calibrate(model, data, config, layers=layers, keep_float=keep).save(path)
        return path


_IMAGES, _SENTENCES = 2, 4
"""Random inputs that codebooks are made from: what is measured is speed."""
_SQUEEZED = ("stem*", "*squeeze*", "*classifier*")
_TEXT = ("pooler*", "*classifier*")

NETWORKS = {
    "resnet18": Network(ResNet18, 224),
    "senet18": Network(lambda: ResNet18(squeeze=True), 224, _SQUEEZED),
    "vgg11": Network(VGG11, 224, ("features.0.*", "*classifier*")),
    "resnet18-cifar": Network(lambda: ResNet18(small=True, classes=10), 32),
    "senet18-cifar": Network(lambda: ResNet18(small=True, squeeze=True, classes=10), 32, _SQUEEZED),
    "vgg11-cifar": Network(lambda: VGG11(small=True, classes=10), 32, ("features.0.*", "*classifier*")),
    "mobilenetv2": Network(MobileNetV2, 224, ("stem*", "*depthwise*", "*classifier*")),
    "bert-base": Network(BERT, 128, _TEXT, tokens=True),
    "minilm": Network(minilm, 128, _TEXT, tokens=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("names", nargs="*", choices=[[], *NETWORKS], help="all of them if none is given")
    parser.add_argument("--output", type=Path, default=Path(), help="folder for the .onnx files")
    parser.add_argument("--codebooks", action="store_true", help="also make codebooks, for tables")
    parser.add_argument("-v", type=int, help="length of a subvector of dense layers, 16 if not given")
    parser.add_argument("--last", type=int, default=0, help="codebooks only for so many last layers of an encoder")
    parser.add_argument("--size", type=int, help="pixels a side, or tokens, in place of the network's own")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    options = parser.parse_args()
    if options.list:
        print("\n".join(NETWORKS))
        return
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.names or NETWORKS:
        network = NETWORKS[name]
        suffix = (f"-v{options.v}" if options.v else "") + (f"-last{options.last}" if options.last else "")
        model = network.export(options.output / f"{name}{suffix}.onnx", size=options.size)
        print(model)
        if options.codebooks:
            print(network.calibrate(model, size=options.size, length=options.v, last=options.last))


if __name__ == "__main__":
    main()
