"""PyTorch models: values, layer names, shapes, and .pt2 files that would run code."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lutc.errors import ModelImportError  # noqa: E402
from lutc.importers import import_model  # noqa: E402
from lutc.importers.dynamic import import_dynamic  # noqa: E402
from lutc.nn import _library  # noqa: E402, F401
from tests import oracle  # noqa: E402
from tests.execute import execute  # noqa: E402
from tests.importers.models import lut_tensors  # noqa: E402
from tests.importers.test_onnx_layers import spans  # noqa: E402


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(2, 4, 3, padding=1)
        self.block = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Conv2d(4, 6, 1, bias=False))
        self.fc = torch.nn.Linear(6, 5)
        self.plain = torch.nn.Linear(5, 3, bias=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.plain(self.fc(self.block(self.stem(image)).mean((2, 3))))


class LUTNet(torch.nn.Module):
    """One lut_dense; `keywords` calls it by keyword and leaves the defaults out."""

    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        super().__init__()
        for name in ("centroids", "table", "table_scale", "bias", "inv_scale", "score_bias"):
            self.register_buffer(name, torch.from_numpy(tensors[name]) if name in tensors else None)
        self.mode = "float32" if self.inv_scale is None else "int8"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.lutc.lut_dense(
            x, self.centroids, self.table, self.table_scale, self.bias, self.inv_scale, self.score_bias, None,
            encode_dtype=self.mode, encoder="l2", input_signed=True, layer="enc.fc1",
        )  # fmt: skip


def values(model: Any, x: torch.Tensor) -> np.ndarray:
    return execute(model.mod, [x.numpy()], {"kind": "llvm"})[0]


def export(module: torch.nn.Module, x: torch.Tensor, **options: Any) -> Any:
    return torch.export.export(module.eval(), (x,), **options)


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def test_module_program_and_file_agree_with_torch(net: Net, tmp_path: Path) -> None:
    x = torch.randn(2, 2, 6, 5)
    expected = net(x).detach().numpy()
    torch.export.save(export(net, x), tmp_path / "net.pt2")
    for source, shapes in ((net, {"image": (2, 2, 6, 5)}), (export(net, x), None), (tmp_path / "net.pt2", None)):
        model = import_model(source, input_shapes=shapes)
        np.testing.assert_allclose(values(model, x), expected, rtol=1e-4, atol=1e-5)
        assert [str(spec) for spec in model.inputs] == ["image float32[2,2,6,5]"]
        assert model.outputs[0].shape == [2, 3]


def test_layers_have_the_names_of_their_modules(net: Net) -> None:
    model = import_model(net, input_shapes={"image": (1, 2, 6, 5)})
    conv, matmul = "relax.nn.conv2d", "relax.matmul"
    assert spans(model.mod) == {"stem": conv, "block.1": conv, "fc": matmul, "plain": matmul}
    assert set(model.nodes) == {"stem", "block.1", "fc", "plain"}


def test_a_module_stays_in_its_training_mode() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.9)).train()
    module[0].eval()
    model = import_model(module, input_shapes={"input": (1, 4)})
    assert [m.training for m in module.modules()] == [True, False, True]
    x = torch.randn(1, 4)
    np.testing.assert_allclose(values(model, x), module[0](x).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("encode_dtype", ["int8", "float32"])
def test_lut_dense(encode_dtype: str, tmp_path: Path) -> None:
    tensors = lut_tensors(np.random.default_rng(1), 3, 16, 4, 10, encode_dtype=encode_dtype)
    x = torch.randn(2, 11)
    torch.export.save(export(LUTNet(tensors), x), tmp_path / "net.pt2")
    model = import_model(tmp_path / "net.pt2")
    call = model.mod["main"].body.blocks[0].bindings[0].value
    assert call.op.name == "relax.lut.dense" and str(call.attrs["layer"]) == "enc.fc1"
    expected, _ = oracle.dense(x.numpy(), **tensors, encode_dtype=encode_dtype)
    np.testing.assert_allclose(values(model, x), expected, rtol=1e-5, atol=1e-5)


def test_bad_lut_layer() -> None:
    tensors = lut_tensors(np.random.default_rng(1), 3, 16, 4, 10)
    tensors["bias"][2] = np.nan
    with pytest.raises(ModelImportError) as caught:
        import_model(export(LUTNet(tensors), torch.randn(2, 11)))
    assert "bias holds NaN" in caught.value.reason and 'layer "enc.fc1"' in caught.value.where


def test_dynamic_shapes(net: Net, tmp_path: Path) -> None:
    dims = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height", min=4)}
    torch.export.save(export(net, torch.randn(2, 2, 6, 5), dynamic_shapes=(dims,)), tmp_path / "net.pt2")
    with pytest.raises(ModelImportError, match="inputs without a fixed shape") as caught:
        import_model(tmp_path / "net.pt2")
    assert "--input-shape image=1,2,224,5" in caught.value.fix
    model = import_model(tmp_path / "net.pt2", input_shapes={"image": (1, 2, 8, 5)})
    x = torch.randn(1, 2, 8, 5)
    np.testing.assert_allclose(values(model, x), net(x).detach().numpy(), rtol=1e-4, atol=1e-5)
    assert set(spans(model.mod)) == {"stem", "block.1", "fc", "plain"}


def test_module_without_shapes(net: Net) -> None:
    with pytest.raises(ModelImportError) as caught:
        import_model(net)
    assert "forward takes image" in caught.value.reason


def test_unsupported_operator() -> None:
    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.svdvals(x)

    with pytest.raises(ModelImportError, match="operators that cannot be imported") as caught:
        import_model(Odd(), input_shapes={"x": (3, 3)})
    assert "svd" in caught.value.reason


def test_one_source_one_digest(net: Net) -> None:
    shapes = {"image": (1, 2, 6, 5)}
    first, second = (import_model(net, input_shapes=shapes).source_sha256 for _ in range(2))
    assert first == second and len(first) == 64


class Bomb:
    """Unpickling it would create a file called "exploded"."""

    def __reduce__(self) -> tuple:
        return open, ("exploded", "w")


def rewrite(content: bytes, edit: Callable[[dict[str, bytes]], None]) -> bytes:
    """The archive with its members edited; names without the archive's own folder."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    edit(members)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(f"net/{name}", data)
    return out.getvalue()


