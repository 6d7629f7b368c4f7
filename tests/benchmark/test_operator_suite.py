"""`benchmark_operators` on small operators, and its report. Nothing here depends on how fast this machine is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lutc.benchmark import baselines
from lutc.benchmark.operator_report import OperatorReport, OperatorRow
from lutc.benchmark.operator_suite import benchmark_operators
from lutc.benchmark.operators import parse_operator
from lutc.benchmark.protocol import Timing
from lutc.errors import TargetError, VerifyError

_SMALL = [parse_operator("conv2d 4x6x6 -> 8 3x3"), parse_operator("dense 20x32 -> 8")]
_ROW_KEYS = {
    "name",
    "k",
    "v",
    "encode",
    "target",
    "threads",
    "lutc",
    "baselines",
    "lookups_per_ns",
    "bound_share",
    "kernel",
}


def test_beside_onnxruntime() -> None:
    pytest.importorskip("onnxruntime")
    seen: list[str] = []
    report = benchmark_operators(_SMALL, baselines=("onnxruntime", "onnxruntime-int8"), repeat=3, progress=seen.append)
    assert seen == [row.name for row in report.rows] == ["conv 4->8 3x3 @6", "dense 20x32->8 V16"]
    plain = json.loads(report.to_json())
    assert {"schema_version", "report", "cpu", "cpu_flags", "versions", "samples", "rows"} <= set(plain)
    assert plain["report"] == "operators" and plain["interrupted"] is False
    for row in plain["rows"]:
        assert set(row) >= _ROW_KEYS
        assert set(row["baselines"]) == {"onnxruntime", "onnxruntime-int8"}
        assert set(row["parts_us"]) >= {"encode", "read"} and min(row["parts_us"].values()) > 0
        for timing in (row["lutc"], *row["baselines"].values()):
            assert set(timing) == {"min_us", "median_us"} and 0 < timing["min_us"] <= timing["median_us"]
        ratio = row["ratios"]["onnxruntime"]["min"]
        assert ratio == row["baselines"]["onnxruntime"]["min_us"] / row["lutc"]["min_us"]
        lookups = row["rows"] * row["num_codebooks"] * row["outputs"]
        assert row["lookups_per_ns"] == pytest.approx(lookups / row["lutc"]["min_us"] / 1e3)
    text = str(report)
    assert "ort x min" in text and "lookups/ns" in text and "conv 4->8 3x3 @6" in text


def test_on_another_target_and_alone() -> None:
    from lutc.targets import host_arch

    target = "x86-64-v2" if host_arch() == "x86_64" else "arm64"
    (row,) = benchmark_operators(_SMALL[1:], baselines=(), target=target, repeat=2).rows
    assert row.target == target and row.kernel == ("shuffle ssse3" if target == "x86-64-v2" else "shuffle neon")
    assert row.baselines == {} and row.lutc.runs == 2


def test_an_engine_that_is_not_installed_is_left_out_and_told(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    report = benchmark_operators(_SMALL[1:], baselines=("openvino-int8",), repeat=2)
    assert report.rows[0].baselines == {}
    assert "openvino-int8 is left out: openvino is not installed" in report.notes()[0]


def test_openvino(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    (row,) = benchmark_operators(_SMALL[1:], baselines=("openvino-int8",), repeat=2).rows
    assert row.baselines["openvino-int8"].min_us > 0


def test_interrupted() -> None:
    """Ctrl-C during the second operator leaves the first."""

    def progress(name: str) -> None:
        if name.startswith("dense"):
            raise KeyboardInterrupt

    report = benchmark_operators(_SMALL, baselines=(), repeat=2, progress=progress)
    assert [row.name for row in report.rows] == ["conv 4->8 3x3 @6"] and report.interrupted
    assert "Interrupted: 1 of 2 operators were measured." in report.notes()
    assert report.to_dict()["interrupted"] is True


def test_mistakes() -> None:
    with pytest.raises(VerifyError, match="tensorrt"):
        benchmark_operators(_SMALL, baselines=("tensorrt",))
    with pytest.raises(TargetError, match="cannot run on this machine"):
        from lutc.targets import host_arch

        benchmark_operators(_SMALL, target="arm64" if host_arch() == "x86_64" else "x86-64-v2")


def test_bound_calls_give_what_the_model_gives(tmp_path: Path) -> None:
    """The float layer that engines run is the layer behind the table."""
    pytest.importorskip("onnxruntime")
    import numpy as np

    from lutc.benchmark.onnx_operator import save_float_operator
    from lutc.benchmark.operator_layer import make_layer

    layer = make_layer(_SMALL[1])
    model = save_float_operator(layer, tmp_path / "float.onnx")
    (y,) = baselines.onnxruntime_run(model, {"x": layer.x}, 1)()  # type: ignore[misc]
    np.testing.assert_allclose(y, np.maximum(layer.x @ layer.weight.T + layer.bias, 0), rtol=1e-4, atol=1e-5)
    assert baselines.onnxruntime_run(model, {"x": layer.x}, 1, bound=True)() is None
    conv = make_layer(_SMALL[0])
    (y,) = baselines.onnxruntime_run(save_float_operator(conv, tmp_path / "c.onnx"), {"x": conv.x}, 1)()  # type: ignore[misc]
    centre = (conv.x[0, :, 1:4, 2:5].ravel() * conv.weight).sum(1) + conv.bias
    np.testing.assert_allclose(y[0, :, 2, 3], np.maximum(centre, 0), rtol=1e-4, atol=1e-5)


def test_text(golden) -> None:
    engines = {"onnxruntime": Timing(400.0, 440.0, 50), "onnxruntime-int8": Timing(80.0, 110.0, 50)}
    common = {"k": 16, "encode": "int8", "target": "t", "threads": 1, "num_codebooks": 64, "kernel": "shuffle isa"}
    rows = [
        OperatorRow(
            name="conv 64->64 3x3 @56", v=9, rows=3136, outputs=64, lutc=Timing(100.0, 110.0, 50), baselines=engines,
            parts_us={"quantize": 10.0, "encode": 60.0, "read": 30.0},
            lookups_per_ns=128.45, table_gb_per_s=20.0, bound_us=75.0, bound_share=0.75, clock_ghz=3.5,
            cache_gb_per_s=30.0, **common,
        ),
        OperatorRow(
            name="dense 1x768->768 V16", v=16, rows=1, outputs=768, lutc=Timing(0.51, 0.6, 50), baselines={},
            parts_us={"encode": 0.2, "read": 0.3},
            lookups_per_ns=96.4, table_gb_per_s=96.4, bound_us=None, bound_share=None, clock_ghz=None,
            cache_gb_per_s=None, **common,
        ),
    ]  # fmt: skip
    facts = {"cpu": "a CPU", "cpu_flags": ["avx2"], "threads": 1, "versions": {"lutc": "0.1.0"}}
    report = OperatorReport(rows, facts, ["openvino-int8 is left out: openvino is not installed."])
    golden(str(report), "benchmark/operators.txt")
    golden(report.to_json(), "benchmark/operators.json")
