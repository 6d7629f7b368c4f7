"""quantize_ with ScalarConfig: which layers, which bits, padding, and that all forms of a network agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from lutc.config import LUTConfig, ScalarConfig
from lutc.errors import LutcError
from lutc.export import export_model
from lutc.nn import LUTConv2d, QuantizedConv2d, QuantizedLinear, quantize_
from lutc.nn.quantizers import LSQ
from lutc.report.inspect import inspect
from tests import oracle_levels


class Net(nn.Module):
    """A stem, a depthwise, a padded and strided, a 1x1 convolution, and dense layers on unsigned and signed inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.body = nn.Conv2d(4, 6, 3, padding=(1, 0), stride=2)
        self.point = nn.Conv2d(6, 6, 1)
        self.hidden = nn.Linear(6, 8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.depthwise(torch.relu(self.stem(x)))))
        x = torch.relu(self.point(torch.relu(self.body(x))))
        return self.fc(torch.tanh(self.hidden(x.mean((2, 3)))))


def batches(count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(4, 3, 9, 9, generator=generator) for _ in range(count)]


def run_onnx(path: Path, x: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path))
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


def test_rows_edges_and_signs() -> None:
    model = Net()
    rows = quantize_(model, ScalarConfig("nulsq", 3, 4), calibration=batches())
    assert [(row.name, row.kind) for row in rows] == [
        ("stem", "float"),
        ("depthwise", "scalar"),
        ("body", "scalar"),
        ("point", "scalar"),
        ("hidden", "scalar"),
        ("fc", "float"),
    ]
    assert rows[1].reason == "weight=nulsq 3 bit, input=nulsq 4 bit unsigned"
    assert isinstance(model.body, QuantizedConv2d) and isinstance(model.hidden, QuantizedLinear)
    eight = quantize_(Net(), ScalarConfig("llt", 2, 2, first_last="8bit"), calibration=batches())
    assert eight[0].reason == "weight=minmax 8 bit, input=minmax 8 bit signed"
    assert eight[-1].reason == "weight=minmax 8 bit, input=minmax 8 bit signed"
    same = quantize_(Net(), ScalarConfig("llt", 2, 2, first_last="same"), calibration=batches())
    assert same[0].reason == "weight=llt 2 bit, input=llt 2 bit signed"


def test_bits_methods_and_kinds_by_pattern() -> None:
    model = Net()
    config = {
        "depthwise": ScalarConfig("lsq", 8, None, per_channel=True),
        "body": ScalarConfig("quantization_network", 3, 2, weight_options={"level_set": (-2, -1, 0, 1, 2)}),
        "point": LUTConfig(4, 2),
        "hidden": ScalarConfig("ttq", 2, 6, input_method="pact"),
        "*": None,
    }
    rows = quantize_(model, config, calibration=batches())
    assert [row.kind for row in rows] == ["float", "scalar", "scalar", "lut", "scalar", "float"]
    assert isinstance(model.point, LUTConv2d)
    assert model.depthwise.weight_quantizer.num_channels == 4
    assert model.body.weight_quantizer.level_set.tolist() == [-2, -1, 0, 1, 2]
    assert model.depthwise.input_quantizer is None
    quantize_(model, step="convert")
    assert model.depthwise.weight.levels.shape[0] == 4
    assert model(batches()[0]).shape == (4, 5)


METHODS = ("llt", "nulsq", "lsq", "apot", "lcq", "lqnets", "quantization_network", "dorefa", "minmax", "pact")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("per_channel", [False, True])
def test_training_form_and_converted_form_agree(method: str, per_channel: bool) -> None:
    model, x, expected = trained(method, per_channel)
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-6)


def trained(method: str, per_channel: bool) -> tuple[nn.Module, Tensor, Tensor]:
    """A converted network, an input, and the scores of its training form in eval mode."""
    model = Net()
    config = ScalarConfig(method, 4, 4, per_channel=per_channel, input_per_channel=per_channel, first_last="same")
    quantize_(model, config, calibration=batches())
    model.train()
    for batch in batches():
        model(batch).square().mean().backward()
    x = batches(1)[0]
    with torch.no_grad():
        expected = model.eval()(x)
    quantize_(model, step="convert")
    return model, x, expected


@pytest.mark.parametrize(("method", "per_channel"), [("nulsq", False), ("llt", True), ("lqnets", False)])
def test_files_agree(method: str, per_channel: bool, tmp_path: Path) -> None:
    model, x, expected = trained(method, per_channel)
    with torch.no_grad():
        path = export_model(model, x, tmp_path / "net.onnx")
        # float sums in another order may move a value across a threshold: one image of four may differ
        same = np.isclose(run_onnx(path, x), expected, rtol=1e-4, atol=1e-5).all(1)
        assert same.sum() >= 3
        program = torch.export.load(export_model(model, x, tmp_path / "net.pt2"))
        torch.testing.assert_close(program.module()(x), expected)
    graph = onnx.load(path).graph
    names = {node.name: node.op_type for node in graph.node}
    assert names["body"] == "Conv" and names["hidden"] in ("Gemm", "MatMul")
    assert names["body.input_quantizer"] == "LUTQuantize" and names["body.weight"] == "LUTPalette"
    row = next(row for row in inspect(path).rows if row["name"] == "body")
    assert row["kind"] == "levels" and row["weight_levels"] <= 16 and row["input_levels"] <= 16
    assert row["inputs"] == 36 and row["outputs"] == 6 and row["bytes"] == 36 * 6


