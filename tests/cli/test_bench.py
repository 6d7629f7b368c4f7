"""`lutc bench --suite`, `lutc bench --op` and `lutc profile`: what they run, print and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lutc.benchmark import operator_suite as suite_module
from lutc.benchmark.operators import operator_suite, parse_operator
from lutc.targets import host_arch
from tests.cli.console import run_lutc
from tests.cli.models import save_annotated_model

pytest.importorskip("tvm")
_SMALL = "dense 20x32 -> 8"


def test_one_operator(capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("onnxruntime")
    command = ["bench", "--op", _SMALL, "--k", "8", "--v", "4", "--encode", "float32", "--repeat", "3"]
    shown = run_lutc(capsys, *command, "--baseline", "onnxruntime", "--html", "o.html", "--json", "o.json")
    assert shown.status == 0 and "dense 20x32->8 V4 float32" in shown.out and "Wrote o.json" in shown.err
    (row,) = json.loads(Path("o.json").read_text())["rows"]
    assert (row["k"], row["v"], row["encode"]) == (8, 4, "float32")
    assert list(row["baselines"]) == ["onnxruntime"]
    assert "dense 20x32-&gt;8 V4 float32" in Path("o.html").read_text()


def test_json_on_stdout(capsys) -> None:
    target = "x86-64-v2" if host_arch() == "x86_64" else "arm64"
    command = ["bench", "--op", "conv2d 4x6x6 -> 4 3x3", "-t", target, "--repeat", "2", "-q"]
    shown = run_lutc(capsys, *command, "--baseline", "onnxruntime-int8", "--json")
    plain = json.loads(shown.out)
    assert plain["target"] == plain["rows"][0]["target"] == target and plain["rows"][0]["threads"] == 1


def _replace_suite(monkeypatch: pytest.MonkeyPatch, report) -> list[tuple[list, dict]]:
    calls: list[tuple[list, dict]] = []

    def called(operators: list, **options):
        calls.append((operators, options))
        options["progress"]("conv")
        return report

    monkeypatch.setattr(suite_module, "benchmark_operators", called)
    return calls


def test_suite_hands_everything_on(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    from lutc.benchmark.operator_report import OperatorReport

    monkeypatch.setenv("TVM_NUM_THREADS", "7")
    calls = _replace_suite(monkeypatch, OperatorReport([], {"threads": 2}))
    shown = run_lutc(capsys, "bench", "--suite", "operators", "--threads", "2", "--repeat", "5")
    assert shown.status == 0 and "threads  2" in shown.out
    ((operators, options),) = calls
    assert operators == operator_suite()
    assert (options["threads"], options["repeat"]) == (2, 5)
    assert options["baselines"] == ("onnxruntime", "onnxruntime-int8", "openvino-int8")
    import os

    assert os.environ["TVM_NUM_THREADS"] == "2"


def test_interrupted_suite_prints_what_there_is(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    from lutc.benchmark.operator_report import OperatorReport

    report = OperatorReport([], {}, ["Interrupted: 0 of 22 operators were measured."], interrupted=True)
    _replace_suite(monkeypatch, report)
    shown = run_lutc(capsys, "bench", "--suite", "operators", "--json")
    assert shown.status == 130 and json.loads(shown.out)["interrupted"] is True


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("grammar", ["--op", "conv 64 to 64"]),
        ("target", ["--op", _SMALL, "-t", "x86-64-v5"]),
        ("simulate-target", ["--op", _SMALL, "-t", "arm64", "--simulate"]),
        ("json-folder", ["--op", _SMALL, "--json", "no/such/folder.json"]),
    ],
)
def test_refuses_before_measuring(capsys, golden, monkeypatch, name: str, arguments: list[str]) -> None:
    calls = _replace_suite(monkeypatch, None)
    shown = run_lutc(capsys, "bench", *arguments)
    assert not calls and shown.status in (2, 3) and shown.out == ""
    golden(shown.transcript(), f"cli/bench-error-{name}.txt")


def test_engines_are_those_of_the_benchmark() -> None:
    from lutc.benchmark.baselines import BASELINES
    from lutc.cli.bench import _BASELINES

    assert _BASELINES == BASELINES


def test_simulate_hands_everything_on(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    from lutc.benchmark import simulated_suite
    from lutc.benchmark.simulated_report import SimulatedReport

    calls: list[tuple[list, dict]] = []

    def called(operators: list, **options):
        calls.append((operators, options))
        options["progress"]("dense")
        return SimulatedReport([], {"simulated": True}, ["A note."])

    monkeypatch.setattr(simulated_suite, "simulate_operators", called)
    shown = run_lutc(capsys, "bench", "--op", _SMALL, "--v", "8", "-t", "cortex-a76", "--simulate", "-q", "--json")
    plain = json.loads(shown.out)
    assert shown.status == 0 and plain["simulated"] is True and plain["notes"] == ["A note."]
    ((operators, options),) = calls
    assert [operator.name for operator in operators] == ["dense 20x32->8 V8"] and options["target"].name == "cortex-a76"


def test_profile(capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    monkeypatch.chdir(tmp_path)
    save_annotated_model(tmp_path / "model.onnx")
    np.savez("x.npz", x=np.ones((2, 8), np.float32))
    assert run_lutc(capsys, "compile", "model.onnx", "-o", "net.lutc", "-q").status == 0
    shown = run_lutc(capsys, "profile", "net.lutc", "-i", "x.npz", "--repeat", "3", "--html", "p.html")
    assert shown.status == 0 and "head" in shown.out and "encode us" in shown.out and Path("p.html").exists()
    plain = json.loads(run_lutc(capsys, "profile", "net.lutc", "--repeat", "3", "--json").out)
    head = next(row for row in plain["rows"] if row["name"] == "head")
    assert head["kind"] == "lut" and head["encode_us"] > 0 and head["read_us"] > 0 and head["rows"] == 2


def test_profile_refuses_early(capsys, tmp_path: Path) -> None:
    shown = run_lutc(capsys, "profile", str(tmp_path / "missing.lutc"))
    assert shown.status == 3 and "missing.lutc" in shown.err


def test_the_help_tells_the_grammar(capsys) -> None:
    """The example in the help is one that can be read."""
    assert "conv2d 64x56x56 -> 64 3x3" in run_lutc(capsys, "bench", "--help").out
    assert parse_operator("conv2d 64x56x56 -> 64 3x3").name == operator_suite()[0].name
