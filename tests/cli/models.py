"""Small ONNX models for tests of the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def save_float_model(path: Path, *, batch: int | str = 1) -> Path:
    """conv1 (3x3, 3 -> 4), relu, flatten, fc (256 -> 10) on x float32[batch, 3, 8, 8]."""
    import onnx
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((4, 3, 3, 3), np.float32),
        "b1": rng.standard_normal(4, np.float32),
        "w2": rng.standard_normal((10, 256), np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"], name="relu"),
        helper.make_node("Flatten", ["r"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "w2"], ["y"], name="fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", 1, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("y", 1, [batch, 10])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def save_annotated_model(path: Path) -> Path:
    """One LUTDense node named "head": 8 -> 5 in C = 2 codebooks of K = 16 centroids, V = 4; float32 encode."""
    import onnx
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(1)
    constants = {
        "centroids": rng.standard_normal((2, 16, 4), np.float32),
        "table": rng.integers(-127, 128, (2, 16, 5)).astype(np.int8),
        "table_scale": np.full(5, 0.01, np.float32),
    }
    node = helper.make_node(
        "LUTDense", ["x", *constants], ["y"], name="head", domain="lutc", encode_dtype="float32", encoder="l2",
        input_signed=1,
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "net",
        [helper.make_tensor_value_info("x", 1, [2, 8])],
        [helper.make_tensor_value_info("y", 1, [2, 5])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("lutc", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path
