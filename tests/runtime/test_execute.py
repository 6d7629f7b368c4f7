"""The test helper itself: the same module must give the same numbers on this CPU and under qemu."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import relax as R

from tests.execute import execute, execute_many, why_not_runnable

_X86 = {"kind": "llvm", "mcpu": "x86-64"}
_ARM = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76"}


def _module(outputs: int = 8) -> tvm.IRModule:
    weight = np.random.default_rng(outputs).standard_normal((16, outputs)).astype("float32")
    builder, x = relax.BlockBuilder(), relax.Var("x", R.Tensor((4, 16), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit(relax.op.nn.relu(relax.op.matmul(x, relax.const(weight))))
            out = builder.emit_output(relax.Tuple([y, relax.Tuple([x])]))
        builder.emit_func_output(out)
    return builder.get()


def _expected(x: np.ndarray, outputs: int = 8) -> np.ndarray:
    weight = np.random.default_rng(outputs).standard_normal((16, outputs)).astype("float32")
    return np.maximum(x @ weight, 0)


@pytest.mark.parametrize("target", [_X86, _ARM], ids=["x86", "aarch64"])
def test_matmul_relu(target: dict) -> None:
    x = np.random.default_rng(0).standard_normal((4, 16)).astype("float32")
    y, same = execute(_module(), [x], target)
    np.testing.assert_allclose(y, _expected(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(same, x)


def test_takes_a_compiled_executable_and_unaligned_input() -> None:
    buffer = np.zeros(65, "float32")
    x = buffer[1:].reshape(4, 16)
    x[...] = np.arange(64, dtype="float32").reshape(4, 16)
    executable = tvm.compile(_module(), target=tvm.target.Target(_X86))
    np.testing.assert_allclose(execute(executable, [x], _X86)[0], _expected(x), rtol=1e-5)


def test_many_cases_share_one_process() -> None:
    x = np.ones((4, 16), "float32")
    results = execute_many([(_module(outputs), [x]) for outputs in (3, 5)], _ARM)
    for (y, _), outputs in zip(results, (3, 5), strict=True):
        np.testing.assert_allclose(y, _expected(x, outputs), rtol=1e-5)


def test_says_what_is_missing() -> None:
    assert "this one is" in why_not_runnable({"kind": "llvm", "mtriple": "riscv64-linux-gnu"})
    reason = why_not_runnable({"kind": "llvm", "mcpu": "sapphirerapids", "mattr": ["+avx512fp16"]})
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    assert ("avx512_fp16" in reason) == ("avx512_fp16" not in flags)
