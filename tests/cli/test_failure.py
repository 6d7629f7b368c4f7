"""Failures other than usage: four parts, a bug that says so, Ctrl-C, and a closed pipe."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lutc.errors import LinkError
from lutc.report import targets as report_targets
from tests.cli.console import run_lutc


def _raise(error: BaseException):
    def raiser() -> None:
        raise error

    return raiser


def test_user_error_has_four_parts_and_no_traceback(capsys, monkeypatch, golden) -> None:
    error = LinkError("no linker for x", where="target x", reason="none of these\ncc: gone", fix="install one")
    monkeypatch.setattr(report_targets, "targets_report", _raise(error))
    shown = run_lutc(capsys, "targets")
    assert shown.out == "" and shown.status == 3
    golden(shown.transcript(), "cli/failure-user.txt")


def test_verbose_adds_the_traceback(capsys, monkeypatch) -> None:
    error = LinkError("no linker for x", where="target x", reason="gone", fix="install one")
    monkeypatch.setattr(report_targets, "targets_report", _raise(error))
    assert "Traceback" in run_lutc(capsys, "targets", "-v").err
    assert "Traceback" not in run_lutc(capsys, "targets").err


def test_a_bug_says_so_with_versions(capsys, monkeypatch, golden) -> None:
    monkeypatch.setattr(report_targets, "targets_report", _raise(ZeroDivisionError("division by zero")))
    shown = run_lutc(capsys, "targets")
    assert shown.status == 3 and shown.out == ""
    text = re.sub(r"line \d+", "line <n>", shown.transcript())
    golden(re.sub(r"(  with    ).*", r"\1<versions>", text), "cli/failure-bug.txt")
    assert all(name in shown.err for name in ("lutc 0.", "python 3.", "apache-tvm 0."))


def test_interrupt(capsys, monkeypatch, golden) -> None:
    monkeypatch.setattr(report_targets, "targets_report", _raise(KeyboardInterrupt()))
    golden(run_lutc(capsys, "targets").transcript(), "cli/failure-interrupt.txt")


def test_interrupt_while_a_dataclass_is_made(tmp_path: Path) -> None:
    """As when Ctrl-C comes while modules are still being imported; `python -m` looks at CPython's mark at the end."""
    program = """
        import sys
        from lutc.cli.main import main
        from lutc.report import targets

        def interrupted(*_):
            exec("raise KeyboardInterrupt")

        targets.targets_report = interrupted
        main(["targets"])
        """
    (tmp_path / "program.py").write_text(textwrap.dedent(program))
    command = [sys.executable, "-m", "program"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (130, "interrupted")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of a shell")
def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m lutc.cli.main targets --json | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stdout == "{\n" and done.stderr == ""
