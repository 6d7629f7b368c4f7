"""Small ONNX models for the importer tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, Sequence[int | str | None]],
    outputs: dict[str, Sequence[int | str | None]],
    tensors: dict[str, np.ndarray] | None = None,
    *,
    domains: dict[str, int] | None = None,
    functions: Sequence[onnx.FunctionProto] = (),
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (tensors or {}).items()],
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in ({"": 18} | (domains or {})).items()]
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)


def lut_tensors(
    rng: np.random.Generator, c: int, k: int, v: int, m: int, *, encode_dtype: str = "int8", bias: bool = True
) -> dict[str, np.ndarray]:
    """Constants of a layer under their argument names."""
    integer = encode_dtype == "int8"
    centroids = rng.integers(-127, 128, (c, k, v)).astype(np.int8) if integer else rng.standard_normal((c, k, v))
    tensors = {
        "centroids": centroids if integer else centroids.astype(np.float32),
        "table": rng.integers(-127, 128, (c, k, m)).astype(np.int8),
        "table_scale": rng.uniform(0.01, 0.1, m).astype(np.float32),
    }
    if bias:
        tensors["bias"] = rng.standard_normal(m).astype(np.float32)
    if integer:
        tensors["inv_scale"] = rng.uniform(20, 60, c).astype(np.float32)
        tensors["score_bias"] = rng.integers(-40000, 0, (c, k)).astype(np.int32)
    return tensors


def tree_tensors(
    rng: np.random.Generator, c: int, k: int, v: int, m: int, *, encode_dtype: str = "int8"
) -> dict[str, np.ndarray]:
    """The same for hash trees."""
    tensors = lut_tensors(rng, c, k, v, m, encode_dtype=encode_dtype)
    tensors = {name: value for name, value in tensors.items() if name not in ("centroids", "score_bias")}
    thresholds = rng.standard_normal((c, k - 1))
    tensors["split_dims"] = rng.integers(0, v, (c, k.bit_length() - 1)).astype(np.int32)
    tensors["split_thresholds"] = (np.rint(thresholds * 40) if encode_dtype == "int8" else thresholds).astype("float32")
    return tensors


def lut_node(name: str, x: str, y: str, tensors: dict[str, np.ndarray], **attributes: Any) -> onnx.NodeProto:
    """A LUTDense node, or LUTConv2d when kernel_shape is given; the constants are called NAME.argument."""
    order = (
        "centroids", "table", "table_scale", "bias", "inv_scale", "score_bias", "mult", "split_dims", "split_thresholds"
    )  # fmt: skip
    inputs = [x] + [f"{name}.{key}" if key in tensors else "" for key in order]
    while inputs[-1] == "":
        inputs.pop()
    kind = "LUTConv2d" if "kernel_shape" in attributes else "LUTDense"
    return helper.make_node(kind, inputs, [y], name=name, domain="lutc", **attributes)


def prefixed(name: str, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{name}.{key}": value for key, value in tensors.items()}


def lut_dense_model(tensors: dict[str, np.ndarray], d: int, m: int, **attributes: Any) -> onnx.ModelProto:
    return model(
        [lut_node("fc1", "x", "y", tensors, **attributes)],
        {"x": [2, d]},
        {"y": [2, m]},
        prefixed("fc1", tensors),
        domains={"lutc": 1},
    )
