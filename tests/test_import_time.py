"""What answers at once loads neither the compiler nor a framework; told by sys.modules, not by the clock."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lutc.artifact.store import write_artifact
from tests.artifact.sample import make_manifest

_HEAVY = {"tvm", "tvm_ffi", "torch", "onnx", "onnxruntime", "numpy", "sklearn", "rich"}
_PROBE = """
import json, sys
try:
    {statement}
finally:
    print(json.dumps(sorted({{name.split(".")[0] for name in sys.modules}})), file=open({result!r}, "w"))
"""


def _loaded(statement: str, folder: Path) -> set[str]:
    """Top-level packages a child process has loaded after the statement."""
    code = _PROBE.format(statement=statement, result=str(folder / "loaded.json"))
    path = str(Path(__file__).parent.parent)
    subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {path!r})\n{code}"],
        cwd=folder,
        capture_output=True,
        check=False,
    )
    return set(json.loads((folder / "loaded.json").read_text()))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["targets"],
        ["compile", "--help"],
        ["bench", "--help"],
        ["compil"],
        ["compile", "model.onnx", "--targt", "arm64"],
        ["compile", "model.onnx", "--target", "arm65"],
        ["compile", "missing.onnx"],
        ["compile", "model.onnx", "--output", "no/such/folder"],
        ["compile", "model.onnx", "--linker", "no-such-compiler"],
        ["inspect", "net.lutc"],
        ["run", "missing.lutc"],
        ["verify", "net.lutc", "--reference", "missing.onnx"],
        ["bench", "net.lutc", "--against", "missing.onnx"],
    ],
    ids=" ".join,
)
def test_answers_without_loading_the_compiler(tmp_path: Path, arguments: list[str]) -> None:
    write_artifact(tmp_path / "net.lutc", make_manifest(), {"model.so": b""})
    (tmp_path / "model.onnx").write_bytes(b"never read")
    loaded = _loaded(f"from lutc.cli.main import main; main({arguments!r})", tmp_path)
    allowed = {"numpy"} if arguments[0] in ("run", "verify", "bench") else set()  # to read inputs
    assert "click" in loaded
    assert not loaded & (_HEAVY - allowed)


@pytest.mark.parametrize("statement", ["import lutc", "from lutc import LUTConfig, LutcError, Target, list_targets"])
def test_import_is_light(tmp_path: Path, statement: str) -> None:
    assert not _loaded(statement, tmp_path) & _HEAVY


def test_the_probe_sees_what_is_loaded(tmp_path: Path) -> None:
    assert "numpy" in _loaded("import numpy", tmp_path)
