"""What is installed is what pyproject.toml asks for, it works together, and the base install needs no torch."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.cli.models import save_annotated_model

_ROOT = Path(__file__).parent.parent

# what an environment without torch (and without what comes with it) answers to an import
_BLOCK = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "onnxscript", "onnxruntime", "sklearn"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Block())
"""


def _python(code: str, *, folder: Path) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(_ROOT)!r})\n{code}"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )


def _check(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr


def _base_requirements() -> list[Requirement]:
    found = [Requirement(text) for text in metadata.requires("lutc") or []]
    return [requirement for requirement in found if requirement.marker is None]


def test_tvm_writes_and_reads_json(tmp_path: Path) -> None:
    """A newer tvm-ffi dies here with a segmentation fault, hence the child process; tuning databases need it."""
    code = """
import tvm
from tvm.script import ir as I, tirx as T

@I.ir_module
class Module:
    @T.prim_func(s_tir=True)
    def main(A: T.Buffer((8,), "float32"), B: T.Buffer((8,), "float32")):
        for i in range(8):
            with T.sblock("copy"):
                v = T.axis.spatial(8, i)
                B[v] = A[v] + T.float32(1)

text = tvm.ir.save_json(Module)
tvm.ir.assert_structural_equal(tvm.ir.load_json(text), Module)
"""
    (tmp_path / "probe.py").write_text(code)  # TVMScript reads the source of the module
    done = subprocess.run(
        [sys.executable, "probe.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    _check(done)


@pytest.mark.parametrize("requirement", _base_requirements(), ids=lambda requirement: requirement.name)
def test_installed_version_is_in_the_range_asked_for(requirement: Requirement) -> None:
    assert metadata.version(requirement.name) in requirement.specifier


def test_tvm_is_pinned() -> None:
    """Kernels rely on TVM's internals, so the release is fixed; the ffi package has to fit it."""
    pins = {requirement.name: str(requirement.specifier) for requirement in _base_requirements()}
    assert pins["apache-tvm"].startswith("==")
    assert "<0.1.15" in pins["apache-tvm-ffi"]
    assert "torch" not in pins


@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
def test_the_block_blocks(tmp_path: Path, name: str) -> None:
    done = _python(f"{_BLOCK}\nimport {name}", folder=tmp_path)
    assert done.returncode != 0 and f"No module named '{name}'" in done.stderr


def test_imports_without_torch(tmp_path: Path) -> None:
    modules = (
        "lutc", "lutc.cli.main", "lutc.compiler", "lutc.importers", "lutc.importers.onnx", "lutc.runtime.session",
        "lutc.runtime.emulated_session", "lutc.calibrate", "lutc.benchmark", "lutc.report.inspect", "tvm_ext.pipeline",
    )  # fmt: skip
    _check(_python("\n".join([_BLOCK, *(f"import {name}" for name in modules)]), folder=tmp_path))


def test_public_names_without_torch(tmp_path: Path) -> None:
    """All that do not stand for torch code load."""
    code = """
import lutc
for name in lutc.__all__:
    if name not in ("quantize_", "export_model"):
        getattr(lutc, name)
"""
    _check(_python(_BLOCK + code, folder=tmp_path))


def test_compiles_and_runs_without_torch(tmp_path: Path) -> None:
    save_annotated_model(tmp_path / "model.onnx")
    code = """
import numpy as np
import lutc
artifact = lutc.compile("model.onnx", "native", output="model.lutc")
y = lutc.load(artifact.path).run(np.ones((2, 8), np.float32))["y"]
assert y.shape == (2, 5) and np.isfinite(y).all() and y.any()
"""
    _check(_python(_BLOCK + code, folder=tmp_path))


def test_a_pt2_file_without_torch_is_told_in_four_parts(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"never read")
    done = _python(f"{_BLOCK}\nfrom lutc.cli.main import main; main(['compile', 'model.pt2'])", folder=tmp_path)
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["error:", "where", "reason", "fix"]
    assert 'pip install "lutc[torch]"' in done.stderr
