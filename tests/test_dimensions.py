"""What may be written behind --dynamic NAME=."""

from __future__ import annotations

import pytest

from lutc.dimensions import Declared, declare
from lutc.errors import ModelImportError


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1..8", Declared("n", 1, 8)),
        ("2..40:8,40", Declared("n", 2, 40, (8, 40))),
        (" 1 .. 8 : 4, 1", Declared("n", 1, 8, (1, 4))),
        ("64,16", Declared("n", 16, 64, (16, 64), exact=True)),
        ([3], Declared("n", 3, 3, (3,), exact=True)),
    ],
)
def test_forms(text: str | list[int], wanted: Declared) -> None:
    assert declare({"n": text}) == [wanted]


@pytest.mark.parametrize(
    "text", ["", "..", "1..", "8..1", "0..3", "0", "1..8:", ":4", "1-8", "a..b", "1..8,9", "1,,2", "-1"]
)
def test_what_is_no_form(text: str) -> None:
    with pytest.raises(ModelImportError):
        declare({"n": text})


def test_sizes_that_are_chosen() -> None:
    assert Declared("n", 1, 128).chosen_sizes(independent=False) == (16, 32, 64, 128)
    assert Declared("n", 1, 100).chosen_sizes(independent=False) == (16, 32, 64, 100)
    assert Declared("n", 20, 50).chosen_sizes(independent=False) == (32, 50)
    assert Declared("n", 1, 7).chosen_sizes(independent=False) == (7,)
    assert Declared("n", 2, 9).chosen_sizes(independent=True) == (2,)
    assert Declared("n", 1, 9, (1, 4)).chosen_sizes(independent=True) == (1, 4)
    with pytest.raises(ModelImportError, match=r"1\.\.9:1,4,9"):
        Declared("n", 1, 9, (1, 4)).chosen_sizes(independent=False)
