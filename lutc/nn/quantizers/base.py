"""What all scalar quantizers share: rows per channel, a differentiable form to train and an exact one to deploy."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from lutc.errors import LutcError
from lutc.nn._library_levels import from_rows, to_rows
from lutc.nn.levels import Levels, extract_levels

EPSILON = 1e-8  # the least step, clip or scale


class ScalarQuantizer(nn.Module):
    """x float32 [...] -> float32 of the same shape, with at most 2^bits different values (a channel).

    In train() the forward is `fake`, whose gradients are the method's own; in eval() it is `hard`, exactly what
    `levels` and the exported file hold. Both see rows [G, N]: one row for a tensor (G = 1), or one for each channel.
    Parameters start from the first values seen (`observe`).

    Parameters
    ----------
    bits : 1..8.
    signed : whether negative values have levels of their own; weights always.
    num_channels : channels with their own parameters, along `axis`; None for one set.
    is_weight : some methods quantize weights by another rule than activations.
    """

    method: ClassVar[str]

    def __init__(
        self, bits: int, *, signed: bool, num_channels: int | None = None, axis: int = 1, is_weight: bool = False
    ) -> None:
        super().__init__()
        if not 1 <= bits <= 8:
            raise ValueError(f"bits must be in 1..8, not {bits}")
        self.bits, self.signed, self.num_channels = bits, signed, num_channels
        self.axis, self.is_weight, self.enabled = axis, is_weight, True
        self.register_buffer("initialized", torch.tensor(False))

    @property
    def groups(self) -> int:
        return self.num_channels or 1

    @property
    def channel_axis(self) -> int | None:
        return None if self.num_channels is None else self.axis

    def initialize(self, rows: Tensor) -> None:
        """Set the parameters from a first sample of values [G, N]."""
        raise NotImplementedError

    def fake(self, rows: Tensor) -> Tensor:
        """The differentiable form, rows [G, N]."""
        raise NotImplementedError

    def hard(self, rows: Tensor) -> Tensor:
        """The deployed form, rows [G, N]: at most 2^bits values a row, monotone in the input."""
        raise NotImplementedError

    def around(self, rows: Tensor, quantize: Callable[[Tensor], Tensor]) -> Tensor:
        """What the method does to weights before and after the quantizer; nothing here."""
        return quantize(rows)

    def set_progress(self, progress: float) -> None:
        """Move a schedule (a temperature) to its value at this part, 0..1, of the training."""

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """See values before training; the first call initializes."""
        if not bool(self.initialized):
            self._check_finite(x)
            # `around` hands over the rows as the quantizer will see them
            self.around(to_rows(x.detach(), self.channel_axis), self._initialized_by)
            self.initialized.fill_(True)

    def forward(self, x: Tensor) -> Tensor:
        if not self.enabled:
            return x
        if not self.initialized:
            self._initialize_late(x)
        rows = to_rows(x, self.channel_axis)
        y = self.around(rows, self.fake if self.training else self.hard)
        return from_rows(y, x.shape, self.channel_axis)

    @torch.no_grad()
    def levels(self) -> Levels:
        """Thresholds and levels of `hard`, exact to the last bit."""
        if not bool(self.initialized):
            raise self._uninitialized()
        device = self.initialized.device

        def quantize(rows: Tensor) -> Tensor:
            return self.hard(torch.atleast_2d(rows).to(device)).cpu().reshape(rows.shape)

        return extract_levels(quantize, self.num_channels)

    @torch.no_grad()
    def keeps_zero(self) -> bool:
        """Whether 0 is quantized to 0 in every channel: then zeros may be padded after the quantizer."""
        return not self.hard(self.initialized.new_zeros((self.groups, 1), dtype=torch.float32)).any()

    def extra_repr(self) -> str:
        channels = "" if self.num_channels is None else f", channels={self.num_channels}"
        return f"bits={self.bits}, signed={self.signed}{channels}"

    def _initialized_by(self, rows: Tensor) -> Tensor:
        self.initialize(rows)
        return rows

    def _initialize_late(self, x: Tensor) -> None:
        if not self.training:
            raise self._uninitialized()
        if not self.signed and bool((x < 0).any()):
            raise LutcError(
                f"a {self.method} quantizer for values that are never negative saw negative ones",
                where="the input quantizer of a layer",
                reason=f"its smallest input is {float(x.min()):.3g}",
                fix="calibrate (quantize_(..., calibration=batches)), or say input_signed=True in the settings",
            )
        self.observe(x)

    def _check_finite(self, x: Tensor) -> None:
        if not bool(x.isfinite().all()):
            raise LutcError(
                f"cannot initialize a {self.method} quantizer",
                where="calibration" if not self.is_weight else "a weight",
                reason="the values hold NaN or infinity",
                fix="look for the cause in the data or in the float model",
            )

    def _uninitialized(self) -> LutcError:
        return LutcError(
            f"a {self.method} quantizer has no parameters yet",
            where="an input quantizer in eval mode",
            reason="it takes them from the first values it sees in training",
            fix="calibrate (quantize_(..., calibration=batches)), train, or load a state_dict first",
        )


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value: Tensor, through: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[None, Tensor]:
        return None, grads[0]


def straight_through(value: Tensor, through: Tensor) -> Tensor:
    """Exactly `value`; gradients pass to `through` unchanged."""
    return _StraightThrough.apply(value.detach(), through)


class _StraightThroughSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value: Tensor, through: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, Tensor]:
        return grads[0], grads[0]


def straight_through_sum(value: Tensor, through: Tensor) -> Tensor:
    """Exactly `value`; gradients pass to both unchanged."""
    return _StraightThroughSum.apply(value, through)


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return x.clone()

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.saved_tensors[0], None


def scaled_gradient(x: Tensor, factor: Tensor | float) -> Tensor:
    """Exactly x; its gradient is multiplied by the factor (broadcast to x)."""
    return _ScaledGradient.apply(x, torch.as_tensor(factor, dtype=x.dtype, device=x.device))


def sums_by_index(index: Tensor, values: Tensor | None, size: int) -> Tensor:
    """For each row the sum of the values at each index (how many, where values is None): [G, N] -> [G, size]."""
    groups = len(index)
    if groups > 1:
        index = index + torch.arange(groups, device=index.device)[:, None] * size
    # many times faster than scatter_add for few indices
    sums = torch.bincount(index.flatten(), None if values is None else values.flatten(), minlength=groups * size)
    return sums.reshape(groups, size)


class _TableRead(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.size = table.shape[1]
        return table.gather(1, index)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None]:
        return sums_by_index(ctx.saved_tensors[0], grads[0], ctx.size).to(grads[0].dtype), None


def table_read(table: Tensor, index: Tensor) -> Tensor:
    """table.gather(1, index) for a short table [G, L] and many indices [G, N], with a fast gradient."""
    return _TableRead.apply(table, index)


def rounded(x: Tensor) -> Tensor:
    """Round half to even; the gradient passes unchanged."""
    return straight_through(x.round(), x)


def deviation(rows: Tensor) -> Tensor:
    """Standard deviation [G] of rows [G, N]; of a single value, 0."""
    return rows.std(1) if rows.shape[1] > 1 else torch.zeros_like(rows[:, 0])


def sign(x: Tensor) -> Tensor:
    """-1 below zero, else 1."""
    return torch.where(x < 0, -1.0, 1.0).to(x)


def nearest(rows: Tensor, levels: Tensor) -> Tensor:
    """The level nearest to each value: rows [G, N], increasing levels [G, L]; a tie goes to the lower one."""
    middles = (levels[:, 1:] + levels[:, :-1]) / 2
    return levels.gather(1, torch.searchsorted(middles.contiguous(), rows.contiguous()))


def integer_range(bits: int, signed: bool) -> tuple[int, int]:
    """(lowest, highest) integer of a uniform grid: 0..2^b-1, or -2^(b-1)..2^(b-1)-1."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
