"""The bundled digits models give the predictions and accuracies stored beside them; the script that made them runs."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import lutc

ROOT = Path(lutc.__file__).parent
DATA = ROOT / "data"


def predictions(path: Path, images: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"image": images[i : i + 1]})[0] for i in range(len(images))]).argmax(1)


@pytest.mark.parametrize("name", ["float", "lut"])
def test_predictions_are_those_of_torch(name):
    with np.load(DATA / "digits_test.npz") as arrays:
        images, labels, expected = arrays["x"], arrays["y"], arrays[f"{name}_prediction"]
    facts = json.loads((DATA / "digits.json").read_text())
    assert images.dtype == np.float32
    assert len(images) == facts["test_images"]
    accuracy = 100 * (expected == labels).mean()
    assert round(accuracy, 2) == facts["accuracy_percent"][name]
    np.testing.assert_array_equal(predictions(DATA / f"digits_{name}.onnx", images), expected)


def test_tables_lose_at_most_one_point_and_files_stay_small():
    accuracy = json.loads((DATA / "digits.json").read_text())["accuracy_percent"]
    assert accuracy["float"] - accuracy["lut"] <= 1.0
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 2**20


@pytest.mark.slow
def test_training_script_writes_all_four_files(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    script = ROOT.parent / "examples" / "train_digits.py"
    if not script.is_file():
        pytest.skip("the examples are not installed")
    monkeypatch.setattr(sys, "argv", [str(script), "--output", str(tmp_path), "--epochs", "1", "--lut-epochs", "1"])
    runpy.run_path(str(script), run_name="__main__")
    assert {path.name for path in tmp_path.iterdir()} == {
        "digits.json",
        "digits_float.onnx",
        "digits_lut.onnx",
        "digits_test.npz",
    }
    with np.load(tmp_path / "digits_test.npz") as arrays:
        got = predictions(tmp_path / "digits_lut.onnx", arrays["x"])
        # sums of the float layers differ in their last bits, which may flip a rounding of an early model
        assert (got == arrays["lut_prediction"]).mean() > 0.99
