"""estimate: sizes from the model, times that follow them, and `keep_float="auto"`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lutc
from lutc.cost_model.estimate import _padded_depth, slower_as_int8
from lutc.importers import import_model
from lutc.importers.codebook import Codebook
from lutc.importers.codebooks import Codebooks
from lutc.targets import parse_target
from tvm_ext.transform.layer_shapes import LayerSize

ROWS = 64


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A dense layer of 2 outputs, which a search for its codes cannot pay for, behind one of 512."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype("float32"), name)
        for name, shape in (("w", (64, 512)), ("v", (512, 2)))
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "wide"),
        helper.make_node("MatMul", ["h", "v"], ["y"], "narrow"),
    ]
    spec = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [ROWS, s]) for n, s in (("x", 64), ("y", 2))]
    graph = helper.make_graph(nodes, "g", spec[:1], spec[1:], weights)
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def _codebooks() -> Codebooks:
    rng = np.random.default_rng(1)
    made = []
    for name, depth in (("wide", 64), ("narrow", 512)):
        centroids = rng.standard_normal((depth // 16, 16, 16)).astype("float32")
        made.append(Codebook(name, centroids, np.full(depth // 16, 30, "float32")))
    return Codebooks(made)


@pytest.mark.parametrize("target", ["x86-64-v4-vbmi", "x86-64-v3", "arm64-dotprod"])
def test_rows(model: Path, target: str) -> None:
    report = lutc.estimate(model, target)
    wide, narrow = report.rows
    assert (wide.name, wide.rows, wide.depth, wide.outputs, wide.k, wide.v) == ("wide", ROWS, 64, 512, 16, 16)
    assert (wide.table_bytes, wide.float_bytes, wide.state) == (4 * 16 * 512, 4 * 64 * 512, "float")
    assert wide.table_us < wide.float_us and not wide.slower
    assert narrow.slower and "slower than float32" in narrow.verdict
    assert "1 of 2 layers are faster in float" in str(report)


def test_keep_float_auto(model: Path, tmp_path: Path) -> None:
    told = []
    artifact = lutc.compile(
        model, "x86-64-v3", codebooks=_codebooks(), keep_float=["auto"], output=tmp_path / "a.lutc",
        progress=lambda phase, message, seconds: told.append(message),
    )  # fmt: skip
    assert {row.name: row.kind for row in artifact.manifest.layers} == {"wide": "lut", "narrow": "float"}
    assert any("narrow stays float: a table is" in message for message in told)


@pytest.mark.parametrize(
    ("target", "slower"),
    [("x86-64-v4-vbmi", []), ("x86-64-v3", ["narrow"]), ("arm64-dotprod", ["narrow"]), ("arm64", ["narrow", "wide"])],
)
def test_layers_that_int8_makes_no_faster(model: Path, target: str, slower: list[str]) -> None:
    """Without dot products there is nothing to gain; with few outputs, turning inputs into integers costs too much."""
    told = slower_as_int8(import_model(model), parse_target(target))
    assert sorted(told) == slower
    assert all(reason.startswith("int8 takes ") for reason in told.values())


def test_a_window_of_few_channels_is_padded_by_rows() -> None:
    stem = LayerSize("stem", "conv2d", 100, 3 * 49, 64, 49, 300)
    assert _padded_depth(stem) == 7 * 24
    assert _padded_depth(LayerSize("conv", "conv2d", 100, 6 * 9, 64, 9, 300)) == 9 * 8
    assert _padded_depth(LayerSize("fc", "dense", 1, 500, 64, 1, 500)) == 512
