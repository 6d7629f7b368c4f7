"""Help, versions, and mistakes in the command line itself."""

from __future__ import annotations

import pytest

from lutc.cli.main import VERBS, lutc
from tests.cli.console import run_lutc


@pytest.fixture(autouse=True)
def _width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


def test_help(capsys, golden) -> None:
    shown = run_lutc(capsys, "--help")
    assert shown.out == run_lutc(capsys).out
    golden(shown.transcript(), "cli/help.txt")


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb(capsys, golden, verb: str) -> None:
    golden(run_lutc(capsys, verb, "--help").transcript(), f"cli/help-{verb}.txt")


@pytest.mark.parametrize("verb", VERBS)
def test_the_list_says_what_the_verb_says(verb: str) -> None:
    command = lutc.get_command(None, verb)  # type: ignore[arg-type]
    assert command is not None and command.name == verb
    assert command.get_short_help_str(200) == VERBS[verb]


def test_options_mean_the_same_everywhere() -> None:
    meanings: dict[str, set] = {}
    for verb in VERBS:
        for parameter in lutc.get_command(None, verb).params:  # type: ignore[arg-type, union-attr]
            for name in parameter.opts:
                if name in (
                    "--overwrite",
                    "--threads",
                    "--json",
                    "--verbose",
                    "--quiet",
                    "--seed",
                    "--emulate",
                    "--remote",
                ):
                    meanings.setdefault(name, set()).add((parameter.help, str(parameter.default)))
    meanings.pop("--emulate")  # demo decides by itself
    assert meanings and all(len(said) == 1 for said in meanings.values()), meanings
    assert all("--verbose" in _names(verb) and "--quiet" in _names(verb) for verb in VERBS)


def _names(verb: str) -> set[str]:
    return {name for parameter in lutc.get_command(None, verb).params for name in parameter.opts}  # type: ignore


def test_version(capsys) -> None:
    shown = run_lutc(capsys, "--version")
    assert shown.status == 0 and shown.out.startswith("lutc 0.") and "apache-tvm" in shown.out


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("wrong-verb", ["compil", "model.onnx"]),
        ("unknown-verb", ["quantum"]),
        ("wrong-option", ["compile", "model.onnx", "--targt", "arm64"]),
        ("wrong-global-option", ["--verson"]),
        ("missing-argument", ["run"]),
        ("missing-value", ["compile", "model.onnx", "--target"]),
        ("bad-number", ["run", "model.lutc", "--threads", "0"]),
        ("json-eats-the-file", ["inspect", "--json", "model.onnx"]),
        ("bad-input-shape", ["compile", "model.onnx", "--input-shape", "x:1,3"]),
        ("bad-emit", ["compile", "model.onnx", "--emit", "so,c"]),
        ("baseline-without-model", ["bench", "here.lutc", "--baseline", "onnxruntime"]),
        ("bench-nothing", ["bench"]),
        ("bench-remainder-of-artifact", ["bench", "net.lutc", "--remainder", "int8"]),
        ("bench-two-subjects", ["bench", "net.lutc", "--suite", "operators"]),
        ("bench-k-without-op", ["bench", "--suite", "operators", "--k", "8"]),
        ("bench-model-of-operators", ["bench", "--suite", "operators", "--against", "model.onnx"]),
        ("bench-target-of-artifact", ["bench", "net.lutc", "--target", "x86-64-v2"]),
        ("bench-simulate-here", ["bench", "--suite", "operators", "--simulate"]),
        ("bench-remote-operators", ["bench", "--suite", "operators", "--remote", "board:9090"]),
        ("run-two-places", ["run", "net.lutc", "--emulate", "--remote", "board:9090"]),
        ("bench-other-suite", ["bench", "--suite", "models"]),
        ("calibrate-without-data", ["calibrate", "model.onnx"]),
    ],
)
def test_usage_errors(capsys, golden, monkeypatch, tmp_path, name: str, arguments: list[str]) -> None:
    if name == "baseline-without-model":
        from lutc.artifact.store import write_artifact
        from tests.artifact.sample import make_manifest

        monkeypatch.chdir(tmp_path)
        write_artifact("here.lutc", make_manifest(), {"model.so": b""})
    shown = run_lutc(capsys, *arguments)
    assert (shown.status, shown.out) == (2, "")
    golden(shown.transcript(), f"cli/usage-{name}.txt")
