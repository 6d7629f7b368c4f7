"""How an operator is written, and which are in the suite."""

from __future__ import annotations

import pytest

from lutc.benchmark.operators import Operator, operator_suite, parse_operator
from lutc.errors import InputError

_NAMES = """
conv 64->64 3x3 @56
conv 128->128 3x3 @28
conv 256->256 3x3 @14
conv 512->512 3x3 @7
conv 64->128 3x3 @112
conv 128->256 3x3 @56
conv 256->512 3x3 @28
conv 512->512 3x3 @14
conv 64->128 1x1/2 @56
conv 128->256 1x1/2 @28
conv 256->512 1x1/2 @14
dense 128x768->768 V16
dense 128x768->3072 V16
dense 128x3072->768 V16
dense 128x768->768 V32
dense 128x768->3072 V32
dense 128x3072->768 V32
dense 1x768->768 V16
dense 1x768->3072 V16
dense 1x3072->768 V16
conv 64->64 3x3 @56 float32
conv 512->512 3x3 @7 float32
"""


def test_suite() -> None:
    suite = operator_suite()
    assert [operator.name for operator in suite] == _NAMES.split("\n")[1:-1]
    assert {operator.num_centroids for operator in suite} == {16}
    lengths = {(o.is_conv, o.kernel_shape): o.subvector_len for o in suite if o.is_conv}
    assert lengths == {(True, (3, 3)): 9, (True, (1, 1)): 4}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("conv2d 64x56x56 -> 64 3x3", Operator("conv2d", 64, 64, (56, 56), kernel_shape=(3, 3), subvector_len=9)),
        ("conv2d 64x56x40->128 1x1 s2", Operator("conv2d", 64, 128, (56, 40), stride=2, subvector_len=4)),
        (
            "  conv2d  3x20x20 -> 8  5x3  s2  d3 ",
            Operator("conv2d", 3, 8, (20, 20), kernel_shape=(5, 3), stride=2, dilation=3, subvector_len=15),
        ),
        ("dense 128x768 -> 3072", Operator("dense", 768, 3072, rows=128, subvector_len=16)),
    ],
)
def test_grammar(text: str, expected: Operator) -> None:
    assert parse_operator(text) == expected


def test_options() -> None:
    found = parse_operator("dense 4x32 -> 8", num_centroids=64, subvector_len=5, encode_dtype="float32")
    assert (found.num_centroids, found.subvector_len, found.encode_dtype) == (64, 5, "float32")
    assert found.num_codebooks == 7 and found.name == "dense 4x32->8 V5 float32"


def test_shapes() -> None:
    same = parse_operator("conv2d 3x20x30 -> 8 3x3 d2")
    assert same.pads == (2, 2, 2, 2) and same.output_shape == (1, 8, 20, 30) and same.name == "conv 3->8 3x3 d2 @20x30"
    half = parse_operator("conv2d 64x56x56 -> 128 1x1 s2")
    assert half.output_shape == (1, 128, 28, 28) and half.positions == 784 and half.num_codebooks == 16
    assert parse_operator("dense 5x7 -> 3").output_shape == (5, 3)


@pytest.mark.parametrize(
    ("name", "text", "options"),
    [
        ("no-operator", "conv2d 64x56 -> 64 3x3", {}),
        ("other-operator", "matmul 64x64", {}),
        ("negative", "dense 1x-3 -> 4", {}),
        ("zero", "dense 0x768 -> 3072", {}),
        ("too-large-kernel", "conv2d 3x1x1 -> 4 2x2", {}),
        ("too-large", "dense 1000000x100000 -> 4", {}),
        ("too-many-centroids", "dense 1x16 -> 4", {"num_centroids": 257}),
        ("no-subvector", "dense 1x16 -> 4", {"subvector_len": 0}),
    ],
)
def test_mistakes(golden, name: str, text: str, options: dict) -> None:
    with pytest.raises(InputError) as caught:
        parse_operator(text, **options)
    golden(f"error: {caught.value}", f"benchmark/operator-{name}.txt")
