"""Comparisons of trees that always come out the same begin anew, without a change of what the layer computes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lutc.nn.calibration import Record, observe
from lutc.nn.columns import RowColumns
from lutc.nn.layer import LUTLayer
from lutc.nn.tree_walk import TreeWalk

_ROWS_PER_LEAF = 2048  # a hundredth of what reaches one is still counted well


@dataclass(frozen=True)
class RestartRow:
    """One layer: how many of its comparisons began anew."""

    name: str
    restarted: int
    comparisons: int


@torch.no_grad()
def restart_splits_(
    model: nn.Module, batches: Iterable[object], *, least: float = 0.0, seed: int = 0
) -> list[RestartRow]:
    """Give thresholds of trees that send all inputs one way a place where both ways are taken.

    In training a threshold can leave the range of its inputs, and inputs can shrink or become sparse. Nothing flips
    then, no gradient leads back, and the leaves on the other side are lost. Such a threshold moves to the most even
    split of what reaches it, and the empty side becomes a copy of the other, thresholds and leaves: for the inputs
    looked at the layer computes what it did (integer tables are rounded anew, to a scale that lost leaves no longer
    count for), and from now on training can tell the halves apart. For trees what random restarts are for the codes of
    vector quantizers (Dhariwal et al., Jukebox, 2020, section 3.1). Make the optimizer after it: its averages are of
    other thresholds.

    Parameters
    ----------
    batches : inputs of the model; a few hundred images or sentences.
    least : begin anew as well where one side gets less than this part of what reaches a comparison, and another
        threshold gives both more; what was on the smaller side finds other leaves then.
    seed : of the sample of the inputs.

    Raises
    ------
    LutcError : a layer with trees was never reached; nothing has changed.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, LUTLayer) and m.config.encoder == "tree"}
    records = {
        name: Record(layer, seed + index, rows_per_centroid=_ROWS_PER_LEAF)
        for index, (name, layer) in enumerate(layers.items())
    }
    observe(model, records, batches)
    sharing: dict[nn.Parameter, list[str]] = {}
    for name, layer in layers.items():
        sharing.setdefault(layer.split_thresholds, []).append(name)
    found = []
    for thresholds, names in sharing.items():
        tables = [table for name in names if (table := layers[name].table) is not None]
        restarted = _restart(records[names[0]], [layers[names[0]].centroids, *tables], least)
        found.append(RestartRow(names[0], restarted, thresholds.numel()))
    return found


def _restart(record: Record, leaves: list[Tensor], least: float) -> int:
    """The number of comparisons begun anew; `leaves` [C, K, ...] are what the trees lead to."""
    layer, rows = record.layer, record.sample.rows
    search, thresholds = layer.search(), layer.split_thresholds
    assert rows is not None and isinstance(search, TreeWalk)
    if len(rows) < 2:
        return 0
    columns = RowColumns(layer.num_codebooks, layer.subvector_len)
    values, splits, unit = search.compared(rows.to(thresholds), columns)
    node = torch.zeros_like(values[0, :, 0], dtype=torch.int64)  # that each row is at, [C, N]
    restarted = 0
    for level, value in enumerate(values[0].unbind(1)):
        right = value >= splits.gather(1, node)
        for number in range((1 << level) - 1, (2 << level) - 1):
            here = node == number
            reached, on_right = here.sum(1), (here & right).sum(1)
            smaller = torch.minimum(on_right, reached - on_right)
            even, split = _even_split(value, here)
            anew = ((smaller == 0) | (smaller < least * reached)) & (even > smaller)
            from_right = anew & (on_right > smaller)
            splits[anew, number], thresholds[anew, number] = split[anew], (split * unit)[anew]
            _copy_below(2 * number + 2, 2 * number + 1, from_right, (splits, thresholds), leaves)
            _copy_below(2 * number + 1, 2 * number + 2, anew & ~from_right, (splits, thresholds), leaves)
            restarted += int(anew.sum())
        node = 2 * node + 1 + (value >= splits.gather(1, node))
    return restarted


def _even_split(value: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
    """Of the values [C, N] that are `here`: how many the most even split leaves on its smaller side, and its threshold,
    [C] each."""
    ordered = value.masked_fill(~here, torch.inf).sort(1).values
    left = torch.arange(1, ordered.shape[1], device=value.device)
    smaller = torch.minimum(left, here.sum(1, keepdim=True) - left).masked_fill(ordered[:, 1:] <= ordered[:, :-1], 0)
    even, cut = smaller.clamp_min(0).max(1, keepdim=True)
    return even[:, 0], (ordered.gather(1, cut) + ordered.gather(1, cut + 1))[:, 0] / 2


def _copy_below(
    source: int, target: int, codebooks: Tensor, comparisons: Sequence[Tensor], leaves: Sequence[Tensor]
) -> None:
    """What is below one node to below its sibling, in the codebooks where bool [C] holds."""
    inner, width = comparisons[0].shape[1], 1
    while source < inner:
        for part in comparisons:
            part[codebooks, target : target + width] = part[codebooks, source : source + width]
        source, target, width = 2 * source + 1, 2 * target + 1, 2 * width
    first, second = source - inner, target - inner
    for part in leaves:
        part[codebooks, second : second + width] = part[codebooks, first : first + width]
