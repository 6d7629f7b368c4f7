"""One artifact for every batch and length: against ONNX Runtime, static compiles, the definition of codes, and qemu."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

import lutc
from lutc.artifact.store import read_artifact
from lutc.errors import ArtifactError, InputError, LutcError
from lutc.importers import import_model
from lutc.importers.codebooks import Codebooks
from lutc.importers.dynamic import import_dynamic
from lutc.program import Program
from lutc.runtime.emulated_session import EmulatedSession
from tests.cli.console import run_lutc
from tests.end_to_end.encoder import encoder, inputs
from tests.execute import why_not_emulated

DYNAMIC = {"batch": "1..5", "sequence": "1..24:8,24"}
SIZES = [(1, 1), (1, 8), (2, 3), (3, 24), (5, 17), (4, 9)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder(tmp_path_factory.mktemp("dynamic") / "encoder.onnx")


@pytest.fixture(scope="module")
def codebooks(model: Path) -> Codebooks:
    return lutc.calibrate(model, inputs(16, 24, seed=1), keep_float=["classes"])


@pytest.fixture(scope="module")
def floats(model: Path) -> lutc.runtime.session.Session:
    return lutc.load(lutc.compile(model, dynamic=DYNAMIC, output=model.with_name("float.lutc")).path, threads=1)


@pytest.fixture(scope="module")
def tables(model: Path, codebooks: Codebooks) -> Path:
    output = model.with_name("tables.lutc")
    return lutc.compile(model, codebooks=codebooks, dynamic=DYNAMIC | {"batch": "1..5:2"}, output=output).path


@pytest.mark.parametrize(("batch", "sequence"), SIZES)
def test_any_size_gives_what_onnxruntime_gives(model: Path, floats, batch: int, sequence: int) -> None:
    given = inputs(batch, sequence)
    expected = onnxruntime.InferenceSession(model).run(None, given)
    got = floats.run(given)
    for array, want in zip(got.values(), expected, strict=True):
        np.testing.assert_allclose(array, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_codes_are_those_of_the_definition(model: Path, codebooks: Codebooks, tables: Path) -> None:
    report = lutc.verify(tables, model, codebooks=codebooks, samples=2)
    assert report.passed, str(report)
    assert {row.name for row in report.rows if row.kind == "codes"} == set(codebooks)
    assert sum(row.flips for row in report.rows if row.kind == "codes") == 0
    one = lutc.verify(tables, model, codebooks=codebooks, samples=1, sizes={"batch": 3, "sequence": 5}, per_layer=False)
    assert one.passed and one.rows[0].compared == 3 * 5 * 32


def test_a_size_with_code_gives_the_bits_of_a_static_compile(model: Path, codebooks: Codebooks, tables: Path) -> None:
    shapes = dict.fromkeys(("ids", "mask"), (2, 24))
    output = model.with_name("static.lutc")
    static = lutc.load(lutc.compile(model, codebooks=codebooks, input_shapes=shapes, output=output).path, threads=1)
    session = lutc.load(tables, threads=1)
    for seed in range(3):
        given = inputs(2, 24, seed)
        want, got = static.run(given), session.run(given)
        for name in ("hidden", "classes"):
            np.testing.assert_array_equal(got[name], want[name])
        # a mean over a padded axis is a sum and a division by what is there
        np.testing.assert_allclose(got["pooled"], want["pooled"], rtol=1e-5, atol=1e-6)


def test_what_the_artifact_tells(capsys: pytest.CaptureFixture[str], tables: Path, tmp_path: Path) -> None:
    artifact = read_artifact(tables)
    assert [str(spec) for spec in artifact.manifest.inputs] == [
        "ids int64[batch,sequence]",
        "mask float32[batch,sequence]",
    ]
    assert str(artifact.manifest.outputs[0]) == "hidden float32[batch,sequence,32]"
    told = run_lutc(capsys, "inspect", str(tables)).out
    assert "batch 1..5 (runs of 2)" in told and "sequence 1..24 (padded to 8, 24)" in told
    output = tmp_path / "out.npz"
    run_lutc(capsys, "run", str(tables), "--size", "batch=3", "--size", "sequence=7", "-o", str(output))
    assert np.load(output)["hidden"].shape == (3, 7, 32)
    shown = run_lutc(capsys, "bench", str(tables), "--size", "sequence=5", "--repeat", "3")
    assert shown.status == 0 and "lutc" in shown.out
    shown = run_lutc(capsys, "profile", str(tables), "--size", "batch=3", "--repeat", "2")
    assert shown.status == 0, shown.err


def test_shapes_share_the_constants(model: Path) -> None:
    program = Program()
    same = np.arange(12, dtype=np.int8).reshape(3, 4)
    for size in (2, 1):
        built = SimpleNamespace(constants=[same.copy(), np.full(size, size, np.int8)], executable=size)
        program.add(import_model(model, input_shapes={"ids": (1, 2), "mask": (1, 2)}), built, {"n": size})
    assert [code.constants for code, _ in program.codes] == [
        ["constant_0000", "constant_0001"],
        ["constant_0000", "constant_0002"],
    ]
    assert [code.library for code, _ in program.codes] == ["model.so", "model-1.so"]
    assert program.built.executable == 2 and len(program.constants) == 3


@pytest.mark.parametrize(
    ("case", "given"),
    {
        "range": inputs(2, 25),
        "batch": inputs(6, 8),
        "different": {"ids": inputs(2, 8)["ids"], "mask": inputs(2, 9)["mask"]},
        "rank": {"ids": inputs(2, 8)["ids"], "mask": inputs(2, 8)["mask"][0]},
        "empty": {name: array[:, :0] for name, array in inputs(1, 8).items()},
    }.items(),
)
def test_sizes_that_do_not_fit(tables: Path, case: str, given: dict, golden: Callable[[str, str], None]) -> None:
    with pytest.raises(InputError) as caught:
        lutc.load(tables).run(given)
    golden(str(caught.value).replace(str(tables), "encoder.lutc"), f"inputs/dynamic-{case}.txt")


@pytest.mark.parametrize(
    ("case", "dynamic"),
    {
        "unknown": {"sequense": "1..24"},
        "form": {"sequence": "1-24"},
        "descending": {"sequence": "24..1"},
        "uncovered": {"batch": "1..4", "sequence": "1..24:8,16"},
        "too-many": {"batch": "1..64:" + ",".join(map(str, range(1, 40))), "sequence": "1..24:8,24"},
        "others-open": {"sequence": "1..24"},
    }.items(),
)
def test_dimensions_that_cannot_be(model: Path, case: str, dynamic: dict, golden: Callable[[str, str], None]) -> None:
    with pytest.raises(LutcError) as caught:
        import_dynamic(model, dynamic)
    golden(str(caught.value).replace(str(model), "encoder.onnx"), f"importers/dynamic-{case}.txt")


def test_exact_sizes_are_not_padded(model: Path, tmp_path: Path) -> None:
    artifact = lutc.compile(
        model, dynamic={"sequence": [4, 6]}, input_shapes={"ids": (2, 1), "mask": (2, 1)}, output=tmp_path / "a.lutc"
    )
    session, reference = lutc.load(artifact.path), onnxruntime.InferenceSession(model)
    for size in (4, 6):
        want = reference.run(None, inputs(2, size))
        np.testing.assert_allclose(session.run(inputs(2, size))["classes"], want[2], atol=1e-5)
    with pytest.raises(InputError, match="'sequence' cannot be 5"):
        session.run(inputs(2, 5))


def test_under_qemu(model: Path, codebooks: Codebooks, tables: Path) -> None:
    if reason := why_not_emulated():
        pytest.skip(reason)
    artifact = lutc.compile(
        model, "arm64-dotprod", codebooks=codebooks, exact=True, dynamic={"batch": "1..3", "sequence": "1..8:8"},
        output=model.with_name("arm.lutc"),
    )  # fmt: skip
    given, here = inputs(3, 5), lutc.load(tables)
    for name, array in EmulatedSession(artifact.path).run(given).items():
        np.testing.assert_allclose(array, here.run(given)[name], atol=1e-4)


@pytest.mark.parametrize("damage", ["library", "dims", "sizes", "missing"])
def test_a_manifest_that_makes_no_sense(tables: Path, tmp_path: Path, damage: str) -> None:
    copy = tmp_path / "copy.lutc"
    shutil.copytree(tables, copy)
    content = json.loads((copy / "manifest.json").read_text())
    if damage == "library":
        content["shapes"][0]["library"] = "../other.so"
    elif damage == "dims":
        content["outputs"][0]["dims"][0] = "other"
    elif damage == "sizes":
        content["dimensions"][1]["highest"] = 1000
    else:
        del content["shapes"][1]
    (copy / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError):
        lutc.load(copy)
