"""A ResNet-20 trained by APoT at 4 bits: checkpoint -> ONNX -> artifact, beside the torch module and ONNX Runtime."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

import lutc
from lutc.importers.checkpoints import import_checkpoint
from lutc.onnx_runner import OnnxRunner

torch = pytest.importorskip("torch")
_IMAGES = 4


def test_apot_resnet20(tmp_path: Path) -> None:
    """All quantized layers are integer and exact; what differs are codes that float32 rounding tips."""
    folder = os.environ.get("LUTC_DATA")
    if not folder or not (Path(folder) / "apot-resnet20-4bit.pth.tar").is_file():
        pytest.skip("needs LUTC_DATA with apot-resnet20-4bit.pth.tar")
    network = import_checkpoint(Path(folder) / "apot-resnet20-4bit.pth.tar", "apot", "resnet20", bits=4)
    assert network.input_shape is not None
    x = np.random.default_rng(0).standard_normal((_IMAGES, *network.input_shape)).astype(np.float32)
    model = tmp_path / "apot.onnx"
    lutc.export_model(network.module, (torch.from_numpy(x),), str(model))
    artifact = lutc.compile(str(model), "native", output=str(tmp_path / "apot.lutc"))
    integer = [row for row in artifact.manifest.layers if row.kind == "integer"]
    assert len(integer) == 20 and all(row.level_error == 0 and row.weight_bits == 4 for row in integer)
    (ours,) = lutc.load(artifact.path).run(x).values()
    with torch.no_grad():
        reference = network.module(torch.from_numpy(x)).numpy()
    loaded = onnx.load(model)
    (onnx_result,) = OnnxRunner(loaded, [], str(model)).run({loaded.graph.input[0].name: x}).values()
    for other in (reference, onnx_result):
        # an image without a tipped code agrees to rounding; a tipped one moves a logit by little
        away = np.abs(ours - other).max(1) / np.abs(other).max()
        assert (away < 1e-5).mean() >= 0.5 and away.max() < 0.5