def edit_json(member: str, change: Callable[[Any], None]) -> Callable[[dict[str, bytes]], None]:
    def edit(members: dict[str, bytes]) -> None:
        value = json.loads(members[member])
        change(value)
        members[member] = json.dumps(value).encode()

    return edit


def pickled() -> bytes:
    out = io.BytesIO()
    torch.save(Bomb(), out)
    return out.getvalue()


def first_weight(config: Any) -> dict:
    return next(iter(config["config"].values()))


def first_call(program: Any) -> dict:
    return program["graph_module"]["graph"]["nodes"][0]


WEIGHTS, PROGRAM = "data/weights/model_weights_config.json", "models/model.json"
HOSTILE: dict[str, Callable[[dict[str, bytes]], None]] = {
    "legacy weights": lambda m: m.update({"data/weights/model.pt": pickled()}),
    "legacy constants": lambda m: m.update({"data/constants/model.pt": pickled()}),
    "sample inputs": lambda m: m.update({"data/sample_inputs/model.pt": pickled()}),
    "pickled weight": edit_json(WEIGHTS, lambda c: first_weight(c).update(use_pickle=True)),
    "custom object": edit_json(
        "data/constants/model_constants_config.json",
        lambda c: c["config"].update(x={"path_name": "opaque_obj_0", "use_pickle": False, "tensor_meta": None}),
    ),
    "member outside": lambda m: m.update({"data/../../evil": b"x"}),
    "compiled code": lambda m: m.update({"data/aotinductor/model/a.so": b"x"}),
    "operator": edit_json(PROGRAM, lambda p: first_call(p).update(target="torch.hub.load")),
    "symbolic size": edit_json(
        PROGRAM,
        lambda p: p["graph_module"]["graph"]["sym_int_values"].update(
            s={"as_expr": {"expr_str": "__import__('os').system('touch exploded')", "hint": None}}
        ),
    ),
    "old format": lambda m: m.pop("archive_version"),
    "not json": lambda m: m.update({PROGRAM: b"{"}),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives(case: str, net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = io.BytesIO()
    torch.export.save(export(net, torch.randn(1, 2, 4, 4)), out)
    Path("plain.pt2").write_bytes(rewrite(out.getvalue(), lambda members: None))
    assert import_model("plain.pt2").outputs[0].shape == [1, 3]  # so that a refusal below is for the edit
    Path("net.pt2").write_bytes(rewrite(out.getvalue(), HOSTILE[case]))
    with pytest.raises(ModelImportError, match=r"cannot load the \.pt2 file"):
        import_model("net.pt2")
    assert not Path("exploded").exists()


@pytest.mark.parametrize("content", [b"", b"PK", b"not an archive at all" * 10])
def test_damaged_files(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.pt2").write_bytes(content)
    with pytest.raises(ModelImportError, match=r"cannot (load|read)"):
        import_model(tmp_path / "net.pt2")


class _Pooling(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.softmax(1) * x).sum(1)


def test_symbolic_sizes_stay_open() -> None:
    sizes = {0: torch.export.Dim("batch", max=8), 1: torch.export.Dim("length", max=64)}
    program = torch.export.export(_Pooling(), (torch.zeros(2, 5, 4),), dynamic_shapes=(sizes,))
    value = next(node.meta["val"] for node in program.graph.nodes if node.op == "placeholder")
    batch, length = (str(size) for size in value.shape[:2])
    model = import_dynamic(program, {batch: "1..8", length: "1..20:20"})
    assert [(d.handling, d.sizes) for d in model.dimensions] == [("split", [1]), ("pad", [20])]
    largest = model.at(model.shapes()[0])
    assert largest.inputs[0].sizes == [batch, length, 4] and largest.outputs[0].sizes == [batch, 4]
