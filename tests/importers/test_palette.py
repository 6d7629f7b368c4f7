"""Palette weights arrive in Relax as float32 constants, from ONNX and .pt2; inconsistent ones are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from lutc.errors import ModelImportError
from lutc.export import export_model
from lutc.importers import import_model
from lutc.nn.frozen_quantized import FrozenPalette, FrozenQuantizedConv2d, FrozenQuantizedLinear
from lutc.nn.levels import find_palette
from tests.execute import execute


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        kernel, matrix = torch.randn(4, 3, 3, 3).mul(2).round() / 4, torch.randn(5, 4).round()
        conv = FrozenPalette(*find_palette(kernel * torch.arange(1, 5)[:, None, None, None], per_channel=True))
        self.conv = FrozenQuantizedConv2d(conv, torch.randn(4), None, pads=(1, 1, 1, 1))
        self.fc = FrozenQuantizedLinear(FrozenPalette(*find_palette(matrix, per_channel=False)), torch.randn(5), None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return Net().eval()


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_weights_are_constants(net: nn.Module, suffix: str, tmp_path: Path) -> None:
    x = torch.randn(2, 3, 8, 8)
    model = import_model(export_model(net, x, tmp_path / f"net{suffix}"))
    assert "palette" not in model.mod.script()
    assert {"conv", "fc"} <= set(model.nodes)
    (y,) = execute(model.mod, [x.numpy()], {"kind": "llvm"})
    np.testing.assert_allclose(y, net(x).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "codes", "levels"),
    [
        ("code-too-large", np.array([[0, 3]], np.uint8), np.array([1, 2], np.float32)),
        ("codes-dtype", np.array([[0, 1]], np.int8), np.array([1, 2], np.float32)),
        ("levels-shape", np.array([[0, 1]], np.uint8), np.array([[1, 2]] * 3, np.float32)),
        ("nan", np.array([[0, 1]], np.uint8), np.array([1, np.nan], np.float32)),
    ],
)
def test_inconsistent(name: str, codes: np.ndarray, levels: np.ndarray, golden) -> None:
    with pytest.raises(ModelImportError) as caught:
        import_model(_one_palette(codes, levels))
    golden(str(caught.value), f"importers/palette-{name}.txt")


def test_codes_must_be_constant(golden) -> None:
    model = _one_palette(np.zeros((1, 2), np.uint8), np.zeros(2, np.float32))
    del model.graph.initializer[:1]
    model.graph.input.append(onnx.helper.make_tensor_value_info("codes", onnx.TensorProto.UINT8, [1, 2]))
    with pytest.raises(ModelImportError) as caught:
        import_model(model)
    golden(str(caught.value), "importers/palette-not-constant.txt")


def _one_palette(codes: np.ndarray, levels: np.ndarray) -> onnx.ModelProto:
    nodes = [
        onnx.helper.make_node("LUTPalette", ["codes", "levels"], ["w"], name="fc.weight", domain="lutc"),
        onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name="fc"),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "graph",
        [value("x", onnx.TensorProto.FLOAT, [1, 1])],
        [value("y", onnx.TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(codes, "codes"), numpy_helper.from_array(levels, "levels")],
    )
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("lutc", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
