"""The same network in torch, in ONNX Runtime, and compiled for each instruction set, through every way in."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import lutc
from lutc.artifact.store import read_artifact
from lutc.config import LUTConfig
from lutc.importers import import_model
from lutc.importers.codebooks import Codebooks
from lutc.nn import quantize_
from lutc.nn.frozen import FrozenLUTLayer
from lutc.nn.layer import LUTLayer
from lutc.runtime.emulated_session import EmulatedSession
from lutc.runtime.session import load
from lutc.targets import parse_target
from tests.end_to_end import networks
from tests.execute import skip_unless_runnable

CONFIGS = {
    "int8": LUTConfig(),
    "int6": LUTConfig(encode_dtype="int6"),
    "float32": LUTConfig(encode_dtype="float32"),
    "int8-k4": LUTConfig(num_centroids=4),
    "float32-k4": LUTConfig(num_centroids=4, encode_dtype="float32", subvector_len=3),
    "int8-k32": LUTConfig(num_centroids=32),
    "float32-k32-float-table": LUTConfig(num_centroids=32, encode_dtype="float32", table_dtype="float32"),
    "int8-float-table": LUTConfig(table_dtype="float32", subvector_len=6),
}
TARGETS = ("x86-64-v2", "x86-64-v3", "arm64", "arm64-dotprod")
# every configuration for the MLP, which compiles fast; the CNN adds geometry and batch norm, not kernels
CASES = [
    *(("mlp", config) for config in CONFIGS),
    *(("cnn", c) for c in ("int8", "int6", "float32", "float32-k32-float-table")),
]


@dataclass
class Case:
    net: nn.Module
    x: torch.Tensor
    path: Path
    expected: np.ndarray


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    kind, config = request.param
    net, x = networks.table_network(kind, CONFIGS[config]), networks.inputs(kind)
    path = networks.export(net, x, tmp_path_factory.mktemp(f"{kind}-{config}") / "net.onnx")
    return Case(net, x, path, networks.run_torch(net, x))


def check_close(actual: np.ndarray, expected: np.ndarray) -> None:
    """Within 1e-4 of the largest output: far below what one different code does, far above float summation order."""
    assert actual.dtype == np.float32 and actual.shape == expected.shape
    scale = np.abs(expected).max()
    assert scale > 0.01
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * scale)


def run_on(target: str, model: object, x: torch.Tensor, folder: Path, **options: object) -> np.ndarray:
    goal = parse_target(target)
    skip_unless_runnable(goal.llvm())
    artifact = lutc.compile(model, goal, output=folder / f"{target}.lutc", **options)
    emulate = goal.arch == "aarch64" and platform.machine() not in ("aarch64", "arm64")
    session = EmulatedSession(artifact.path) if emulate else load(artifact.path, threads=1)
    (y,) = session.run(x.numpy()).values()
    return y


def test_onnxruntime_is_torch(case: Case) -> None:
    check_close(networks.run_onnxruntime(case.path, case.x), case.expected)


@pytest.mark.parametrize("target", TARGETS)
def test_compiled_is_torch(case: Case, target: str, tmp_path: Path) -> None:
    check_close(run_on(target, case.path, case.x, tmp_path), case.expected)


def test_every_table_is_compiled(case: Case, tmp_path: Path) -> None:
    check_close(run_on("native", case.path, case.x, tmp_path), case.expected)
    manifest = read_artifact(tmp_path / "native.lutc").manifest
    tables = {name for name, module in case.net.named_modules() if isinstance(module, FrozenLUTLayer)}
    assert {row.name for row in manifest.layers if row.kind == "lut"} == tables
    assert [spec.name for spec in manifest.inputs + manifest.outputs] == ["x", "y"]


@pytest.mark.parametrize("kind", networks.KINDS)
def test_pt2_and_live_module_give_what_onnx_gives(kind: str, tmp_path: Path) -> None:
    net, x = networks.table_network(kind, LUTConfig()), networks.inputs(kind)
    expected = networks.run_torch(net, x)
    path = networks.export(net, x, tmp_path / "net.pt2")
    for name, source in {"file": path, "module": import_model(net, input_shapes={"x": tuple(x.shape)})}.items():
        folder = tmp_path / name
        folder.mkdir()
        check_close(run_on("native", source, x, folder), expected)


def _twin(net: nn.Module, codebooks: Codebooks, config: LUTConfig) -> nn.Module:
    """The float network in torch with the codebooks of a file: an independent way to the same tables."""
    quantize_(net, config, filter_fn=lambda _module, name: name in codebooks)
    for name, layer in net.named_modules():
        if isinstance(layer, LUTLayer):
            book = codebooks[name]
            layer.set_centroids(torch.from_numpy(book.centroids))
            if book.metric is not None:
                layer.metric.copy_(torch.from_numpy(book.metric))
            if book.inv_scale is not None:
                layer.signed = book.input_signed
                layer.input_signed.fill_(book.input_signed)
                layer.inv_scale.copy_(torch.from_numpy(book.inv_scale))
    quantize_(net, step="convert")
    return net


@pytest.mark.parametrize(
    ("kind", "config", "target"),
    [
        ("mlp", "int8", "arm64"),
        ("mlp", "float32", "native"),
        ("mlp", "int8-float-table", "native"),
        ("cnn", "int8", "native"),
        ("cnn", "int6", "arm64-dotprod"),
        ("cnn", "float32", "arm64"),
    ],
)
def test_float_model_with_codebooks(kind: str, config: str, target: str, tmp_path: Path) -> None:
    net, x = networks.without_batch_norm(networks.float_network(kind)), networks.inputs(kind)
    path = networks.export(net, x, tmp_path / "float.onnx")
    samples = np.random.default_rng(3).standard_normal((24, *x.shape[1:]), np.float32)
    codebooks = lutc.calibrate(path, {"x": samples}, CONFIGS[config])
    codebooks.save(tmp_path / "books.safetensors")
    y = run_on(target, path, x, tmp_path, codebooks=tmp_path / "books.safetensors")
    check_close(y, networks.run_torch(_twin(net, codebooks, CONFIGS[config]), x))


@pytest.mark.parametrize("kind", networks.KINDS)
def test_float_model_as_it_is(kind: str, tmp_path: Path) -> None:
    net, x = networks.float_network(kind), networks.inputs(kind)
    path = networks.export(net, x, tmp_path / "float.onnx")
    check_close(run_on("native", path, x, tmp_path), networks.run_torch(net, x))
