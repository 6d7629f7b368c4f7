"""The `isa` marker skips with the reason, and only where something is missing."""

from __future__ import annotations

import pytest

from lutc.targets import host_flags
from tests import conftest


class _Item:
    def __init__(self, *flags: str) -> None:
        self._markers = [pytest.mark.isa(*flags).mark]

    def iter_markers(self, name: str) -> list[pytest.Mark]:
        return [mark for mark in self._markers if mark.name == name]


def test_missing_flag_skips() -> None:
    with pytest.raises(pytest.skip.Exception, match="this CPU lacks no_such_flag"):
        conftest.pytest_runtest_setup(_Item("no_such_flag"))  # type: ignore[arg-type]


def test_present_flags_run() -> None:
    conftest.pytest_runtest_setup(_Item(*sorted(host_flags())[:2]))  # type: ignore[arg-type]
