"""Codebook files: round trip, equal bytes, integer form, and an error for everything that can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from lutc.errors import ModelImportError
from lutc.importers.codebooks import Codebook, Codebooks

RNG = np.random.default_rng(3)


METRIC = np.stack([np.eye(16, dtype=np.float32), 2 * np.eye(16, dtype=np.float32)])


def centroids(c: int = 3, k: int = 16, v: int = 4) -> np.ndarray:
    return RNG.standard_normal((c, k, v)).astype(np.float32)


def books() -> Codebooks:
    scale = np.array([10, 20, 30], np.float32)
    return Codebooks(
        [
            Codebook("layer1.0.conv", centroids(), scale, input_signed=False),
            Codebook("fc", centroids(2, 256, 16), None, encode_dtype="float32", table_dtype="float32", metric=METRIC),
        ]
    )


def test_round_trip(tmp_path: Path) -> None:
    saved = books()
    saved.save(tmp_path / "a.safetensors")
    loaded = Codebooks.load(tmp_path / "a.safetensors")
    assert list(loaded) == ["layer1.0.conv", "fc"]
    for name, codebook in saved.items():
        assert {k: v for k, v in vars(loaded[name]).items() if not isinstance(v, np.ndarray)} == {
            k: v for k, v in vars(codebook).items() if not isinstance(v, np.ndarray)
        }
        np.testing.assert_array_equal(loaded[name].centroids, codebook.centroids)
    np.testing.assert_array_equal(loaded["layer1.0.conv"].inv_scale, [10, 20, 30])
    np.testing.assert_array_equal(loaded["fc"].metric, METRIC)
    assert loaded["layer1.0.conv"].metric is None
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_equal_codebooks_give_equal_bytes(tmp_path: Path) -> None:
    same = books()
    for name in "abc":
        same.save(tmp_path / f"{name}.safetensors")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_another_reader_understands_the_file(tmp_path: Path) -> None:
    books().save(tmp_path / "a.safetensors")
    with safetensors.safe_open(tmp_path / "a.safetensors", framework="numpy") as file:
        assert file.metadata()["format"] == "lutc-codebooks"
        assert file.get_tensor("fc.centroids").shape == (2, 256, 16)


def test_integer_form() -> None:
    p = np.zeros((2, 2, 2), np.float32)
    p[0] = [[0.5, -1.0], [0.25, 0.125]]
    cq, inv_scale, score_bias = Codebook("a", p, np.array([64, 1], np.float32)).integer_form()
    assert cq.dtype == np.int8 and score_bias.dtype == np.int32
    # s = 127: 63.5 and 31.75 round to even, 64 and 32; 15.875 to 16
    assert cq[0].tolist() == [[64, -127], [32, 16]]
    norm = (64**2 + 127**2) / 127**2
    assert score_bias[0, 0] == np.rint(-0.5 * norm * 64 * 127)
    assert cq[1].tolist() == [[0, 0], [0, 0]] and score_bias[1].tolist() == [0, 0]
    assert inv_scale.tolist() == [64, 1]


def test_integer_form_chooses_the_closest_centroid() -> None:
    p = centroids(4, 16, 9)
    x = RNG.standard_normal((200, 4, 9)).astype(np.float32)
    cq, inv_scale, bias = Codebook("a", p, (127 / np.abs(x).max((0, 2))).astype(np.float32)).integer_form()
    xq = np.clip(np.rint(x * inv_scale[:, None]), -128, 127).astype(np.int32)
    codes = ((np.einsum("ncv,ckv->nck", xq, cq.astype(np.int32)) + bias) >> 4).argmax(-1)
    exact = ((x[:, :, None] - p) ** 2).sum(-1).argmin(-1)
    assert (codes == exact).mean() > 0.95


def test_integer_form_agrees_with_the_torch_layers() -> None:
    torch = pytest.importorskip("torch")
    from lutc.nn.codebook import integer_codebook

    p = centroids(5, 16, 9) * np.array([1e-3, 1, 30, 0, 1e-32], np.float32)[:, None, None]
    scale = np.array([0.1, 3, 77, 1, 1], np.float32)
    cq, _, bias = Codebook("a", p, scale).integer_form()
    expected = integer_codebook(torch.from_numpy(p), torch.from_numpy(scale))
    np.testing.assert_array_equal(cq, expected[0].numpy())
    np.testing.assert_array_equal(bias, expected[1].numpy())


@pytest.mark.parametrize("encode_dtype", ["int8", "int6", "float32"])
def test_with_a_metric_all_forms_find_what_is_closest_by_it(encode_dtype: str) -> None:
    p, x = centroids(), RNG.standard_normal((3, 400, 4)).astype(np.float32)
    root = RNG.standard_normal((3, 4, 4))
    metric = (root @ root.transpose(0, 2, 1)).astype(np.float32)
    difference = x[:, :, None].astype(np.float64) - p[:, None]
    distance = np.einsum("cnkv,cvw,cnkw->cnk", difference, metric.astype(np.float64), difference)
    if encode_dtype == "float32":
        pulls, bias = Codebook("a", p, encode_dtype="float32", metric=metric).float_form()
        assert bias is not None and pulls.dtype == bias.dtype == np.float32
        scores = x @ pulls.transpose(0, 2, 1) + bias[:, None]
    else:
        scale = (124 / np.abs(x).max((1, 2))).astype(np.float32)
        integers, _, bias = Codebook("a", p, scale, encode_dtype=encode_dtype, metric=metric).integer_form()
        scores = np.rint(x * scale[:, None, None]) @ integers.transpose(0, 2, 1).astype(np.float32) + bias[:, None]
    assert (scores.argmax(2) == distance.argmin(2)).mean() > {"float32": 0.999, "int8": 0.93, "int6": 0.8}[encode_dtype]
    assert (((x[:, :, None] - p[:, None]) ** 2).sum(-1).argmin(2) != distance.argmin(2)).mean() > 0.2


def test_float_codebook_has_no_integer_form() -> None:
    with pytest.raises(ValueError, match="no integer form"):
        Codebook("a", centroids(), encode_dtype="float32").integer_form()


ONES = np.ones(3, np.float32)
WRONG: dict[str, tuple[tuple, dict]] = {
    "float64": ((centroids().astype(np.float64), ONES), {}),
    "rank": ((centroids()[0], ONES), {}),
    "empty": ((centroids()[:, :, :0], ONES), {}),
    "one centroid": ((centroids(k=1), ONES), {}),
    "257 centroids": ((centroids(k=257), ONES), {}),
    "nan": ((np.full((3, 16, 4), np.nan, np.float32), ONES), {}),
    "inf": ((np.full((3, 16, 4), np.inf, np.float32), ONES), {}),
    "no inv_scale": ((centroids(),), {}),
    "inv_scale without int8": ((centroids(), ONES), {"encode_dtype": "float32"}),
    "inv_scale shape": ((centroids(), ONES[:2]), {}),
    "inv_scale zero": ((centroids(), 0 * ONES), {}),
    "inv_scale nan": ((centroids(), np.nan * ONES), {}),
    "encoder": ((centroids(), ONES), {"encoder": "hash"}),
    "metric float64": ((centroids(), ONES), {"metric": np.ones((3, 4, 4))}),
    "metric shape": ((centroids(), ONES), {"metric": np.ones((3, 4, 5), np.float32)}),
    "metric nan": ((centroids(), ONES), {"metric": np.full((3, 4, 4), np.nan, np.float32)}),
    "table_dtype": ((centroids(), ONES), {"table_dtype": "int4"}),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_values(case: str) -> None:
    args, options = WRONG[case]
    with pytest.raises(ModelImportError, match='codebook "fc" cannot be used') as caught:
        Codebook("fc", *args, **options)
    assert caught.value.reason and caught.value.fix and 'layer "fc"' in caught.value.where


def write(path: Path, tensors: dict[str, np.ndarray], **metadata: object) -> None:
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    path.write_bytes(safetensors.numpy.save(tensors, metadata=texts))


GOOD = {"encode_dtype": "float32", "encoder": "l2", "table_dtype": "int8", "input_signed": True}
HEAD = {"format": "lutc-codebooks", "format_version": "1"}
P = {"fc.centroids": centroids()}
FILES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.with_name("book.safetensors").write_bytes(b"x"),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(safetensors.numpy.save(P)[:90]),
    "garbage": lambda path: path.write_bytes(b"\xff" * 64),
    "weights": lambda path: write(path, P),
    "newer": lambda path: write(path, P, **HEAD | {"format_version": "2"}, config={"fc": GOOD}),
    "no-config": lambda path: write(path, P, **HEAD),
    "config-list": lambda path: write(path, P, **HEAD, config=[1]),
    "option-missing": lambda path: write(path, P, **HEAD, config={"fc": {"encoder": "l2"}}),
    "option-unknown": lambda path: write(path, P, **HEAD, config={"fc": GOOD | {"extra": 1}}),
    "stray-tensor": lambda path: write(path, P | {"conv.centroids": centroids()}, **HEAD, config={"fc": GOOD}),
    "missing-tensor": lambda path: write(path, P, **HEAD, config={"fc": GOOD, "conv": GOOD}),
    "bad-values": lambda path: write(path, {"fc.centroids": centroids(k=1)}, **HEAD, config={"fc": GOOD}),
}


@pytest.mark.parametrize("case", FILES)
def test_files(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, golden: Callable[[str, str], None]) -> None:
    monkeypatch.chdir(tmp_path)
    FILES[case](Path("books.safetensors"))
    with pytest.raises(ModelImportError) as caught:
        Codebooks.load("books.safetensors")
    golden(str(caught.value), f"importers/codebooks-{case}.txt")


def test_save_into_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelImportError, match="cannot write"):
        books().save(tmp_path / "no" / "a.safetensors")


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        books().save(path)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_check_layers(golden: Callable[[str, str], None]) -> None:
    books().check_layers(["stem", "fc", "layer1.0.conv"])
    with pytest.raises(ModelImportError) as caught:
        books().check_layers(["stem", "layer1.0.conv1", "classifier"])
    golden(str(caught.value), "importers/codebooks-unknown-layers.txt")
