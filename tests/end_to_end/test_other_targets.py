"""Targets without a runtime of TVM: a trained network's kernels, called one after the other, and what is told else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lutc
from lutc.errors import TargetError
from lutc.runtime import emulator, kernel_machine
from lutc.targets import parse_target
from tests.execute import build_and_execute
from tvm_ext import pipeline

_DATA = Path(lutc.__file__).parent / "data"


@pytest.mark.parametrize("target", ["armv7", "armv7,cpu=cortex-a7", "wasm32"])
def test_a_network_computes_what_it_does_here(target: str, tmp_path: Path) -> None:
    """On a CPU without fused multiply-adds (trapped under qemu), on one with, and in WebAssembly."""
    model, image = lutc.import_model(_DATA / "digits_lut.onnx"), np.load(_DATA / "digits_test.npz")["x"][:1]
    mod = pipeline.rewrite(model.mod, {})
    (scores,), built = build_and_execute(mod, [image], parse_target(target).llvm(), table_bits=8)
    session = lutc.load(lutc.compile(model, output=tmp_path / "here.lutc", exact=True).path, threads=1)
    np.testing.assert_allclose(scores, session.run(image)["scores"], rtol=1e-4, atol=1e-4)
    assert sum(row["kind"] == "lut" for row in built.layers) == 7


def test_an_artifact_for_armv7_names_nothing_but_the_runtime(tmp_path: Path) -> None:
    artifact = lutc.compile(_DATA / "digits_lut.onnx", "armv7", output=tmp_path / "a.lutc", linker="zig")
    library = (Path(artifact.path) / "model.so").read_bytes()
    assert library[:6] == b"\x7fELF\x01\x01" and library[18:20] == b"\x28\x00"  # 32 bits, little-endian, Arm
    assert b"__aeabi" not in library and b"libc.so" not in library


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_machine.shutil, "which", lambda name: None)
    monkeypatch.setattr(emulator.shutil, "which", lambda name: None)
    with pytest.raises(TargetError, match="node is not on PATH"):
        kernel_machine.kernel_machine(parse_target("wasm32"))
    with pytest.raises(TargetError, match="cannot run 32-bit Arm code here"):
        kernel_machine.kernel_machine(parse_target("armv7"))
