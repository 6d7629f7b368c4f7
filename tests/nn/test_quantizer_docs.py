"""docs/quantizers.md: its blocks run, it has a section and a figure for every method, and the figures can be drawn."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from lutc.nn.quantizers import QUANTIZERS

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "quantizers.md").read_text(encoding="utf-8")


def test_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "docs/quantizers.md", "exec"), {})
    assert (tmp_path / "model.onnx").exists()


def test_every_method_has_its_figure_and_name() -> None:
    for method, quantizer in QUANTIZERS.items():
        assert (f"figures/{method}.svg" in TEXT and f"`{quantizer.__name__}`" in TEXT) or method == "llt"
        assert (DOCS / "figures" / f"{method}.svg").is_file()


def test_figures_are_drawn_by_the_script(tmp_path: Path) -> None:
    script = runpy.run_path(str(DOCS / "quantizer_figures.py"))
    script["main"](tmp_path, ["minmax"])
    assert (tmp_path / "minmax.svg").read_text().startswith("<svg")
