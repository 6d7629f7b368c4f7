"""Kernels of a scheduled module run and timed where TVM has no runtime; see `lutc.runtime.kernel_machine`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lutc.benchmark.call_steps import call_steps
from lutc.runtime.kernel_machine import kernel_machine
from lutc.runtime.kernel_program import Call, KernelProgram
from lutc.targets import Target


def run_scheduled(
    scheduled: Any, executable: Any, inputs: Sequence[np.ndarray], target: Target, timeout: float = 600
) -> list[np.ndarray]:
    """What "main" of a scheduled module returns, nested tuples flattened; `executable` is the same module compiled.

    Raises TargetError when something is missing here, VerifyError when the run fails.
    """
    steps, outputs = call_steps(scheduled, inputs)
    calls = [Call(name, tuple(np.from_dlpack(t) for t in arguments)) for name, arguments in steps]
    with tempfile.TemporaryDirectory(prefix="lutc-kernels-") as scratch:
        results = link([executable.mod.imports[0]], calls, target, Path(scratch)).run(timeout)
    by_address = {call.arguments[-1].ctypes.data: result for call, result in zip(calls, results, strict=True)}
    arrays = [np.from_dlpack(output) for output in outputs]
    return [by_address.get(array.ctypes.data, array).reshape(array.shape) for array in arrays]


class Linked:
    """A program of kernels and what starts it here."""

    def __init__(self, program: KernelProgram, launcher: Sequence[str]) -> None:
        self._program, self._launcher = program, launcher

    def run(self, timeout: float = 600) -> list[np.ndarray]:
        """See `KernelProgram.run`."""
        return self._program.run(self._launcher, timeout)

    def time(self, samples: int, number: int, timeout: float = 600) -> np.ndarray:
        """See `KernelProgram.time`."""
        return self._program.time(self._launcher, samples, number, timeout)


def link(libraries: Sequence[Any], calls: Sequence[Call], target: Target, folder: Path) -> Linked:
    """A program in `folder` that makes the calls; `libraries` are compiled TVM modules with the kernels."""
    machine, objects = kernel_machine(target), [folder / f"kernels{i}.o" for i in range(len(libraries))]
    for library, path in zip(libraries, objects, strict=True):
        library.write_to_file(str(path))
    return Linked(KernelProgram(objects, calls, folder, machine.compiler), machine.launcher)
