"""`benchmark` on a compiled artifact, and the report it gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from lutc.benchmark import BenchmarkReport, benchmark
from lutc.errors import TargetError, VerifyError
from tests.cli.models import save_annotated_model, save_float_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.onnx, and its artifact for this machine, net.lutc."""
    pytest.importorskip("tvm")
    from lutc.compiler import compile

    path = tmp_path_factory.mktemp("bench")
    compile(save_float_model(path / "net.onnx"), "native", output=path / "net.lutc")
    return path


def test_against_both_engines(folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    report = benchmark(
        folder / "net.lutc",
        baselines=("onnxruntime", "onnxruntime-int8"),
        float_model=folder / "net.onnx",
        repeat=5,
    )
    assert [row["engine"] for row in report.rows] == ["lutc", "onnxruntime", "onnxruntime-int8"]
    assert all(0 < row["min_us"] <= row["median_us"] for row in report.rows)
    ours, exact, int8 = report.rows
    assert ours["times"] == 1 and exact["times"] == exact["median_us"] / ours["median_us"]
    assert int8["bytes"] < exact["bytes"] == (folder / "net.onnx").stat().st_size
    assert report.to_dict()["runs"] == 5 and len(report.notes()) == 2


def test_alone(folder: Path) -> None:
    report = benchmark(folder / "net.lutc", repeat=2)
    assert len(report.rows) == 1 and "--against" in report.notes()[0]
    assert report.to_dict()["onnxruntime"] is None


def test_int8_of_an_annotated_model(folder: Path, golden) -> None:
    pytest.importorskip("onnxruntime")
    model = save_annotated_model(folder / "annotated.onnx")
    with pytest.raises(VerifyError) as caught:
        benchmark(folder / "net.lutc", baselines=("onnxruntime-int8",), float_model=model)
    golden(f"error: {caught.value}".replace(str(folder), "<folder>"), "benchmark/int8-of-annotated.txt")


def test_for_another_machine(tmp_path: Path) -> None:
    from lutc.artifact.manifest import TargetInfo
    from lutc.artifact.store import write_artifact
    from tests.artifact.sample import make_manifest

    target = TargetInfo(name="mips", arch="mips", triple="mips-linux-gnu", cpu="", attrs=[], requires=[])
    write_artifact(tmp_path / "net.lutc", make_manifest(target=target), {"model.so": b""})
    with pytest.raises(TargetError, match="mips"):
        benchmark(tmp_path / "net.lutc")


def test_text(golden) -> None:
    rows = [
        {"engine": "lutc", "model": "a.lutc", "min_us": 10.0, "median_us": 12.0, "times": 1.0, "bytes": 2048},
        {"engine": "onnxruntime", "model": "a.onnx", "min_us": 20.0, "median_us": 30.0, "times": 2.5, "bytes": 4096},
        {"engine": "onnxruntime-int8", "model": "a.onnx", "min_us": 5.0, "median_us": 6.0, "times": 0.5, "bytes": 999},
    ]
    facts = {"artifact": "a.lutc", "threads": 1, "pinned_to_cpus": [1], "runs": 100, "onnxruntime": "1.31.1"}
    golden(str(BenchmarkReport(rows, facts)), "benchmark/report.txt")
