"""`lutc inspect` on every kind of file, whole and damaged."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from lutc.artifact.store import write_artifact
from lutc.report.inspect import inspect
from tests.artifact.sample import make_manifest
from tests.cli.console import run_lutc
from tests.cli.models import save_annotated_model, save_float_model


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _artifact() -> None:
    write_artifact("net.lutc", make_manifest(), {"model.so": b"x" * 3000, "constants.safetensors": b"y" * 70_000})


def _codebooks() -> None:
    from lutc.importers.codebooks import Codebook, Codebooks

    centroids = np.random.default_rng(0).standard_normal((3, 16, 9)).astype(np.float32)
    fast = Codebook("conv1", centroids, inv_scale=np.ones(3, np.float32))
    exact = Codebook("fc", centroids[:2, :8, :4].copy(), encode_dtype="float32", table_dtype="float32")
    Codebooks([fast, exact]).save("net.safetensors")


MAKERS = {
    "net.lutc": _artifact,
    "float.onnx": lambda: save_float_model(Path("float.onnx"), batch="N"),
    "annotated.onnx": lambda: save_annotated_model(Path("annotated.onnx")),
    "net.safetensors": _codebooks,
}


@pytest.mark.parametrize("name", MAKERS)
def test_text(capsys, golden, name: str) -> None:
    MAKERS[name]()
    golden(run_lutc(capsys, "inspect", name).transcript(), f"cli/inspect-{name}.txt")


def test_json(capsys, golden) -> None:
    _artifact()
    golden(run_lutc(capsys, "inspect", "net.lutc", "--json").out, "cli/inspect-net.lutc.json")


def test_pt2(capsys, golden) -> None:
    torch = pytest.importorskip("torch")
    torch.export.save(torch.export.export(torch.nn.Linear(4, 2), (torch.zeros(1, 4),)), "linear.pt2")
    text = run_lutc(capsys, "inspect", "linear.pt2").transcript()
    golden(re.sub(r"(size +).*", r"\1<size>", text), "cli/inspect-linear.pt2.txt")


def _truncated_onnx() -> None:
    save_float_model(Path("model.onnx"))
    Path("model.onnx").write_bytes(Path("model.onnx").read_bytes()[:5000])


def _flipped_artifact() -> None:
    _artifact()
    Path("net.lutc/model.so").write_bytes(b"z" * 3000)


DAMAGED = {
    "missing": (lambda: save_float_model(Path("resnet20.onnx")), "resnet2.onnx"),
    "missing-artifact": (_artifact, "ned.lutc"),
    "unknown-kind": (lambda: Path("notes.txt").write_text("hello"), "notes.txt"),
    "empty": (lambda: Path("model.onnx").touch(), "model.onnx"),
    "not-onnx": (lambda: Path("model.onnx").write_text("hello, this is no model"), "model.onnx"),
    "truncated-onnx": (_truncated_onnx, "model.onnx"),
    "not-codebooks": (lambda: Path("x.safetensors").write_bytes(b"hello, hello"), "x.safetensors"),
    "not-pt2": (lambda: Path("x.pt2").write_bytes(b"hello"), "x.pt2"),
    "damaged-artifact": (_flipped_artifact, "net.lutc"),
    "other-folder": (lambda: Path("models").mkdir(), "models"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_errors(capsys, golden, name: str) -> None:
    make, argument = DAMAGED[name]
    make()
    shown = run_lutc(capsys, "inspect", argument)
    assert shown.status == 3 and shown.out == ""
    golden(shown.transcript(), f"cli/inspect-error-{name}.txt")


def test_saved_as_csv_and_html() -> None:
    _artifact()
    report = inspect("net.lutc")
    report.save("layers.csv")
    report.save("layers.html")
    assert Path("layers.csv").read_text().splitlines()[1].startswith("conv1,conv2d,lut,")
    page = Path("layers.html").read_text()
    assert "<td>conv1</td>" in page and "&#x27;fc&#x27;" in page  # escaped


def test_rows_of_an_annotated_model() -> None:
    save_annotated_model(Path("annotated.onnx"))
    (row,) = json.loads(inspect("annotated.onnx").to_json())["rows"]
    assert row == {
        "name": "head", "op": "dense", "kind": "lut", "num_centroids": 16, "subvector_len": 4, "num_codebooks": 2,
        "outputs": 5, "encoder": "l2", "encode_dtype": "float32", "table_dtype": "int8", "bytes": 160,
    }  # fmt: skip
