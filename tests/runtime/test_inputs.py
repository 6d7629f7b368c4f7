from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from lutc.errors import InputError
from lutc.runtime.inputs import check_inputs


@dataclass
class _Spec:
    name: str
    dtype: str = "float32"
    shape: list[int] = field(default_factory=lambda: [1, 3])


_ONE, _TWO = [_Spec("image")], [_Spec("image"), _Spec("mask", "int64", [2])]


def test_single_value_and_names() -> None:
    x = np.ones((1, 3), "float32")
    assert check_inputs(x, _ONE, "m")[0] is x
    mask = np.ones(2, "int64")
    first, second = check_inputs({"mask": mask, "image": x}, _TWO, "m")  # in the model's order, not the dict's
    assert first is x and second is mask


def test_values_are_not_looked_at() -> None:
    x = np.array([[np.nan, np.inf, -np.inf]], "float32")
    assert check_inputs(x, _ONE, "m")[0] is x


@pytest.mark.parametrize(
    ("given", "specs", "message", "reason", "fix"),
    [
        (np.ones((1, 3)), _ONE, "wrong dtype", "expected float32, given float64", "astype('float32')"),
        (np.ones(3, "f4"), _ONE, "wrong shape", "expected [1, 3], given [3]", "x[None]"),
        (np.ones((3, 1), "f4"), _ONE, "wrong shape", "given [3, 1]", "transpose"),
        (np.ones((8, 3), "f4"), _ONE, "wrong shape", "given [8, 3]", "batches of 1"),
        (np.ones((2, 7, 3), "f4"), _ONE, "wrong shape", "given [2, 7, 3]", "shape [1, 3]"),
        ({"imag": 0}, _ONE, "unknown input 'imag'", "are 'image'", "did you mean 'image'?"),
        ({"image": np.ones((1, 3), "f4")}, _TWO, "missing input 'mask'", "given 'image'", "add 'mask'"),
        ({}, _ONE, "missing input 'image'", "given nothing", "add 'image'"),
        (np.ones((1, 3), "f4"), _TWO, "by name", "2 inputs", "{'image': ..., 'mask': ...}"),
        ([[1, 2], [3]], _ONE, "cannot be read", "", "numpy array"),
    ],
)
def test_mistakes(given: Any, specs: list[_Spec], message: str, reason: str, fix: str) -> None:
    with pytest.raises(InputError) as caught:
        check_inputs(given, specs, "model.lutc")
    assert message in caught.value.message and caught.value.where == "model.lutc"
    assert reason in caught.value.reason
    assert fix in caught.value.fix
