"""What the examples share: the training loop with checkpoints, one or several processes, and the compiled accuracy."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

import lutc
from lutc.config import METRICS
from lutc.nn.checkpoint import load_checkpoint, save_checkpoint

console = Console(stderr=True)


def common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, help="folder of the data; default: the environment variable LUTC_DATA")
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoint, ONNX, artifact, results")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of torch, in each process")
    parser.add_argument("--device", default="cpu", help="that trains: cpu, or cuda; the rest runs on the CPU")
    parser.add_argument("--target", default="native", help="what to compile for")
    parser.add_argument("--limit", type=int, help="use so many training and test examples only")


def metric_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--metric", choices=METRICS, default="outputs", help="of distances to centroids")


def start_processes(seed: int, threads: int, most: int | None = None) -> tuple[int, int]:
    """(rank, number of processes); under torchrun they find each other with gloo. A script may take one at `most`."""
    if most is not None and int(os.environ.get("WORLD_SIZE", 1)) > most:
        raise SystemExit("error: this recipe trains in one process: start it with python, not torchrun")
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # numbers below 1e-38 slow a step by up to five times
    torch.manual_seed(seed)
    if "RANK" not in os.environ:
        return 0, 1
    dist.init_process_group("gloo")
    torch.manual_seed(seed * 1000 + dist.get_rank())
    return dist.get_rank(), dist.get_world_size()


@contextmanager
def on_device(name: str, *modules: nn.Module) -> Iterator[torch.device]:
    """Modules on the device of this process, and on the CPU again afterwards; make their optimizer within."""
    device = torch.device(name)
    if device.type == "cuda" and dist.is_initialized():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    for module in modules:
        module.to(device)
    try:
        yield device
    finally:
        for module in modules:
            module.to("cpu")


def shuffled(count: int, batch: int, steps: int, seed: int, rank: int = 0, processes: int = 1) -> Iterator[Tensor]:
    """Indices of batches, epoch after epoch; every process its own part, the same order for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    done = 0
    while done < steps:
        order = torch.randperm(count, generator=generator)
        for start in range(0, max(count - batch + 1, 1), batch):
            if done == steps:
                return
            yield order[start : start + batch][rank::processes]
            done += 1


def fit(
    model: nn.Module,
    loss_of: Callable[[nn.Module, Tensor], Tensor],
    batches: Callable[[int], Iterator[Tensor]],
    optimizer: torch.optim.Optimizer,
    steps: int,
    *,
    title: str,
    checkpoint: Path | None = None,
    every: int = 25,
    warmup: int = 0,
    on_step: Callable[[int, float], None] | None = None,
    first_step: int = 0,
) -> float:
    """Train for `steps` steps with a cosine schedule, from `first_step`; returns the seconds this call took.

    loss_of(model, indices) is the loss of one batch; batches(steps) yields the indices of all steps. on_step is called
    after each with (step, loss).
    """
    peak = [group["lr"] for group in optimizer.param_groups]
    wrapped: nn.Module = nn.parallel.DistributedDataParallel(model) if dist.is_initialized() else model
    leader = not dist.is_initialized() or dist.get_rank() == 0
    model.train()
    started = time.perf_counter()
    smooth = None
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.4f}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not leader) as bars:
        bar = bars.add_task(title, total=steps, completed=first_step, loss=float("nan"))
        for step, indices in enumerate(batches(steps)):
            if step < first_step:
                continue
            scale = 0.5 * (1 + math.cos(math.pi * step / steps)) * min(1.0, (step + 1) / (warmup + 1))
            for group, rate in zip(optimizer.param_groups, peak, strict=True):
                group["lr"] = rate * scale
            loss = loss_of(wrapped, indices)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            smooth = loss.item() if smooth is None else 0.95 * smooth + 0.05 * loss.item()
            bars.update(bar, advance=1, loss=smooth)
            if on_step is not None:
                on_step(step, loss.item())
            if leader and (step + 1) % every == 0:
                if checkpoint is not None:
                    save_checkpoint(checkpoint, {"step": step + 1}, model=model, optimizer=optimizer)
                if not console.is_terminal:
                    console.print(f"{title}: step {step + 1} of {steps}, loss {smooth:.4f}")
    for group, rate in zip(optimizer.param_groups, peak, strict=True):
        group["lr"] = rate
    return time.perf_counter() - started


def show_layer(name: str, done: int, total: int) -> None:
    """Progress of reconstruct_."""
    console.print(f"  layer {done} of {total}: {name}")


def resume(checkpoint: Path, model: nn.Module) -> int:
    """Load the model's part of a checkpoint; the step to go on from.

    The random numbers are those of the process that wrote it; others go on with their own.
    """
    step = int(load_checkpoint(checkpoint, model=model)["step"])
    if dist.is_initialized() and dist.get_rank() > 0:
        torch.manual_seed(1_000_000 * dist.get_rank() + step)
    return step


def resume_optimizer(checkpoint: Path, optimizer: torch.optim.Optimizer) -> None:
    """Load the optimizer's part; the learning rates stay those it was made with, which the schedule starts from."""
    peak, random = [group["lr"] for group in optimizer.param_groups], torch.get_rng_state()
    load_checkpoint(checkpoint, optimizer=optimizer)
    torch.set_rng_state(random)  # that `resume` has chosen
    for group, rate in zip(optimizer.param_groups, peak, strict=True):
        group["lr"] = rate


@torch.no_grad()
def predict(model: nn.Module, inputs: Tensor, batch: int = 128) -> Tensor:
    model.eval()
    return torch.cat([model(part) for part in inputs.split(batch)])


def export_and_compile(model: nn.Module, example: tuple[Tensor, ...], folder: Path, name: str, target: str) -> Path:
    """model -> folder/name.onnx -> folder/name.lutc; files of an earlier run are replaced."""
    onnx = folder / f"{name}.onnx"
    lutc.export_model(model, example, onnx)
    return Path(lutc.compile(onnx, target, output=folder / f"{name}.lutc", overwrite=True).path)


def compiled_predict(artifact: Path, batches: Iterator[tuple[np.ndarray, ...]]) -> np.ndarray:
    """Outputs of the compiled artifact, batch after batch; each is the arguments of the model."""
    session = lutc.load(artifact)
    names = [value.name for value in session.inputs]
    found = []
    for arguments in batches:
        outputs = session.run(dict(zip(names, arguments, strict=True)))
        found.append(next(iter(outputs.values())).copy())
    return np.concatenate(found)


def write_results(path: Path, results: dict[str, object]) -> None:
    """Add to a JSON file what was measured, where and with which command."""
    import shlex
    import sys

    facts = {
        "command": shlex.join(["python", *sys.argv]),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "torch": torch.__version__,
    }
    path.write_text(json.dumps(results | facts, indent=2) + "\n")
    console.print_json(json.dumps(results))
