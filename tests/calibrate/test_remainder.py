"""`remainder="int8"`: a network with tables and integer layers beside the float one, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import lutc
from lutc.artifact.store import Artifact
from lutc.errors import InputError, LoweringError, LutcError
from tests.calibrate.nets import attention, cnn, floats
from tests.execute import why_not_emulated

IMAGES = floats(20, 3, 8, 10)


def _quiet(_phase: str, _message: str, _seconds: float) -> None:
    pass


def _run(artifact: Artifact, x: np.ndarray) -> np.ndarray:
    return lutc.load(artifact.path).run(x)["y"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.onnx for two images, its inputs as images.npz."""
    path = tmp_path_factory.mktemp("remainder")
    onnx.save(cnn(2), path / "net.onnx")
    np.savez(path / "images.npz", x=IMAGES, labels=np.zeros(20))
    return path


def test_tables_and_integers_side_by_side(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """conv1 is a table; a depthwise conv, what is asked for and what is too small to gain stay float."""
    monkeypatch.setattr("lutc.cost_model.estimate.host_maker", lambda: "intel")  # on AMD's AVX-512, fc gains
    books = lutc.calibrate(folder / "net.onnx", IMAGES, lutc.LUTConfig(num_centroids=16), layers=["conv1"])
    told: list[str] = []
    options = {"codebooks": books, "overwrite": True}
    plain = lutc.compile(folder / "net.onnx", "native", output=folder / "float.lutc", progress=_quiet, **options)
    mixed = lutc.compile(
        folder / "net.onnx", "native", output=folder / "int8.lutc", remainder="int8",
        calibration=folder / "images.npz", keep_float=["down"],
        progress=lambda phase, message, seconds: told.append(f"{phase}: {message}"), **options,
    )  # fmt: skip
    layers = {row.name: row for row in mixed.manifest.layers}
    kinds = {name: row.kind for name, row in layers.items()}
    assert kinds == {"stem": "integer", "conv1": "lut", "down": "float", "depthwise": "float", "fc": "float"}
    assert layers["down"].reason == "asked to be kept in float" and "depthwise" in layers["depthwise"].reason
    assert "by the cost model" in layers["fc"].reason
    assert any(line.startswith("remainder: 1 float layer becomes int8 (off by") for line in told)
    x, y = IMAGES[:2], _run(plain, IMAGES[:2])
    assert np.abs(_run(mixed, x) - y).max() / np.abs(y).max() < 0.05
    stem = layers["stem"]
    assert 0 < stem.level_error < 0.05
    levels = stem.input_high - stem.input_low  # 7 bits where this CPU's products of 8 saturate
    assert levels in (127, 255) and -0.63 < stem.input_low / levels < -0.35
    assert stem.inv_scale == pytest.approx(levels / np.ptp(IMAGES), rel=0.7)
    assert stem.input_mean == pytest.approx(IMAGES.mean(), abs=0.1)  # of a sample, with the border

    report = lutc.verify(mixed.path, codebooks=books)
    assert report.passed, str(report)
    assert {row.name: row.kind for row in report.rows} == {"y": "output", "stem": "sums", "conv1": "codes"}
    assert report.rows[-1].compared > 0 and "1 float layer is computed in int8" in str(report)


def test_the_same_inputs_give_the_same_artifact(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    for name in ("a", "b"):
        lutc.compile(folder / "net.onnx", "x86-64-v3", output=folder / f"{name}.lutc", remainder="int8",
                     calibration=IMAGES, progress=_quiet)  # fmt: skip
    texts = [(folder / f"{name}.lutc" / "manifest.json").read_text() for name in ("a", "b")]
    assert texts[0] == texts[1].replace('"name": "b"', '"name": "a"')
    report = lutc.inspect(folder / "a.lutc")
    assert "inv scale" in str(report) and "level error" in str(report)
    row = next(row for row in report.rows if row["name"] == "stem")
    assert row["input_low"] < 0 < row["input_high"] and row["inv_scale"] > 0


def test_on_aarch64(folder: Path) -> None:
    """Sums of the stem equal numpy's under emulation, and outputs ONNX Runtime's with the same integers."""
    if reason := why_not_emulated():
        pytest.skip(reason)
    artifact = lutc.compile(folder / "net.onnx", "arm64-dotprod", output=folder / "dotprod.lutc", remainder="int8",
                            calibration=IMAGES, progress=_quiet)  # fmt: skip
    report = lutc.verify(artifact.path, emulate=True, samples=4)
    assert report.passed, str(report)
    assert [row.name for row in report.rows if row.kind == "sums"] == ["stem", "conv1"]
    assert next(row for row in artifact.manifest.layers if row.name == "stem").kernel == "product neon_dotprod"


def test_verify_finds_other_scales(folder: Path) -> None:
    """An artifact whose manifest tells another scale than its code has is wrong."""
    artifact = lutc.compile(folder / "net.onnx", "native", output=folder / "other.lutc", remainder="int8",
                            calibration=IMAGES, progress=_quiet)  # fmt: skip
    assert lutc.verify(artifact.path, samples=4).passed
    path = artifact.path / "manifest.json"
    manifest = json.loads(path.read_text())
    stem = next(row for row in manifest["layers"] if row["name"] == "stem")
    stem["inv_scale"] *= 0.9
    path.write_text(json.dumps(manifest))
    report = lutc.verify(artifact.path, samples=4)
    assert [row.name for row in report.rows if not row.passed] == ["y"]


def test_a_target_whose_products_are_no_faster_keeps_float(folder: Path) -> None:
    artifact = lutc.compile(folder / "net.onnx", "arm64", output=folder / "arm.lutc", remainder="int8",
                            calibration=IMAGES, progress=_quiet)  # fmt: skip
    rows = [row for row in artifact.manifest.layers if row.name != "depthwise"]
    assert {row.kind for row in rows} == {"float"}
    assert all("the time of float32 by the cost model" in row.reason for row in rows)


NOT_FITTING = {
    "none": None,
    "no-input": {"image": IMAGES},
    "shape": {"x": IMAGES[:, :, :4]},
    "dtype": IMAGES.astype(np.uint8),
    "nan": np.full((2, 3, 8, 10), np.nan, np.float32),
    "few": IMAGES[:1],
    "missing-file": Path("images.npz"),
    "model-file": Path("net.onnx"),
}


@pytest.mark.parametrize("name", NOT_FITTING)
def test_inputs_that_do_not_fit(
    folder: Path, golden, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(cnn(2), "net.onnx")
    with pytest.raises(InputError) as caught:
        lutc.compile("net.onnx", "x86-64-v3", remainder="int8", calibration=NOT_FITTING[name], progress=_quiet)
    assert not list(tmp_path.glob("*.lutc"))
    golden(f"error: {caught.value}", f"calibrate/remainder-{name}.txt")


def test_values_that_grow_without_bounds(golden, tmp_path: Path) -> None:
    huge = np.full((4, 6, 24), 3e38, np.float32)
    x = np.where(np.arange(24) % 2, huge, -huge)
    proto = attention()
    proto.graph.node.append(onnx.helper.make_node("MatMul", ["q", "wk"], ["z"], name="second"))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("z", 1, ["n", "s", 24]))
    with pytest.raises(InputError) as caught:
        lutc.compile(
            proto, "x86-64-v4-vbmi", output=tmp_path / "a.lutc", remainder="int8", calibration=x,
            input_shapes={"x": [4, 6, 24]}, progress=_quiet,
        )  # fmt: skip
    golden(f"error: {caught.value}", "calibrate/remainder-infinite.txt")


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("useless", {"calibration": IMAGES}, InputError),
        ("unknown", {"remainder": "int4"}, LoweringError),
        ("dynamic", {"remainder": "int8", "calibration": IMAGES, "dynamic": {"n": "1..4"}}, LoweringError),
    ],
)
def test_options_that_do_not_go_together(folder: Path, golden, name: str, options: dict, kind: type[LutcError]) -> None:
    with pytest.raises(kind) as caught:
        lutc.compile(folder / "net.onnx", "x86-64-v3", progress=_quiet, **options)
    golden(f"error: {caught.value}", f"calibrate/remainder-{name}.txt")


def test_sizes_that_the_model_leaves_open(tmp_path: Path) -> None:
    def compiled(target: str) -> lutc.Artifact:
        return lutc.compile(
            attention(), target, output=tmp_path / f"{target}.lutc", remainder="int8", calibration=floats(8, 6, 24),
            input_shapes={"x": [2, 6, 24]}, progress=_quiet,
        )  # fmt: skip

    layers = compiled("x86-64-v4-vbmi").manifest.layers  # elsewhere they may be too small to gain
    assert {row.name: row.kind for row in layers} == {"query": "integer", "key": "integer"}
    x = floats(8, 6, 24)[:2]
    q, k = (x @ w for w in (floats(24, 24), floats(24, 24)))
    exact = q @ k.transpose(0, 2, 1)
    assert np.abs(_run(compiled("native"), x) - exact).max() / np.abs(exact).max() < 0.05
