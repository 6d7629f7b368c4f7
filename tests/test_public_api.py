"""The public names: they resolve, are documented, and stay themselves whatever was imported before."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lutc

_ROOT = Path(__file__).parent.parent


def test_all_is_sorted_and_complete() -> None:
    assert lutc.__all__ == sorted(lutc.__all__)
    assert set(lutc.__all__) == set(lutc._HOME)
    assert set(lutc.__all__) <= set(dir(lutc))


def test_type_checkers_see_the_same_names() -> None:
    source = (_ROOT / "lutc" / "__init__.py").read_text(encoding="utf-8")
    block = source.partition("if TYPE_CHECKING:")[2].partition("_HOME")[0]
    seen = {}
    for module, names in re.findall(r"from ([\w.]+) import (.+)", block):
        seen |= dict.fromkeys(names.split(", "), module)
    assert seen == lutc._HOME


@pytest.mark.parametrize("name", lutc.__all__)
def test_resolves_and_is_documented(name: str) -> None:
    if lutc._HOME[name] == "lutc.nn" or name == "export_model":
        pytest.importorskip("torch")
    value = getattr(lutc, name)
    assert inspect.isclass(value) or inspect.isfunction(value), name
    assert (inspect.getdoc(value) or "").strip(), f"{name} has no docstring"
    home = importlib.import_module(lutc._HOME[name])
    assert value is getattr(home, name)
    assert value.__module__.startswith("lutc.")


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lutc.nothing  # noqa: B018


@pytest.mark.parametrize("name", [name for name, module in lutc._HOME.items() if module == f"lutc.{name}"])
def test_a_function_is_not_hidden_by_the_module_of_its_name(name: str) -> None:
    code = f"import lutc.{name}, lutc; assert callable(lutc.{name}), lutc.{name}; assert lutc.{name} is lutc.{name}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=_ROOT)


def test_version_is_that_of_the_package() -> None:
    text = (_ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{lutc.__version__}"\n' in text


def test_typed() -> None:
    assert (_ROOT / "lutc" / "py.typed").is_file()


def test_export_model_is_the_function_after_its_package_was_used_from_inside() -> None:
    pytest.importorskip("torch")
    code = "import lutc.importers.checkpoints.convert, lutc; assert callable(lutc.export_model)"
    subprocess.run([sys.executable, "-c", code], check=True)
