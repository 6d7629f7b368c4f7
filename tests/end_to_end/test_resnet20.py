"""A trained ResNet-20 on real images: codes of each layer against the definition, logits against ONNX Runtime.

Needs the folder LUTC_DATA.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import lutc
from lutc.config import LUTConfig
from lutc.nn import quantize_
from lutc.nn.layer import LUTLayer
from lutc.onnx_runner import OnnxRunner
from lutc.runtime.emulated_session import EmulatedSession
from lutc.runtime.session import load
from lutc.targets import parse_target
from tests.end_to_end import networks
from tests.end_to_end.codes_model import TableLayer, codes_model, table_layers
from tests.end_to_end.resnet20 import data_folder, images, resnet20
from tests.execute import skip_unless_runnable

pytestmark = pytest.mark.slow

_IMAGES = 4
_ROUNDING = 1e-6  # relative: float sums in another order
_NEAR_TIE = 1e-5  # of the terms summed: what float32 in another order can move


@dataclass
class Reference:
    """The network as a file, its table layers, and what ONNX Runtime computes for each image."""

    path: Path
    layers: list[TableLayer]
    x: np.ndarray
    runs: list[dict[str, np.ndarray]]


def _with_float_search(net: nn.Module) -> nn.Module:
    """The same weights and centroids with encode_dtype="float32": saves a second k-means."""
    twin = resnet20()
    quantize_(twin, LUTConfig(encode_dtype="float32"), filter_fn=_is_table)
    for name, layer in twin.named_modules():
        if isinstance(layer, LUTLayer):
            layer.set_centroids(net.get_submodule(name).centroids)
            layer.metric.copy_(net.get_submodule(name).metric)
    return twin


def _is_table(_module: nn.Module, name: str) -> bool:
    return name not in ("conv1", "fc")


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reference]:
    data_folder()
    pytest.importorskip("onnxruntime")
    torch.set_num_threads(1)
    net = resnet20()
    quantize_(net, LUTConfig(), filter_fn=_is_table, calibration=images("train", 128).split(32))
    nets = {"int8": net, "float32": _with_float_search(net)}
    folder, x = tmp_path_factory.mktemp("resnet20"), images("test", _IMAGES)
    found = {}
    for encode_dtype, each in nets.items():
        quantize_(each, step="convert")
        path = networks.export(each, x[:1], folder / f"{encode_dtype}.onnx")
        model = onnx.load(path)
        layers = table_layers(model)
        assert len(layers) == 20
        runner = OnnxRunner(model, [layer.input for layer in layers], str(path))
        found[encode_dtype] = Reference(
            path, layers, x.numpy(), [runner.run({"x": image[None]}) for image in x.numpy()]
        )
    return found


def _run(model: object, target: str, feeds: list[dict[str, np.ndarray]], folder: Path) -> list[dict[str, np.ndarray]]:
    goal = parse_target(target)
    skip_unless_runnable(goal.llvm())
    artifact = lutc.compile(model, goal, output=folder / "net.lutc")
    if goal.arch == "aarch64":
        return EmulatedSession(artifact.path).run_many(feeds)
    session = load(artifact.path, threads=1)
    return [session.run(feed) for feed in feeds]


def _excess(layer: TableLayer, x: np.ndarray, codes: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """How much farther the centroids of codes are than the expected ones, of the size of the terms summed."""
    far, far_terms = layer.distances(x, codes)
    near, near_terms = layer.distances(x, expected)
    return (far - near) / np.maximum(np.maximum(far_terms, near_terms), 1e-30)


def _check_near_ties(layer: TableLayer, x: np.ndarray, codes: np.ndarray, expected: np.ndarray) -> None:
    """Where codes differ, both centroids are equally far up to rounding."""
    excess = _excess(layer, x, codes, expected)
    assert excess.max() <= _NEAR_TIE, f"{layer.name}: {excess.max()}"


def _near_ties(layer: TableLayer, x: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """bool [OH, OW]: a kernel may have found another code at this position of the image; codes are the nearest."""
    excess = [_excess(layer, x, np.full_like(codes, k), codes) for k in range(layer.constants["centroids"].shape[1])]
    return (np.sum(np.less_equal(excess, _NEAR_TIE), axis=0) > 1).any((0, -1))


TARGETS = ("x86-64-v4-vbmi", "x86-64-v3", "arm64")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("encode_dtype", ["int8", "float32"])
def test_codes(references: dict[str, Reference], encode_dtype: str, target: str, tmp_path: Path) -> None:
    """Integers agree to the last code; in float, two centroids at the same distance up to rounding may be swapped."""
    reference = references[encode_dtype]
    model = codes_model(reference.layers, {name: value.shape for name, value in reference.runs[0].items()})
    feeds = [{f"x{i}": run[layer.input] for i, layer in enumerate(reference.layers)} for run in reference.runs]
    total, ties = 0, []
    for image, (run, result) in enumerate(zip(feeds, _run(model, target, feeds, tmp_path), strict=True)):
        for index, layer in enumerate(reference.layers):
            expected = layer.codes(run[f"x{index}"])
            codes = result[f"y{index}"].transpose(0, 2, 3, 1)
            total += expected.size
            differ = codes != expected
            if differ.any():
                assert encode_dtype == "float32", f"{layer.name}: {differ.sum()} codes differ"
                _check_near_ties(layer, run[f"x{index}"], codes.astype(np.uint8), expected)
                ties.append(f"image {image}, {layer.name}: {differ.sum()} near ties")
    print(f"{target}, {encode_dtype}: {total} codes", *ties, sep="\n  ")
    assert total > 200_000 * _IMAGES / 4
    assert len(ties) < total / 10_000


def _with_layer_inputs(reference: Reference) -> onnx.ModelProto:
    """The network with the inputs of its table layers as further outputs."""
    model = onnx.load(reference.path)
    for name in dict.fromkeys(layer.input for layer in reference.layers):
        shape = reference.runs[0][name].shape
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    return model


def _apart(value: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(value - expected).max() / np.abs(expected).max())


def _first_flip(layers: list[TableLayer], got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> str:
    """The first layer whose codes differ, after a check that rounding alone made them; empty without one.

    With the same inputs too, a search in float may find the other centroid of a near tie: seen in what it changes,
    the next inputs at that position and nowhere else.
    """
    ties: dict[tuple[int, ...], np.ndarray] = {}
    for layer in layers:
        truth_input = expected[layer.input]
        apart = np.abs(got[layer.input] - truth_input).max((0, 1)) > _ROUNDING * np.abs(truth_input).max()
        if apart.any():
            assert apart.sum() <= 3, layer.name
            assert apart.shape in ties, layer.name
            assert ties[apart.shape][apart].all(), layer.name
            return f"a layer before {layer.name}: {apart.sum()} near ties"
        codes, truth = layer.codes(got[layer.input]), layer.codes(truth_input)
        differ = codes != truth
        if differ.any():
            assert differ.sum() <= 3, layer.name
            if layer.attributes["encode_dtype"] == "float32":
                _check_near_ties(layer, truth_input, codes, truth)
            return f"{layer.name}: {differ.sum()} codes"
        if layer.attributes["encode_dtype"] == "float32":
            near = _near_ties(layer, truth_input, truth)
            ties[near.shape] = near | ties.get(near.shape, False)
    return ""


@pytest.mark.parametrize(
    ("encode_dtype", "target"), [*(("int8", target) for target in TARGETS), ("float32", "x86-64-v3")]
)
def test_logits(references: dict[str, Reference], encode_dtype: str, target: str, tmp_path: Path) -> None:
    """Equal to ONNX Runtime's wherever float rounding between the layers did not tip a code over."""
    reference = references[encode_dtype]
    feeds = [{"x": image[None]} for image in reference.x]
    flips = []
    for image, (got, expected) in enumerate(
        zip(_run(_with_layer_inputs(reference), target, feeds, tmp_path), reference.runs, strict=True)
    ):
        flip = _first_flip(reference.layers, got, expected)
        if flip:
            flips.append(f"image {image} apart by {_apart(got['y'], expected['y']):.1e} since {flip}")
        else:
            assert _apart(got["y"], expected["y"]) <= 1e-4
    print(f"{target}, {encode_dtype}: {len(flips)} of {len(feeds)} images with a flipped code", *flips, sep="\n  ")
    assert len(flips) < len(feeds)


def test_the_plain_network(references: dict[str, Reference], tmp_path: Path) -> None:
    """Without further outputs, so that layers are fused as they are for a user."""
    reference = references["int8"]
    results = _run(reference.path, "native", [{"x": image[None]} for image in reference.x], tmp_path)
    apart = [_apart(got["y"], expected["y"]) for got, expected in zip(results, reference.runs, strict=True)]
    assert sorted(apart)[_IMAGES // 2] <= 1e-4, apart  # one or two images may have a flipped code
