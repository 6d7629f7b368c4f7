from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from lutc.config import LUTConfig
from lutc.errors import LutcError
from lutc.export import export_model
from lutc.nn import quantize_
from tests.nn.trees import tree_net


class Net(nn.Module):
    """Float stem and head, lookup tables with and without bias between them, a projection on 3-D input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.bn0 = nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 12, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(12)
        self.down = nn.Conv2d(8, 12, 1, 2)
        self.token = nn.Linear(12, 10)
        self.mix = nn.Linear(10, 10)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn0(self.stem(x)))
        x = torch.relu(self.bn(self.conv(x)) + self.down(x)).flatten(2).transpose(1, 2)
        x = torch.relu(self.mix(torch.relu(self.token(x))))
        return self.head(x.mean(1))


FLOAT_LAYERS = ("stem", "head", "mix")


def converted(config: LUTConfig | None = None) -> nn.Module:
    torch.manual_seed(0)
    model = Net()
    # running statistics that are not the identity, so that folding them is seen
    for bn in (model.bn0, model.bn):
        bn.running_mean.normal_()
        bn.running_var.uniform_(0.5, 2)
    calibration = [torch.randn(4, 1, 9, 8) for _ in range(4)]
    chosen = {"filter_fn": lambda module, name: name not in FLOAT_LAYERS}
    quantize_(model, config or LUTConfig(), calibration=calibration, **chosen)
    quantize_(model, step="convert")
    return model.eval()


def run(path: Path, x: Tensor) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


@pytest.mark.parametrize("encode_dtype", ["int8", "int6", "float32"])
@pytest.mark.parametrize("table_dtype", ["int8", "float32"])
@pytest.mark.parametrize("batch", [1, 3])
def test_onnxruntime_equals_torch(tmp_path, encode_dtype, table_dtype, batch):
    model = converted(LUTConfig(encode_dtype=encode_dtype, table_dtype=table_dtype))
    x = torch.randn(batch, 1, 9, 8)
    path = export_model(model, x, tmp_path / "net.onnx")
    with torch.no_grad():
        np.testing.assert_allclose(run(path, x), model(x).numpy(), rtol=1e-5, atol=1e-6)


def test_nodes_carry_module_names_and_the_schema(tmp_path):
    path = export_model(converted(), torch.randn(1, 1, 9, 8), tmp_path / "net.onnx", input_names=["image"])
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == ["image"]
    by_name = {node.name: node for node in model.graph.node}
    assert len(by_name) == len(model.graph.node)
    kinds = {"stem": "Conv", "conv": "LUTConv2d", "down": "LUTConv2d", "token": "LUTDense", "mix": "MatMul"}
    kinds |= {"bn": "BatchNormalization", "head": "Gemm"}
    assert {name: by_name[name].op_type for name in kinds} == kinds
    assert "bn0" not in by_name  # folded into the stem

    conv, token = by_name["conv"], by_name["token"]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in conv.attribute}
    assert attributes == {
        "dilations": [1, 1],
        "encode_dtype": b"int8",
        "encoder": b"l2",
        "group": 1,
        "input_signed": 0,
        "kernel_shape": [3, 3],
        "pads": [1, 1, 1, 1],
        "strides": [2, 2],
    }
    suffixes = ["centroids", "table", "table_scale", "", "inv_scale", "score_bias"]
    assert list(conv.input)[1:] == [s and f"conv.{s}" for s in suffixes]
    assert token.input[4] == "token.bias"
    assert {f.name for f in model.functions} == {"LUTConv2d", "LUTDense"}
    assert len(model.functions) == 3  # conv without bias, down with, dense


def test_metadata_tells_settings_and_nothing_of_this_machine(tmp_path):
    path = export_model(converted(), torch.randn(1, 1, 9, 8), tmp_path / "net.onnx")
    model = onnx.load(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert set(metadata) == {"lutc.config", "lutc.version"}
    assert json.loads(metadata["lutc.config"])["conv"]["num_centroids"] == 16
    content = path.read_bytes()
    for private in (str(Path(__file__).parent), str(Path.home()), str(tmp_path), "stack_trace"):
        assert private.encode() not in content
    assert model.producer_name == "lutc"


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_same_model_same_bytes(tmp_path, suffix):
    x = torch.randn(1, 1, 9, 8)
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        export_model(converted(), x, folder / f"net{suffix}")
    assert (first / f"net{suffix}").read_bytes() == (second / f"net{suffix}").read_bytes()


def test_pt2_calls_the_library_ops_and_loads(tmp_path):
    model = converted()
    x = torch.randn(1, 1, 9, 8)
    path = export_model(model, (x,), tmp_path / "net.pt2")
    program = torch.export.load(path)
    assert torch.equal(program.module()(x), model(x))
    calls = [node for node in program.graph.nodes if "lutc" in str(node.target)]
    assert [call.args[-1] for call in calls] == ["conv", "down", "token"]
    assert all("stack_trace" not in node.meta for node in program.graph.nodes)


def test_float_model_exports_without_functions(tmp_path):
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    proto = onnx.load(export_model(model, torch.randn(2, 4), tmp_path / "float.onnx"))
    assert not proto.functions
    assert proto.graph.node[0].name == "0"


def test_names_follow_the_exported_model_not_the_converted_one(tmp_path):
    wrapped = nn.ModuleDict({"net": converted()})["net"]
    outer = nn.Sequential(wrapped)
    proto = onnx.load(export_model(outer, torch.randn(1, 1, 9, 8), tmp_path / "net.onnx"))
    assert {node.name for node in proto.graph.node if node.domain == "lutc"} == {"0.conv", "0.down", "0.token"}


def test_layer_called_twice_gives_two_names(tmp_path):
    torch.manual_seed(0)
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    quantize_(model, LUTConfig(4, 2))
    quantize_(model, step="convert")
    x = torch.randn(3, 4)
    path = export_model(model, x, tmp_path / "twice.onnx")
    assert [n.name for n in onnx.load(path).graph.node if n.domain == "lutc"] == ["0", "0_1"]
    np.testing.assert_array_equal(run(path, x), model(x).numpy())


def test_model_keeps_its_mode(tmp_path):
    model = converted().train()
    model.bn.eval()
    export_model(model, torch.randn(1, 1, 9, 8), tmp_path / "net.onnx")
    assert model.training
    assert not model.bn.training


def test_unconverted_layers_are_named(tmp_path):
    model = Net()
    quantize_(model, {"conv": LUTConfig(), "token": LUTConfig()})
    with pytest.raises(LutcError, match="training form") as error:
        export_model(model, torch.randn(1, 1, 9, 8), tmp_path / "net.onnx")
    assert error.value.where == "conv, token"
    assert 'step="convert"' in error.value.fix


@pytest.mark.parametrize("name", ["net.pb", "net", "missing/net.onnx"])
def test_unusable_paths_are_told_before_any_work(tmp_path, name):
    with pytest.raises(LutcError, match="cannot export to"):
        export_model(converted(), torch.randn(1, 1, 9, 8), tmp_path / name)


def test_failed_export_leaves_the_old_file(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError):
        export_model(converted(), torch.randn(1, 3, 9, 8), path)  # wrong number of channels
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize("encode_dtype", ["int8", "float32"])
def test_trees(tmp_path: Path, encode_dtype: str) -> None:
    """ONNX Runtime and a loaded .pt2 give what the module gives; the nodes say what they are."""
    net, x = tree_net(encode_dtype), torch.randn(2, 4, 9, 8)
    expected = net(x)
    path = export_model(net, x, tmp_path / "trees.onnx")
    np.testing.assert_allclose(run(path, x), expected.numpy(), rtol=1e-6, atol=1e-6)
    nodes = {node.name: node for node in onnx.load(path).graph.node if node.domain == "lutc"}
    assert [nodes[name].input[1] for name in ("conv", "fc")] == ["", ""]
    assert nodes["fc"].input[8] == "fc.split_dims" and nodes["fc"].overload == f"tree_{encode_dtype}" + (
        "_signed_bias" if encode_dtype == "int8" else "_bias"
    )
    assert {a.name: a.i for a in nodes["conv"].attribute}["subvector_len"] == 9
    program = torch.export.load(export_model(net, x, tmp_path / "trees.pt2"))
    assert torch.equal(program.module()(x), expected)
