"""The numbers in an operator, its compiled kernels, and that a wrong result is caught before it is timed."""

from __future__ import annotations

import numpy as np
import pytest

from lutc.benchmark.operator_layer import make_layer
from lutc.benchmark.operators import parse_operator
from lutc.errors import VerifyError
from tests import oracle

pytest.importorskip("tvm")

_OPERATORS = [
    ("conv2d 5x9x7 -> 6 3x3", {}),
    ("conv2d 6x9x9 -> 8 1x1 s2", {}),
    ("conv2d 3x11x11 -> 5 5x5 d2", {"encode_dtype": "float32"}),
    ("dense 20x24 -> 9", {}),
    ("dense 1x40 -> 12", {"num_centroids": 32, "subvector_len": 7}),
    ("dense 3x16 -> 4", {"subvector_len": 4, "encode_dtype": "float32"}),
    ("conv2d 5x9x7 -> 6 3x3", {"encoder": "tree"}),
    ("dense 20x24 -> 9", {"encoder": "tree", "num_centroids": 8, "encode_dtype": "float32"}),
]


@pytest.mark.parametrize(("text", "options"), _OPERATORS)
def test_kernels_compute_the_layer(text: str, options: dict) -> None:
    from lutc.benchmark.operator_kernels import OperatorKernels
    from lutc.targets import parse_target

    layer = make_layer(parse_operator(text, **options))
    kernels = OperatorKernels(layer, parse_target("native"))
    kernels()
    y = kernels.result()
    layer.check(y)
    o, lut = layer.operator, layer.lut
    constants = {"centroids": None} | {name: value for name, value in lut.constants.items() if value is not None}
    call = oracle.conv2d if o.is_conv else oracle.dense
    expected, _ = call(
        layer.x, **constants, **lut.geometry, encoder=lut.encoder, encode_dtype=lut.encode_dtype,
        input_signed=lut.input_signed, subvector_len=lut.subvector_len,
    )  # fmt: skip
    assert y.shape == o.output_shape and y.dtype == np.float32
    np.testing.assert_allclose(y, np.maximum(expected, 0), rtol=1e-4, atol=1e-4)
    assert kernels.names[-1].startswith("lut_lookup") and kernels.table_traffic > 0


@pytest.mark.parametrize(("text", "options"), _OPERATORS)
def test_a_wrong_result_is_caught(text: str, options: dict) -> None:
    layer = make_layer(parse_operator(text, **options))
    with pytest.raises(VerifyError, match="is wrong"):
        layer.check(np.zeros(layer.operator.output_shape, np.float32))


def test_one_wrong_row_is_caught() -> None:
    layer = make_layer(parse_operator("dense 5x16 -> 4"))
    y = layer._expected(layer.x)
    layer.check(y)
    y[3, 2] += 1
    with pytest.raises(VerifyError, match="1 of 5 rows"):
        layer.check(y)


def test_the_table_is_near_the_float_layer() -> None:
    """k-means codebooks, so that codes and sums are those of a real layer and not of noise."""
    layer = make_layer(parse_operator("dense 200x32 -> 64", subvector_len=4))
    exact = np.maximum(layer.x @ layer.weight.T + layer.bias, 0)
    assert 0.7 < np.corrcoef(layer._expected(layer.x).ravel(), exact.ravel())[0, 1] < 1


def test_the_same_seed_gives_the_same_layer() -> None:
    operator = parse_operator("conv2d 4x6x6 -> 3 3x3")
    one, same, other = (make_layer(operator, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.lut.constants["table"], same.lut.constants["table"])
    assert (one.x == same.x).all() and not (one.x == other.x).all()
    assert one.x.min() == 0 < one.x.max()  # behind a relu
