"""Explicit pads of a 2-D convolution."""

from __future__ import annotations

from collections.abc import Sequence


def resolve_pads(
    pads: Sequence[int] | str,
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[int, int, int, int]:
    """Pads as top, left, bottom, right from themselves or ONNX's auto_pad mode.

    SAME_* makes the output ceil(size / stride); an odd pixel goes to the end (SAME_UPPER) or the start (SAME_LOWER).
    """
    if not isinstance(pads, str):
        top, left, bottom, right = pads
        return top, left, bottom, right
    if pads == "VALID":
        return 0, 0, 0, 0
    total = [
        max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        for n, k, s, d in zip(size, kernel, strides, dilations, strict=True)
    ]
    less, more = [t // 2 for t in total], [t - t // 2 for t in total]
    first, last = (less, more) if pads == "SAME_UPPER" else (more, less)
    return first[0], first[1], last[0], last[1]
