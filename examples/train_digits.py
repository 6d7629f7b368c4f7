"""Train a small residual CNN on scikit-learn's handwritten digits, turn it into lookup tables, and export both.

Writes digits_float.onnx, digits_lut.onnx, digits_test.npz (held-out images, labels and both models' predictions) and
digits.json (accuracies and settings). The test images are only looked at once, after training.

    python examples/train_digits.py --output lutc/data
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from pathlib import Path

import numpy as np
import sklearn
import torch
from rich.console import Console
from rich.progress import track
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

from lutc.export import export_model
from lutc.nn import LUTConfig, param_groups, quantize_

BATCH = 64
console = Console(stderr=True)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; a 1x1 convolution fits the shortcut where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class DigitsNet(nn.Module):
    """Images float32 [B, 1, 8, 8] in 0..1 -> class scores [B, 10]."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.block1 = Block(width, width)
        self.block2 = Block(width, 2 * width, stride=2)
        self.block3 = Block(2 * width, 2 * width)
        self.fc = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        x = self.block3(self.block2(self.block1(x)))
        return self.fc(x.mean((2, 3)))


def load_split(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(train images, train labels, test images, test labels): a quarter is held out, the same share of every digit."""
    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[:, None]
    labels = digits.target.astype(np.int64)
    parts = train_test_split(images, labels, test_size=0.25, random_state=seed, stratify=labels)
    train_x, test_x, train_y, test_y = (torch.from_numpy(part) for part in parts)
    return train_x, train_y, test_x, test_y


def train(
    model: nn.Module,
    groups: list[dict],
    x: Tensor,
    y: Tensor,
    epochs: int,
    title: str,
    teacher: nn.Module | None = None,
) -> None:
    """Adam with a cosine schedule on distorted images; the last epoch's weights are the result.

    With a teacher most of the loss is the distance to the teacher's softened scores.
    """
    optimizer = torch.optim.Adam(groups)
    steps = -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    model.train()
    for _ in track(range(epochs), title, console=console):
        for chosen in torch.randperm(len(x)).split(BATCH):
            images = distorted(x[chosen])
            scores = model(images)
            loss = F.cross_entropy(scores, y[chosen], label_smoothing=0.05)
            if teacher is not None:
                loss = 0.1 * loss + 0.9 * distillation(scores, teacher, images)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


def distillation(scores: Tensor, teacher: nn.Module, images: Tensor, temperature: float = 2.0) -> Tensor:
    """Divergence from the teacher's class probabilities (Hinton et al., 2015)."""
    with torch.no_grad():
        target = torch.softmax(teacher(images) / temperature, 1)
    log_probability = torch.log_softmax(scores / temperature, 1)
    return temperature**2 * F.kl_div(log_probability, target, reduction="batchmean")


def distorted(images: Tensor) -> Tensor:
    """Each image turned by up to 12 degrees, scaled by up to 12 % and moved by up to one pixel."""
    angle = (2 * torch.rand(len(images)) - 1) * math.radians(12)
    scale = 1 + 0.12 * (2 * torch.rand(len(images)) - 1)
    move = 0.25 * (2 * torch.rand(2, len(images)) - 1)
    rows = [[scale * angle.cos(), -scale * angle.sin(), move[0]], [scale * angle.sin(), scale * angle.cos(), move[1]]]
    affine = torch.stack([torch.stack(row, 1) for row in rows], 1)
    return F.grid_sample(images, F.affine_grid(affine, list(images.shape), align_corners=False), align_corners=False)


@torch.no_grad()
def predict(model: nn.Module, images: Tensor) -> Tensor:
    return model.eval()(images).argmax(1)


def train_float(x: Tensor, y: Tensor, epochs: int) -> DigitsNet:
    model = DigitsNet()
    groups = [{"params": list(model.parameters()), "lr": 3e-3, "weight_decay": 1e-5}]
    train(model, groups, x, y, epochs, "float network")
    return model


def train_lut(float_model: DigitsNet, x: Tensor, y: Tensor, epochs: int, seed: int) -> tuple[nn.Module, list[str]]:
    """Every convolution but the first becomes lookup tables; returns the converted model and those layers' names."""
    model = copy.deepcopy(float_model)
    report = quantize_(
        model,
        LUTConfig(),
        filter_fn=lambda module, name: name not in ("stem", "fc"),
        calibration=x.split(BATCH),
        seed=seed,
    )
    train(model, param_groups(model, 3e-3, 3e-3, 1e-2), x, y, epochs, "lookup tables", teacher=float_model)
    quantize_(model, step="convert")
    return model, [row.name for row in report if row.kind == "lut"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Train, convert and export a lookup-table network for 8x8 digits.")
    parser.add_argument("--output", type=Path, default=Path("lutc/data"), help="folder for the four files")
    parser.add_argument("--seed", type=int, default=0, help="of the split, the weights and k-means")
    parser.add_argument("--epochs", type=int, default=60, help="of the float training")
    parser.add_argument("--lut-epochs", type=int, default=60, help="of the lookup-table training")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)

    train_x, train_y, test_x, test_y = load_split(options.seed)
    float_model = train_float(train_x, train_y, options.epochs)
    lut_model, lut_layers = train_lut(float_model, train_x, train_y, options.lut_epochs, options.seed)

    predictions = {"float": predict(float_model, test_x), "lut": predict(lut_model, test_x)}
    accuracy = {name: 100 * float((guess == test_y).double().mean()) for name, guess in predictions.items()}
    for name, model in (("float", float_model), ("lut", lut_model)):
        path = options.output / f"digits_{name}.onnx"
        export_model(model, test_x[:1], path, input_names=["image"], output_names=["scores"])
    np.savez_compressed(
        options.output / "digits_test.npz",
        x=test_x.numpy(),
        y=test_y.numpy(),
        lut_prediction=predictions["lut"].numpy(),
        float_prediction=predictions["float"].numpy(),
    )
    facts = {
        "data": "scikit-learn load_digits, pixels divided by 16, a stratified quarter held out",
        "train_images": len(train_x),
        "test_images": len(test_x),
        "accuracy_percent": {name: round(value, 2) for name, value in accuracy.items()},
        "lut_layers": lut_layers,
        "seed": options.seed,
        "scikit_learn": sklearn.__version__,
        "torch": torch.__version__.split("+")[0],
        "command": f"python examples/train_digits.py --seed {options.seed} --epochs {options.epochs}"
        f" --lut-epochs {options.lut_epochs}",
    }
    (options.output / "digits.json").write_text(json.dumps(facts, indent=2) + "\n")
    console.print(f"{len(test_x)} held-out images: float {accuracy['float']:.2f} %, tables {accuracy['lut']:.2f} %")


if __name__ == "__main__":
    main()
