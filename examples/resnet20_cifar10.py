"""ResNet-20 on CIFAR-10: float -> lookup tables -> ONNX -> compiled artifact, and the accuracy of each on the test set.

All convolutions but the first become tables: (16, 9) for 3x3, (16, 4) for 1x1. First every layer is reconstructed from
a few hundred unlabelled images (least squares, minutes), then all are trained together with the float network as the
teacher, or a copy of it trained on (`--teacher-epochs`). `--epochs 0` stops after the reconstruction. An interrupted
run goes on with the same command and --resume. The defaults are what did best so far with distances; trees learn faster
(docs/accuracy.md).

    python examples/resnet20_cifar10.py --output runs/resnet20 --weights resnet20.safetensors --epochs 3
    torchrun --nproc-per-node 2 examples/resnet20_cifar10.py --output runs/resnet20 ...       # several processes
"""

from __future__ import annotations

import argparse
import copy
import time
from contextlib import closing
from pathlib import Path

import torch
from loaders import cifar10, cifar10_distorted, cifar10_normalised, data_folder
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

from lutc.config import TREE_GRADIENTS
from lutc.nn import LUTConfig, param_groups, quantize_
from lutc.nn.batch_norm import freeze_batch_norm_, reestimate_batch_norm_, renormalize_batch_norm_
from lutc.nn.checkpoint import save_checkpoint
from lutc.nn.distillation import BlockError, distillation_loss
from lutc.nn.distributed import broadcast_layers_
from lutc.nn.layer import LUTLayer
from lutc.nn.monitor import Monitor
from lutc.nn.output_metric import refresh_metrics_
from lutc.nn.reconstruct import reconstruct_
from lutc.nn.schedules import AnnealTemperature
from lutc.nn.tree_restart import restart_splits_

CHOSEN = {"filter_fn": lambda module, name: name not in ("conv1", "fc")}


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; a 1x1 convolution fits the shortcut where the shape changes."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer)
        self.conv2, self.bn2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False), nn.BatchNorm2d(outer)
        self.downsample = None
        if stride != 1 or inner != outer:
            self.downsample = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x: Tensor) -> Tensor:
        short = x if self.downsample is None else self.downsample(x)
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + short)


