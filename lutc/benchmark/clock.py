"""Cycles a nanosecond, measured by a chain of multiplications that wait for each other."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CHAIN, _LATENCY = 1 << 14, 3  # multiplications, and cycles of each on every x86-64 core since 2008


def clock_call() -> Callable[[], object] | None:
    """A function that takes CLOCK_CYCLES cycles, or None on other than x86-64, where the latency is not one number."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return None
    import tvm

    chain = tvm.compile(_chain(), target=tvm.target.Target({"kind": "llvm"}))["clock_chain"]
    cell = tvm.runtime.empty((1,), "int64")
    return lambda: chain(cell)


CLOCK_CYCLES = _CHAIN * _LATENCY


def _chain() -> Any:
    """x = x * x, again and again: nothing to fold, nothing to do at the same time."""
    from tvm.script import tirx as T

    @T.prim_func(s_tir=True)
    def clock_chain(cell: T.Buffer((1,), "int64")):
        T.func_attr({"global_symbol": "clock_chain", "tirx.noalias": True})
        cell[0] = T.int64(3)
        for _i in T.serial(_CHAIN):
            cell[0] = cell[0] * cell[0]

    return clock_chain


def nominal_ghz() -> float | None:
    """The clock that the system tells, for machines on which it is not measured."""
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq").read_text(encoding="utf-8")
        return int(text) / 1e6
    except (OSError, ValueError):
        pass
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    speeds = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return max(speeds) / 1e3 if speeds else None
