"""ONNX Runtime as a baseline: float and int8, and what can go wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from lutc.benchmark.baselines import check_baselines, onnxruntime_run, quantize_int8
from lutc.errors import VerifyError
from tests.cli.models import save_annotated_model, save_float_model

_X = {"x": np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)}


def _text(error: VerifyError, folder: Path) -> str:
    return f"error: {error}".replace(str(folder), "<folder>")


def test_int8_is_close_to_float(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = save_float_model(tmp_path / "net.onnx")
    int8 = quantize_int8(model, [_X], tmp_path)
    exact, near = (onnxruntime_run(path, _X, 1)()[0] for path in (model, int8))  # type: ignore[index]
    assert 0 < np.abs(exact - near).max() < 0.05 * np.abs(exact).max()
    import onnx

    assert "QuantizeLinear" in {node.op_type for node in onnx.load(int8).graph.node}


def test_inputs_go_by_position_when_names_differ(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = save_float_model(tmp_path / "net.onnx")
    np.testing.assert_array_equal(
        onnxruntime_run(model, _X, 1)(),
        onnxruntime_run(model, {"image": _X["x"]}, 1)(),
    )


def test_wrong_number_of_inputs(tmp_path: Path, golden) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(VerifyError) as caught:
        onnxruntime_run(save_float_model(tmp_path / "net.onnx"), {**_X, "mask": _X["x"]}, 1)
    golden(_text(caught.value, tmp_path), "benchmark/inputs-differ.txt")


def test_wrong_shape(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(VerifyError, match="onnxruntime cannot run the model") as caught:
        onnxruntime_run(save_float_model(tmp_path / "net.onnx"), {"x": _X["x"][:, :2]}, 1)
    assert "lutc inspect" in caught.value.fix


def test_model_with_unknown_operator(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    x = {"x": np.zeros((2, 8), np.float32)}
    with pytest.raises(VerifyError, match="onnxruntime cannot run the model"):
        onnxruntime_run(save_annotated_model(tmp_path / "net.onnx"), x, 1)  # it has no function body


def test_not_installed(monkeypatch, golden) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(VerifyError) as caught:
        check_baselines(("onnxruntime",))
    golden(f"error: {caught.value}", "benchmark/not-installed.txt")


def test_unknown_engine(golden) -> None:
    with pytest.raises(VerifyError) as caught:
        check_baselines(("tensorrt",))
    golden(f"error: {caught.value}", "benchmark/unknown-engine.txt")
