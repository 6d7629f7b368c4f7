"""The emulator's failures. That it computes the right numbers is tests/runtime/test_execute.py."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lutc.errors import TargetError, VerifyError
from lutc.runtime import aarch64, emulator
from tests.execute import why_not_emulated


@pytest.fixture
def _emulation() -> None:
    reason = why_not_emulated()
    if reason:
        pytest.skip(reason)


def _library(folder: Path, source: str) -> Path:
    """A shared library for AArch64 that is not a model."""
    (folder / "x.c").write_text(source, encoding="utf-8")
    compiler = aarch64.find_compiler()
    assert compiler is not None
    command = [*compiler, "-shared", "-fPIC", "-nostdlib", "-o", str(folder / "x.so"), str(folder / "x.c")]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "x.so"


@pytest.mark.usefixtures("_emulation")
def test_a_missing_library_is_named(tmp_path: Path) -> None:
    with pytest.raises(VerifyError) as caught:
        emulator.run(tmp_path / "nothing.so", [])
    assert caught.value.where == str(tmp_path / "nothing.so")
    assert "cannot open shared object file" in caught.value.reason


@pytest.mark.usefixtures("_emulation")
def test_a_library_that_is_no_model(tmp_path: Path) -> None:
    library = _library(tmp_path, "int f(void) { return 1; }")
    with pytest.raises(VerifyError) as caught:
        emulator.run(library, [np.ones(3, "float32")])
    assert "vm_load_executable" in caught.value.reason


@pytest.mark.usefixtures("_emulation")
def test_a_crash_is_told_and_not_passed_on(tmp_path: Path) -> None:
    library = _library(tmp_path, "__attribute__((constructor)) void f(void) { *(volatile int*)0 = 1; }")
    with pytest.raises(VerifyError) as caught:
        emulator.run(library, [])
    assert "SIGSEGV" in caught.value.reason and caught.value.where == str(library)


@pytest.mark.usefixtures("_emulation")
def test_an_endless_run_is_stopped(tmp_path: Path) -> None:
    library = _library(tmp_path, '__attribute__((constructor)) void f(void) { for (;;) __asm__ volatile(""); }')
    with pytest.raises(VerifyError) as caught:
        emulator.run(library, [], timeout=1.0)
    assert "no result after 1 s" in caught.value.reason


@pytest.mark.usefixtures("_emulation")
def test_an_instruction_the_cpu_lacks_traps(tmp_path: Path) -> None:
    code = r'__asm__ volatile(".arch armv8.2-a+dotprod\n sdot v0.4s, v1.16b, v2.16b" ::: "v0");'
    library = _library(tmp_path, f"__attribute__((constructor)) void f(void) {{ {code} }}")
    with pytest.raises(VerifyError) as caught:
        emulator.run(library, [], cpu="cortex-a72")
    assert "SIGILL" in caught.value.reason
    with pytest.raises(VerifyError) as caught:
        emulator.run(library, [], cpu="max")
    assert "vm_load_executable" in caught.value.reason  # got past the instruction; it is no model all the same


def test_missing_qemu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    available, reason = emulator.availability()
    assert not available and emulator.QEMU_FIX in reason
    with pytest.raises(TargetError) as caught:
        emulator.run("model.so", [])
    assert caught.value.fix == emulator.QEMU_FIX


def test_missing_c_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "qemu-aarch64"
    fake.write_text("", encoding="utf-8")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("LUTC_AARCH64_SYSROOT", str(tmp_path))
    with pytest.raises(TargetError) as caught:
        emulator.run("model.so", [])
    assert caught.value.fix == emulator.SYSROOT_FIX and str(tmp_path) in caught.value.reason


def test_libraries_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LUTC_CACHE", str(tmp_path / "cache"))
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "no-index").as_uri())
    with pytest.raises(TargetError) as caught:
        aarch64.runtime_libraries()
    assert "apache-tvm==" in caught.value.where and "pip download" in caught.value.fix
    assert not aarch64.libraries_cached() and list((tmp_path / "cache").iterdir()) == []


def test_only_the_named_members_leave_the_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fake_download(package: str, folder: Path) -> Path:
        wheel = folder / f"{package}.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(aarch64._LIBRARIES[package], b"library")
            archive.writestr("../../../escaped", b"bad")
        return wheel

    monkeypatch.setenv("LUTC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(aarch64, "_download", fake_download)
    folder = aarch64.runtime_libraries()
    assert sorted(path.name for path in folder.iterdir()) == ["libtvm_ffi.so", "libtvm_runtime.so"]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()].count("escaped") == 0
    monkeypatch.setattr(aarch64, "_download", None)
    assert aarch64.runtime_libraries() == folder  # cached: nothing is fetched again


def test_no_compiler_for_the_runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(aarch64, "runtime_libraries", lambda: tmp_path)
    monkeypatch.setattr(aarch64, "find_compiler", lambda: None)
    with pytest.raises(TargetError) as caught:
        aarch64.runner()
    assert "ziglang" in caught.value.fix


def test_a_compiler_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(aarch64, "runtime_libraries", lambda: tmp_path)
    failing = [sys.executable, "-c", "import sys; sys.exit('no such linker')"]
    monkeypatch.setattr(aarch64, "find_compiler", lambda: failing)
    with pytest.raises(TargetError) as caught:
        aarch64.runner()
    assert "no such linker" in caught.value.reason and list(tmp_path.iterdir()) == []


def test_the_smallest_cpu_that_has_the_flags() -> None:
    assert emulator.cpu_for(("asimd",)) == "cortex-a72"
    assert emulator.cpu_for(("asimd", "asimddp")) == "max"