@pytest.mark.parametrize("method", ["lqnets", "llt"])
def test_zeros_are_padded_where_they_become_a_level(method: str, tmp_path: Path) -> None:
    """Without a level 0 the padding goes through the quantizer: the file has Pad, LUTQuantize, Conv without pads."""
    options = {} if method == "lqnets" else {"granularity": 9}
    model = nn.Sequential(nn.Identity(), nn.Conv2d(3, 4, 3, padding=1), nn.Flatten())
    torch.manual_seed(0)
    config = ScalarConfig(method, 2, 1, input_signed=True, input_options=options, first_last="same")
    quantize_(model, config, calibration=batches())
    model.eval()
    conv = model[1]
    assert conv.pad_first  # one signed bit: -s and s
    x = batches(1)[0]
    levels = conv.input_quantizer.levels()
    quantized = oracle_levels.quantize(
        np.pad(x.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1))), levels.thresholds.numpy(), levels.levels.numpy()
    )
    with torch.no_grad():
        expected = nn.functional.conv2d(torch.from_numpy(quantized), conv.weight, conv.bias).flatten(1)
        torch.testing.assert_close(model(x), expected)
        quantize_(model, step="convert")
        torch.testing.assert_close(model(x), expected)
        path = export_model(model, x, tmp_path / "net.onnx")
    np.testing.assert_allclose(run_onnx(path, x), expected, rtol=1e-5, atol=1e-5)
    nodes = onnx.load(path).graph.node
    assert [node.op_type for node in nodes if node.op_type in ("Pad", "LUTQuantize", "Conv")] == [
        "Pad",
        "LUTQuantize",
        "Conv",
    ]


def test_quantizers_stand_alone_too(tmp_path: Path) -> None:
    """Behind an activation, where the residual path sees the quantized values as well."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), LSQ(3, signed=False), nn.Linear(8, 2))
    x = torch.randn(5, 6)
    model.train()(x)
    model.eval()
    with torch.no_grad():
        expected = model(x)
        quantize_(model, {"3": ScalarConfig("lsq", 4, None, first_last="same")})
        quantize_(model, step="convert")
        found = model[2](torch.linspace(-1, 3, 200)).unique()
        assert len(found) <= 8
        path = export_model(model, x, tmp_path / "net.onnx")
    assert run_onnx(path, x).shape == expected.shape


def test_parameters_are_shared_and_saved() -> None:
    model = Net()
    weight = model.body.weight
    quantize_(model, ScalarConfig("nulsq", 4, 4), calibration=batches())
    assert model.body.original_weight.data_ptr() == weight.data_ptr()
    keys = set(model.state_dict())
    assert {"body.parametrizations.weight.original", "body.parametrizations.weight.0.steps"} <= keys
    assert "body.input_quantizer.steps" in keys
    twin = Net()
    quantize_(twin, ScalarConfig("nulsq", 4, 4, input_signed=False), calibration=None)
    model_hidden = model.hidden.input_quantizer.signed
    assert not model_hidden
    twin.load_state_dict(model.state_dict())
    x = batches(1)[0]
    torch.testing.assert_close(twin.eval()(x), model.eval()(x))


def test_a_training_step_moves_every_parameter() -> None:
    model = Net()
    quantize_(model, ScalarConfig("nulsq", 4, 4), calibration=batches())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model.train()
    model(batches(1)[0]).square().sum().backward()
    optimizer.step()
    still = [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
    assert not still


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("ttq-inputs", ScalarConfig("ttq", 2, 2)),
        ("option", ScalarConfig("lsq", 2, 2, weight_options={"granularity": 9})),
        ("one-bit", ScalarConfig("lcq", 1, 4)),
    ],
)
def test_what_a_method_has_no_form_for(name: str, config: ScalarConfig, golden) -> None:
    model = Net()
    with pytest.raises(LutcError) as caught:
        quantize_(model, config, calibration=batches())
    golden(str(caught.value), f"nn/scalar-{name}.txt")
    assert type(model.body) is nn.Conv2d


def test_unconverted_and_uncalibrated_models_are_not_exported(tmp_path: Path, golden) -> None:
    model = Net()
    quantize_(model, ScalarConfig("lsq", 4, 4, input_signed=True))
    with pytest.raises(LutcError) as caught:
        export_model(model, batches(1)[0], tmp_path / "net.onnx")
    golden(str(caught.value), "nn/scalar-not-converted.txt")
    with pytest.raises(LutcError, match="has no parameters yet"):
        quantize_(model, step="convert")


def test_bad_settings() -> None:
    for arguments, match in (
        ({"method": "lsqq"}, "method must be one of"),
        ({"weight_bits": 9}, r"weight_bits must be in 1\.\.8"),
        ({"weight_bits": None, "input_bits": None}, "must be given"),
        ({"first_last": "int8"}, "first_last must be one of"),
    ):
        with pytest.raises(ValueError, match=match):
            ScalarConfig(**arguments)
