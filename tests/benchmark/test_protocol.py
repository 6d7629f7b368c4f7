"""Timing in turns, and pinning."""

from __future__ import annotations

import os
import time

import pytest

from lutc.benchmark.protocol import pinned, time_in_turns


def test_turns_alternate_and_start_untimed() -> None:
    order: list[str] = []
    timings = time_in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeat=15)
    assert "".join(order) == "a" * 11 + "b" * 11 + "a" * 6 + "b" * 6
    assert {name: timing.runs for name, timing in timings.items()} == {"a": 15, "b": 15}


def test_numbers_are_microseconds() -> None:
    timing = time_in_turns({"sleep": lambda: time.sleep(0.002)}, repeat=3)["sleep"]
    assert 2000 <= timing.min_us <= timing.median_us < 200_000


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin threads")
def test_pinned_is_undone() -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(KeyboardInterrupt), pinned(1) as cpus:
        assert os.sched_getaffinity(0) == set(cpus) == {max(before)}
        raise KeyboardInterrupt
    assert os.sched_getaffinity(0) == before


def test_short_calls_are_timed_together() -> None:
    """At least 1 ms a sample: many calls of something that takes next to nothing, and their mean."""
    count = 0

    def call() -> None:
        nonlocal count
        count += 1

    timing = time_in_turns({"nothing": call}, repeat=2, least_us=1000)["nothing"]
    assert timing.runs == 2 and count > 200 and timing.min_us < 100


def test_clock_is_a_clock() -> None:
    from lutc.benchmark.clock import CLOCK_CYCLES, clock_call, nominal_ghz

    pytest.importorskip("tvm")
    clock = clock_call()
    if clock is None:
        assert nominal_ghz() is None or 0.1 < nominal_ghz() < 10
        return
    ghz = CLOCK_CYCLES / time_in_turns({"": clock}, repeat=20)[""].min_us / 1e3
    assert 0.3 < ghz < 8  # a chain that was folded would be far above, one that LLVM lengthened far below


def test_stream_reads_all_of_its_bytes() -> None:
    pytest.importorskip("tvm")
    from lutc.benchmark.stream import stream_call
    from lutc.targets import parse_target

    small, large = (stream_call(size, parse_target("native").llvm()) for size in (1 << 14, 1 << 22))
    assert (small[1], large[1]) == (1 << 14, 1 << 22)
    timings = time_in_turns({"small": small[0], "large": large[0]}, repeat=5)
    assert timings["large"].min_us > 10 * timings["small"].min_us
