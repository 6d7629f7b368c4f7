"""Spoken commands (12 classes): a small CNN, float -> lookup tables -> ONNX -> compiled artifact, accuracy of each.

All convolutions but the first become tables, (16, 9). Trains the float network, reconstructs each layer from
unlabelled recordings, then trains all together with the float network as the teacher of scores and of blocks.

    python examples/keyword_spotting.py --output runs/keywords            # and --resume after an interruption
"""

from __future__ import annotations

import argparse
import copy
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from loaders import BANDS, FRAMES, SPEECH_CLASSES, data_folder, speech_commands
from recipe import (
    common_options,
    compiled_predict,
    console,
    export_and_compile,
    fit,
    metric_option,
    on_device,
    predict,
    resume,
    resume_optimizer,
    show_layer,
    shuffled,
    start_processes,
    write_results,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lutc.nn import LUTConfig, param_groups, quantize_, reconstruct_
from lutc.nn.batch_norm import freeze_batch_norm_, reestimate_batch_norm_
from lutc.nn.checkpoint import save_checkpoint
from lutc.nn.distillation import BlockError, distillation_loss


class KeywordNet(nn.Module):
    """Log-mel features float32 [B, 1, 49, 40] -> class scores [B, 12]."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.mean, self.std = nn.Parameter(torch.zeros(1), False), nn.Parameter(torch.ones(1), False)

        def block(inner: int, outer: int, stride: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU())

        self.stem = block(1, width, 2)
        self.body = nn.Sequential(
            block(width, width, 1),
            block(width, 2 * width, 2),
            block(2 * width, 2 * width, 1),
            block(2 * width, 2 * width, 2),
            block(2 * width, 2 * width, 1),
        )
        self.head = nn.Linear(2 * width, len(SPEECH_CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem((x - self.mean) / self.std)).mean((2, 3)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common_options(parser)
    parser.add_argument("--weights", type=Path, help="float.safetensors of an earlier run; default: train one")
    parser.add_argument("--float-epochs", type=float, default=40)
    parser.add_argument("--epochs", type=float, default=20, help="of the lookup-table training")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3, help="of batch norm, stem and head")
    parser.add_argument("--centroid-lr", type=float, default=4e-3)
    parser.add_argument("--table-lr", type=float, default=5e-3)
    parser.add_argument("--temperature-lr", type=float, default=1e-2)
    parser.add_argument("--block-weight", type=float, default=1.0, help="of the blocks' errors in the loss")
    parser.add_argument("--batch-norm", choices=("batch", "frozen"), default="frozen", help="statistics in training")
    parser.add_argument("--calibration-recordings", type=int, default=512)
    metric_option(parser)
    parser.add_argument("--width", type=int, default=32, help="channels of the first convolution")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --output")
    options = parser.parse_args()
    start_processes(options.seed, options.threads, most=1)
    options.output.mkdir(parents=True, exist_ok=True)
    train_x, train_y, test_x, test_y = speech_commands(data_folder(options.data), options.limit)

    model = KeywordNet(options.width)
    results: dict[str, object] = {}
    kept, checkpoint = options.output / "float.safetensors", options.output / "checkpoint.pt"
    if options.weights or (options.resume and kept.exists()):
        model.load_state_dict(load_file(options.weights or kept))
    else:
        results["float seconds"] = train_float(model, train_x, train_y, options)
        save_file(model.state_dict(), kept)
    results["float"] = accuracy(predict(model, test_x), test_y)

    teacher = copy.deepcopy(model).eval().requires_grad_(False)
    config, first_step = LUTConfig(metric=options.metric), 0
    if options.resume and checkpoint.exists():
        quantize_(model, config, filter_fn=in_body)
        first_step = resume(checkpoint, model)
    else:
        started = time.perf_counter()
        calibration = train_x[: options.calibration_recordings].split(64)
        rows = reconstruct_(
            model, config, calibration=calibration, filter_fn=in_body, seed=options.seed, progress=show_layer
        )
        for row in rows:
            console.print(f"  {row.name:<10} error {row.tied_error:.3f} -> {row.fitted_error:.3f}")
        results["reconstruction seconds"] = round(time.perf_counter() - started, 1)
        results["reconstruction only"] = accuracy(predict(model, test_x), test_y)
        save_checkpoint(checkpoint, {"step": 0}, model=model)

    with on_device(options.device, model, teacher) as device:
        results["lookup-table seconds"] = train_lut(
            model, teacher, train_x, train_y, options, checkpoint, first_step, device
        )
    if options.batch_norm == "batch":
        reestimate_batch_norm_(model, train_x.split(128))
    results["lookup tables in torch"] = accuracy(predict(model, test_x), test_y)

    save_file(model.state_dict(), options.output / "trained.safetensors")
    quantize_(model.eval(), step="convert")
    artifact = export_and_compile(model, (test_x[:1],), options.output, "keywords_lut", options.target)
    scores = compiled_predict(artifact, ((x.numpy(),) for x in test_x.split(1)))
    results["compiled artifact"] = accuracy(torch.from_numpy(scores), test_y)
    write_results(options.output / "results.json", results)


def in_body(module: nn.Module, name: str) -> bool:
    """What becomes tables."""
    return name.startswith("body")


def train_float(model: KeywordNet, features: Tensor, labels: Tensor, options: argparse.Namespace) -> float:
    """Train; the seconds it took."""
    model.mean.data.fill_(float(features.mean()))
    model.std.data.fill_(float(features.std()))

    with on_device(options.device, model) as device:

        def loss_of(network: nn.Module, indices: Tensor) -> Tensor:
            x, y = distorted(features[indices]).to(device), labels[indices].to(device)
            return F.cross_entropy(network(x), y, label_smoothing=0.1)

        optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=1e-2)
        return run(model, loss_of, optimizer, options, options.float_epochs, len(features), "float")


def train_lut(
    model: nn.Module,
    teacher: nn.Module,
    features: Tensor,
    labels: Tensor,
    options: argparse.Namespace,
    checkpoint: Path,
    first_step: int,
    device: torch.device,
) -> float:
    """Train with the float network as the teacher; the seconds it took."""
    block_error = BlockError(model, teacher, [f"body.{index}" for index in range(5)])

    def loss_of(network: nn.Module, indices: Tensor) -> Tensor:
        if options.batch_norm == "frozen":
            freeze_batch_norm_(model)
        x, y = distorted(features[indices]).to(device), labels[indices].to(device)
        with torch.no_grad():
            target = teacher(x)
        scores = network(x)
        loss = 0.3 * F.cross_entropy(scores, y) + distillation_loss(scores, target)
        return loss + options.block_weight * block_error()

    rates = (options.lr, options.centroid_lr, options.temperature_lr)
    optimizer = torch.optim.Adam(param_groups(model, *rates, table_lr=options.table_lr))
    if first_step:
        resume_optimizer(checkpoint, optimizer)
    kept = {"checkpoint": checkpoint, "first_step": first_step}
    with closing(block_error):
        return run(model, loss_of, optimizer, options, options.epochs, len(features), "lookup tables", **kept)


def run(
    model: nn.Module,
    loss_of,
    optimizer: torch.optim.Optimizer,
    options: argparse.Namespace,
    epochs: float,
    count: int,
    title: str,
    **kept: Any,
) -> float:
    """Train; the seconds it took. `kept` is what `fit` takes of an interrupted run."""
    steps = round(epochs * max(count // options.batch, 1))

    def batches(total: int):
        return shuffled(count, options.batch, total, options.seed)

    return round(fit(model, loss_of, batches, optimizer, steps, title=title, warmup=10, **kept), 1)


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """Percent."""
    return round(100 * float((scores.argmax(1) == labels).double().mean()), 2)


def distorted(features: Tensor) -> Tensor:
    """Shifted in time by up to 5 frames, louder or softer, with one band of frequencies and one of frames masked."""
    shift = torch.randint(-5, 6, (len(features), 1))
    frames = (torch.arange(FRAMES) + shift).clamp(0, FRAMES - 1)
    moved = features[torch.arange(len(features))[:, None], 0, frames][:, None]
    moved = moved + 0.5 * torch.randn(len(features), 1, 1, 1)
    floor = moved.amin((2, 3), keepdim=True)
    for axis, size, width in ((2, FRAMES, 8), (3, BANDS, 6)):
        start = torch.randint(0, size, (len(features), 1))
        where = torch.arange(size)
        masked = (where >= start) & (where < start + torch.randint(0, width, (len(features), 1)))
        shape = [len(features), 1, 1, 1]
        shape[axis] = size
        moved = torch.where(masked.reshape(shape), floor, moved)
    return moved


if __name__ == "__main__":
    main()
