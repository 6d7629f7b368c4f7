"""Learned, fixed and annealed softmax temperatures on handwritten digits: accuracy after each epoch, and curves.

All three start from the same float network and the same k-means, and see the same batches.

    python examples/compare_temperatures.py --output runs/temperatures --epochs 6
"""

from __future__ import annotations

import argparse
import copy
import csv
from pathlib import Path

import torch
from rich.console import Console
from torch.nn import functional as F
from train_digits import BATCH, distorted, load_split, predict, train_float

from lutc.nn import LUTConfig, param_groups, quantize_
from lutc.nn.monitor import Monitor
from lutc.nn.schedules import AnnealTemperature

ENDS = {"learned": None, "fixed at 1": 1.0, "annealed from 1 to 0.1": 0.1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for accuracy.csv and, per kind, layers.csv")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--float-epochs", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=6, help="of each kind")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    options.output.mkdir(parents=True, exist_ok=True)
    train_x, train_y, test_x, test_y = load_split(options.seed)
    network = train_float(train_x, train_y, options.float_epochs)
    rows = [("float", 0, percent(predict(network, test_x), test_y))]
    quantize_(
        network,
        LUTConfig(),
        filter_fn=lambda module, name: name not in ("stem", "fc"),
        calibration=train_x.split(BATCH),
        seed=options.seed,
    )
    for kind, end in ENDS.items():
        torch.manual_seed(options.seed)
        model = copy.deepcopy(network)
        schedule = None if end is None else AnnealTemperature(model, 1.0, end)
        groups = [group for group in param_groups(model, 1e-3, 1e-3, 1e-2) if group["params"]]
        optimizer = torch.optim.Adam(groups)
        monitor = Monitor(model, [train_x[:64]])
        steps = options.epochs * len(range(0, len(train_x), BATCH))
        step = 0
        for epoch in range(options.epochs):
            model.train()
            for chosen in torch.randperm(len(train_x)).split(BATCH):
                loss = F.cross_entropy(model(distorted(train_x[chosen])), train_y[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
                if schedule is not None:
                    schedule(step / steps)
            rows.append((kind, epoch + 1, percent(predict(model, test_x), test_y)))
            monitor(epoch + 1)
            Console(stderr=True).print(*rows[-1])
        monitor.save(options.output / f"layers-{kind.split()[0]}.csv")
    with (options.output / "accuracy.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("kind", "epoch", "accuracy"), *rows])
    plot(rows, options.output / "accuracy.svg")


def percent(found: torch.Tensor, labels: torch.Tensor) -> float:
    return round(100 * float((found == labels).double().mean()), 2)


def plot(rows: list[tuple[str, int, float]], path: Path) -> None:
    """Needs matplotlib; without it there are only the numbers."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for kind in ENDS:
        axes.plot(*zip(*((epoch, accuracy) for name, epoch, accuracy in rows if name == kind), strict=True), label=kind)
    axes.axhline(rows[0][2], color="grey", linestyle=":", label="float")
    axes.set_xlabel("epoch")
    axes.set_ylabel("test accuracy, %")
    axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    main()
