"""Compiled kernels called one after the other by a small C program (``harness/``), with no TVM runtime.

So kernels run, and are counted or timed, on machines that TVM has no runtime for.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lutc.errors import TargetError, VerifyError
from lutc.runtime import aarch64
from lutc.runtime.tensor_file import read_tensors, write_tensors

HARNESS = Path(__file__).with_name("harness")


@dataclass(frozen=True, eq=False)
class Call:
    """A kernel of an object file by its symbol, and its arguments; arrays of the same memory are the same tensor."""

    symbol: str
    arguments: tuple[np.ndarray, ...]


class KernelProgram:
    """The calls, in order, linked into a program ``folder/program``, and the file of tensors that it takes.

    Parameters
    ----------
    objects : object files that define ``__tvm_ffi_SYMBOL`` of each call.
    folder : where everything is written.
    compiler : a C compiler for the kernels' machine, and its options.
    sources : more C files to link.

    Raises TargetError with the compiler's own words when it fails.
    """

    def __init__(
        self, objects: Sequence[Path], calls: Sequence[Call], folder: Path, compiler: Sequence[str],
        sources: Sequence[Path] = (),
    ) -> None:  # fmt: skip
        self.path, self.calls = folder / "program", calls
        self._request, self._response = folder / "request", folder / "response"
        tensors = {_key(array): array for call in calls for array in call.arguments}
        write_tensors(self._request, tensors.values())
        (folder / "calls.c").write_text(_calls_source(calls, list(tensors)), encoding="utf-8")
        files = [HARNESS / "main.c", *sources, folder / "calls.c", *objects]
        command = [*compiler, "-std=gnu11", "-g0", f"-I{aarch64.ffi_headers()}", f"-I{HARNESS}"]
        _compile([*command, *map(str, files), "-lm", "-o", str(self.path)], compiler[0])

    @property
    def arguments(self) -> list[str]:
        """What the program is to be started with."""
        return [str(self.path), str(self._request), str(self._response)]

    def results(self) -> list[np.ndarray]:
        """The last argument of each call, after the program has ended."""
        return read_tensors(self._response)

    def run(self, launcher: Sequence[str], timeout: float = 600) -> list[np.ndarray]:
        """`results` of a run; `launcher` are the words before the program. Raises VerifyError when it fails."""
        self._start(launcher, [], timeout)
        return self.results()

    def time(self, launcher: Sequence[str], samples: int, number: int, timeout: float = 600) -> np.ndarray:
        """Seconds of one call, [calls, samples], each the mean of `number`; the calls take turns at every sample."""
        told = self._start(launcher, [str(samples), str(number)], timeout)
        return np.array([[float(word) for word in line.split()] for line in told.splitlines()]).T * 1e-9

    def _start(self, launcher: Sequence[str], options: list[str], timeout: float) -> str:
        command = [*launcher, *self.arguments, *options]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            raise _run_error(f"no result after {timeout:g} s") from None
        if done.returncode:
            raise _run_error("\n".join(done.stderr.strip().splitlines()[-8:]) or f"exit status {done.returncode}")
        return done.stdout


def _run_error(reason: str) -> VerifyError:
    return VerifyError(
        "a run of compiled kernels failed", where="the program that calls them", reason=reason,
        fix="report this as a bug in lutc, with the operator and the target",
    )  # fmt: skip


def _compile(command: list[str], compiler: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = "\n".join(done.stderr.strip().splitlines()[-8:]) or f"exit status {done.returncode}"
        raise TargetError(
            "cannot build the program that calls the kernels", where=compiler, reason=reason,
            fix="another compiler: pip install ziglang",
        )  # fmt: skip


def _key(array: np.ndarray) -> tuple:
    return array.ctypes.data, array.shape, str(array.dtype)


def _calls_source(calls: Sequence[Call], keys: list[tuple]) -> str:
    first = {key[0]: index for index, key in reversed(list(enumerate(keys)))}  # address -> tensor that owns the memory
    lines = ['#include "calls.h"']
    for symbol in dict.fromkeys(call.symbol for call in calls):
        lines.append(f"extern int __tvm_ffi_{symbol}(void*, const TVMFFIAny*, int32_t, TVMFFIAny*);")
    for number, call in enumerate(calls):
        indices = ", ".join(str(keys.index(_key(array))) for array in call.arguments)
        lines.append(f"static const int kArgs{number}[] = {{{indices}}};")
    rows = (f"{{__tvm_ffi_{c.symbol}, {len(c.arguments)}, kArgs{i}}}" for i, c in enumerate(calls))
    lines.append(f"const Call kCalls[] = {{{', '.join(rows)}}};")
    lines.append(f"const int kNumCalls = {len(calls)};")
    lines.append(f"const int kOwners[] = {{{', '.join(str(first[key[0]]) for key in keys)}}};")
    return "\n".join(lines) + "\n"
