"""The networks of examples/networks.py at reduced size: exported, compiled, and equal to onnxruntime's run."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import lutc
from lutc.onnx_runner import OnnxRunner
from tests.execute import why_not_emulated

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from networks import NETWORKS

SIZES = {"senet18": 40, "vgg11-cifar": 16, "mobilenetv2": 33, "minilm": 13}
"""Each kind once; what is left out has the layers of one that is here."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("networks")
    return {name: NETWORKS[name].export(folder / f"{name}.onnx", size=size) for name, size in SIZES.items()}


def _inputs(name: str) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in NETWORKS[name].inputs(SIZES[name]).items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_float_network_is_onnxruntime(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    artifact = lutc.compile(files[name], "native", output=tmp_path / "net.lutc")
    (wanted,) = OnnxRunner(onnx.load(files[name]), [], name).run(_inputs(name)).values()
    (got,) = lutc.load(artifact.path, threads=1).run(_inputs(name)).values()
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg11-cifar", "minilm"])
def test_tables_on_aarch64_are_those_of_x86(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    """Sums of tables are equal; another rounding of a float layer flips a code here and there."""
    if reason := why_not_emulated():
        pytest.skip(reason)
    from lutc.runtime.emulated_session import EmulatedSession

    codebooks = NETWORKS[name].calibrate(files[name], size=SIZES[name])
    native = lutc.compile(files[name], "native", output=tmp_path / "x86.lutc", codebooks=codebooks)
    assert sum(layer.kind == "lut" for layer in native.manifest.layers) >= 7
    (wanted,) = lutc.load(native.path, threads=1).run(_inputs(name)).values()
    artifact = lutc.compile(files[name], "arm64-dotprod", output=tmp_path / "arm.lutc", codebooks=codebooks, exact=True)
    (got,) = EmulatedSession(artifact.path).run(_inputs(name)).values()
    np.testing.assert_allclose(got, wanted, atol=0.05 * np.abs(wanted).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_float_network_on_aarch64(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    if reason := why_not_emulated():
        pytest.skip(reason)
    from lutc.runtime.emulated_session import EmulatedSession

    artifact = lutc.compile(files[name], "arm64", output=tmp_path / "net.lutc")
    (wanted,) = OnnxRunner(onnx.load(files[name]), [], name).run(_inputs(name)).values()
    (got,) = EmulatedSession(artifact.path).run(_inputs(name)).values()
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_batch_norms_have_an_effect() -> None:
    net = NETWORKS["resnet18-cifar"].build()
    assert all(float(p.std()) > 0.01 for name, p in net.named_parameters() if name.endswith(".1.weight"))


def test_equal_seeds_give_equal_weights() -> None:
    first, second = (NETWORKS["resnet18-cifar"].build(seed=3).state_dict() for _ in range(2))
    assert all(np.array_equal(first[key], second[key]) for key in first)
