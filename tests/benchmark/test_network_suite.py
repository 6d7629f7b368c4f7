"""Networks beside other engines: every engine has its row, with and without tables, and memory of its own process."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lutc.benchmark import network_suite
from lutc.benchmark.memory import peak_memory
from lutc.benchmark.network_suite import CODEBOOKS, benchmark_networks, find_networks
from lutc.errors import ArtifactError, LoweringError, ModelImportError, VerifyError
from lutc.importers.codebook import Codebook
from lutc.importers.codebooks import Codebooks

pytest.importorskip("onnxruntime")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    weight = numpy_helper.from_array(np.random.default_rng(0).standard_normal((32, 8)).astype("float32"), "w")
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [20, s]) for n, s in (("x", 32), ("y", 8)))
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"], "fc")], "g", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "tiny.onnx")
    centroids = np.random.default_rng(1).standard_normal((2, 16, 16)).astype("float32")
    Codebooks([Codebook("fc", centroids, np.full(2, 30, "float32"))]).save(tmp_path / f"tiny{CODEBOOKS}")
    return tmp_path


def test_rows(folder: Path) -> None:
    report = benchmark_networks(folder, baselines=["onnxruntime"], repeat=3)
    rows = {row.engine: row for row in report.rows}
    assert list(rows) == ["lutc", "lutc-tables", "onnxruntime"]
    assert all(row.network == "tiny" and row.bytes > 0 for row in report.rows)
    assert all(0 < row.min_us <= row.median_us for row in report.rows)
    assert (rows["lutc"].tables, rows["lutc-tables"].tables, rows["onnxruntime"].tables) == (0, 1, None)
    assert {row.engine: (row.macs, row.lookups) for row in report.rows} == {
        "lutc": (20 * 32 * 8, 0), "lutc-tables": (0, 20 * 2 * 8), "onnxruntime": (20 * 32 * 8, 0),
    }  # fmt: skip
    assert rows["lutc"].error is not None and rows["lutc"].error < 1e-5
    assert rows["onnxruntime"].times == 1
    assert json.loads(report.to_json())["rows"][0]["network"] == "tiny"


def test_an_int8_remainder_has_rows_of_its_own(folder: Path) -> None:
    report = benchmark_networks(folder / "tiny.onnx", baselines=["onnxruntime"], repeat=2, remainder="int8")
    rows = {row.engine: row for row in report.rows}
    assert list(rows) == ["lutc", "lutc-tables", "lutc-int8", "lutc-tables-int8", "onnxruntime"]
    assert [rows[name].tables for name in ("lutc-int8", "lutc-tables-int8")] == [0, 1]
    assert rows["lutc-int8"].error is not None and rows["lutc-int8"].error < 0.05


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's /proc")
def test_memory_is_of_a_process_of_its_own(folder: Path) -> None:
    inputs = {"x": np.zeros((20, 32), "float32")}
    memory = peak_memory("onnxruntime", folder / "tiny.onnx", inputs, folder, 1)
    assert memory is not None
    assert 0 < memory.imported_bytes <= memory.peak_bytes < 1 << 30
    assert peak_memory("onnxruntime", folder / "missing.onnx", inputs, folder, 1) is None


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's /proc")
def test_an_interrupted_run_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / f"tiny{CODEBOOKS}").unlink()
    shutil.copy(folder / "tiny.onnx", folder / "twin.onnx")
    kept = folder / "networks.json"

    def interrupt_at_twin(name: str) -> None:
        if name == "twin":
            raise KeyboardInterrupt

    options = {"baselines": ["onnxruntime"], "repeat": 2, "threads": (1, 2), "keep": kept}
    first = benchmark_networks(folder, progress=interrupt_at_twin, **options)
    assert first.interrupted and {row.network for row in first.rows} == {"tiny"}
    assert [row.threads for row in first.rows] == [1, 1, 2, 2]
    assert all(row.compile_peak_bytes for row in first.rows if row.engine == "lutc")
    monkeypatch.setattr(network_suite, "_measure", lambda model, *_: [replace(first.rows[0], network=model.stem)])
    second = benchmark_networks(folder, resume=True, **options)
    assert not second.interrupted
    assert second.rows == [*first.rows, replace(first.rows[0], network="twin")]
    assert len(json.loads(kept.read_text())["rows"]) == 5
    with pytest.raises(ArtifactError, match="another setting of runs"):
        benchmark_networks(folder, resume=True, **options | {"repeat": 3})


def test_a_network_that_cannot_be_compiled(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(LoweringError, match="cannot compile the network"):
        benchmark_networks(tmp_path, baselines=["onnxruntime"])


def test_no_networks(tmp_path: Path) -> None:
    with pytest.raises(ModelImportError, match="no networks to time"):
        find_networks(tmp_path)


def test_unknown_engine(folder: Path) -> None:
    with pytest.raises(VerifyError, match=r"no engine has this name|cannot compare"):
        benchmark_networks(folder, baselines=["abacus"])
