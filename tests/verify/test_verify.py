"""verify: passes right artifacts, fails wrong ones, and says what it compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

pytest.importorskip("torch")  # lutc.export, which has the ONNX functions, imports it

from lutc import reference
from lutc.artifact.store import read_artifact
from lutc.calibrate import calibrate
from lutc.compiler import compile
from lutc.errors import InputError, VerifyError
from lutc.importers.lut_layer import LUTLayer
from lutc.linker import find_linker
from lutc.report.inspect import inspect
from lutc.targets import host_target
from lutc.verify import VerifyReport, VerifyRow, _compare_output, verify
from lutc.verify.annotate import _add_functions
from lutc.verify.codes import Encode, compare_codes
from tests.calibrate.nets import cnn, floats
from tests.execute import why_not_emulated
from tests.importers.models import lut_node, lut_tensors, model, prefixed


def annotated(*, scale: float = 1.0) -> onnx.ModelProto:
    """conv -> relu -> flatten -> dense, both tables; `scale` spoils the last layer's output."""
    rng = np.random.default_rng(3)
    conv, fc = lut_tensors(rng, 3, 16, 9, 4), lut_tensors(rng, 9, 16, 16, 5, encode_dtype="float32")
    fc["table_scale"] = fc["table_scale"] * np.float32(scale)
    nodes = [
        lut_node("conv", "x", "c", conv, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1], dilations=[1, 1],
                 group=1, encode_dtype="int8", encoder="l2", input_signed=1),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        lut_node("fc", "f", "y", fc, encode_dtype="float32", encoder="l2", input_signed=1),
    ]  # fmt: skip
    tensors = prefixed("conv", conv) | prefixed("fc", fc)
    proto = model(nodes, {"x": [2, 3, 6, 6]}, {"y": [2, 5]}, tensors, domains={"lutc": 1})
    _add_functions(proto)
    return proto


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.onnx and net.lutc."""
    folder = tmp_path_factory.mktemp("verify")
    find_linker(host_target(), None)
    onnx.save(annotated(), folder / "net.onnx")
    compile(folder / "net.onnx", "native", output=folder / "net.lutc")
    return folder


def test_a_right_artifact_passes(folder: Path) -> None:
    report = verify(folder / "net.lutc")
    assert report.passed and report.runs == 4 and report.reference == str(folder / "net.onnx")
    assert [(row.name, row.kind) for row in report.rows] == [("y", "output"), ("conv", "codes"), ("fc", "codes")]
    assert [row.compared for row in report.rows] == [40, 4 * 2 * 3 * 36, 4 * 2 * 9]
    assert report.rows[1].flips == report.rows[2].flips == 0
    assert "The artifact computes what its model says." in str(report)
    assert report.to_dict()["passed"] is True


def test_a_wrong_output_fails(folder: Path, tmp_path: Path) -> None:
    onnx.save(annotated(scale=1.02), tmp_path / "other.onnx")
    report = verify(folder / "net.lutc", tmp_path / "other.onnx")
    assert not report.passed
    row = report.rows[0]
    assert not row.passed and row.runs_apart == 4 > (row.apart_allowed or 0)
    assert row.max_rel_error == pytest.approx(0.02, rel=0.3)
    assert "FAILED: y" in str(report) and "not the file that the artifact was compiled from" in str(report)


def test_other_centroids_fail_in_their_layer(folder: Path, tmp_path: Path) -> None:
    proto = annotated()
    tensor = next(t for t in proto.graph.initializer if t.name == "conv.centroids")
    swapped = numpy_helper.to_array(tensor)[:, ::-1].copy()
    tensor.CopyFrom(numpy_helper.from_array(swapped, tensor.name))
    onnx.save(proto, tmp_path / "other.onnx")
    assert not verify(folder / "net.lutc", tmp_path / "other.onnx", per_layer=False).passed


def test_float_model_and_codebooks(tmp_path: Path) -> None:
    onnx.save(cnn(2), tmp_path / "net.onnx")
    calibrate(tmp_path / "net.onnx", floats(20, 3, 8, 10)).save(tmp_path / "books.safetensors")
    artifact = tmp_path / "net.lutc"
    compile(
        tmp_path / "net.onnx", "native", output=artifact, codebooks=tmp_path / "books.safetensors", keep_float=["fc"]
    )
    report = verify(artifact, codebooks=tmp_path / "books.safetensors")
    assert report.passed and [row.name for row in report.rows] == ["y", "conv1", "down"]
    with pytest.raises(VerifyError, match="the reference is a float model") as caught:
        verify(artifact)
    assert "conv1, down" in caught.value.reason


def test_emulated(folder: Path, tmp_path: Path) -> None:
    reason = why_not_emulated()
    if reason:
        pytest.skip(reason)
    compile(folder / "net.onnx", "arm64", output=tmp_path / "arm.lutc")
    report = verify(tmp_path / "arm.lutc", folder / "net.onnx", emulate=True)
    assert report.passed and [row.kind for row in report.rows] == ["output", "codes", "codes"]
    assert min(row.compared for row in report.rows) > 0


def test_narrowed_tables_are_compared_as_they_are_stored(folder: Path, tmp_path: Path) -> None:
    """The outputs are those of 7-bit tables to 1e-4, which the model's own tables would miss."""
    reason = why_not_emulated()
    if reason:
        pytest.skip(reason)
    compile(folder / "net.onnx", "cortex-x1", output=tmp_path / "x1.lutc")
    rows = read_artifact(tmp_path / "x1.lutc").manifest.layers
    assert [row.table_bits for row in rows] == [7, 7] and all(0.001 < row.table_error < 0.03 for row in rows)
    report = verify(tmp_path / "x1.lutc", folder / "net.onnx", emulate=True)
    assert report.passed
    (remark,) = report.remarks
    assert remark.startswith("2 tables have 7 bits, for the target's sake (compile --exact forbids it). ")
    moved = float(remark.rstrip(".").rpartition(" ")[2])
    assert 1e-3 < moved < 0.1
    shown = inspect(tmp_path / "x1.lutc")
    assert [row["table_bits"] for row in shown.rows] == [7, 7] and "added error" in str(shown)
    exact = compile(folder / "net.onnx", "cortex-x1", output=tmp_path / "exact.lutc", exact=True)
    assert [row.table_bits for row in exact.manifest.layers] == [8, 8]