class ResNet20(nn.Module):
    """Images float32 [B, 3, 32, 32] -> class scores [B, 10]; parameters named as torchvision's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1), Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
        self.layer3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x))))))
        return self.fc(x.mean((2, 3)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common_options(parser)
    parser.add_argument("--weights", type=Path, help="float checkpoint (.safetensors); default: train one")
    parser.add_argument("--float-epochs", type=int, default=30, help="of the float training, without --weights")
    parser.add_argument("--teacher", type=Path,
                        help="network that teaches, float or lookup tables; default: the float network")  # fmt: skip
    parser.add_argument("--teacher-epochs", type=int, default=0,
                        help="train a copy of the float network on, to teach; kept as teacher.safetensors")  # fmt: skip
    parser.add_argument("--bfloat16", action="store_true",
                        help="float networks in bfloat16, twice as fast with AVX512_BF16 or AMX")  # fmt: skip
    parser.add_argument("--epochs", type=float, default=3, help="of the lookup-table training")
    parser.add_argument("--steps", type=int, help="of the lookup-table training, instead of --epochs")
    parser.add_argument("--block-weight", type=float, default=1.0, help="of the blocks' errors in the loss")
    parser.add_argument("--batch-norm", choices=("running", "batch", "frozen"), default="running",
                        help="statistics in training: running, each batch's, or the float network's")  # fmt: skip
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3, help="of weights, batch norm, stem and head")
    parser.add_argument("--centroid-lr", type=float, default=5e-4, help="of centroids, or a tree's thresholds")
    parser.add_argument("--table-lr", type=float, default=1e-3)
    parser.add_argument("--temperature-lr", type=float, default=1e-2)
    parser.add_argument("--temperature", choices=("learned", "fixed", "annealed"), default="learned",
                        help="fixed (at 1) and annealed (from there) are ahead in the first epoch")  # fmt: skip
    parser.add_argument("--calibration-images", type=int, default=512)
    parser.add_argument("--test-images", type=int, help="measure accuracy on so many; default: all")
    parser.add_argument("--start", choices=("reconstruct", "fitted", "kmeans"),
                        help="free tables, or weights, fitted layer by layer; or neither. Default: weights, which train"
                             " better, or free tables where there is no training")  # fmt: skip
    parser.add_argument("--trained", type=Path, nargs="+", metavar="FILE",
                        help="trained.safetensors of an earlier run to start from instead, or of several runs from the"
                             " same start: their average")  # fmt: skip
    parser.add_argument("--encoder", choices=("l2", "tree"), default="l2")
    parser.add_argument("--tree-gradient", choices=TREE_GRADIENTS, default="flips", help="of trees in training")
    parser.add_argument("--restart-splits", type=float, metavar="PART",
                        help="begin comparisons of --trained trees anew where a side gets less than this")  # fmt: skip
    parser.add_argument("--encode-dtype", choices=("int8", "int6", "float32"), default="int8")
    metric_option(parser)
    parser.add_argument("--table-dtype", choices=("int8", "float32"), default="int8")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --output")
    options = parser.parse_args()
    if options.steps is not None:
        options.epochs = float(options.steps > 0)
    if options.start is None:
        options.start = "fitted" if options.epochs > 0 else "reconstruct"
    rank, processes = start_processes(options.seed, options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    folder = data_folder(options.data)
    train_x, train_y = cifar10(folder, "train", options.limit)
    test_x, test_y = cifar10(folder, "test", options.test_images or options.limit)
    test_x = cifar10_normalised(test_x)

    model = ResNet20()
    if options.weights:
        model.load_state_dict(load_file(options.weights))
    else:
        train_float(model, "float", train_x, train_y, options.float_epochs, 0.1, options, rank, processes)
    teacher = copy.deepcopy(model)
    if options.teacher:
        teacher = stored_teacher(options.teacher)
    elif options.teacher_epochs:
        train_float(teacher, "teacher", train_x, train_y, options.teacher_epochs, 0.05, options, rank, processes)
    teacher.eval().requires_grad_(False)
    results: dict[str, object] = {}
    if rank == 0:
        results["float"] = accuracy(predict(model, test_x), test_y)
        if options.teacher or options.teacher_epochs:
            results["teacher"] = accuracy(predict(teacher, test_x), test_y)

    checkpoint = options.output / "checkpoint.pt"
    first_step = prepare(model, train_x, options, checkpoint, results, rank)
    if rank == 0 and not first_step:
        results["before training"] = accuracy(predict(model, test_x), test_y)
        console.print(results)
    if options.epochs > 0:
        with on_device(options.device, model, teacher) as device:
            data = (train_x.to(device), train_y.to(device))
            results["training seconds"] = train_lut(
                model, teacher, *data, options, rank, processes, checkpoint, first_step
            )
    if rank == 0:
        if options.epochs > 0 and options.batch_norm != "frozen":
            measure_batch_norm(model, train_x)
        finish(model, test_x, test_y, options, results)


def stored_teacher(path: Path) -> ResNet20:
    """A float network, or one of lookup tables: trained.safetensors of an earlier run."""
    teacher, state = ResNet20(), load_file(path)
    if any(name.endswith("centroids") for name in state):
        encoder = "tree" if any(name.endswith("split_dims") for name in state) else "l2"
        quantize_(teacher, LUTConfig(encoder=encoder), **CHOSEN)
    teacher.load_state_dict(state)
    return teacher


def average(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of what is not a whole number; splits of trees, which have none, must agree."""
    first = states[0]
    for name, value in first.items():
        if name.endswith("split_dims") and not all(torch.equal(value, state[name]) for state in states[1:]):
            raise SystemExit(f"{name} differs: only states that come from the same trees have an average")
    mean = {name: sum(state[name].double() for state in states) / len(states) for name in first}
    return {name: mean[name] if value.is_floating_point() else value for name, value in first.items()}


