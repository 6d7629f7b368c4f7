"""Thresholds and levels of a quantizer: the one form all scalar quantizers are handed over in, found by bisection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lutc.errors import LutcError
from lutc.nn._library_levels import codes_of, from_rows, to_rows

MAX_LEVELS = 256
_LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True, eq=False)
class Levels:
    """code = how many thresholds are <= x, value = levels[code]; see docs/ops/LUTQuantize_v1.md.

    thresholds float32 [T] and levels float32 [T + 1] per tensor, or [C, T] and [C, T + 1] per channel.
    """

    thresholds: Tensor
    levels: Tensor

    @property
    def per_channel(self) -> bool:
        return self.thresholds.dim() == 2

    def codes(self, x: Tensor, axis: int = 1) -> Tensor:
        """Codes int64 of the shape of x."""
        channel = axis if self.per_channel else None
        return from_rows(codes_of(to_rows(x, channel), torch.atleast_2d(self.thresholds)), x.shape, channel)

    def quantize(self, x: Tensor, axis: int = 1) -> Tensor:
        """The level of each value of x, float32."""
        return torch.ops.lutc.lut_quantize(x, self.thresholds, self.levels, axis, "")


@torch.no_grad()
def extract_levels(
    quantize: Callable[[Tensor], Tensor],
    num_channels: int | None = None,
    *,
    low: float = -_LARGEST,
    high: float = _LARGEST,
    merge_ulps: int = 0,
) -> Levels:
    """Thresholds and levels of any monotone piecewise constant float32 function, exact to the last bit.

    Bisects over the ordered bit patterns of float32, all steps at once, so the function is called about 33 times.
    Levels that no input in [low, high] reaches do not appear; -0.0 and 0.0 are one level.

    Parameters
    ----------
    quantize : elementwise, float32 [N] -> [N]; with num_channels [C, N] -> [C, N], row c by the rule of channel c.
    low, high : the inputs considered; beyond them the outermost levels hold.
    merge_ulps : neighbouring levels at most this many units in the last place apart become the lower one.

    Raises
    ------
    LutcError : the function gives NaN, is not monotone, or has more than 256 levels.
    """
    groups = 1 if num_channels is None else num_channels
    evaluate = _Evaluator(quantize, groups, num_channels is None)
    steps = _bisect(evaluate, low, high)
    rows = [_clean(*row, merge_ulps) for row in steps]
    count = max(len(thresholds) for thresholds, _ in rows)
    thresholds = torch.stack([_pad(row, count, torch.inf) for row, _ in rows])
    levels = torch.stack([_pad(row, count + 1, row[-1]) for _, row in rows])
    return Levels(thresholds[0], levels[0]) if num_channels is None else Levels(thresholds, levels)


@torch.no_grad()
def find_palette(weight: Tensor, per_channel: bool) -> tuple[Tensor, Tensor]:
    """Codes uint8 [M, ...] and levels [L] or [M, L] of a weight with few distinct values, as in docs/ops.

    Raises
    ------
    LutcError : more than 256 distinct values, or values that are not finite.
    """
    rows = to_rows(weight, 0 if per_channel else None) + 0.0
    found = [row.unique() for row in rows]
    count = max(map(len, found))
    if count > MAX_LEVELS or not bool(rows.isfinite().all()):
        raise LutcError(
            "the weight is not quantized",
            where=f"a weight of shape {list(weight.shape)}",
            reason=f"it has {count} distinct values, or NaN or infinity; a palette holds at most {MAX_LEVELS}",
            fix="quantize it to 8 bits or fewer",
        )
    codes = torch.stack([torch.searchsorted(levels, row) for levels, row in zip(found, rows, strict=True)])
    levels = torch.stack([_pad(row, count, row[-1]) for row in found])
    codes = codes.to(torch.uint8).reshape(weight.shape)
    return codes, levels if per_channel else levels[0]


def float_keys(x: Tensor) -> Tensor:
    """Float32 values as int64 of the same order, one apart for neighbours; both zeros are 0."""
    bits = x.contiguous().view(torch.int32).long()
    return torch.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))


def key_floats(keys: Tensor) -> Tensor:
    """The inverse of `float_keys`."""
    bits = torch.where(keys >= 0, keys, (-keys) - 2**31)
    return bits.to(torch.int32).view(torch.float32)


class _Evaluator:
    """Calls the function for scattered (channel, key) pairs."""

    def __init__(self, quantize: Callable[[Tensor], Tensor], groups: int, flat: bool) -> None:
        self.quantize, self.groups, self.flat = quantize, groups, flat

    def __call__(self, group: Tensor, keys: Tensor) -> Tensor:
        """group int64 [P] ascending, keys int64 [P] -> values [P]."""
        counts = group.bincount(minlength=self.groups)
        place = torch.arange(len(group)) - (counts.cumsum(0) - counts)[group]
        x = torch.zeros(self.groups, int(counts.max()))
        x[group, place] = key_floats(keys)
        y = self.quantize(x[0] if self.flat else x)
        values = (y[None] if self.flat else y)[group, place].float()
        if bool(values.isnan().any()):
            at = float(key_floats(keys[values.isnan()])[0])
            raise _not_a_staircase(f"it is NaN at {at:g}", "give low and high, the range of inputs it is meant for")
        return values + 0.0  # -0.0 becomes 0.0


def _bisect(evaluate: _Evaluator, low: float, high: float) -> list[tuple[Tensor, Tensor]]:
    """Per channel the thresholds [T] and the levels [T + 1], neighbours different."""
    group = torch.arange(evaluate.groups)
    ends = float_keys(torch.tensor([low, high], dtype=torch.float32))
    below, above = (ends[i].expand(evaluate.groups).clone() for i in (0, 1))
    y_below, y_above = evaluate(group, below), evaluate(group, above)
    first = y_below
    steps: list[tuple[Tensor, Tensor, Tensor]] = []
    while len(group):
        step = y_below != y_above
        found = step & (above - below == 1)
        steps.append((group[found], above[found], y_above[found]))
        group, below, above, y_below, y_above = (v[step & ~found] for v in (group, below, above, y_below, y_above))
        if not len(group):
            break
        if int(group.bincount().max()) > 2 * MAX_LEVELS:
            raise _not_a_staircase(f"it has more than {MAX_LEVELS} levels", "quantize to 8 bits or fewer")
        middle = (below + above) // 2
        y_middle = evaluate(group, middle)
        order = torch.argsort(torch.cat([group, group]), stable=True)
        below, above = (torch.cat(pair)[order] for pair in ((below, middle), (middle, above)))
        y_below, y_above = (torch.cat(pair)[order] for pair in ((y_below, y_middle), (y_middle, y_above)))
        group = torch.cat([group, group])[order]
    groups, keys, values = (torch.cat(parts) for parts in zip(*steps, strict=True))
    rows = []
    for channel in range(evaluate.groups):
        mine = groups == channel
        order = keys[mine].argsort()
        levels = torch.cat([first[channel, None], values[mine][order]])
        rows.append((key_floats(keys[mine][order]), levels))
    return rows


def _clean(thresholds: Tensor, levels: Tensor, merge_ulps: int) -> tuple[Tensor, Tensor]:
    if merge_ulps and len(thresholds):
        keep = (float_keys(levels).diff().abs() > merge_ulps).nonzero()[:, 0]
        thresholds, levels = thresholds[keep], torch.cat([levels[:1], levels[1:][keep]])
    change = levels.diff()
    if bool((change > 0).any()) and bool((change < 0).any()):
        turn = int(((change[1:] > 0) != (change[:-1] > 0)).nonzero()[0, 0])
        at = float(thresholds[turn + 1])
        raise _not_a_staircase(f"it rises and falls: it turns at {at:g}", "a quantizer is monotone in its input")
    if len(levels) > MAX_LEVELS:
        raise _not_a_staircase(f"it has {len(levels)} levels", f"a quantizer has at most {MAX_LEVELS}: 8 bits")
    return thresholds, levels


def _pad(row: Tensor, count: int, value: float | Tensor) -> Tensor:
    return torch.cat([row, torch.as_tensor(value, dtype=row.dtype).expand(count - len(row))])


def _not_a_staircase(reason: str, fix: str) -> LutcError:
    return LutcError("cannot find thresholds and levels", where="the quantizing function", reason=reason, fix=fix)
