"""A float model and codebooks give the annotated model that the definition asks for."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from lutc.calibrate import calibrate
from lutc.config import LUTConfig
from lutc.importers.codebook import Codebook
from lutc.importers.onnx_graph import prepare
from lutc.onnx_runner import OnnxRunner
from lutc.verify.annotate import annotate, table_of
from tests import oracle
from tests.calibrate.nets import cnn, floats
from tests.importers.models import model

pytest.importorskip("torch")  # lutc.export, which has the functions, imports it


def test_table_of_int8() -> None:
    centroids, weight = floats(3, 16, 4), floats(5, 11)
    weight[2] = 0
    table, scale = table_of(centroids, weight, "int8")
    padded = np.pad(weight.astype(np.float64), ((0, 0), (0, 1)))
    for c in range(3):
        exact = centroids[c].astype(np.float64) @ padded[:, 4 * c : 4 * c + 4].T
        np.testing.assert_allclose(table[c] * scale, exact, atol=scale.max() / 2 + 1e-6)
    assert table.dtype == np.int8 and scale[2] == 1 and not table[:, :, 2].any()
    assert (np.abs(table).max((0, 1)) == [127, 127, 0, 127, 127]).all()


def test_table_of_float32() -> None:
    table, scale = table_of(floats(3, 16, 4), floats(5, 12), "float32")
    assert table.dtype == np.float32 and scale.tolist() == [1] * 5


def run(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return next(iter(OnnxRunner(proto, [], "net").run({"x": x}).values()))


@pytest.mark.parametrize("encode_dtype", ["int8", "float32"])
def test_conv_layers(encode_dtype: str) -> None:
    proto, x = prepare(cnn()), floats(4, 3, 8, 10)
    expected_runner = OnnxRunner(proto, ["r0", "c2"], "net")
    values = expected_runner.run({"x": x})
    books = calibrate(cnn(), x, LUTConfig(encode_dtype=encode_dtype), layers=["down"])
    book = books["down"]
    annotate(proto, books, "net")
    assert [n.op_type for n in proto.graph.node if n.name == "down"] == ["LUTConv2d"]
    weight = floats(8, 8, 1, 1)
    table, scale = table_of(book.centroids, weight.reshape(8, 8), "int8")
    if encode_dtype == "float32":
        (centroids, bias), inv_scale = book.float_form(), None
    else:
        centroids, inv_scale, bias = book.integer_form()
    expected, _ = oracle.conv2d(
        values["r0"], centroids, table, scale, None, inv_scale, bias, kernel_shape=(1, 1), strides=(2, 2),
        encode_dtype=encode_dtype, input_signed=book.input_signed,
    )  # fmt: skip
    got = OnnxRunner(proto, ["c2"], "net").run({"x": x})["c2"]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "op_type, attributes, shape",
    [("MatMul", {}, (12, 5)), ("Gemm", {"transB": 1, "alpha": 0.5, "beta": 2.0}, (5, 12)), ("Gemm", {}, (12, 5))],
)
def test_dense_layers_are_close_to_float_with_many_centroids(op_type: str, attributes: dict, shape: tuple) -> None:
    x, weight = floats(40, 12), floats(*shape)
    tensors = {"w": weight} | ({"b": floats(5)} if op_type == "Gemm" else {})
    node = helper.make_node(op_type, ["x", *tensors], ["y"], name="fc", **attributes)
    proto = model([node], {"x": ["n", 12]}, {"y": ["n", 5]}, tensors)
    expected = run(proto, x)
    points = np.ascontiguousarray(x.reshape(40, 3, 4).transpose(1, 0, 2))  # every row is a centroid
    book = Codebook("fc", points, encode_dtype="float32", table_dtype="float32")
    prepared = prepare(proto)
    annotate(prepared, {"fc": book}, "net")
    np.testing.assert_allclose(run(prepared, x), expected, rtol=1e-4, atol=1e-4)
