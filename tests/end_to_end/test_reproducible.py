"""The same input gives the same bytes, whatever the process, the folders and the day; and a new input a new model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import lutc
from lutc.artifact.store import read_artifact
from lutc.config import LUTConfig
from lutc.runtime.emulated_session import EmulatedSession
from lutc.runtime.session import load
from tests import oracle
from tests.end_to_end import networks
from tests.execute import why_not_emulated
from tests.importers.models import lut_node, lut_tensors, model, prefixed

_COMPILE = """
import sys, lutc
for target in sys.argv[1:]:
    lutc.compile("net.onnx", target, output=f"{target}.lutc")
"""
_TARGETS = ("native", "arm64")


def _large_model(path: Path) -> dict[str, np.ndarray]:
    """A dense layer with an int8 table of 9 MiB, which is stored beside the code; returns its constants."""
    tensors = lut_tensors(np.random.default_rng(0), 72, 16, 4, 8192, encode_dtype="int8")
    node = lut_node("fc", "x", "y", tensors, encode_dtype="int8", encoder="l2", input_signed=1)
    net = model([node], {"x": [3, 288]}, {"y": [3, 8192]}, prefixed("fc", tensors), domains={"lutc": 1})
    onnx.save(net, path)
    return tensors


def _compile_elsewhere(source: Path, folder: Path, targets: Sequence[str], seed: str) -> dict[str, dict[str, bytes]]:
    """Compiles for the targets in a child process whose working and temporary folders are new: files by target."""
    (folder / "tmp").mkdir(parents=True)
    (folder / "net.onnx").write_bytes(source.read_bytes())
    environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "PYTHONHASHSEED": seed}
    command = [sys.executable, "-c", _COMPILE, *targets]
    subprocess.run(command, cwd=folder, env=environment, check=True, timeout=120)
    folders = {target: folder / f"{target}.lutc" for target in targets}
    return {target: {path.name: path.read_bytes() for path in place.iterdir()} for target, place in folders.items()}


@pytest.fixture(scope="module", params=["small", "large"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "net.onnx"
    if request.param == "large":
        _large_model(path)
    else:
        networks.export(networks.table_network("mlp", LUTConfig()), networks.inputs("mlp"), path)
    return path


def test_same_bytes(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    first = _compile_elsewhere(source, tmp_path / "a", _TARGETS, "1")
    second = _compile_elsewhere(source, tmp_path / "elsewhere" / "a_longer_name", _TARGETS[::-1], "2")
    large = source.stat().st_size > 8 << 20
    for target in _TARGETS:
        names = {"manifest.json", "model.so"} | ({"constants.safetensors"} if large else set())
        assert set(first[target]) == set(second[target]) == names
        for name in names:
            assert first[target][name] == second[target][name], f"{target}: {name} differs"
        assert str(tmp_path).encode() not in b"".join(first[target].values())
        manifest = read_artifact(tmp_path / "a" / f"{target}.lutc").manifest
        assert manifest.created is None


def test_the_epoch_sets_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = networks.export(networks.table_network("mlp", LUTConfig()), networks.inputs("mlp"), tmp_path / "net.onnx")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    artifact = lutc.compile(path, output=tmp_path / "net.lutc")
    assert artifact.manifest.created == "1970-01-02T00:00:00+00:00"
    assert read_artifact(artifact.path).manifest == artifact.manifest


@pytest.mark.parametrize("target", _TARGETS)
def test_large_constants_are_read(target: str, tmp_path: Path) -> None:
    tensors = _large_model(tmp_path / "net.onnx")
    artifact = lutc.compile(tmp_path / "net.onnx", target, output=tmp_path / "net.lutc")
    assert artifact.constants is not None and artifact.constants.stat().st_size > 8 << 20
    assert artifact.library.stat().st_size < 1 << 20
    if target == "arm64" and (reason := why_not_emulated()):
        pytest.skip(reason)
    x = np.random.default_rng(1).standard_normal((3, 288), np.float32)
    session = EmulatedSession(artifact.path) if target == "arm64" else load(artifact.path, threads=1)
    expected, _ = oracle.dense(x, **tensors, encode_dtype="int8", input_signed=True)
    np.testing.assert_allclose(session.run(x)["y"], expected, rtol=1e-5, atol=1e-4)


def _scaled_copy(path: Path, factor: float) -> Path:
    """y = factor * x."""
    node = helper.make_node("Mul", ["x", "factor"], ["y"], name="scale")
    onnx.save(model([node], {"x": [4]}, {"y": [4]}, {"factor": np.array([factor], np.float32)}), path)
    return path


def test_compiled_again_in_the_same_place(tmp_path: Path) -> None:
    """The loader of shared libraries knows them by path; the old session goes on with the old code."""
    x, sessions = np.ones(4, np.float32), []
    for factor in (2.0, 3.0, 4.0):
        source = _scaled_copy(tmp_path / "net.onnx", factor)
        lutc.compile(source, output=tmp_path / "net.lutc", overwrite=True)
        sessions.append((load(tmp_path / "net.lutc"), factor))
    for session, factor in sessions:
        np.testing.assert_array_equal(session.run(x)["y"], factor * x)
