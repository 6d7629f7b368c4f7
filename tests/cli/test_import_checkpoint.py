"""lutc import-checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lutc.cli.import_checkpoint import _FORMATS, _NETWORKS
from tests.cli.console import run_lutc

torch = pytest.importorskip("torch")


def checkpoint(path: Path) -> None:
    """A ResNet-20 as APoT's training code saves it, untrained."""
    from lutc.importers.checkpoints.architectures import ARCHITECTURES

    torch.manual_seed(0)
    state = ARCHITECTURES["resnet20"].build(10).state_dict()
    for key in list(state):
        if key.startswith("layer") and state[key].dim() == 4:
            conv = key.removesuffix(".weight")
            state[f"{conv}.act_alpha"] = torch.tensor(2.0)
            state[f"{conv}.weight_quant.wgt_alpha"] = torch.tensor(1.5)
    torch.save({"epoch": 1, "state_dict": {f"module.{key}": value for key, value in state.items()}}, path)


def test_a_model_that_onnx_runtime_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, golden
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    checkpoint(Path("net.pth.tar"))
    Path("settings.json").write_text(json.dumps({"bits": 3}))
    arguments = ["import-checkpoint", "net.pth.tar", "--format", "apot", "--arch", "resnet20"]
    shown = run_lutc(capsys, *arguments, "--settings", "settings.json", "--batch", "2")
    golden(shown.transcript(), "cli/import-checkpoint.txt")
    session = onnxruntime.InferenceSession("net.onnx")
    (value,) = session.get_inputs()
    (scores,) = session.run(None, {value.name: np.zeros((2, 3, 32, 32), np.float32)})
    assert scores.shape == (2, 10)
    golden(run_lutc(capsys, *arguments).transcript(), "cli/import-checkpoint-error-exists.txt")
    golden(run_lutc(capsys, *arguments, "--overwrite").transcript(), "cli/import-checkpoint-error-bits.txt")


def test_bad_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, golden
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("settings.json").write_text('{"levels": [1]}')
    arguments = ["import-checkpoint", "net.pth", "--format", "apot", "--arch", "resnet20"]
    shown = run_lutc(capsys, *arguments, "--settings", "settings.json")
    golden(shown.transcript(), "cli/import-checkpoint-error-settings.txt")


def test_the_help_knows_all_formats_and_networks() -> None:
    from lutc.importers.checkpoints.architectures import ARCHITECTURES
    from lutc.importers.checkpoints.network import _READERS

    assert list(_FORMATS) == list(_READERS)
    assert list(_NETWORKS) == list(ARCHITECTURES)
