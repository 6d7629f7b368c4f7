"""When a PrimFunc shares its work among threads: one parallel loop, or none where waking them costs more."""

from __future__ import annotations

_BREAK_EVEN_NS = 20_000
"""Work of one call below which it stays on the calling thread (waking others takes 5 to 50 us)."""
SHARES = 8
"""Iterations wanted of a parallel loop, so that a few threads get even shares."""


def worth_threads(nanoseconds: float) -> bool:
    """Whether a PrimFunc that takes about so long on one thread should have a parallel loop."""
    return nanoseconds >= _BREAK_EVEN_NS