def measure_batch_norm(model: nn.Module, images: Tensor) -> None:
    reestimate_batch_norm_(model, [cifar10_normalised(part) for part in images[:2000].split(100)])


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """Percent."""
    return round(100 * float((scores.argmax(1) == labels).double().mean()), 2)


def train_float(
    model: nn.Module,
    name: str,
    images: Tensor,
    labels: Tensor,
    epochs: int,
    lr: float,
    options: argparse.Namespace,
    rank: int,
    processes: int,
) -> None:
    """Kept in --output as NAME.safetensors, which a resumed run takes instead."""
    kept = options.output / f"{name}.safetensors"
    if options.resume and kept.exists():
        model.load_state_dict(load_file(kept))
        return
    steps = epochs * max(len(images) // options.batch, 1)
    with on_device(options.device, model) as device:
        images, labels = images.to(device), labels.to(device)
        model.to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=5e-4, nesterov=True)

        def loss_of(network: nn.Module, indices: Tensor) -> Tensor:
            return F.cross_entropy(scores_of(network, cifar10_distorted(images[indices]), options), labels[indices])

        fit(
            model,
            loss_of,
            lambda count: shuffled(len(images), options.batch, count, options.seed, rank, processes),
            optimizer,
            steps,
            title="float network",
        )
    model.to(memory_format=torch.contiguous_format)
    broadcast_layers_(model)  # each process has seen other batches last
    if rank == 0:
        save_file(model.state_dict(), kept)


def is_float(network: nn.Module) -> bool:
    return not any(isinstance(module, LUTLayer) for module in network.modules())


def scores_of(network: nn.Module, images: Tensor, options: argparse.Namespace) -> Tensor:
    """float32 [B, 10]; of a float network worked out in bfloat16 where --bfloat16 says so."""
    if not is_float(network):
        return network(images)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=options.bfloat16):
        return network(images.contiguous(memory_format=torch.channels_last)).float()


def calibration_batches(images: Tensor, options: argparse.Namespace) -> list[Tensor]:
    return [cifar10_normalised(part) for part in images[: options.calibration_images].split(64)]


def prepare(
    model: nn.Module,
    images: Tensor,
    options: argparse.Namespace,
    checkpoint: Path,
    results: dict[str, object],
    rank: int,
) -> int:
    """Lookup tables in place of convolutions; the step to start training at."""
    config = LUTConfig(
        encoder=options.encoder,
        encode_dtype=options.encode_dtype,
        table_dtype=options.table_dtype,
        metric=options.metric,
        tree_gradient=options.tree_gradient,
    )
    if options.resume and checkpoint.exists():
        quantize_(model, config, **CHOSEN)
        return resume(checkpoint, model)
    if options.trained:
        quantize_(model, config, **CHOSEN)
        model.load_state_dict(average([load_file(path) for path in options.trained]))
        if len(options.trained) > 1:
            refresh_metrics_(model)
            measure_batch_norm(model, images)
        if options.restart_splits is not None:
            calibration = calibration_batches(images, options)
            rows = restart_splits_(model, calibration, least=options.restart_splits, seed=options.seed)
            console.print(f"{sum(row.restarted for row in rows)} comparisons of trees begin anew")
        return 0
    if rank > 0:
        quantize_(model, config, **CHOSEN)
        broadcast_layers_(model)
        return 0
    calibration = calibration_batches(images, options)
    started = time.perf_counter()
    if options.start == "kmeans":
        quantize_(model, config, calibration=calibration, seed=options.seed, **CHOSEN)
    else:
        free = options.start == "reconstruct"
        rows = reconstruct_(
            model, config, calibration=calibration, seed=options.seed, free=free, progress=show_layer, **CHOSEN
        )
        for row in rows:
            console.print(f"  {row.name:<24} error {row.tied_error:.3f} -> {row.fitted_error:.3f}")
    broadcast_layers_(model)
    results["calibration seconds"] = round(time.perf_counter() - started, 1)
    save_checkpoint(checkpoint, {"step": 0}, model=model)
    return 0


