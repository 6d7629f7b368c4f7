"""ResNet-20 on CIFAR-10 with low-bit weights and inputs: one short fine-tuning for each method, all of the same length.

Starts from a trained float network. For each method it writes METHOD-wWaA.json (accuracies in torch and of the compiled
artifact), .onnx, .lutc and, while it trains, .pt, from which the same command goes on after an interruption. First
convolution and last layer stay float.

    python examples/resnet20_quantized.py --weights resnet20.safetensors --output runs/quantized --bits 4 --epochs 1
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from loaders import cifar10, cifar10_distorted, cifar10_normalised, data_folder
from recipe import compiled_predict, console, export_and_compile
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from lutc.importers.checkpoints.architectures import ARCHITECTURES
from lutc.nn import ScalarConfig, quantize_
from lutc.nn.recipes import RECIPES, Recipe, clip_gradients, make_optimizers, set_progress

METHODS = ("lsq", "nulsq", "llt", "quantization_network")
QUANTIZER_RATES = {"quantization_network": 5e-4}  # alpha's gradients are large
BESIDE = {"quantization_network": {"lsq": 10.0}}  # times the rate of the weights: steps of the inputs, whose are small


def settings(method: str, bits: int) -> ScalarConfig:
    """Quantization Networks quantize the weights, LSQ the inputs beside them; the others do both."""
    if method == "quantization_network":
        options = {"epochs": 20, "temperature_step": 10.0, "fit_alpha": True}
        return ScalarConfig(method, bits, bits, input_method="lsq", weight_options=options)
    if method == "llt" and bits < 4:
        return ScalarConfig(method, bits, bits, weight_options={"init": "nmse"}, input_options={"init": "nmse"})
    return ScalarConfig(method, bits, bits)


def batches(count: int, batch: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Indices of each step's images, the same for every method."""
    generator = torch.Generator().manual_seed(seed)
    done = 0
    while True:
        for chosen in torch.randperm(count, generator=generator).split(batch):
            if done == steps:
                return
            done += 1
            yield chosen


def steps_of(options: argparse.Namespace, count: int) -> int:
    return options.steps or round(options.epochs * count / options.batch)


def train(
    model: nn.Module,
    teacher: nn.Module | None,
    recipe: Recipe,
    others: dict[str, Recipe],
    images: Tensor,
    labels: Tensor,
    options: argparse.Namespace,
    checkpoint: Path,
) -> float:
    """Fine-tune; returns the seconds it took, earlier parts of an interrupted run included."""
    steps = steps_of(options, len(images))
    optimizers = make_optimizers(model, recipe, others)
    first, seconds = restore(checkpoint, model, optimizers)
    model.train()
    started = time.monotonic()
    for step, chosen in enumerate(batches(len(images), options.batch, steps, options.seed)):
        if step < first:
            continue
        torch.manual_seed(options.seed + step)
        set_progress(model, optimizers, recipe, step / steps)
        x = cifar10_distorted(images[chosen])
        scores = model(x)
        loss = F.cross_entropy(scores, labels[chosen])
        if teacher is not None:
            loss = 0.1 * loss + 0.9 * distance(scores, teacher, x)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        clip_gradients(model, recipe)
        for optimizer in optimizers:
            optimizer.step()
        if (step + 1) % 25 == 0:
            spent = seconds + time.monotonic() - started
            console.print(f"{checkpoint.stem}: step {step + 1} of {steps}, loss {loss.item():.3f}, {spent:.0f} s")
            save(checkpoint, model, optimizers, step + 1, spent)
    return seconds + time.monotonic() - started


def distance(scores: Tensor, teacher: nn.Module, x: Tensor, temperature: float = 2.0) -> Tensor:
    """Divergence from the float network's softened class probabilities."""
    with torch.no_grad():
        target = torch.softmax(teacher(x) / temperature, 1)
    return temperature**2 * F.kl_div(torch.log_softmax(scores / temperature, 1), target, reduction="batchmean")


def save(path: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], step: int, seconds: float) -> None:
    state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}
    partial = path.with_suffix(".partial")
    torch.save(state | {"step": step, "seconds": seconds}, partial)
    partial.replace(path)


def restore(path: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> tuple[int, float]:
    """(first step, seconds spent before) of a run; 0, 0.0 where nothing was saved."""
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, part in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(part)
    return state["step"], state["seconds"]


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Percent of the images whose class comes first."""
    model.eval()
    found = torch.cat([model(part).argmax(1) for part in x.split(250)])
    return 100 * float((found == labels).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the data; default: the environment variable LUTC_DATA")
    parser.add_argument("--weights", type=Path, required=True, help="float network (.safetensors)")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=sorted(RECIPES))
    parser.add_argument("--bits", type=int, default=4, help="of weights and inputs")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--steps", type=int, help="instead of --epochs")
    parser.add_argument("--images", type=int, help="train on so many images; default: all")
    parser.add_argument("--test-images", type=int, help="test on so many images; default: all")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--teacher", action="store_true", help="learn from the float network's scores too")
    parser.add_argument("--target", default="native", help="what to compile for")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)  # numbers below 1e-38 slow a step by up to five times
    options.output.mkdir(parents=True, exist_ok=True)
    folder = data_folder(options.data)
    train_x, train_y = cifar10(folder, "train", options.images)
    test_x, test_y = cifar10(folder, "test", options.test_images)
    test_x = cifar10_normalised(test_x)
    network = ARCHITECTURES["resnet20"].build(10)
    network.load_state_dict(load_file(options.weights))
    network.eval()
    calibration = cifar10_normalised(train_x[:512]).split(128)

    for method in options.methods:
        name = f"{method}-w{options.bits}a{options.bits}"
        report = options.output / f"{name}.json"
        if report.exists():
            continue
        torch.manual_seed(options.seed)
        model = copy.deepcopy(network)
        quantize_(model, settings(method, options.bits), calibration=calibration)
        recipe = RECIPES[method].short(1, options.lr, QUANTIZER_RATES.get(method))
        others = {
            beside: RECIPES[beside].short(1, options.lr, times * options.lr)
            for beside, times in BESIDE.get(method, {}).items()
        }
        checkpoint = options.output / f"{name}.pt"
        teacher = network if options.teacher else None
        seconds = train(model, teacher, recipe, others, train_x, train_y, options, checkpoint)
        quantize_(model, step="convert")
        row = {"method": method, "bits": options.bits, "torch": accuracy(model, test_x, test_y)}
        artifact = export_and_compile(model, (test_x[:1],), options.output, name, options.target)
        scores = torch.from_numpy(compiled_predict(artifact, ((image.numpy(),) for image in test_x.split(1))))
        row["compiled artifact"] = 100 * float((scores.argmax(1) == test_y).double().mean())
        row |= {"steps": steps_of(options, len(train_x)), "batch": options.batch, "lr": options.lr}
        row |= {"images": len(train_x), "test_images": len(test_x), "seconds": round(seconds, 1)}
        report.write_text(json.dumps(row, indent=2) + "\n")
        print(json.dumps(row), flush=True)
        checkpoint.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
