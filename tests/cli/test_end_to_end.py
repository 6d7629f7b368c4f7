"""The command line from a file to numbers: compile for this machine and for arm64, inspect, run, and time."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from lutc.runtime import emulator
from lutc.targets import host_target
from tests import oracle
from tests.cli.console import run_lutc
from tests.cli.models import save_annotated_model

pytest.importorskip("tvm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.onnx and its inputs x.npz."""
    path = tmp_path_factory.mktemp("end-to-end")
    save_annotated_model(path / "model.onnx")
    np.savez(path / "x.npz", x=np.random.default_rng(2).standard_normal((2, 8)).astype(np.float32))
    return path


@pytest.fixture(autouse=True)
def _in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def _expected() -> np.ndarray:
    import onnx
    from onnx import numpy_helper

    weights = {t.name: numpy_helper.to_array(t) for t in onnx.load("model.onnx").graph.initializer}
    return oracle.dense(np.load("x.npz")["x"], **weights)[0]


def test_this_machine(capsys) -> None:
    shown = run_lutc(capsys, "compile", "model.onnx", "-o", "host.lutc", "--overwrite")
    assert shown.status == 0
    assert re.fullmatch(r"Wrote host\.lutc \(.*\)\. Next: lutc verify host\.lutc\n", shown.out)
    assert [line.split()[0] for line in shown.err.splitlines()] == ["import", "rewrite", "schedule", "codegen", "link"]
    assert run_lutc(capsys, "run", "host.lutc", "-i", "x.npz", "-o", "y.npz", "--overwrite").status == 0
    np.testing.assert_allclose(np.load("y.npz")["y"], _expected(), rtol=1e-5)
    (layer,) = json.loads(run_lutc(capsys, "inspect", "host.lutc", "--json").out)["rows"]
    assert (layer["name"], layer["kind"], layer["num_codebooks"]) == ("head", "lut", 2)
    assert run_lutc(capsys, "compile", "model.onnx", "-o", "host.lutc").status == 3


def test_arm64(capsys) -> None:
    available, reason = emulator.availability()
    if not available:
        pytest.skip(reason)
    shown = run_lutc(capsys, "compile", "model.onnx", "--target", "arm64", "-o", "arm.lutc", "--overwrite")
    assert shown.status == 0 and "lutc verify arm.lutc --emulate" in shown.out
    command = "run arm.lutc -i x.npz -o arm.npz --overwrite"
    if host_target().arch != "aarch64":
        refused = run_lutc(capsys, *command.split())
        assert refused.status == 2 and "--emulate" in refused.err
    assert run_lutc(capsys, *command.split(), "--emulate").status == 0
    np.testing.assert_allclose(np.load("arm.npz")["y"], _expected(), rtol=1e-5)


def test_same_model_same_artifact(capsys) -> None:
    for name in ("first.lutc", "second.lutc"):
        assert run_lutc(capsys, "compile", "model.onnx", "-t", "native", "-o", name, "--overwrite").status == 0
    assert (Path("first.lutc/model.so")).read_bytes() == Path("second.lutc/model.so").read_bytes()
    first, second = (json.loads(Path(name, "manifest.json").read_text()) for name in ("first.lutc", "second.lutc"))
    assert first.pop("name") != second.pop("name") and first == second


def test_bench(capsys) -> None:
    run_lutc(capsys, "compile", "model.onnx", "-o", "timed.lutc", "--overwrite")
    shown = run_lutc(capsys, "bench", "timed.lutc", "--repeat", "5", "--json")
    plain = json.loads(shown.out)
    assert shown.status == 0 and plain["rows"][0]["engine"] == "lutc" and plain["rows"][0]["min_us"] > 0
