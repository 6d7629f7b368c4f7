"""Files made to run code or to reach other files when they are read: the command line refuses them."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import lutc
from lutc.config import LUTConfig
from tests.cli.console import run_lutc
from tests.cli.models import save_annotated_model, save_float_model
from tests.end_to_end import networks

_MARKER = "marker"


class Payload:
    """Makes the folder `marker` where it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.mkdir, (_MARKER,)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = networks.table_network("mlp", LUTConfig())
    return networks.export(net, networks.inputs("mlp"), tmp_path_factory.mktemp("pt2") / "net.pt2")


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def _repack(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """Copy a .pt2 archive with members changed; names are given without the archive's own folder."""
    with zipfile.ZipFile(source) as archive:
        root = archive.namelist()[0].partition("/")[0]
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name if name.startswith("..") else f"{root}/{name}", content)


def _pickled() -> bytes:
    buffer = io.BytesIO()
    torch.save(Payload(), buffer)
    return buffer.getvalue()


def _use_pickle(members: dict[str, bytes]) -> None:
    """The first weight becomes a pickle and its entry says so."""
    config = next(name for name in members if name.endswith("_weights_config.json"))
    weight = next(name for name in members if name.startswith("data/weights/weight_"))
    members[config] = members[config].replace(b'"use_pickle": false', b'"use_pickle": true', 1)
    assert b'"use_pickle": true' in members[config]
    members[weight] = _pickled()


CHANGES: dict[str, Callable[[dict[str, bytes]], object]] = {
    "sample inputs": lambda m: m.update({next(n for n in m if n.startswith("data/sample_inputs/")): _pickled()}),
    "weight": _use_pickle,
    "old weights": lambda m: m.update({"data/weights/model.pt": _pickled()}),
    "member outside": lambda m: m.update({"../../marker": b"x"}),
    "member outside, nested": lambda m: m.update({"data/../../../marker": b"x"}),
}


def _nothing_happened(folder: Path, files: set[str]) -> None:
    assert {path.name for path in folder.iterdir()} == files
    assert not (folder.parent / _MARKER).exists() and not (folder.parent.parent / _MARKER).exists()


@pytest.mark.parametrize("verb", ["compile", "inspect"])
@pytest.mark.parametrize("name", CHANGES)
def test_pt2(name: str, verb: str, program: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _repack(program, Path("bad.pt2"), CHANGES[name])
    shown = run_lutc(capfd, verb, "bad.pt2")
    _nothing_happened(Path.cwd(), {"bad.pt2"})
    assert "Traceback" not in shown.err and "internal error" not in shown.err
    if verb == "compile":  # inspect only lists what an archive holds
        assert shown.status == 3 and shown.err.startswith("error: cannot load the .pt2 file\n  where   bad.pt2\n")


@pytest.mark.parametrize("content", [pickle.dumps(Payload()), _pickled()], ids=["pickle", "torch.save"])
def test_a_pickle_named_pt2(content: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    Path("bad.pt2").write_bytes(content)
    shown = run_lutc(capfd, "compile", "bad.pt2")
    assert shown.status == 3 and shown.err.startswith("error: ")
    _nothing_happened(Path.cwd(), {"bad.pt2"})


def test_repacking_alone_is_accepted(program: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _repack(program, Path("good.pt2"), lambda _members: None)
    assert run_lutc(capfd, "compile", "good.pt2", "-o", "good.lutc").status == 0


@pytest.mark.parametrize("suffix", ["npz", "npy"])
@pytest.mark.parametrize("verb", ["run", "verify", "calibrate"])
def test_numpy_files(verb: str, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    objects = np.array([Payload()], dtype=object)
    if suffix == "npz":
        np.savez("bad.npz", x=objects)
    else:
        np.save("bad.npy", objects)
    if verb == "calibrate":
        save_float_model(Path("net.onnx"))
        shown = run_lutc(capfd, "calibrate", "net.onnx", "--data", f"bad.{suffix}", "-o", "out.safetensors")
        expected = {"net.onnx", f"bad.{suffix}"}
    else:
        lutc.compile(save_annotated_model(Path("net.onnx")), output="net.lutc")
        shown = run_lutc(capfd, verb, "net.lutc", "-i", f"bad.{suffix}")
        expected = {"net.onnx", "net.lutc", f"bad.{suffix}"}
    _nothing_happened(Path.cwd(), expected)
    assert shown.status == 2 and "pickle" in shown.err and "Traceback" not in shown.err


def test_the_payload_works() -> None:
    """Else the tests above would prove nothing."""
    torch.load(io.BytesIO(_pickled()), weights_only=False)
    assert Path(_MARKER).is_dir()
    Path(_MARKER).rmdir()
    np.savez("bad.npz", x=np.array([Payload()], dtype=object))
    with np.load("bad.npz", allow_pickle=True) as arrays:
        arrays["x"]
    assert Path(_MARKER).is_dir()
