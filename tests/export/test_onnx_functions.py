"""The function bodies under ONNX Runtime against the oracle: codes and sums bit-equal, over odd shapes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from lutc.export.onnx_functions import DOMAIN, INPUTS, Variant, make_function
from tests import oracle

OPSET = 18


def layer_arrays(rng, codebooks, centroids, length, outputs, *, integer, table_dtype="int8", bias=True, mult=False):
    arrays = {
        "centroids": rng.normal(size=(codebooks, centroids, length)).astype(np.float32),
        "table": rng.integers(-127, 128, (codebooks, centroids, outputs)).astype(table_dtype),
        "table_scale": rng.uniform(0.001, 0.1, outputs).astype(np.float32),
    }
    if bias:
        arrays["bias"] = rng.normal(size=outputs).astype(np.float32)
    if integer:
        arrays["centroids"] = rng.integers(-127, 128, (codebooks, centroids, length)).astype(np.int8)
        arrays["inv_scale"] = rng.uniform(20, 60, codebooks).astype(np.float32)
        arrays["score_bias"] = rng.integers(-(2**16), 2**10, (codebooks, centroids)).astype(np.int32)
    if mult:
        arrays["mult"] = rng.integers(1, 128, codebooks).astype(np.uint8)
    return arrays


def run(op_type, x, arrays, out_rank, **attributes):
    """One node in a model, run by ONNX Runtime."""
    inputs = ["x", *(name if name in arrays else "" for name in INPUTS[1:])]
    while not inputs[-1]:
        inputs.pop()
    node = helper.make_node(op_type, inputs, ["y"], name="layer", domain=DOMAIN, **attributes)
    variant = Variant.of_node(node)
    node.overload = variant.overload
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None] * x.ndim)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * out_rank)],
        [numpy_helper.from_array(value, name) for name, value in arrays.items()],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=[make_function(variant, OPSET)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def tree_arrays(rng, codebooks, levels, length, outputs, *, integer, **options):
    """Constants of hash trees: thresholds inside, outside and at the ends of the range of inputs, some not a number."""
    arrays = layer_arrays(rng, codebooks, 2**levels, length, outputs, integer=integer, **options)
    del arrays["centroids"]
    arrays.pop("score_bias", None)
    arrays["split_dims"] = rng.integers(0, length, (codebooks, levels)).astype(np.int32)
    thresholds = rng.normal(size=(codebooks, 2**levels - 1)).astype(np.float32)
    thresholds = np.rint(thresholds * 60) if integer else thresholds
    odd = rng.choice([np.nan, np.inf, -np.inf, 0, -128, 128, 255, 256], thresholds.shape)
    arrays["split_thresholds"] = np.where(rng.random(thresholds.shape) < 0.2, odd, thresholds).astype(np.float32)
    return arrays


def encoding(integer: bool, signed: bool, encoder: str = "l2") -> dict[str, object]:
    return {"encode_dtype": "int8" if integer else "float32", "encoder": encoder, "input_signed": signed}


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(("shape", "length", "centroids"), [((200, 5), 5, 16), ((17, 33), 4, 8), ((9, 8, 33), 16, 32)])
def test_dense_of_six_bits(signed, shape, length, centroids):
    rng = np.random.default_rng(0)
    arrays = layer_arrays(rng, -(-shape[-1] // length), centroids, length, 3, integer=True)
    arrays |= {"centroids": arrays["centroids"] // 8 * 4, "score_bias": arrays["score_bias"] // 1024 * 16}
    x = rng.normal(size=shape).astype(np.float32) * 3
    attributes = encoding(True, signed) | {"encode_dtype": "int6"}
    expected, codes = oracle.dense(x, **arrays, **attributes)
    assert (codes != oracle.dense(x, **arrays, **encoding(True, signed))[1]).any(), "the grid makes a difference"
    np.testing.assert_array_equal(run("LUTDense", x, arrays, len(shape), **attributes), expected)


@pytest.mark.parametrize("integer", [True, False])
def test_scores_with_a_bias_decide(integer):
    """Of a float32 search they do where there is a bias, and Euclidean distances where there is none."""
    rng = np.random.default_rng(0)
    arrays = layer_arrays(rng, 3, 16, 4, 5, integer=integer)
    x = rng.normal(size=(50, 12)).astype(np.float32)
    plain = oracle.dense(x, **arrays, **encoding(integer, True))[1]
    bias = rng.normal(size=(3, 16)).astype(np.float32) if not integer else arrays["score_bias"][:, ::-1].copy()
    arrays["score_bias"] = bias
    expected, codes = oracle.dense(x, **arrays, **encoding(integer, True))
    assert (codes != plain).mean() > 0.3
    np.testing.assert_array_equal(run("LUTDense", x, arrays, 2, **encoding(integer, True)), expected)


@pytest.mark.parametrize(("integer", "signed"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mult", [True, False])
@pytest.mark.parametrize(
    ("shape", "length", "centroids", "outputs"),
    [((1, 5), 5, 16, 1), ((3, 17), 4, 4, 5), ((17, 6), 1, 8, 3), ((2, 3, 33), 16, 32, 2), ((7,), 4, 16, 3)],
)
def test_dense(integer, signed, bias, mult, shape, length, centroids, outputs):
    rng = np.random.default_rng(0)
    codebooks = -(-shape[-1] // length)
    arrays = layer_arrays(rng, codebooks, centroids, length, outputs, integer=integer, bias=bias, mult=mult)
    x = rng.normal(size=shape).astype(np.float32) * 2
    attributes = encoding(integer, signed)
    expected = oracle.dense(x, **arrays, **attributes)[0]
    np.testing.assert_array_equal(run("LUTDense", x, arrays, len(shape), **attributes), expected)


@pytest.mark.parametrize(("integer", "signed"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize(
    ("size", "kernel", "strides", "pads", "dilations", "length"),
    [
        ((1, 1, 3, 3), (3, 3), (1, 1), (0, 0, 0, 0), (1, 1), 9),
        ((3, 5, 7, 6), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 9),
        ((2, 3, 9, 8), (3, 2), (1, 2), (0, 1, 2, 3), (2, 1), 4),
        ((1, 6, 5, 5), (1, 1), (2, 2), (0, 0, 0, 0), (1, 1), 4),
    ],
)
def test_conv2d(integer, signed, size, kernel, strides, pads, dilations, length):
    rng = np.random.default_rng(1)
    codebooks = -(-size[1] * kernel[0] * kernel[1] // length)
    arrays = layer_arrays(rng, codebooks, 16, length, 5, integer=integer)
    x = rng.normal(size=size).astype(np.float32) * 2
    geometry = {"kernel_shape": kernel, "strides": strides, "pads": pads, "dilations": dilations, "group": 1}
    attributes = encoding(integer, signed)
    expected = oracle.conv2d(x, **arrays, **geometry, **attributes)[0]
    np.testing.assert_array_equal(run("LUTConv2d", x, arrays, 4, **geometry, **attributes), expected)


@pytest.mark.parametrize(("integer", "signed"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize(
    ("shape", "length", "levels", "outputs", "options"),
    [
        ((1, 5), 5, 4, 1, {"bias": False}),
        ((3, 17), 4, 1, 5, {"mult": True}),
        ((17, 6), 1, 3, 3, {}),
        ((2, 3, 33), 16, 6, 2, {"bias": False, "mult": True}),
        ((7,), 4, 8, 3, {}),
    ],
)
def test_dense_trees(integer, signed, shape, length, levels, outputs, options):
    rng = np.random.default_rng(4)
    arrays = tree_arrays(rng, -(-shape[-1] // length), levels, length, outputs, integer=integer, **options)
    x = rng.normal(size=shape).astype(np.float32) * 2
    x.flat[:3] = np.nan, np.inf, -np.inf
    attributes = encoding(integer, signed, "tree") | {"subvector_len": length}
    expected = oracle.dense(x, centroids=None, **arrays, **attributes)[0]
    np.testing.assert_array_equal(run("LUTDense", x, arrays, len(shape), **attributes), expected)


@pytest.mark.parametrize(("integer", "signed"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("length", [9, 4, 18])
def test_conv2d_trees(integer, signed, length):
    rng = np.random.default_rng(5)
    arrays = tree_arrays(rng, -(-5 * 9 // length), 4, length, 4, integer=integer)
    x = rng.normal(size=(3, 5, 7, 6)).astype(np.float32) * 2
    geometry = {"kernel_shape": (3, 3), "strides": (2, 1), "pads": (1, 0, 1, 2), "dilations": (1, 2), "group": 1}
    attributes = encoding(integer, signed, "tree") | {"subvector_len": length}
    expected = oracle.conv2d(x, centroids=None, **arrays, **geometry, **attributes)[0]
    np.testing.assert_array_equal(run("LUTConv2d", x, arrays, 4, **geometry, **attributes), expected)


def test_float_table():
    rng = np.random.default_rng(2)
    arrays = layer_arrays(rng, 4, 16, 4, 6, integer=True, table_dtype="float32")
    arrays["table"] = rng.normal(size=arrays["table"].shape).astype(np.float32)
    x = rng.normal(size=(9, 15)).astype(np.float32)
    attributes = encoding(True, True)
    expected = oracle.dense(x, **arrays, **attributes)[0]
    np.testing.assert_allclose(run("LUTDense", x, arrays, 2, **attributes), expected, rtol=1e-6, atol=1e-7)


def test_scores_beyond_float32_and_sums_beyond_float32_stay_exact():
    """Scores near 2**28 with odd low bits, and 3000 codebooks times 127 times 127, both above 2**24."""
    rng = np.random.default_rng(3)
    arrays = layer_arrays(rng, 3000, 4, 1, 2, integer=True, bias=False, mult=True)
    arrays["score_bias"] = (2**28 - rng.integers(0, 64, arrays["score_bias"].shape)).astype(np.int32)
    arrays["table"] = rng.integers(100, 128, arrays["table"].shape).astype(np.int8)
    x = rng.normal(size=(5, 3000)).astype(np.float32)
    attributes = encoding(True, True)
    expected = oracle.dense(x, **arrays, **attributes)[0]
    np.testing.assert_array_equal(run("LUTDense", x, arrays, 2, **attributes), expected)


def test_ties_take_the_lowest_centroid():
    arrays = {
        "centroids": np.zeros((1, 4, 2), np.int8),
        "table": np.array([[[1], [2], [3], [4]]], np.int8),
        "table_scale": np.ones(1, np.float32),
        "inv_scale": np.ones(1, np.float32),
        # 17 and 31 fall into one step of 16
        "score_bias": np.array([[0, 17, 31, 20]], np.int32),
    }
    x = np.zeros((1, 2), np.float32)
    assert run("LUTDense", x, arrays, 2, **encoding(True, True)).item() == 2.0


def test_halves_round_to_even():
    arrays = {
        "centroids": np.array([[[1], [0]]], np.int8),
        "table": np.array([[[1], [2]]], np.int8),
        "table_scale": np.ones(1, np.float32),
        "inv_scale": np.ones(1, np.float32),
        # codebook 0 wins exactly when the rounded input reaches 16
        "score_bias": np.array([[0, 16]], np.int32),
    }
    x = np.array([[15.5], [16.5], [14.5], [-15.5]], np.float32)
    expected = oracle.dense(x, **arrays, **encoding(True, True))[0]
    assert expected[:, 0].tolist() == [1.0, 1.0, 2.0, 2.0]
    np.testing.assert_array_equal(run("LUTDense", x, arrays, 2, **encoding(True, True)), expected)
