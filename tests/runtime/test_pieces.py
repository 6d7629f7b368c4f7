"""Runs of any size are cut into calls that there is code for, padded where that is allowed, and put together again."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lutc.artifact.manifest import Dimension, Manifest, ShapeCode, Source, TargetInfo, TensorSpec
from lutc.errors import InputError
from lutc.runtime.pieces import Piece, plan
from lutc.runtime.sizes import some_sizes, specs_at


def manifest(*dimensions: Dimension) -> Manifest:
    """A model whose outputs are its input, its input's first column, and a constant."""
    names = [dimension.name for dimension in dimensions]
    shapes = [
        ShapeCode(sizes=dict(zip(names, sizes, strict=True)), library="x".join(map(str, sizes)), constants=[])
        for sizes in itertools.product(*(d.sizes for d in dimensions))
    ]
    largest = [dimension.sizes[-1] for dimension in dimensions]
    target = TargetInfo(name="t", arch="x86_64", triple="x", cpu="c", attrs=[], requires=[])
    return Manifest(
        name="m", versions={}, source=Source(file="f", sha256="0"), target=target, layers=[],
        inputs=[TensorSpec("x", "float32", [*largest, 3], [*names, ""])],
        outputs=[
            TensorSpec("same", "float32", [*largest, 3], [*names, ""]),
            TensorSpec("first", "float32", [largest[0], 3], [names[0], ""]),
            TensorSpec("fixed", "float32", [2]),
        ],
        dimensions=list(dimensions), shapes=shapes,
    )  # fmt: skip


def call(piece: Piece) -> list[np.ndarray]:
    """What the model's code returns, after a look at what it is given."""
    x, *masks = piece.arrays
    assert piece.library == "x".join(str(part.size) for part in piece.parts.values())
    assert x.shape[:-1] == tuple(part.size for part in piece.parts.values())
    for mask, part in zip(masks, [part for name, part in piece.parts.items() if name == "length"], strict=True):
        assert (mask[: part.count] == 0).all() and (mask[part.count :] == -np.inf).all()
        assert (x[:, part.count :] == x[:, part.count - 1 : part.count]).all()
    return [x, x[:, 0], np.array([1, 2], np.float32)]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_outputs_are_those_of_one_run(data: st.DataObject) -> None:
    highest = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 40)))
    batches = data.draw(st.lists(st.integers(1, highest[0]), min_size=1, max_size=3, unique=True))
    lengths = {*data.draw(st.lists(st.integers(1, highest[1]), max_size=3)), highest[1]}
    model = manifest(
        Dimension(name="batch", lowest=1, highest=highest[0], sizes=sorted(batches), handling="split"),
        Dimension(name="length", lowest=1, highest=highest[1], sizes=sorted(lengths), handling="pad"),
    )
    x = np.random.default_rng(0).random((*(data.draw(st.integers(1, h)) for h in highest), 3), np.float32)
    todo = plan(x, model, "here")
    outputs = todo.join([call(piece) for piece in todo.pieces])
    np.testing.assert_array_equal(outputs["same"], x)
    np.testing.assert_array_equal(outputs["first"], x[:, 0])
    np.testing.assert_array_equal(outputs["fixed"], [1, 2])


def test_the_fewest_entries_are_computed() -> None:
    split = Dimension(name="batch", lowest=1, highest=20, sizes=[1, 4], handling="split")
    pad = Dimension(name="length", lowest=1, highest=16, sizes=[8, 16], handling="pad")
    todo = plan(np.zeros((11, 8, 3), np.float32), manifest(split, pad), "here")
    assert [piece.library for piece in todo.pieces] == ["4x8", "4x8", "1x8", "1x8", "1x8"]


def test_sizes_of_random_inputs() -> None:
    model = manifest(
        Dimension(name="batch", lowest=2, highest=5, sizes=[2], handling="split"),
        Dimension(name="length", lowest=3, highest=7, sizes=[3, 7], handling="exact"),
    )
    drawn = [some_sizes(model, seed) for seed in range(30)]
    assert {sizes["batch"] for sizes in drawn} == {2, 3, 4, 5} and {sizes["length"] for sizes in drawn} == {3, 7}
    assert [spec.shape for spec in specs_at(model, {"batch": 4})] == [[4, 7, 3]]
    for sizes in ({"batch": 6}, {"length": 4}, {"width": 1}):
        with pytest.raises(InputError):
            specs_at(model, sizes)
