"""`lutc targets`."""

from __future__ import annotations

import json

import pytest

from lutc import targets
from tests.cli.console import run_lutc


@pytest.fixture(autouse=True)
def _a_haswell(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = frozenset(targets.parse_target("x86-64-v3").requires)
    monkeypatch.setattr(targets, "host_flags", lambda: flags)
    monkeypatch.setattr(targets.platform, "machine", lambda: "x86_64")


def test_listing(capsys, golden) -> None:
    golden(run_lutc(capsys, "targets").transcript(), "cli/targets.txt")


def test_json(capsys) -> None:
    plain = json.loads(run_lutc(capsys, "targets", "--json").out)
    assert plain["schema_version"] == 1 and plain["report"] == "targets" and plain["native"] == "x86-64-v3"
    rows = {row["name"]: row for row in plain["rows"]}
    assert rows["x86-64-v3"]["runs_here"] and not rows["x86-64-v4"]["runs_here"]
    assert rows["graviton3"]["attrs"] == ["+neon", "+dotprod", "-sve"]
    assert rows["armv7"]["models"] and not rows["wasm32"]["models"]


def test_json_file(capsys, tmp_path) -> None:
    shown = run_lutc(capsys, "targets", "--json", str(tmp_path / "t.json"))
    assert "x86-64-v3" in shown.out and "Wrote" in shown.err
    assert json.loads((tmp_path / "t.json").read_text())["native"] == "x86-64-v3"


def test_json_file_in_no_folder(capsys, tmp_path, golden) -> None:
    shown = run_lutc(capsys, "targets", "--json", str(tmp_path / "no" / "t.json"))
    assert shown.status == 3
    golden(shown.transcript().replace(str(tmp_path), "<folder>"), "cli/json-no-folder.txt")
