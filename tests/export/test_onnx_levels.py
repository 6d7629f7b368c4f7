"""LUTQuantize and LUTPalette: the function bodies in ONNX Runtime and torch.ops.lutc against the oracle, bit-equal."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import lutc.nn  # noqa: F401  (registers torch.ops.lutc)
from lutc.export.onnx_functions import DOMAIN
from lutc.export.onnx_levels import LevelsVariant, make_levels_function
from tests import oracle_levels

OPSET = 18


def run(op_type: str, values: dict[str, np.ndarray], **attributes: int) -> np.ndarray:
    """One node in a model, its first input fed if that is x, run by ONNX Runtime."""
    node = helper.make_node(op_type, list(values), ["out"], name="layer", domain=DOMAIN, **attributes)
    variant = LevelsVariant.of_node(node, {name: value.shape for name, value in values.items()})
    node.overload = variant.overload
    rank = next(iter(values.values())).ndim
    x = values.pop("x", None)
    feeds = {} if x is None else {"x": x}
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * value.ndim) for name, value in feeds.items()],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [None] * rank)],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    functions = [make_levels_function(variant, OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def staircase(rng: np.random.Generator, steps: int, channels: int | None) -> tuple[np.ndarray, np.ndarray]:
    shape = (steps,) if channels is None else (channels, steps)
    thresholds = np.sort(rng.normal(size=shape), -1).astype(np.float32)
    if channels is not None and steps > 1:
        thresholds[-1, -1] = np.inf  # a channel of fewer levels
    return thresholds, rng.normal(size=(*shape[:-1], steps + 1)).astype(np.float32)


def inputs(rng: np.random.Generator, thresholds: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Random values, each threshold and its neighbours, and the extremes."""
    x = rng.normal(size=shape).astype(np.float32)
    finite = thresholds[np.isfinite(thresholds)]
    edge = [finite, np.nextafter(finite, np.float32(np.inf)), np.nextafter(finite, np.float32(-np.inf))]
    tiny = np.finfo(np.float32).smallest_subnormal
    edge.append(np.array([0.0, -0.0, tiny, -tiny, 3.4e38, -3.4e38, np.inf, -np.inf], np.float32))
    values = np.concatenate(edge)[: x.size]
    x.flat[rng.choice(x.size, values.size, replace=False)] = values
    return x


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 6, 15, 16, 255])
@pytest.mark.parametrize("axis", [None, 0, 1, 3])
def test_quantize(steps: int, axis: int | None) -> None:
    rng = np.random.default_rng(steps)
    shape = (3, 5, 11, 7)
    thresholds, levels = staircase(rng, steps, None if axis is None else shape[axis])
    x = inputs(rng, thresholds, shape)
    expected = oracle_levels.quantize(x, thresholds, levels, axis or 0)
    values = {"x": x, "thresholds": thresholds, "levels": levels}
    np.testing.assert_array_equal(run("LUTQuantize", dict(values), axis=axis or 0), expected)
    tensors = [torch.from_numpy(value) for value in values.values()]
    np.testing.assert_array_equal(torch.ops.lutc.lut_quantize(*tensors, axis or 0, "").numpy(), expected)


@pytest.mark.parametrize("shape", [(), (1,), (0, 4), (2, 3)])
def test_quantize_any_rank(shape: tuple[int, ...]) -> None:
    thresholds, levels = staircase(np.random.default_rng(0), 5, None)
    x = np.full(shape, 0.25, np.float32)
    expected = oracle_levels.quantize(x, thresholds, levels)
    values = {"x": x, "thresholds": thresholds, "levels": levels}
    got = run("LUTQuantize", dict(values), axis=0)
    assert got.shape == shape
    np.testing.assert_array_equal(got, expected)
    tensors = [torch.from_numpy(value) for value in values.values()]
    np.testing.assert_array_equal(torch.ops.lutc.lut_quantize(*tensors, 0, "").numpy(), expected)


@pytest.mark.parametrize("channels", [None, 2])
def test_nan_gets_code_zero(channels: int | None) -> None:
    thresholds, levels = staircase(np.random.default_rng(0), 6, channels)
    x = np.full((3, 2), np.nan, np.float32)
    expected = np.broadcast_to(levels[..., 0], (3, 2))
    values = {"x": x, "thresholds": thresholds, "levels": levels}
    np.testing.assert_array_equal(run("LUTQuantize", dict(values), axis=1), expected)
    tensors = [torch.from_numpy(value) for value in values.values()]
    np.testing.assert_array_equal(torch.ops.lutc.lut_quantize(*tensors, 1, "").numpy(), expected)


def test_equal_thresholds_hide_a_level() -> None:
    values = {
        "x": np.array([-1, 0, 1], np.float32),
        "thresholds": np.array([0, 0], np.float32),
        "levels": np.array([-2, 7, 3], np.float32),
    }
    assert run("LUTQuantize", dict(values), axis=0).tolist() == [-2, 3, 3]
    assert oracle_levels.quantize(**values, axis=0).tolist() == [-2, 3, 3]


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (5, 7), (4,)])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("count", [1, 3, 256])
def test_palette(shape: tuple[int, ...], per_channel: bool, count: int) -> None:
    rng = np.random.default_rng(count)
    codes = rng.integers(0, count, shape).astype(np.uint8)
    levels = rng.normal(size=(shape[0], count) if per_channel else (count,)).astype(np.float32)
    expected = oracle_levels.palette(codes, levels)
    np.testing.assert_array_equal(run("LUTPalette", {"codes": codes, "levels": levels}), expected)
    got = torch.ops.lutc.lut_palette(torch.from_numpy(codes), torch.from_numpy(levels), "")
    np.testing.assert_array_equal(got.numpy(), expected)


def test_documented_examples() -> None:
    x = np.array([-1.0, 0.25, 0.5, 3.0], np.float32)
    thresholds, levels = np.array([0.25, 0.5], np.float32), np.array([0, 0.375, 1], np.float32)
    assert oracle_levels.codes(x, thresholds).tolist() == [0, 1, 2, 2]
    assert oracle_levels.quantize(x, thresholds, levels).tolist() == [0, 0.375, 1, 1]
    codes = np.array([[0, 1, 2], [2, 2, 0]], np.uint8)
    palette = np.array([[-1, 0, 0.5], [-4, 0, 2]], np.float32)
    assert oracle_levels.palette(codes, palette).tolist() == [[-1, 0, 0.5], [2, 2, -4]]
