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
