"""Every kind of layer that training knows, from reconstruction to compiled code: one answer everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lutc
from lutc.nn import LUTConfig, quantize_, reconstruct_

pytest.importorskip("onnxruntime")


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.trees = nn.Conv2d(8, 8, 3, padding=1, stride=2)
        self.grouped = nn.Conv2d(8, 12, 1, groups=2)
        self.query, self.key, self.value = (nn.Linear(12, 8) for _ in range(3))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.grouped(torch.relu(self.trees(torch.relu(self.stem(x))))))
        x = x.flatten(2).transpose(1, 2)
        weights = torch.softmax(self.query(x) @ self.key(x).transpose(1, 2), -1)
        return self.head((weights @ self.value(x)).mean(1))


def test_trees_groups_four_bits_and_shared_codebooks(tmp_path: Path):
    torch.manual_seed(0)
    model, x = Network(), torch.randn(32, 2, 8, 8)
    config = {
        "trees": LUTConfig(encoder="tree"),
        "grouped": LUTConfig(table_bits=4),
        "head": LUTConfig(8, 4, encoder="tree", encode_dtype="float32"),
        "query": LUTConfig(8, 4),
        "key": LUTConfig(8, 4),
        "value": LUTConfig(8, 4),
    }
    reconstruct_(model, config, calibration=x.split(16), share=[("query", "key", "value")])
    model.eval()
    with torch.no_grad():
        trained = model(x[:1])
        quantize_(model, step="convert")
        np.testing.assert_array_equal(model(x[:1]).numpy(), trained.numpy())
    path = lutc.export_model(model, (x[:1],), tmp_path / "model.onnx")
    artifact = lutc.compile(path, "native", output=tmp_path / "model.lutc")
    report = lutc.verify(artifact.path, path, per_layer=True)
    assert report.passed, str(report)
    found = next(iter(lutc.load(artifact.path).run(x[:1].numpy()).values()))
    np.testing.assert_allclose(found, trained.numpy(), rtol=1e-4, atol=1e-5)
