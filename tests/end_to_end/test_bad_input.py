"""The command line on input that cannot work: what is said, the exit status, and that nothing is left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lutc
from lutc.importers.codebooks import FORMAT, Codebook, Codebooks
from lutc.targets import host_arch
from tests.cli.console import Shown, run_lutc
from tests.cli.models import save_annotated_model, save_float_model
from tests.importers.models import model as make_model

_FOREIGN = "arm64" if host_arch() == "x86_64" else "x86-64-v2"
_USAGE, _CANNOT = 2, 3


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with net.lutc for this machine and foreign.lutc for another one."""
    folder = tmp_path_factory.mktemp("compiled")
    model = save_annotated_model(folder / "annotated.onnx")
    lutc.compile(model, "native", output=folder / "net.lutc")
    lutc.compile(model, _FOREIGN, output=folder / "foreign.lutc")
    return folder


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, compiled: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with float model.onnx, annotated.onnx and the artifacts; temporary files go beside it."""
    work, scratch = tmp_path / "work", tmp_path / "scratch"
    shutil.copytree(compiled, work)
    scratch.mkdir()
    save_float_model(work / "model.onnx")
    monkeypatch.chdir(work)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    return work


def _refused(capfd: pytest.CaptureFixture[str], folder: Path, command: str, status: int) -> Shown:
    """Runs a command that must fail: four parts in order, silence on stdout, nothing written or changed."""
    before = {path: path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()}
    shown = run_lutc(capfd, *command.split())
    assert {path: path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()} == before
    assert not list((folder.parent / "scratch").iterdir())
    assert shown.status == status and shown.out == ""
    assert "Traceback" not in shown.err and "internal error" not in shown.err
    starts = [line[:10] for line in shown.err.splitlines() if line[:9].strip() and line[:10] != " " * 10]
    assert [start.split()[0] for start in starts] == ["error:", "where", "reason", "fix"], shown.err
    return shown


def _text(folder: Path) -> None:
    (folder / "bad.onnx").write_text("this is no model\n")


def _truncated(folder: Path) -> None:
    (folder / "bad.onnx").write_bytes((folder / "model.onnx").read_bytes()[:600])


def _unsupported(folder: Path) -> None:
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r"], ["a"], name="recurrent", hidden_size=4),
        helper.make_node("Frobnicate", ["a"], ["b"], name="odd1", domain="com.example"),
        helper.make_node("Frobnicate", ["b"], ["y"], name="odd2", domain="com.example"),
    ]
    tensors = {"w": np.zeros((1, 16, 4), np.float32), "r": np.zeros((1, 16, 4), np.float32)}
    net = make_model(nodes, {"x": [2, 1, 4]}, {"y": [2, 1, 1, 4]}, tensors, domains={"com.example": 1})
    onnx.save(net, folder / "bad.onnx")


def _dynamic(folder: Path) -> None:
    save_float_model(folder / "bad.onnx", batch="N")


def _zero_batch(folder: Path) -> None:
    save_float_model(folder / "bad.onnx", batch=0)


def _edit_annotated(folder: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    net = onnx.load(folder / "annotated.onnx")
    for tensor in net.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))
    onnx.save(net, folder / "bad.onnx")


def _nan(array: np.ndarray) -> np.ndarray:
    array.reshape(-1)[3] = np.nan
    return array


def _nan_in_layer(folder: Path) -> None:
    _edit_annotated(folder, "centroids", _nan)


def _table_dtype(folder: Path) -> None:
    _edit_annotated(folder, "table", lambda table: table.astype(np.int16))


def _external_data_outside(folder: Path) -> None:
    net = onnx.load(folder / "model.onnx")
    tensor = net.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    onnx.save(net, folder / "bad.onnx")


def _save_codebooks(folder: Path, **codebooks: tuple[int, int]) -> None:
    """Layer name -> (C, V)."""
    random = np.random.default_rng(0)
    books = [
        Codebook(name, random.standard_normal((count, 16, length), np.float32), np.ones(count, np.float32))
        for name, (count, length) in codebooks.items()
    ]
    Codebooks(books).save(folder / "bad.safetensors")


def _other_shapes(folder: Path) -> None:
    _save_codebooks(folder, conv1=(3, 4), fc=(5, 16))


def _other_names(folder: Path) -> None:
    _save_codebooks(folder, conv=(3, 9), head=(16, 16))


def _nan_in_codebooks(folder: Path) -> None:
    from safetensors.numpy import save_file

    config = {"fc": {"encode_dtype": "float32", "encoder": "l2", "table_dtype": "int8", "input_signed": True}}
    centroids = _nan(np.ones((16, 16, 16), np.float32))
    metadata = {"format": FORMAT, "format_version": "1", "config": json.dumps(config)}
    save_file({"fc.centroids": centroids}, folder / "bad.safetensors", metadata)


def _flip(folder: Path) -> None:
    library = folder / "net.lutc" / "model.so"
    content = bytearray(library.read_bytes())
    content[len(content) // 2] ^= 1
    library.write_bytes(content)


def _edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / "net.lutc" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _future(folder: Path) -> None:
    _edit_manifest(folder, format_version=99)


def _outside(folder: Path) -> None:
    _edit_manifest(folder, files={"../annotated.onnx": "0" * 64, "model.so": "0" * 64})


def _save_inputs(array: np.ndarray, name: str = "x") -> Callable[[Path], None]:
    return lambda folder: np.savez(folder / "bad.npz", **{name: array})


def _nothing(folder: Path) -> None:
    """The folder is as it is."""


_ONES = np.ones((2, 8), np.float32)
_COMPILE = "compile bad.onnx -q -o out.lutc"
_BOOKS = "compile model.onnx --codebooks bad.safetensors -q -o out.lutc"
_RUN = "run net.lutc -i bad.npz"
CASES: dict[str, tuple[Callable[[Path], None], str, int]] = {
    "missing-file": (_nothing, "compile modle.onnx -o out.lutc", _CANNOT),
    "not-onnx": (_text, _COMPILE, _CANNOT),
    "truncated-onnx": (_truncated, _COMPILE, _CANNOT),
    "unsupported-operators": (_unsupported, _COMPILE, _CANNOT),
    "dynamic-shape": (_dynamic, _COMPILE, _CANNOT),
    "zero-batch": (_zero_batch, _COMPILE, _CANNOT),
    "nan-in-layer": (_nan_in_layer, _COMPILE, _CANNOT),
    "table-dtype": (_table_dtype, _COMPILE, _CANNOT),
    "external-data-outside": (_external_data_outside, _COMPILE, _CANNOT),
    "codebook-shapes": (_other_shapes, _BOOKS, _CANNOT),
    "codebook-names": (_other_names, _BOOKS, _CANNOT),
    "codebook-nan": (_nan_in_codebooks, _BOOKS, _CANNOT),
    "keep-float-nothing": (_nothing, "compile model.onnx --keep-float conv9 -q -o out.lutc", _CANNOT),
    "keep-float-table": (_nothing, "compile annotated.onnx --keep-float head -q -o out.lutc", _CANNOT),
    "unknown-target": (_nothing, "compile model.onnx -t arm46 -o out.lutc", _USAGE),
    "unknown-feature": (_nothing, "compile model.onnx -t arm64,+dotprd -o out.lutc", _USAGE),
    "output-under-a-file": (_nothing, "compile model.onnx -o annotated.onnx/out.lutc", _CANNOT),
    "output-exists": (_nothing, "compile model.onnx -o net.lutc", _CANNOT),
    "output-is-no-artifact": (_nothing, "compile model.onnx --overwrite -o model.onnx", _CANNOT),
    "foreign-artifact": (_nothing, "run foreign.lutc", _USAGE),
    "flipped-byte": (_flip, "run net.lutc", _CANNOT),
    "future-format": (_future, "run net.lutc", _CANNOT),
    "manifest-names-outside": (_outside, "run net.lutc", _CANNOT),
    "model-for-artifact": (_nothing, "run model.onnx", _CANNOT),
    "input-shape": (_save_inputs(_ONES[:, :7]), _RUN, _USAGE),
    "input-batch-0": (_save_inputs(_ONES[:0]), _RUN, _USAGE),
    "input-dtype": (_save_inputs(_ONES.astype(np.float64)), _RUN, _USAGE),
    "input-name": (_save_inputs(_ONES, "input"), _RUN, _USAGE),
    "run-output-under-a-file": (_save_inputs(_ONES), f"{_RUN} -o model.onnx/y.npz", _CANNOT),
}


@pytest.mark.parametrize("name", CASES)
def test_told_in_four_parts(
    name: str, folder: Path, capfd: pytest.CaptureFixture[str], golden: Callable[[str, str], None]
) -> None:
    prepare, command, status = CASES[name]
    prepare(folder)
    shown = _refused(capfd, folder, command, status)
    text = shown.transcript().replace(str(folder), "<folder>")
    if name == "foreign-artifact":
        text = text.replace(_FOREIGN, "<target>").replace(host_arch(), "<here>")
        text = text.replace("aarch64" if host_arch() == "x86_64" else "x86_64", "<there>")
    golden(text, f"end_to_end/{name}.txt")


def test_a_folder_nobody_can_write_in(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    """Root passes every check of permissions and finds out when it writes; others are told at once."""
    shown = _refused(capfd, folder, "compile annotated.onnx -q -o /proc/out.lutc", _CANNOT)
    assert shown.err.startswith("error: cannot write the artifact\n  where   /proc/out.lutc\n")


def test_zero_size_on_the_command_line(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    _dynamic(folder)
    shown = run_lutc(capfd, "compile", "bad.onnx", "--input-shape", "x=0,3,8,8", "-o", "out.lutc")
    assert shown.status == _USAGE and shown.out == "" and "x=0,3,8,8" in shown.err
    assert not (folder / "out.lutc").exists()


def test_the_cases_differ_from_what_works(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    """The same commands on sound files: otherwise a refusal would say nothing about what was spoiled."""
    _save_codebooks(folder, conv1=(3, 9), fc=(16, 16))
    np.savez("good.npz", x=_ONES)
    for command in (
        "compile model.onnx --codebooks bad.safetensors -q -o a.lutc",
        "compile annotated.onnx -q -o b.lutc",
        "run net.lutc -i good.npz",
    ):
        assert run_lutc(capfd, *command.split()).status == 0
