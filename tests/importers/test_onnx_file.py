"""Files that cannot be read, each with its own error; external data that stays beside the model."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

from lutc.errors import ModelImportError
from lutc.importers import import_model
from lutc.importers.onnx_file import load_onnx, read_onnx, without_large_tensors
from tests.importers.models import model


def proto() -> onnx.ModelProto:
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    return model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [1, 64]}, {"y": [1, 64]}, {"w": weight})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, so that messages hold short paths."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def external(folder: Path) -> Path:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto())
    convert_model_to_external_data(copy, location="net.data", size_threshold=0)
    onnx.save(copy, folder / "net.onnx")
    return folder / "net.onnx"


def point_to(path: Path, location: str) -> None:
    edited = onnx.load(path, load_external_data=False)
    edited.graph.initializer[0].external_data[0].value = location
    path.write_bytes(edited.SerializeToString())


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def missing(folder: Path) -> None:
    (folder / "resnet20.onnx").write_bytes(b"x")


BAD: dict[str, Callable[[Path], object]] = {
    "missing": missing,
    "folder": lambda f: (f / "resnet2.onnx").mkdir(),
    "empty": lambda f: (f / "resnet2.onnx").write_bytes(b""),
    "text": lambda f: (f / "resnet2.onnx").write_text("<html>404</html>"),
    "truncated": lambda f: (onnx.save(proto(), f / "resnet2.onnx"), cut(f / "resnet2.onnx", 900)),
    "no-graph": lambda f: (f / "resnet2.onnx").write_bytes(onnx.ModelProto(ir_version=8).SerializeToString()),
}


@pytest.mark.parametrize("case", BAD)
def test_unreadable_files(case: str, folder: Path, golden: Callable[[str, str], None]) -> None:
    BAD[case](folder)
    with pytest.raises(ModelImportError) as caught:
        load_onnx("resnet2.onnx")
    golden(str(caught.value), f"importers/file-{case}.txt")


def test_other_suffix(folder: Path) -> None:
    (folder / "net.pth").write_bytes(b"PK")
    with pytest.raises(ModelImportError, match=r"cannot read the model") as caught:
        import_model("net.pth")
    assert ".onnx or .pt2" in caught.value.reason


def test_external_data(folder: Path) -> None:
    path = external(folder)
    loaded, digest = read_onnx(path)
    np.testing.assert_array_equal(
        onnx.numpy_helper.to_array(loaded.graph.initializer[0]),
        onnx.numpy_helper.to_array(proto().graph.initializer[0]),
    )
    (folder / "net.data").write_bytes(bytes(64 * 64 * 4))
    assert read_onnx(path)[1] != digest


@pytest.mark.parametrize("location", ["../net.data", "/etc/passwd", "", ".", "a/../../net.data"])
def test_external_data_outside_the_folder(location: str, folder: Path) -> None:
    inside = folder / "sub"
    inside.mkdir()
    path = external(inside)
    point_to(path, location)
    with pytest.raises(ModelImportError, match="not beside it"):
        load_onnx(path)


def test_external_data_through_a_link(folder: Path) -> None:
    inside = folder / "sub"
    inside.mkdir()
    path = external(inside)
    os.replace(inside / "net.data", folder / "net.data")
    (inside / "net.data").symlink_to(folder / "net.data")
    with pytest.raises(ModelImportError, match="not beside it"):
        load_onnx(path)


@pytest.mark.parametrize("size", [None, 100])
def test_external_data_missing_or_short(size: int | None, folder: Path, golden: Callable[[str, str], None]) -> None:
    external(folder)
    cut(folder / "net.data", size) if size else (folder / "net.data").unlink()
    with pytest.raises(ModelImportError) as caught:
        load_onnx("net.onnx")
    golden(str(caught.value), f"importers/external-data-{'short' if size else 'missing'}.txt")


@pytest.mark.parametrize("seed", range(30))
def test_damaged_bytes_never_give_a_traceback_of_ours(seed: int, folder: Path) -> None:
    rng = np.random.default_rng(seed)
    content = bytearray(proto().SerializeToString())
    for at in rng.integers(0, 200, 6):
        content[at] = rng.integers(256)
    (folder / "net.onnx").write_bytes(bytes(content))
    try:
        import_model("net.onnx")
    except ModelImportError as error:
        assert error.where and error.reason and error.fix


def test_large_weights_are_left_out_of_the_check() -> None:
    weight = np.arange(40_000, dtype="float32").reshape(200, 200)
    tensors = [numpy_helper.from_array(array, name) for name, array in (("w", weight), ("b", weight[0]))]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 200]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Gemm", ["x", "w", "b"], ["y"])], "g", [x], [y], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    light = without_large_tensors(model)
    assert light.ByteSize() < 2000
    assert list(light.graph.initializer[0].dims) == [0] and light.graph.initializer[1] == tensors[1]
    light.graph.initializer[0].CopyFrom(tensors[0])
    assert light == model
    onnx.checker.check_model(without_large_tensors(model))
    model.graph.initializer[0].dims[0] = 100  # now its bytes do not fit, and the checker shall see that
    assert without_large_tensors(model) == model
