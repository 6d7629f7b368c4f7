"""What a compile tells while it runs: messages of its phases, times of its passes, and programs between them."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)

Progress = Callable[[str, str, float], None]
"""Takes the name of a phase, its message, and its seconds."""


@dataclass
class Trace:
    """What `--time-passes` and `--dump-ir` ask for, and the phases' messages."""

    progress: Progress
    instruments: list[Any] = field(default_factory=list)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[list[str]]:
        """Times a phase; the caller appends the pieces of its message."""
        start, message = time.perf_counter(), []
        yield message
        self.progress(name, "  ".join(message), time.perf_counter() - start)


def instruments(dump_ir: str | os.PathLike[str] | None, time_passes: bool) -> list[Any]:
    if dump_ir is None and not time_passes:
        return []
    from tvm.ir.instrument import DumpIR

    from tvm_ext.instruments import PassTimer

    chosen: list[Any] = []
    if dump_ir is not None:
        Path(dump_ir).mkdir(parents=True, exist_ok=True)
        chosen.append(DumpIR(Path(dump_ir), refresh=True))
    return [*chosen, *([PassTimer()] if time_passes else [])]


def pass_times(instruments: Sequence[Any]) -> list[tuple[str, float]]:
    return [row for instrument in instruments if hasattr(instrument, "rows") for row in instrument.rows]


def log_progress(phase: str, message: str, seconds: float) -> None:
    _log.info("%s %s %.1f s", phase, message, seconds)
