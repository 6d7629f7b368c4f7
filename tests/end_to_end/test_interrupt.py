"""Ctrl-C in the middle of a compile: exit 130, no output, no temporary files, and what was there stays."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import lutc
from lutc.artifact.store import read_artifact
from lutc.config import LUTConfig
from tests.cli.models import save_annotated_model
from tests.end_to_end import networks
from tests.signals import take_interrupts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.onnx, which takes seconds to compile, and the artifact old.lutc of another model."""
    folder = tmp_path_factory.mktemp("interrupt")
    networks.export(networks.table_network("cnn", LUTConfig()), networks.inputs("cnn"), folder / "net.onnx")
    lutc.compile(save_annotated_model(folder / "other.onnx"), output=folder / "old.lutc")
    (folder / "tmp").mkdir()
    return folder


@pytest.fixture(autouse=True)
def _nothing_left(folder: Path) -> Iterator[None]:
    yield
    shutil.rmtree(folder / "new.lutc", ignore_errors=True)


def _interrupted_after(phase: str, folder: Path, *arguments: str, wait: float = 0.0) -> tuple[int, str]:
    """Exit status and stderr of a compile that gets SIGINT, with its children, once it tells that a phase is over."""
    environment = {**os.environ, "TMPDIR": str(folder / "tmp")}
    command = [sys.executable, "-m", "lutc.cli.main", "compile", "net.onnx", *arguments]
    with subprocess.Popen(
        command, cwd=folder, env=environment, text=True, start_new_session=True, preexec_fn=take_interrupts,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        told = ""
        for line in process.stderr:
            told += line
            if line.split()[:1] == [phase]:
                break
        time.sleep(wait)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=120)
    if process.returncode:
        assert out == ""
    return process.returncode, told + err


def _check_left(folder: Path, *expected: str) -> None:
    assert {path.name for path in folder.iterdir()} == {"net.onnx", "other.onnx", "old.lutc", "tmp", *expected}
    assert not list((folder / "tmp").iterdir())


@pytest.mark.parametrize("phase", ["import", "rewrite", "schedule"])
def test_leaves_nothing(phase: str, folder: Path) -> None:
    status, err = _interrupted_after(phase, folder, "-o", "new.lutc")
    assert status == 130, err
    assert err.rstrip().endswith("interrupted") and "Traceback" not in err and "error" not in err
    _check_left(folder)


def test_the_old_artifact_stays(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in (folder / "old.lutc").iterdir()}
    status, err = _interrupted_after("schedule", folder, "-o", "old.lutc", "--overwrite", wait=0.3)
    assert status == 130, err
    assert {path.name: path.read_bytes() for path in (folder / "old.lutc").iterdir()} == before
    _check_left(folder)


def test_while_linking_and_writing(folder: Path) -> None:
    """Near the end the signal may come too late; then the artifact is whole."""
    status, err = _interrupted_after("codegen", folder, "-o", "new.lutc", wait=0.01)
    assert status in (0, 130), err
    _check_left(folder, *(["new.lutc"] if (folder / "new.lutc").exists() else []))
    if (folder / "new.lutc").exists():
        read_artifact(folder / "new.lutc")
    else:
        assert status == 130
