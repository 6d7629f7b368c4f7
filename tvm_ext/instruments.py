"""Looking into the pipeline: how long passes take."""

from __future__ import annotations

import time

import tvm
from tvm.ir.instrument import pass_instrument


@pass_instrument
class PassTimer:
    """Collects (pass name, seconds) in `rows`, in the order passes end; a pass made of passes is its own sum."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float]] = []
        self._started: list[float] = []

    def run_before_pass(self, _mod: tvm.IRModule, _info: tvm.transform.PassInfo) -> None:
        self._started.append(time.perf_counter())

    def run_after_pass(self, _mod: tvm.IRModule, info: tvm.transform.PassInfo) -> None:
        self.rows.append((str(info.name), time.perf_counter() - self._started.pop()))
