"""Linking for this machine and another, by the system's compiler and by zig: it loads, and has the same bytes twice."""

from __future__ import annotations

import ctypes
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from lutc import linker as linker_module
from lutc.errors import LinkError
from lutc.linker import Linker, find_linker
from lutc.targets import host_arch, host_target, parse_target

_ELF_MACHINE = {"x86_64": 62, "aarch64": 183, "armv7": 40}
_CROSS = "arm64" if host_arch() == "x86_64" else "x86-64-v2"


def _find(target: str, prefer: str | None) -> Linker:
    try:
        return find_linker(parse_target(target), prefer)
    except LinkError as error:
        pytest.skip(f"no {prefer or 'linker'}: {error.reason}")


def _cases() -> list:
    system, cross = "cc", f"{parse_target(_CROSS).triple}-gcc"
    return [
        pytest.param("native", system, id="host-system"),
        pytest.param("native", "zig", id="host-zig"),
        pytest.param(_CROSS, cross, id="cross-system"),
        pytest.param(_CROSS, "zig", id="cross-zig"),
        pytest.param("armv7", "zig", id="armv7-zig"),
    ]


def _compile(target_name: str):
    """A Relax executable that returns x + 1 for x float32[4]."""
    tvm = pytest.importorskip("tvm")
    from tvm import relax

    x = relax.Var("x", relax.TensorType((4,), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(relax.op.add(x, relax.const(1.0, "float32"))))
    return tvm.compile(builder.get(), target=tvm.target.Target(parse_target(target_name).llvm()))


def _machine(library: Path) -> int:
    return struct.unpack_from("<H", library.read_bytes(), 18)[0]


@pytest.mark.parametrize(("target", "prefer"), _cases())
def test_links_a_compiled_module(tmp_path: Path, target: str, prefer: str) -> None:
    linker = _find(target, prefer)
    executable = _compile(target)
    for folder in ("a", "longer-name"):
        (tmp_path / folder).mkdir()
        executable.export_library(str(tmp_path / folder / "model.so"), fcompile=linker.fcompile())
    first = tmp_path / "a" / "model.so"
    assert first.read_bytes() == (tmp_path / "longer-name" / "model.so").read_bytes()
    assert _machine(first) == _ELF_MACHINE[parse_target(target).arch]
    assert str(tmp_path).encode() not in first.read_bytes()
    if target == "native":
        _run(first)


def test_division_of_32_bit_arm_is_linked_in(tmp_path: Path) -> None:
    """A Cortex-A9 has no instruction for it, and no library is named that a loader would take it from."""
    tvm = pytest.importorskip("tvm")
    from tvm.script import tirx as T

    @T.prim_func(s_tir=True)
    def divide(a: T.Buffer((4,), "int32"), b: T.Buffer((4,), "int32")):
        T.func_attr({"global_symbol": "divide", "tirx.noalias": True})
        for i in T.serial(4):
            b[i] = T.truncdiv(b[i], a[i])

    target, linker = parse_target("armv7"), _find("armv7", "zig")
    tvm.compile(divide, target=tvm.target.Target(target.llvm())).mod.write_to_file(str(tmp_path / "divide.o"))
    linker.link(tmp_path / "divide.so", [tmp_path / "divide.o"])
    assert b"__aeabi" in (tmp_path / "divide.o").read_bytes()
    assert b"__aeabi" not in (tmp_path / "divide.so").read_bytes()


def _run(library: Path) -> None:
    import tvm
    from tvm import relax

    vm = relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
    result = vm["main"](tvm.runtime.tensor(np.arange(4, dtype="float32")))
    np.testing.assert_array_equal(result.numpy(), [1, 2, 3, 4])


@pytest.fixture
def c_object(tmp_path: Path) -> Path:
    compiler = shutil.which("cc") or pytest.skip("no C compiler")
    (tmp_path / "x.c").write_text("static int hidden(void) { return 41; } int answer(void) { return hidden() + 1; }")
    subprocess.run([compiler, "-g", "-O0", "-fPIC", "-c", "x.c"], cwd=tmp_path, check=True)
    return tmp_path / "x.o"


def test_result_is_stripped_and_needs_nothing(tmp_path: Path, c_object: Path) -> None:
    find_linker(host_target()).link(tmp_path / "x.so", [c_object])
    data = (tmp_path / "x.so").read_bytes()
    assert ctypes.CDLL(str(tmp_path / "x.so")).answer() == 42
    assert b"hidden" not in data and b".debug" not in data and b"build-id" not in data and b"libc.so" not in data


def test_linker_failure_carries_its_words(tmp_path: Path) -> None:
    (tmp_path / "bad.o").write_bytes(b"not an object")
    linker = _find("native", "cc")
    with pytest.raises(LinkError) as caught:
        linker.link(tmp_path / "x.so", [tmp_path / "bad.o"])
    assert "0.o" in caught.value.reason and "--linker zig" in caught.value.fix
    assert not (tmp_path / "x.so").exists()


def test_vanished_linker(tmp_path: Path, c_object: Path) -> None:
    with pytest.raises(LinkError, match="No such file"):
        Linker("gone", (str(tmp_path / "gone"),)).link(tmp_path / "x.so", [c_object])


@pytest.mark.parametrize(
    ("name", "target", "prefer"),
    [("cross", "arm64", None), ("host", "x86-64-v3", None), ("preferred", "arm64", "my-gcc"), ("zig", "arm64", "zig")],
)
def test_no_linker_lists_what_was_tried(monkeypatch, golden, name: str, target: str, prefer: str | None) -> None:
    monkeypatch.setattr(linker_module.shutil, "which", lambda name: None)
    monkeypatch.setattr(linker_module.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(linker_module, "host_arch", lambda: "x86_64")
    with pytest.raises(LinkError) as caught:
        find_linker(parse_target(target), prefer)
    golden(f"error: {caught.value}", f"linker/none-{name}.txt")


def test_order_of_preference(monkeypatch) -> None:
    monkeypatch.setattr(linker_module, "host_arch", lambda: "x86_64")
    monkeypatch.setattr(linker_module.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(linker_module.shutil, "which", lambda name: f"/bin/{name}")
    assert find_linker(parse_target("x86-64-v3")).command == ("/bin/cc",)
    assert find_linker(parse_target("arm64")).command == ("/bin/aarch64-linux-gnu-gcc",)
    assert find_linker(parse_target("arm64"), "zig").command[-1] == "aarch64-linux-gnu.2.17"
    monkeypatch.setattr(linker_module.shutil, "which", lambda name: None)
    assert find_linker(parse_target("x86-64-v3")).name == "zig cc"


def test_zig_cache_moves_only_when_home_cannot_be_written(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ZIG_GLOBAL_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "ZIG_GLOBAL_CACHE_DIR" not in linker_module._environment("/scratch")
    monkeypatch.setenv("HOME", str(tmp_path / "missing"))
    assert linker_module._environment("/scratch")["ZIG_GLOBAL_CACHE_DIR"] == "/scratch/zig-cache"
    monkeypatch.setenv("ZIG_GLOBAL_CACHE_DIR", "/mine")
    assert linker_module._environment("/scratch")["ZIG_GLOBAL_CACHE_DIR"] == "/mine"
