"""torch.ops.lutc under torch's own checks, and its shapes under tracing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lutc.config import LUTConfig
from lutc.nn import LUTConv2d, LUTLinear
from lutc.nn.tree_walk import integer_thresholds
from tests import oracle


def test_dense_passes_torch_opcheck():
    layer = LUTLinear(10, 3, config=LUTConfig(4, 4))
    arguments = (torch.randn(2, 10), *layer.constants().values(), *layer.attributes().values())
    torch.library.opcheck(torch.ops.lutc.lut_dense.default, arguments)


def test_conv2d_passes_torch_opcheck():
    layer = LUTConv2d(2, 3, (3, 2), 2, (1, 0), config=LUTConfig(4, 4, encode_dtype="float32"))
    arguments = (torch.randn(2, 2, 7, 6), *layer.constants().values(), *layer.attributes().values())
    torch.library.opcheck(torch.ops.lutc.lut_conv2d.default, arguments)


def tree_tensors(length: int, codebooks: int, levels: int, *, integer: bool) -> dict[str, torch.Tensor]:
    tensors = {
        "table": torch.randint(-127, 128, (codebooks, 2**levels, 5), dtype=torch.int8),
        "table_scale": torch.rand(5),
        "bias": torch.randn(5),
        "split_dims": torch.randint(length, (codebooks, levels), dtype=torch.int32),
        "split_thresholds": torch.randn(codebooks, 2**levels - 1),
    }
    if integer:
        tensors["inv_scale"] = 40 * torch.rand(codebooks) + 20
        tensors["split_thresholds"] = integer_thresholds(tensors["split_thresholds"], tensors["inv_scale"], True)
    tensors["split_thresholds"][0, 0] = torch.nan
    return tensors


def every(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor | None]:
    return {name: tensors.get(name) for name in ("centroids", "inv_scale", "score_bias", "mult")} | tensors


@pytest.mark.parametrize("integer", [True, False])
@pytest.mark.parametrize("levels", [1, 4, 8])
def test_trees_equal_the_oracle(integer: bool, levels: int):
    torch.manual_seed(0)
    options = {"encode_dtype": "int8" if integer else "float32", "encoder": "tree", "input_signed": True}
    x, tensors = torch.randn(3, 4, 10), tree_tensors(4, 3, levels, integer=integer)
    x[0, 0, 3] = torch.nan
    y = torch.ops.lutc.lut_dense(x, **every(tensors), **options, subvector_len=4, layer="")
    arrays = {name: None if t is None else t.numpy() for name, t in every(tensors).items()}
    expected = oracle.dense(x.numpy(), **arrays, **options, subvector_len=4)[0]
    np.testing.assert_array_equal(y.numpy(), expected)

    geometry = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 2], "dilations": [1, 2]}
    x = torch.randn(2, 4, 7, 6)
    tensors = tree_tensors(12, 2, levels, integer=integer)
    y = torch.ops.lutc.lut_conv2d(x, **every(tensors), **geometry, **options, subvector_len=12, layer="")
    arrays = {name: None if t is None else t.numpy() for name, t in every(tensors).items()}
    expected = oracle.conv2d(x.numpy(), **arrays, **geometry, **options, subvector_len=12)[0]
    np.testing.assert_array_equal(y.numpy(), expected)


def test_trees_pass_torch_opcheck():
    options = {"encode_dtype": "int8", "encoder": "tree", "input_signed": True, "layer": "", "subvector_len": 4}
    tensors = every(tree_tensors(4, 3, 2, integer=True))
    torch.library.opcheck(torch.ops.lutc.lut_dense.default, (torch.randn(2, 10),), tensors | options)


def test_integer_thresholds_split_where_the_float_ones_do():
    inv_scale = torch.tensor([10.0])
    t = torch.tensor([[0.32, 0.5, -0.35, 100.0, -100.0, torch.nan, torch.inf, -torch.inf]])
    assert integer_thresholds(t, inv_scale, True).tolist() == [[4, 5, -3, 128, -128, 128, 128, -128]]
    assert integer_thresholds(t, inv_scale, False).tolist() == [[4, 5, 0, 256, 0, 256, 256, 0]]
