"""Who may import whom, read from the source with `ast`: the rooms stay apart."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent.parent
_PACKAGES = ("lutc", "tvm_ext")
_LEAVES = {"lutc.config", "lutc.cpu_features", "lutc.errors", "lutc.files", "lutc.targets"}
_HEAVY = {"onnx", "onnxruntime", "torch", "tvm", "tvm_ext", "tvm_ffi"}


def _modules() -> dict[str, Path]:
    files = [path for package in _PACKAGES for path in (_ROOT / package).rglob("*.py")]
    return {".".join(path.relative_to(_ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


MODULES = _modules()


def _nodes(tree: ast.AST, top_level_only: bool) -> Iterator[ast.AST]:
    """Statements of a module without `if TYPE_CHECKING:`, and without function bodies when asked."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if top_level_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        yield node
        yield from _nodes(node, top_level_only)


@cache
def _imports(module: str, top_level_only: bool = False) -> frozenset[str]:
    """Full names of what a module imports; `from a import b` gives a.b when that is a module of ours, else a."""
    found: set[str] = set()
    for node in _nodes(ast.parse(MODULES[module].read_text(encoding="utf-8")), top_level_only):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} uses a relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else str(node.module))
    return frozenset(found)


def _packages(module: str, top_level_only: bool = False) -> set[str]:
    """First words of what a module imports, without the standard library."""
    return {name.split(".")[0] for name in _imports(module, top_level_only)} - sys.stdlib_module_names


@cache
def _loads(module: str) -> frozenset[str]:
    """All that importing a module loads, through our own modules and their parent packages."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        parents = [".".join(name.split(".")[:i]) for i in range(1, name.count(".") + 1)]
        for each in (name, *parents):
            if each not in seen:
                seen.add(each)
                waiting += list(_imports(each, True)) if each in MODULES else []
    return frozenset(seen)


def _in(prefix: str) -> list[str]:
    return [name for name in MODULES if name == prefix or name.startswith(prefix + ".")]


def test_the_walk_sees_something() -> None:
    assert len(MODULES) > 30
    assert "tvm" in _packages("tvm_ext.target") and "click" in _packages("lutc.cli.main")
    assert "tvm" in _loads("tvm_ext.target") and "tvm" not in _loads("lutc.cli.main")


@pytest.mark.parametrize("module", _in("tvm_ext"))
def test_tvm_ext_knows_tvm_and_numpy_only(module: str) -> None:
    assert _packages(module) <= {"tvm", "tvm_ffi", "numpy", "tvm_ext"}


@pytest.mark.parametrize("module", _in("tvm_ext.tensor_intrin"))
def test_intrinsics_know_no_relax(module: str) -> None:
    assert not any(name.startswith("tvm.relax") for name in _imports(module))


@pytest.mark.parametrize("module", sorted(_LEAVES))
def test_leaves_use_the_standard_library_only(module: str) -> None:
    assert {name for name in _imports(module) if name.split(".")[0] not in sys.stdlib_module_names} <= _LEAVES


@pytest.mark.parametrize("module", _in("lutc.artifact"))
def test_artifact_is_light(module: str) -> None:
    assert _packages(module) <= {"lutc", "msgspec", "safetensors", "numpy"}
    assert not _loads(module) & _HEAVY


@pytest.mark.parametrize("module", [*_in("lutc.nn"), *_in("lutc.export")])
def test_torch_side_never_sees_tvm(module: str) -> None:
    assert not {"tvm", "tvm_ext", "tvm_ffi"} & (_packages(module) | _loads(module))


@pytest.mark.parametrize("module", _in("lutc.cli"))
def test_command_line_loads_click_only(module: str) -> None:
    assert _packages(module, True) <= {"click", "lutc"}
    ours = {name for name in _loads(module) if name.split(".")[0] == "lutc" and not name.startswith("lutc.cli")}
    assert ours <= {*_LEAVES, "lutc"}


@pytest.mark.parametrize("module", [name for name in MODULES if not name.startswith("lutc.cli")])
def test_nobody_imports_the_command_line(module: str) -> None:
    assert not any(name.startswith("lutc.cli") for name in _imports(module))


@pytest.mark.parametrize("module", ["lutc", "lutc.report.inspect", "lutc.importers", "lutc.linker", "lutc.inputs"])
def test_loads_nothing_heavy(module: str) -> None:
    assert not _loads(module) & _HEAVY


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("lutc")])
def test_torch_stays_where_it_belongs(module: str) -> None:
    if "torch" in _loads(module):
        assert module.startswith(("lutc.nn", "lutc.export", "lutc.importers.pt2", "lutc.importers.checkpoints"))