def train_lut(
    model: nn.Module,
    teacher: nn.Module,
    images: Tensor,
    labels: Tensor,
    options: argparse.Namespace,
    rank: int,
    processes: int,
    checkpoint: Path,
    first_step: int,
) -> float:
    if options.batch_norm == "running":
        renormalize_batch_norm_(model)
    monitor = Monitor(model, [cifar10_normalised(images[:64])], teacher)
    steps = options.steps or int(options.epochs * max(len(images) // options.batch, 1))
    schedule = None
    if options.temperature != "learned":
        schedule = AnnealTemperature(model, 1.0, 0.1 if options.temperature == "annealed" else 1.0)
        schedule(first_step / steps)
    groups = param_groups(model, options.lr, options.centroid_lr, options.temperature_lr, table_lr=options.table_lr)
    optimizer = torch.optim.Adam([group for group in groups if group["params"]])
    if first_step:
        resume_optimizer(checkpoint, optimizer)

    if is_float(teacher):
        teacher.to(memory_format=torch.channels_last)
    block_error = BlockError(model, teacher, [name for name, m in model.named_modules() if isinstance(m, Block)])

    def loss_of(network: nn.Module, indices: Tensor) -> Tensor:
        x = cifar10_distorted(images[indices])
        with torch.no_grad():
            target = scores_of(teacher, x, options)
        if options.batch_norm == "frozen":
            freeze_batch_norm_(model)
        refresh_metrics_(model)
        scores = network(x)
        loss = 0.3 * F.cross_entropy(scores, labels[indices]) + 0.7 * distillation_loss(scores, target, 3.0)
        return loss + options.block_weight * block_error()

    def on_step(step: int, loss: float) -> None:
        if schedule is not None:
            schedule((step + 1) / steps)
        if rank == 0 and (step + 1) % 100 == 0:
            monitor(step + 1)
            monitor.save(options.output / "layers.csv")
        if rank == 0 and (step + 1) % 25 == 0:
            with (options.output / "loss.csv").open("a") as file:
                file.write(f"{step + 1},{loss}\n")

    with closing(block_error):
        return fit(
            model,
            loss_of,
            lambda count: shuffled(len(images), options.batch, count, options.seed, rank, processes),
            optimizer,
            steps,
            title="lookup tables",
            checkpoint=checkpoint,
            warmup=20,
            on_step=on_step,
            first_step=first_step,
        )


def compiled_accuracy(
    model: nn.Module, test_x: Tensor, test_y: Tensor, name: str, options: argparse.Namespace
) -> float:
    """Of the artifact made of the model, which is converted."""
    quantize_(model.eval(), step="convert")
    batch = next(size for size in (50, 10, 1) if len(test_x) % size == 0)
    artifact = export_and_compile(model, (test_x[:batch],), options.output, name, options.target)
    scores = compiled_predict(artifact, ((part.numpy(),) for part in test_x.split(batch)))
    return accuracy(torch.from_numpy(scores), test_y)


def finish(
    model: nn.Module, test_x: Tensor, test_y: Tensor, options: argparse.Namespace, results: dict[str, object]
) -> None:
    results["lookup tables in torch"] = accuracy(predict(model, test_x), test_y)
    save_file(model.state_dict(), options.output / "trained.safetensors")
    twin = ResNet20()
    exact = LUTConfig(encoder=options.encoder, encode_dtype="float32", table_dtype="float32", metric=options.metric)
    quantize_(twin, exact, **CHOSEN)
    twin.load_state_dict(model.state_dict(), strict=False)
    results["compiled artifact"] = compiled_accuracy(model, test_x, test_y, "resnet20_lut", options)
    results["float32 search and tables, compiled"] = compiled_accuracy(
        twin, test_x, test_y, "resnet20_float32", options
    )
    write_results(options.output / "results.json", results)


if __name__ == "__main__":
    main()
