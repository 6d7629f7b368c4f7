"""The worked examples of docs/ops, by the oracle and by torch.ops.lutc."""

from __future__ import annotations

import numpy as np
import torch

import lutc.nn  # noqa: F401  (registers torch.ops.lutc)
from tests import oracle


def f32(values: object) -> np.ndarray:
    return np.array(values, np.float32)


def test_lut_dense():
    x = f32([[1, 0, 5]])
    arrays = {
        "centroids": f32([[[0, 0], [1, 1]], [[4, 0], [6, 0]]]),
        "table": np.array([[[10], [20]], [[3], [-7]]], np.int8),
        "table_scale": f32([0.5]),
        "bias": f32([1]),
    }
    y, codes = oracle.dense(x, **arrays)
    assert codes.tolist() == [[0, 0]]
    assert y.tolist() == [[7.5]]
    tensors = [torch.from_numpy(a) for a in (x, *arrays.values())]
    assert torch.ops.lutc.lut_dense(*tensors, None, None, None, "float32", "l2", True, "").tolist() == [[7.5]]

    trees = {
        "split_dims": np.array([[1], [0]], np.int32),
        "split_thresholds": f32([[0], [5.5]]),
        "subvector_len": 2,
        "encoder": "tree",
    }
    y, codes = oracle.dense(x, **arrays | {"centroids": None}, **trees)
    assert codes.tolist() == [[1, 0]]
    assert y.tolist() == [[12.5]]


def test_lut_conv2d():
    x = f32([[[[1, 2], [3, 4]]]])
    arrays = {
        "centroids": f32([[[1, 2], [4, 0]]]),
        "table": np.array([[[5], [-1]]], np.int8),
        "table_scale": f32([2]),
    }
    geometry = {"kernel_shape": [1, 2], "strides": [1, 1], "pads": [0, 0, 0, 1], "dilations": [1, 1]}
    y, codes = oracle.conv2d(x, **arrays, **geometry)
    assert codes[0, :, :, 0].tolist() == [[0, 1], [0, 1]]
    assert y.tolist() == [[[[10, -2], [10, -2]]]]
    tensors = [torch.from_numpy(a) for a in (x, *arrays.values())]
    absent = [None] * 4
    got = torch.ops.lutc.lut_conv2d(*tensors, *absent, *geometry.values(), "float32", "l2", True, "")
    assert got.tolist() == y.tolist()
