"""How things are timed so that they can be compared: in turns, in one process, on the same CPUs.

Clock, temperature and other load drift over seconds. Runs of a few calls of each candidate alternate (A B A B), so that
drift hits all alike; each turn starts with an untimed call, so that no one pays for the caches the other emptied.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

_TURN = 10  # timed calls before the next candidate's turn


@dataclass(frozen=True)
class Timing:
    """Microseconds of one call: the fastest and the median of `runs` timed calls."""

    min_us: float
    median_us: float
    runs: int


def time_in_turns(candidates: Mapping[str, Callable[[], object]], *, repeat: int = 100) -> dict[str, Timing]:
    """Time each candidate `repeat` times, in alternating turns of up to 10 calls."""
    times: dict[str, list[int]] = {name: [] for name in candidates}
    remaining = repeat
    while remaining > 0:
        turn = min(_TURN, remaining)
        for name, call in candidates.items():
            call()
            times[name] += [_nanoseconds(call) for _ in range(turn)]
        remaining -= turn
    return {name: Timing(min(ns) / 1e3, statistics.median(ns) / 1e3, len(ns)) for name, ns in times.items()}


def _nanoseconds(call: Callable[[], object]) -> int:
    start = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - start


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[list[int]]:
    """Keep this thread, and threads it starts, on `threads` CPUs; yields them, or [] where that is not possible.

    The last allowed CPUs are taken: the first one serves most interrupts.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield []
        return
    allowed = os.sched_getaffinity(0)
    chosen = sorted(allowed)[-threads:]
    os.sched_setaffinity(0, chosen)
    try:
        yield chosen
    finally:
        os.sched_setaffinity(0, allowed)
