"""Is training healthy? Temperatures, unused centroids, entropy and margins of the codes, error of each layer."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from rich.console import Console, RenderableType
from rich.table import Table
from torch import Tensor, nn

from lutc.errors import LutcError
from lutc.nn.calibration import call_model
from lutc.nn.eval_mode import eval_mode
from lutc.nn.layer import LUTLayer
from lutc.nn.lookup import codes_of
from lutc.nn.output_metric import metric_root
from lutc.nn.patches import split_subvectors
from lutc.nn.quantizers.base import sums_by_index
from lutc.nn.tree_walk import TreeWalk

_MARGIN_ROWS = 2048  # of a layer's inputs; the histogram needs no more


@dataclass(frozen=True)
class MonitorRow:
    """One layer at one step.

    unused : part of its centroids that no input had as code; entropy : of the codes, mean over codebooks, as a part of
    log K; margin : median distance to the second-closest centroid over that to the closest, less 1, or of trees the
    smallest distance to a threshold of the path in temperatures (0 is a tie of either); error : the part of a
    float reference's output variance that its output, each column scaled and shifted as a batch norm behind it may,
    does not explain (0..1; NaN without a reference).
    """

    step: int
    name: str
    temperature: float
    unused: float
    entropy: float
    margin: float
    error: float


class Monitor:
    """Collects rows over the training; prints the last step, writes all, draws curves.

    Parameters
    ----------
    batches : inputs to look at, the same every time (kept); one or two batches do.
    reference : the float model, for the error of every layer's output.
    """

    def __init__(self, model: nn.Module, batches: Iterable[object], reference: nn.Module | None = None) -> None:
        self._model, self._reference = model, reference
        self._batches = list(batches)
        self.rows: list[MonitorRow] = []
        self.margins: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, step: int) -> list[MonitorRow]:
        """Look at the model now; the rows of this step."""
        layers = {name: m for name, m in self._model.named_modules() if isinstance(m, LUTLayer)}
        inputs, outputs = self._watch(self._model, layers)
        targets = self._watch(self._reference, layers)[1] if self._reference is not None else {}
        found = []
        for name, layer in layers.items():
            if not inputs[name]:
                continue
            x = torch.cat([layer.column_input(part) for part in inputs[name]])
            codes = codes_of(x, layer.columns(), layer.search())
            count = sums_by_index(codes, None, layer.config.num_centroids).double()
            self.margins[name] = _margins(layer, x)
            found.append(
                MonitorRow(
                    step=step,
                    name=name,
                    temperature=float(layer.log_temperature.exp()),
                    unused=float((count == 0).double().mean()),
                    entropy=_entropy(count),
                    margin=float(self.margins[name].median()),
                    error=_unexplained(layer, outputs[name], targets[name]) if name in targets else float("nan"),
                )
            )
        self.rows += found
        return found

    def _watch(self, model: nn.Module, names: Iterable[str]) -> tuple[dict[str, list[Tensor]], dict[str, list[Tensor]]]:
        """Inputs and outputs of the named modules on the batches, in eval mode."""
        inputs: dict[str, list[Tensor]] = {name: [] for name in names}
        outputs: dict[str, list[Tensor]] = {name: [] for name in names}

        def hook_of(name: str):
            def hook(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
                inputs[name].append(arguments[0])
                outputs[name].append(output)

            return hook

        hooks = [model.get_submodule(name).register_forward_hook(hook_of(name)) for name in inputs]
        try:
            with eval_mode(model):
                for batch in self._batches:
                    call_model(model, batch)
        finally:
            for hook in hooks:
                hook.remove()
        return inputs, outputs

    def __rich__(self) -> RenderableType:
        """The last step as a table."""
        last = [row for row in self.rows if row.step == self.rows[-1].step]
        table = Table(title=f"step {last[-1].step}" if last else "no step yet")
        for column in ("layer", "temperature", "unused", "entropy", "margin", "error"):
            table.add_column(column, justify="left" if column == "layer" else "right")
        for row in last:
            values = (row.temperature, row.unused, row.entropy, row.margin, row.error)
            table.add_row(row.name, *("-" if value != value else f"{value:.3f}" for value in values))
        return table

    def print(self, console: Console | None = None) -> None:
        (console or Console()).print(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """All rows as .csv, or curves and margin histograms as .png, .svg or .pdf (needs matplotlib)."""
        path = Path(path)
        if path.suffix == ".csv":
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, [field.name for field in fields(MonitorRow)])
                writer.writeheader()
                writer.writerows(asdict(row) for row in self.rows)
        else:
            _plot(self.rows, self.margins, path)


def _entropy(count: Tensor) -> float:
    """Mean over codebooks of the entropy of counts [C, K], in units of log K."""
    part = count / count.sum(1, keepdim=True)
    return float(-(part * part.clamp_min(1e-30).log()).sum(1).mean() / torch.log(torch.tensor(float(count.shape[1]))))


def _margins(layer: LUTLayer, x: Tensor) -> Tensor:
    """How far each of a sample of subvectors is from another code; see `MonitorRow`."""
    columns, search = layer.columns(), layer.search()
    x = x[: -(-_MARGIN_ROWS // max(columns.shape(x[:1])[3], 1))]
    if isinstance(search, TreeWalk):
        return search.margins(x, columns).flatten().cpu()
    subvectors = split_subvectors(layer.input_rows(x)[:_MARGIN_ROWS], layer.num_codebooks, layer.subvector_len)
    return _distance_margins(layer, subvectors).flatten().cpu()


def _distance_margins(layer: LUTLayer, subvectors: Tensor) -> Tensor:
    """[C, N, V] -> second-closest distance over the closest, less 1: [C, N]."""
    centroids = layer.centroids.detach()
    if layer.metric is not None:
        root = metric_root(layer.metric).to(centroids)
        subvectors, centroids = torch.bmm(subvectors, root), torch.bmm(centroids, root)
    closest = torch.cdist(subvectors, centroids).topk(2, largest=False).values
    return (closest[..., 1] - closest[..., 0]) / closest[..., 0].clamp_min(1e-6)


def _unexplained(layer: LUTLayer, outputs: list[Tensor], targets: list[Tensor]) -> float:
    """The part of the targets' variance, each column about its mean, that no scale and shift of the outputs gives."""
    y, wanted = (torch.cat([layer.output_rows(part).double() for part in parts]) for parts in (outputs, targets))
    y, wanted = y - y.mean(0), wanted - wanted.mean(0)
    explained = (y * wanted).sum(0).square() / y.square().sum(0).clamp_min(1e-30)
    variance = wanted.square().sum(0)
    return float((variance - explained).sum() / variance.sum().clamp_min(1e-30))


def _plot(rows: list[MonitorRow], margins: dict[str, Tensor], path: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise LutcError(
            "cannot draw the curves", where=str(path), reason=str(error), fix="pip install matplotlib, or save a .csv"
        ) from error
    figure = Figure(figsize=(13, 8), layout="constrained")
    quantities = ("temperature", "unused", "entropy", "margin", "error")
    panels = figure.subplots(2, 3).flatten()
    names = list(dict.fromkeys(row.name for row in rows))
    for panel, quantity in zip(panels, quantities, strict=False):
        for name in names:
            mine = [row for row in rows if row.name == name]
            panel.plot([row.step for row in mine], [getattr(row, quantity) for row in mine], label=name)
        panel.set_xlabel("step")
        panel.set_title(quantity)
    for name in names:
        if name in margins:
            panels[-1].hist(margins[name].clamp_max(3).numpy(), 50, histtype="step", density=True)
    panels[-1].set_title("margins at the last step")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize="x-small")
    figure.savefig(path)
