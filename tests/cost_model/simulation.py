"""Whether kernels can be simulated here."""

from __future__ import annotations

import pytest

from lutc.cost_model.simulate import check_tools
from lutc.errors import TargetError
from lutc.runtime import emulator


def need_simulation() -> None:
    """Skip the test, with what is missing, where llvm-mca or the emulator is not installed."""
    pytest.importorskip("tvm")
    available, reason = emulator.availability()
    if not available:
        pytest.skip(f"cannot run AArch64 code here: {reason}")
    try:
        check_tools()
    except TargetError as error:
        pytest.skip(f"cannot simulate here: {error.reason} ({error.fix})")
