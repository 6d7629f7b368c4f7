"""Run the command line in this process and write down what a terminal would show."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from lutc.cli.main import main


@dataclass
class Shown:
    """What a command printed, and its exit status."""

    command: str
    out: str
    err: str
    status: int

    def transcript(self) -> str:
        """For golden files: command, stdout, stderr, status."""
        streams = [text for text in (self.out, self.err) if text]
        return "".join([f"$ lutc {self.command}\n", *streams, f"[exit {self.status}]\n"])


def run_lutc(capsys: pytest.CaptureFixture[str], *arguments: str) -> Shown:
    """`lutc ARGUMENTS`."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    return Shown(" ".join(arguments), out, err, int(ended.value.code or 0))
