"""How often each instruction of compiled kernels runs, counted by qemu.

The kernels are linked into a small program (`lutc.runtime.kernel_program`) that calls them on given tensors. qemu's
user-mode emulation logs every block it enters; a plugin would be faster but needs another build of qemu and a compiler
for this host.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lutc.cost_model.machine_code import Block, Listing, blocks, disassemble
from lutc.errors import TargetError, VerifyError
from lutc.runtime import aarch64, emulator
from lutc.runtime.kernel_program import HARNESS, Call, KernelProgram

_MEMORY = Path(__file__).with_name("memory.c")
_MARKER = "lutc_call_marker"
_CHUNK = 1 << 20


@dataclass(frozen=True, eq=False)
class Executed:
    """What a call did: its blocks, the last argument afterwards, and calls into the C library, which are no blocks."""

    symbol: str
    blocks: list[Block]
    result: np.ndarray
    library_calls: int


def execute(
    objects: Sequence[Path], calls: Sequence[Call], *, cpu: str = "max", timeout: float = 600
) -> list[Executed]:
    """Run the calls in order, once each and on one thread, and count.

    Parameters
    ----------
    objects : object files that define ``__tvm_ffi_SYMBOL`` of each call.
    cpu : the CPU qemu plays; see `lutc.runtime.emulator.cpu_for`.
    timeout : seconds for all calls.

    Raises
    ------
    TargetError : qemu, a C compiler for AArch64, its C library, or llvm-objdump is missing.
    VerifyError : the program failed or took too long.
    """
    emulate = emulator.command(cpu)
    with tempfile.TemporaryDirectory(prefix="lutc-simulate-") as scratch:
        folder = Path(scratch)
        program = KernelProgram(objects, calls, folder, _compiler(), [_MEMORY])
        listing = disassemble(program.path)
        command = [*emulate, *_log_options(listing), *program.arguments]
        sections = _counted(command, listing.address(_MARKER), timeout)
        if len(sections) != len(calls):
            raise _error(f"the log tells of {len(sections)} calls and not of {len(calls)}")
        results = program.results()
    return [
        Executed(call.symbol, blocks(listing, counts), result, _library_calls(listing, counts))
        for call, counts, result in zip(calls, sections, results, strict=True)
    ]


def _compiler() -> list[str]:
    """It makes one program at fixed addresses, whose memset does not call itself."""
    compiler = aarch64.find_compiler()
    if compiler is None:
        raise TargetError(
            "cannot build the program that is simulated", where=str(HARNESS),
            reason="no C compiler for AArch64: neither ziglang nor aarch64-linux-gnu-gcc is installed",
            fix=aarch64.COMPILER_FIX,
        )  # fmt: skip
    return [*compiler, "-O1", "-fno-builtin", "-no-pie"]


def _log_options(listing: Listing) -> list[str]:
    """Log each block of the program itself when it is translated and whenever it is entered."""
    start, end = min(listing.instructions), max(listing.instructions) + 4
    return ["-dfilter", f"{start:#x}+{end - start:#x}", "-d", "exec,nochain,in_asm"]


class _Log:
    """Reads qemu's log; counts entries of blocks between markers.

    A block's length is told when it is translated ("IN:" and a line an instruction, or one line "OBJD-T: HEX"), each
    entry by "Trace CPU: ADDRESS [base/PC/flags/flags] symbol".
    """

    _ENTRY = re.compile(rb"^Trace \d+: \S+ \[[0-9a-f]+/([0-9a-f]+)/", re.MULTILINE)
    _TRANSLATED = re.compile(rb"^(IN:|0x([0-9a-f]+): +(?:OBJD-T: ([0-9a-f]+))?)", re.MULTILINE)
    _KNOWN = re.compile(rb"^(?:Trace |IN:|0x[0-9a-f]+: |-+$|$)")

    def __init__(self, marker: int) -> None:
        self.marker = marker
        self.sections: list[Counter[bytes]] = []
        self.other: list[str] = []
        self._lengths: dict[int, int] = {}
        self._start: int | None = None

    def read(self, text: bytes) -> None:
        """Whole lines of the log."""
        for match in self._TRANSLATED.finditer(text):
            self._translated(match)
        entered = self._ENTRY.findall(text)
        markers = {pc for pc in set(entered) if int(pc, 16) == self.marker}
        self.other += [line.decode(errors="replace") for line in text.splitlines() if not self._KNOWN.match(line)]
        if not markers:
            self._count(entered)
            return
        start = 0
        for end in [index for index, pc in enumerate(entered) if pc in markers]:
            self._count(entered[start:end])
            self.sections.append(Counter())
            start = end + 1
        self._count(entered[start:])

    def _count(self, entered: list[bytes]) -> None:
        if self.sections:
            self.sections[-1].update(entered)

    def _translated(self, match: re.Match[bytes]) -> None:
        if match[1] == b"IN:":
            self._start = None
            return
        if self._start is None:
            self._start = int(match[2], 16)
            self._lengths[self._start] = 0
        self._lengths[self._start] += len(match[3]) // 8 if match[3] else 1

    def counts(self) -> list[Counter[int]]:
        """Of each call: address of an instruction -> times it ran. A section in two lies between two calls."""
        return [self._spread(section) for section in self.sections[::2]]

    def _spread(self, section: Counter[bytes]) -> Counter[int]:
        counts: Counter[int] = Counter()
        for pc, times in section.items():
            start = int(pc, 16)
            for address in range(start, start + 4 * self._lengths[start], 4):
                counts[address] += times
        return counts


def _counted(command: list[str], marker: int, timeout: float) -> list[Counter[int]]:
    log, rest = _Log(marker), b""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    watch = threading.Timer(timeout, process.kill)
    watch.start()
    try:
        assert process.stderr is not None
        while chunk := process.stderr.read(_CHUNK):
            whole, newline, rest = (rest + chunk).rpartition(b"\n")
            log.read(whole + newline)
        status = process.wait()
    finally:
        watch.cancel()
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
    if status:
        raise _error("\n".join(log.other[-8:]) or f"the program ended with status {status} (limit: {timeout:g} s)")
    return log.counts()


def _library_calls(listing: Listing, counts: Counter[int]) -> int:
    return sum(counts[address] for address, label in listing.labels.items() if label.endswith("@plt"))


def _error(reason: str) -> VerifyError:
    return VerifyError(
        "a simulated run failed", where="the kernels under qemu", reason=reason,
        fix="report this as a bug in lutc, with the operator and the target",
    )  # fmt: skip
