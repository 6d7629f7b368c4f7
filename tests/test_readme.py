"""Every block of the README runs, in order, in one folder; those of docs/training.md are one script."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
_BLOCK = re.compile(r"(?P<skip><!-- readme: skip -->\n)?```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)


def _blocks(page: Path) -> list[tuple[str, str]]:
    found = [match for match in _BLOCK.finditer(page.read_text(encoding="utf-8")) if not match["skip"]]
    return [(match["language"], match["text"]) for match in found if match["language"] in ("sh", "python")]


@pytest.mark.slow
def test_blocks_run(tmp_path: Path) -> None:
    for module in ("torch", "onnxruntime", "ziglang"):
        pytest.importorskip(module)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    blocks = _blocks(README)
    assert len(blocks) >= 4
    for language, text in blocks:
        command = ["bash", "-euo", "pipefail", "-c", text] if language == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_training_page_runs(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    blocks = _blocks(README.parent / "docs" / "training.md")
    script = "".join(text for language, text in blocks if language == "python")
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "trained.onnx").exists()


def test_links_lead_somewhere() -> None:
    for page in (README, README.parent / "CONTRIBUTING.md", *README.parent.glob("docs/*.md")):
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_error_example_is_real() -> None:
    example = README.read_text(encoding="utf-8").split("```text\n")[1].split("```")[0]
    command = [sys.executable, "-m", "lutc.cli.main", "compile", "x.onnx", "--target", "cortex-a67"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == example.strip()
