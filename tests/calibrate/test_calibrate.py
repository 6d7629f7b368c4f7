"""Codebooks from a float model and sample inputs."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from lutc.calibrate import calibrate, calibrate_file
from lutc.config import LUTConfig
from lutc.errors import InputError, LoweringError, LutcError, ModelImportError
from lutc.importers.codebooks import Codebook, Codebooks
from tests import oracle
from tests.calibrate.nets import attention, cnn, floats
from tests.importers.models import model

IMAGES = floats(20, 3, 8, 10)


def test_layers_and_shapes() -> None:
    books = calibrate(cnn(), {"x": IMAGES})
    assert {name: book.centroids.shape for name, book in books.items()} == {
        "conv1": (8, 16, 9),
        "down": (2, 16, 4),
        "fc": (1, 16, 16),
    }
    assert not books["conv1"].input_signed and books["fc"].input_signed  # after the relu; after a sum
    assert all(book.encode_dtype == book.table_dtype == "int8" for book in books.values())


def test_scales_map_the_range_onto_8_bits() -> None:
    from onnx.reference import ReferenceEvaluator

    proto = cnn()
    proto.graph.output.extend(helper.make_tensor_value_info(name, 1, None) for name in ("r0", "m"))
    _, relu, mean = ReferenceEvaluator(proto).run(None, {"x": IMAGES})
    books = calibrate(cnn(), IMAGES)
    np.testing.assert_allclose(books["conv1"].inv_scale, 255 / relu.max((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(books["down"].inv_scale, 255 / relu.max((0, 2, 3)).reshape(2, 4).max(1), rtol=1e-5)
    np.testing.assert_allclose(books["fc"].inv_scale, 127 / np.abs(mean).max(), rtol=1e-5)


def test_float32_encode() -> None:
    config = LUTConfig(num_centroids=32, subvector_len=12, encode_dtype="float32", table_dtype="float32")
    book = calibrate(attention(), floats(4, 6, 24), config)["query"]
    assert book.centroids.shape == (2, 32, 12) and book.inv_scale is None
    assert (book.encode_dtype, book.table_dtype) == ("float32", "float32")


@pytest.mark.parametrize("encode_dtype", ["int8", "int6", "float32"])
def test_outputs_are_closer_than_with_euclidean_distances(encode_dtype: str) -> None:
    """Inputs that vary most where the weights are smallest; two layers read them, and share one codebook."""
    sizes = np.tile(np.logspace(-0.5, 0.5, 8), 2).astype(np.float32)
    x, weights = floats(600, 16) * sizes, {name: floats(16, 5) / sizes[:, None] for name in ("v", "w")}
    nodes = [helper.make_node("MatMul", ["x", name], [f"y_{name}"], name=f"fc_{name}") for name in weights]
    proto = model(nodes, {"x": ["n", 16]}, {f"y_{name}": ["n", 5] for name in weights}, weights)
    errors = {}
    for metric in ("inputs", "outputs"):
        books = calibrate(proto, x, LUTConfig(16, 8, encode_dtype=encode_dtype, metric=metric))
        first, second = books.values()
        np.testing.assert_array_equal(first.centroids, second.centroids)
        assert (first.metric is None) == (metric == "inputs")
        codes = codes_of(first, x)
        rows = np.concatenate([first.centroids[c, codes[:, c]] for c in range(2)], 1)
        errors[metric] = sum(float((((rows - x) @ w) ** 2).mean()) for w in weights.values())
    assert errors["outputs"] < 0.8 * errors["inputs"], errors


def codes_of(book: Codebook, x: np.ndarray) -> np.ndarray:
    """Codes [N, C], as any runtime finds them."""
    if book.inv_scale is None:
        (centroids, bias), inv_scale = book.float_form(), None
    else:
        centroids, inv_scale, bias = book.integer_form()
    table, scale = np.zeros((*centroids.shape[:2], 1), np.int8), np.ones(1, np.float32)
    options = {"encode_dtype": book.encode_dtype, "input_signed": book.input_signed}
    return oracle.dense(x, centroids, table, scale, None, inv_scale, bias, **options)[1]


def test_centroids_are_near_the_inputs() -> None:
    x = floats(64, 24)
    weight = floats(24, 5)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")]
    proto = model(nodes, {"x": ["n", 24]}, {"y": ["n", 5]}, {"w": weight})
    book = calibrate(proto, x, LUTConfig(num_centroids=64, subvector_len=4))["fc"]
    subvectors = x.reshape(64, 6, 4)
    nearest = ((subvectors[:, :, None] - book.centroids) ** 2).sum(-1).min(-1)
    assert nearest.max() < 1e-6  # as many centroids as rows: every row is one


def test_layers_that_read_one_tensor_share_codebooks() -> None:
    books = calibrate(attention(), floats(8, 6, 24))
    assert list(books) == ["query", "key"]
    np.testing.assert_array_equal(books["query"].centroids, books["key"].centroids)


def test_same_seed_same_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        calibrate(cnn(), IMAGES, seed=4).save(tmp_path / name)
    calibrate(cnn(), IMAGES, seed=5).save(tmp_path / "c")
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


def test_without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    with_it = calibrate(cnn(), IMAGES)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "onnxruntime":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    without = calibrate(cnn(), IMAGES)
    np.testing.assert_allclose(without["conv1"].inv_scale, with_it["conv1"].inv_scale, rtol=1e-5)


@pytest.mark.parametrize("batch", [1, 3, "n"])
def test_batch_sizes_see_all_samples(batch: int | str) -> None:
    data = IMAGES.copy()
    data[-1] *= 10  # the largest values are in the last sample
    expected = calibrate(cnn(20), data)["conv1"].inv_scale
    np.testing.assert_allclose(calibrate(cnn(batch), data)["conv1"].inv_scale, expected, rtol=1e-5)


def test_layers_and_keep_float() -> None:
    assert list(calibrate(cnn(), IMAGES, layers=["stem", "f*"])) == ["stem", "fc"]
    assert list(calibrate(cnn(), IMAGES, keep_float=["conv*"])) == ["down", "fc"]


def test_progress_tells_what_stays_float() -> None:
    told: list[tuple[str, str]] = []
    calibrate(cnn(), IMAGES, progress=lambda phase, message, seconds: told.append((phase, message)))
    assert [phase for phase, _ in told] == ["layers", "inputs", "k-means"]
    assert told[0][1] == "3 of 5 can become lookup tables; depthwise, stem stay float"


def test_samples(tmp_path: Path) -> None:
    data = IMAGES.copy()
    data[10:] = np.nan
    assert calibrate(cnn(), data, samples=10)["fc"].num_centroids == 16


def test_file(tmp_path: Path) -> None:
    onnx.save(cnn(), tmp_path / "net.onnx")
    np.savez(tmp_path / "x.npz", x=IMAGES, labels=np.zeros(20))
    np.save(tmp_path / "x.npy", IMAGES)
    out = tmp_path / "books.safetensors"
    books = calibrate_file(tmp_path / "net.onnx", tmp_path / "x.npz", out)
    np.testing.assert_array_equal(Codebooks.load(out)["fc"].centroids, books["fc"].centroids)
    first = out.read_bytes()
    with pytest.raises(ModelImportError, match="cannot write") as caught:
        calibrate_file(tmp_path / "net.onnx", tmp_path / "x.npy", out)
    assert "exists" in caught.value.reason
    calibrate_file(tmp_path / "net.onnx", tmp_path / "x.npy", out, overwrite=True)
    assert out.read_bytes() == first


def _no_layers() -> onnx.ModelProto:
    return model([helper.make_node("MatMul", ["x", "x"], ["y"], name="square")], {"x": [3, 3]}, {"y": [3, 3]})


def _diverges() -> onnx.ModelProto:
    nodes = [helper.make_node("Log", ["x"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"], name="fc")]
    return model(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, {"w": floats(4, 4)})


def _nan(at: int) -> np.ndarray:
    data = IMAGES.copy()
    data[at, 0, 0, 0] = np.nan
    return data


BAD: dict[str, tuple[type[LutcError], Callable[[], object]]] = {
    "no-such-input": (InputError, lambda: calibrate(cnn(), {"image": IMAGES, "label": np.zeros(20)})),
    "nan": (InputError, lambda: calibrate(cnn(), _nan(7))),
    "bytes": (InputError, lambda: calibrate(cnn(), np.zeros((4, 3, 8, 10), np.uint8))),
    "other-size": (InputError, lambda: calibrate(cnn(), np.zeros((4, 3, 8, 8), np.float32))),
    "one-image": (InputError, lambda: calibrate(cnn(), IMAGES[0])),
    "no-samples": (InputError, lambda: calibrate(cnn(), IMAGES[:0])),
    "too-few": (InputError, lambda: calibrate(cnn(32), IMAGES)),
    "no-layers": (LoweringError, lambda: calibrate(_no_layers(), np.zeros((3, 3), np.float32))),
    "unknown-pattern": (LoweringError, lambda: calibrate(cnn(), IMAGES, layers=["conv2"])),
    "all-kept": (LoweringError, lambda: calibrate(cnn(), IMAGES, keep_float=["*"])),
    "diverges": (InputError, lambda: calibrate(_diverges(), -np.ones((8, 4), np.float32))),
}


@pytest.mark.parametrize("case", BAD)
def test_errors(case: str, golden: Callable[[str, str], None]) -> None:
    kind, action = BAD[case]
    with pytest.raises(kind) as caught:
        action()
    golden(str(caught.value), f"calibrate/{case}.txt")


def test_the_given_model_is_not_changed() -> None:
    proto = cnn()
    before = proto.SerializeToString(deterministic=True)
    calibrate(proto, IMAGES)
    assert proto.SerializeToString(deterministic=True) == before
