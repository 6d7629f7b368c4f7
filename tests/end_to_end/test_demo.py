"""`lutc demo` as a user types it: real model, both targets, every check."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lutc.artifact.store import read_artifact
from tests.execute import why_not_emulated

_PHASES = ("import", "rewrite", "schedule", "codegen", "link")


def _demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lutc.cli.main", "demo", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)


def _accuracies(text: str) -> dict[str, float]:
    rows = re.findall(r"^\s*(\S.*?)\s+(\d+\.\d+) %", text, re.MULTILINE)
    return {name: float(value) for name, value in rows}


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    emulated = not why_not_emulated()
    done = _demo(tmp_path, "--output", "files")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    names = {path.name for path in (tmp_path / "files").iterdir()}
    assert {"digits_lut.onnx", "digits_float.onnx", "digits-host.lutc", "digits-arm64.lutc"} <= names
    assert {path.name for path in tmp_path.iterdir()} == {"files"}
    assert re.findall(r"^  (\w+) .* +\d+\.\d s$", done.stdout, re.MULTILINE) == [*_PHASES, *_PHASES]
    accuracies = _accuracies(done.stdout)
    compiled = ["compiled, this machine", *(["compiled, arm64 under qemu"] if emulated else [])]
    for name in compiled:
        assert accuracies[name] == accuracies["lookup tables, torch"] > 90
    for label, arch in (("host", None), ("arm64", "aarch64")):
        manifest = read_artifact(tmp_path / "files" / f"digits-{label}.lutc").manifest
        assert any(row.kind == "lut" for row in manifest.layers)
        assert arch in (None, manifest.target.arch)
    again = _demo(tmp_path, "--output", "files", "--no-emulate", "--quiet")
    assert again.returncode == 0 and again.stdout == "", again.stdout + again.stderr


def test_unwritable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = _demo(tmp_path, "--output", "file/demo")
    assert done.returncode == 3 and done.stdout == ""
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["error:", "where", "reason", "fix"]
