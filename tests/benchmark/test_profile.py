"""`profile` of a small artifact: all kernels are told, under the right layer and part."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest

from lutc.artifact.manifest import LayerRow
from lutc.benchmark.profile import ProfileReport, ProfileRow, _Names, _rows, profile, split
from lutc.errors import TargetError

pytest.importorskip("tvm")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled digits model, compiled for this machine."""
    from lutc.compiler import compile

    path = tmp_path_factory.mktemp("profile") / "digits.lutc"
    model = resources.files("lutc") / "data" / "digits_lut.onnx"
    compile(str(model), "native", output=path)
    return path


def test_every_layer(artifact: Path) -> None:
    from lutc.artifact.store import read_artifact

    report = profile(artifact, repeat=3)
    layers = {layer.name: layer for layer in read_artifact(artifact).manifest.layers if layer.kind == "lut"}
    tables = {row.name: row for row in report.rows if row.kind == "lut"}
    assert set(tables) == set(layers)
    for name, row in tables.items():
        parts = [us for us in (row.quantize_us, row.encode_us, row.read_us, row.epilogue_us) if us is not None]
        assert row.total_us == pytest.approx(sum(parts)) and len(parts) == row.calls + 1
        assert row.encode_us and row.epilogue_us and row.kernel == layers[name].kernel
    assert tables["block1.conv1"].rows == 64 and tables["block2.downsample.0"].rows == 16
    assert any(row.kind == "float" and "matmul" in row.name for row in report.rows)
    assert sum(row.share for row in report.rows) == pytest.approx(1)
    assert sum(row.total_us for row in report.rows) == pytest.approx(report.facts()["kernels_us"])
    plain = json.loads(report.to_json())
    assert plain["report"] == "profile" and plain["runs"] == 3


def test_share_of_the_bound(artifact: Path) -> None:
    from lutc.benchmark.clock import clock_call
    from lutc.cost_model import find_peak

    rows = [row for row in profile(artifact, repeat=3).rows if row.kind == "lut"]
    if clock_call() is None or find_peak(rows[0].kernel.removeprefix("shuffle ")) is None:
        pytest.skip("no model of this CPU")
    shares = [row.encode_bound_share for row in rows] + [row.read_bound_share for row in rows if row.read_us]
    assert all(share is not None and share > 0 for share in shares)


def test_integers_are_outside_of_tables() -> None:
    rows = [ProfileRow("a", "lut", 3.0), ProfileRow("b", "integer", 5.0), ProfileRow("c", "float", 1.0)]
    assert split(rows) == {"tables_us": 3.0, "rest_us": 6.0, "amdahl_times": 1.5, "amdahl_share": 6 / 9}
    assert split(rows[:1])["amdahl_times"] is None


def test_names_of_symbols() -> None:
    names = _Names(["a.1", "a_1", "conv", "conv1"])
    assert [names.layer(word) for word in ("a_1", "a_11", "conv", "conv1", "conv2", "")] == [
        "a.1", "a_1", "conv", "conv1", "conv2", "(unnamed)",
    ]  # fmt: skip


def test_products_of_integers_are_no_quantizers_of_tables() -> None:
    layers = [LayerRow(name="stem", op="conv2d", kind="integer", kernel="product isa")]
    kernels = [("lut_levels_stem", 1.0), ("lut_quantized_conv2d_stem", 3.0), ("lut_quantize_stem", 2.0)]
    rows = {(row.name, row.kind): row for row in _rows(kernels, layers)}
    assert rows["stem", "integer"].product_us == 3 and rows["stem", "integer"].quantize_us == 1
    assert rows["stem", "lut"].quantize_us == 2


def test_two_layers_whose_names_give_one_symbol(tmp_path: Path) -> None:
    """The compiler numbers their kernels; each layer still has all of its parts."""
    from tests.benchmark.twin_layers import save_twins

    report = profile(save_twins(tmp_path), repeat=2)
    tables = {row.name: row for row in report.rows if row.kind == "lut"}
    assert set(tables) == {"a.1", "a_1"}
    assert all(row.encode_us and row.epilogue_us for row in tables.values())


def test_for_another_machine(tmp_path: Path) -> None:
    from lutc.artifact.manifest import TargetInfo
    from lutc.artifact.store import write_artifact
    from tests.artifact.sample import make_manifest

    target = TargetInfo(name="mips", arch="mips", triple="mips-linux-gnu", cpu="", attrs=[], requires=[])
    write_artifact(tmp_path / "net.lutc", make_manifest(target=target), {"model.so": b""})
    with pytest.raises(TargetError, match="mips"):
        profile(tmp_path / "net.lutc")


def test_text(golden) -> None:
    rows = [
        ProfileRow("conv1", "lut", 9.0, 0.75, 1.0, 5.0, 2.5, 0.5, 0.5, 0.9, "shuffle isa", 64, 3),
        ProfileRow("fc", "lut", 2.0, 0.1666, None, 0.5, 1.5, None, None, None, "row gather", 1, 2),
        ProfileRow("fused_conv2d_relu", "float", 1.0, 0.0833, calls=1),
    ]
    report = ProfileReport(rows, {"artifact": "a.lutc", "runs": 10, "clock_ghz": 3.5, "kernels_us": 12.0})
    golden(str(report), "benchmark/profile.txt")


def test_the_epilogue_of_every_form_of_read() -> None:
    """Feature-major and row-major, gathers, multipliers, residuals, results for the next layer: all are rebuilt."""
    from lutc.benchmark.epilogue import ReadCall, epilogue_us
    from lutc.targets import host_target

    f, scale = "float32", ((20,), "float32")
    conv = (((2, 1, 6, 64), "uint8"), ((5, 6, 4, 1, 16), "int8"), scale)
    rows = (((40, 7), "uint8"), ((7, 32, 20), "int8"), scale)
    image, matrix = (2, 20, 50), (40, 20)
    calls = [
        ReadCall((*conv, (image, f)), "neon"),
        ReadCall((*conv, scale, (image, f), scale, (image, f), (image, "uint8")), "neon"),
        ReadCall((*rows, scale, ((7,), "uint8"), (matrix, f), (matrix, f)), "rowwise"),
        ReadCall((*rows, scale, (matrix, "int16")), "rowwise"),
    ]
    llvm = host_target().llvm()
    for call in calls[2:]:
        items = tuple((key, tuple(value) if isinstance(value, list) else value) for key, value in llvm.items())
        assert epilogue_us(call, items, 2) > 0
    for call in calls:
        small = call.smallest()
        assert small.arguments[-1] == call.arguments[-1] and len(small.arguments) == len(call.arguments)
        assert small.arguments[0][0][1 if call.layout == "rowwise" else 2] == 1
