"""Fixtures for all tests: golden text files and the `isa` marker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lutc.targets import host_flags

_GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files instead of comparing")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("isa"):
        missing = [flag for flag in marker.args if flag not in host_flags()]
        if missing:
            pytest.skip(f"this CPU lacks {', '.join(missing)}")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """``golden(text, "folder/name.txt")``: the text must equal tests/golden/folder/name.txt."""

    def check(text: str, name: str) -> None:
        path = _GOLDEN / name
        text = text.rstrip("\n") + "\n"
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        if not path.is_file():
            pytest.fail(f"golden file {path} is missing; write it with: pytest {request.node.nodeid} --update-golden")
        assert text == path.read_text(encoding="utf-8"), f"differs from {path} (pytest --update-golden rewrites it)"

    return check
