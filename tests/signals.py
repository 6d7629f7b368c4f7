"""Signals of child processes."""

from __future__ import annotations

import signal


def take_interrupts() -> None:
    """For `preexec_fn`: a child of a job in the background inherits that Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