def test_given_inputs_are_cut_into_runs(folder: Path) -> None:
    report = verify(folder / "net.lutc", inputs={"x": floats(6, 3, 6, 6), "labels": np.zeros(6)}, per_layer=False)
    assert report.runs == 3 and [row.kind for row in report.rows] == ["output"]


def test_inputs_that_do_not_fit(folder: Path) -> None:
    with pytest.raises(InputError, match="missing input 'x'"):
        verify(folder / "net.lutc", inputs={"image": floats(2, 3, 6, 6)})
    with pytest.raises(InputError, match="wrong shape"):
        verify(folder / "net.lutc", inputs={"x": floats(3, 3, 6, 6)})


def test_the_encode_of_a_layer_can_be_replaced(folder: Path) -> None:
    def first_code_wrong(layer: LUTLayer, shape: tuple[int, ...]) -> Encode:
        def encode(x: np.ndarray) -> np.ndarray:
            codes = reference.codes(layer, x)
            codes.flat[0] ^= 1
            return codes.transpose(0, 3, 1, 2) if layer.geometry else codes

        return lambda inputs: [encode(x) for x in inputs]

    report = verify(folder / "net.lutc", make_encode=first_code_wrong)
    assert [row.flips for row in report.rows[1:]] == [4, 4] and not report.passed


