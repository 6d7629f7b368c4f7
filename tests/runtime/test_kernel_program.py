"""Kernels called by a C program without TVM's runtime, on this machine: results, times, shared memory, and failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lutc.benchmark.foreign_kernels import Linked, link
from lutc.errors import TargetError, VerifyError
from lutc.runtime.kernel_program import Call
from lutc.targets import host_target


def _library() -> Any:
    """doubled: out[i] = 2 * x[i] for float32[8], as a parallel loop."""
    import tvm
    from tvm.script import tirx as T

    @T.prim_func(s_tir=True)
    def doubled(x: T.Buffer((8,), "float32"), out: T.Buffer((8,), "float32")):
        T.func_attr({"global_symbol": "doubled", "tirx.noalias": True})
        for i in T.parallel(8):
            out[i] = x[i] * T.float32(2)

    return tvm.compile(doubled, target=tvm.target.Target(host_target().llvm())).mod


def _linked(calls: list[Call], folder: Path) -> Linked:
    pytest.importorskip("tvm")
    try:
        return link([_library()], calls, host_target(), folder)
    except TargetError as error:
        pytest.skip(str(error))


def test_calls_run_in_order_and_share_memory(tmp_path: Path) -> None:
    x, y, z = np.arange(8, dtype=np.float32), np.zeros(8, np.float32), np.zeros(8, np.float32)
    program = _linked([Call("doubled", (x, y)), Call("doubled", (y, z))], tmp_path)
    first, second = program.run()
    np.testing.assert_array_equal(first, 2 * x)
    np.testing.assert_array_equal(second, 4 * x)
    assert not y.any()  # what is here stays as it was


def test_calls_take_turns_when_they_are_timed(tmp_path: Path) -> None:
    x, y = np.ones(8, np.float32), np.zeros(8, np.float32)
    seconds = _linked([Call("doubled", (x, y)), Call("doubled", (x, y))], tmp_path).time(samples=5, number=100)
    assert seconds.shape == (2, 5) and (seconds > 0).all()


def test_a_kernel_that_refuses_its_arguments_says_so(tmp_path: Path) -> None:
    wrong = np.zeros(9, np.float32)
    with pytest.raises(VerifyError, match="a run of compiled kernels failed") as raised:
        _linked([Call("doubled", (wrong, wrong))], tmp_path).run()
    assert "doubled" in raised.value.reason
