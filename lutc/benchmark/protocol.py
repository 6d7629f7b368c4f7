"""How things are timed so that they can be compared: in turns, in one process, on the same CPUs.

Clock, temperature and other load drift over seconds. Runs of a few calls of each candidate alternate (A B A B), so that
drift hits all alike; each turn starts with an untimed call, so that no one pays for the caches the other emptied.
"""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

_TURN = 10  # timed samples before the next candidate's turn
_LEAST = 3  # timed samples of a candidate that is out of time


@dataclass(frozen=True)
class Timing:
    """Microseconds of one call: the fastest and the median of `runs` samples, and what 95 % of them stay below."""

    min_us: float
    median_us: float
    runs: int
    p95_us: float = 0.0


def time_in_turns(
    candidates: Mapping[str, Callable[[], object]], *, repeat: int = 100, least_us: float = 0,
    seconds: float = math.inf,
) -> dict[str, Timing]:  # fmt: skip
    """Time each candidate `repeat` times, in alternating turns of up to 10 samples.

    A sample is one call, or as many in a row as take `least_us` microseconds, and then their mean: the clock's own
    tenth of a microsecond would else show in short ones. A candidate whose samples took `seconds` gets no more, but has
    three at least.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    calls = {name: _calls_of(call, least_us) for name, call in candidates.items()}
    remaining, most = repeat, 1e9 * seconds
    while remaining > 0:
        turn = min(_TURN, remaining)
        for name, call in candidates.items():
            if sum(times[name]) < most or len(times[name]) < _LEAST:
                call()
            for _ in range(turn):
                if sum(times[name]) < most or len(times[name]) < min(_LEAST, repeat):
                    times[name].append(_nanoseconds(call, calls[name]))
        remaining -= turn
    return {
        name: Timing(min(ns) / 1e3, statistics.median(ns) / 1e3, len(ns), sorted(ns)[int(0.95 * (len(ns) - 1))] / 1e3)
        for name, ns in times.items()
    }


def _calls_of(call: Callable[[], object], least_us: float) -> int:
    """Calls a sample."""
    if least_us <= 0:
        return 1
    call()
    return max(1, round(1e3 * least_us / min(_nanoseconds(call, 1) for _ in range(3))))


def _nanoseconds(call: Callable[[], object], count: int) -> float:
    if count == 1:
        start = time.perf_counter_ns()
        call()
        return time.perf_counter_ns() - start
    start = time.perf_counter_ns()
    for _ in range(count):
        call()
    return (time.perf_counter_ns() - start) / count


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