def test_near_ties_of_a_float_search_are_allowed() -> None:
    centroids = np.zeros((1, 2, 4), np.float32)
    centroids[0, 0, 0], centroids[0, 1, 0] = 1, -1
    layer = LUTLayer("fc", {"centroids": centroids, "inv_scale": None, "score_bias": None})
    x = np.array([[1e-7, 1, 1, 1], [0.5, 1, 1, 1]], np.float32)  # between the two, and clearly at the first
    wrong_both = compare_codes(layer, [x], lambda _layer, _shape: lambda _xs: [np.array([[1], [1]], np.uint8)])
    assert (wrong_both.near_ties, wrong_both.flips, wrong_both.passed) == (1, 1, False)
    wrong_tie = compare_codes(layer, [x], lambda _layer, _shape: lambda _xs: [np.array([[1], [0]], np.uint8)])
    assert (wrong_tie.near_ties, wrong_tie.flips, wrong_tie.passed) == (1, 0, True)


def test_an_integer_search_has_no_near_ties() -> None:
    tensors = lut_tensors(np.random.default_rng(1), 3, 16, 4, 5)
    layer = LUTLayer("fc", tensors, encode_dtype="int8")
    x = floats(4, 12)
    row = compare_codes(layer, [x], lambda one, _shape: lambda xs: [reference.codes(one, x) ^ 1 for x in xs])
    assert (row.near_ties, row.flips) == (0, 12)


def one(values: list[float]) -> dict[str, np.ndarray]:
    return {"y": np.array(values, np.float32)}


def row(got: list, expected: list, moved: list = ()) -> VerifyRow:  # type: ignore[assignment]
    return _compare_output("y", *([one(run) for run in runs] for runs in (got, expected, moved)))


@pytest.mark.parametrize(
    "got, expected, moved, passed",
    [
        ([[1.00005, 2]], [[1, 2]], [], True),
        ([[1.001, 2]], [[1, 2]], [], False),
        ([[1.001, 2]], [[1, 2]], [[1, 2], [1.001, 2]], True),  # the reference moves as far itself
        ([[1.01, 2]], [[1, 2]], [[1, 2], [1.001, 2]], False),  # ten times as far
        ([[1.001, 2], [1.001, 2]], [[1, 2], [1, 2]], [[1.001, 2], [1, 2], [1, 2], [1, 2]], False),  # more often
        ([[np.nan, 2]], [[np.nan, 2]], [], True),
        ([[np.nan, 2]], [[1, 2]], [], False),
        ([[1, 2]], [[np.inf, 2]], [], False),
        ([[np.inf, 2]], [[np.inf, 2]], [], True),
        ([[0, 0]], [[0, 0]], [], True),
    ],
)
def test_when_an_output_passes(got: list, expected: list, moved: list, passed: bool) -> None:
    assert row(got, expected, moved).passed is passed


def test_report_text(golden: Callable[[str, str], None]) -> None:
    rows = [
        VerifyRow("y", "output", 40, False, 0.25, 0.02, 1e-4, runs_apart=4, apart_allowed=0),
        VerifyRow("layer1.conv", "codes", 131072, True, flips=0, near_ties=2),
    ]
    golden(str(VerifyReport(rows, "net.lutc", "net.onnx", 4)), "verify/report.txt")


def _no_reference(folder: Path) -> object:
    return verify(folder / "far" / "net.lutc")


def _changed(folder: Path) -> object:
    onnx.save(annotated(scale=2), folder / "far" / "net.onnx")
    try:
        return verify(folder / "far" / "net.lutc")
    finally:
        (folder / "far" / "net.onnx").unlink()


def _torch_reference(folder: Path) -> object:
    (folder / "net.pt2").write_bytes(b"PK")
    return verify(folder / "net.lutc", "net.pt2")


@pytest.mark.parametrize(
    "case, action", [("no-reference", _no_reference), ("changed", _changed), ("pt2", _torch_reference)]
)
def test_reference_errors(
    case: str, action: Callable[[Path], object], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    golden: Callable[[str, str], None],
) -> None:  # fmt: skip
    far = tmp_path / "far"
    far.mkdir()
    (far / "net.lutc").symlink_to(folder / "net.lutc", target_is_directory=True)
    (tmp_path / "net.lutc").symlink_to(folder / "net.lutc", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VerifyError) as caught:
        action(Path())
    golden(str(caught.value), f"verify/{case}.txt")
