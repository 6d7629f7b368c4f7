"""Each verb hands its options to the API and shows what comes back: the API is replaced here."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lutc.artifact.manifest import TargetInfo
from lutc.artifact.store import write_artifact
from lutc.report import Report
from lutc.targets import host_arch
from tests.artifact.sample import make_manifest
from tests.cli.console import Shown, run_lutc
from tests.cli.models import save_float_model

_OTHER = "aarch64" if host_arch() == "x86_64" else "x86_64"


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runnable net.lutc, foreign.lutc for another architecture, model.onnx, x.npz, x.npy."""
    monkeypatch.chdir(tmp_path)
    target = TargetInfo(name="plain", arch=host_arch(), triple="", cpu="", attrs=[], requires=[])
    write_artifact("net.lutc", make_manifest(target=target), {"model.so": b"code"})
    foreign = TargetInfo(name="foreign", arch=_OTHER, triple="", cpu="", attrs=[], requires=[])
    write_artifact("foreign.lutc", make_manifest(target=foreign), {"model.so": b"code"})
    save_float_model(Path("model.onnx"))
    np.savez("x.npz", x=np.ones((1, 3, 8, 8), np.float32))


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch):
    """``calls = api("lutc.verify", "verify", result)``: replace a function; collects (args, kwargs)."""

    def replace(module: str, name: str, result: Any) -> list[tuple[tuple, dict]]:
        calls: list[tuple[tuple, dict]] = []

        def called(*args: Any, **kwargs: Any) -> Any:
            calls.append((args, kwargs))
            return result(*args, **kwargs) if callable(result) else result

        fake = ModuleType(module)
        setattr(fake, name, called)
        monkeypatch.setitem(sys.modules, module, fake)
        return calls

    return replace


def _run_golden(capsys, golden, name: str, *arguments: str) -> Shown:
    shown = run_lutc(capsys, *arguments)
    golden(shown.transcript(), f"cli/{name}.txt")
    return shown


def _compiled(*_: Any, progress: Any, output: Path, **__: Any) -> SimpleNamespace:
    progress("import", "x float32[1,3,8,8]", 0.42)
    progress("schedule", "1 of 2 layers are lookup tables", 1.9)
    target = TargetInfo(name="t", arch=host_arch(), triple="", cpu="", attrs=[], requires=[])
    artifact = write_artifact(output, make_manifest(target=target), {"model.so": b"x" * 2000})
    return SimpleNamespace(manifest=artifact.manifest, size_bytes=4096)


def test_compile(capsys, api, golden) -> None:
    calls = api("lutc.compiler", "compile", _compiled)
    command = "compile model.onnx -t arm64 -o out.lutc --keep-float fc --keep-float layer1.* --linker zig --emit so,asm"
    pytest.importorskip("ziglang")
    _run_golden(capsys, golden, "compile", *command.split(), "--input-shape", "x=1,3,8,8")
    ((args, kwargs),) = calls
    assert (args[0], args[1].name) == (Path("model.onnx"), "arm64")
    del kwargs["progress"]
    assert kwargs == {
        "output": Path("out.lutc"), "codebooks": None, "keep_float": ("fc", "layer1.*"), "linker": "zig",
        "exact": False, "emit": ("so", "asm"), "input_shapes": {"x": [1, 3, 8, 8]}, "dump_ir": None,
        "time_passes": False, "overwrite": False, "remainder": "float32", "calibration": None, "dynamic": {},
    }  # fmt: skip


def test_compile_quiet_and_json(capsys, api) -> None:
    api("lutc.compiler", "compile", _compiled)
    shown = run_lutc(capsys, "compile", "model.onnx", "-t", "native", "-o", "out.lutc", "-q", "--json")
    assert shown.err == "" and shown.out.startswith("{") and '"table_bytes"' not in shown.out


def test_compile_names_the_output_after_model_and_target(capsys, api) -> None:
    calls = api("lutc.compiler", "compile", _compiled)
    run_lutc(capsys, "compile", "model.onnx", "-t", "x86-64-v2" if host_arch() == "x86_64" else "arm64")
    assert calls[0][1]["output"].name in ("model-x86-64-v2.lutc", "model-arm64.lutc")


def test_emit_choices_are_those_of_the_compiler() -> None:
    from lutc.calibrate.remainder import REMAINDERS as known_remainders
    from lutc.cli.compile import EMIT, REMAINDERS
    from lutc.compiler import EMIT as known

    assert known == EMIT and known_remainders == REMAINDERS


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("target", "compile model.onnx -t arm65"),
        ("kernels-only", "compile model.onnx -t wasm32"),
        ("missing-model", "compile modl.onnx"),
        ("wrong-kind", "compile x.npz"),
        ("missing-codebooks", "compile model.onnx --codebooks cb.safetensors"),
        ("output-exists", "compile model.onnx -o net.lutc"),
        ("output-parent", "compile model.onnx -o no/net.lutc"),
        ("linker", "compile model.onnx -t arm64 --linker no-such-gcc"),
    ],
)
def test_compile_refuses_early(capsys, api, golden, tmp_path, name: str, command: str) -> None:
    calls = api("lutc.compiler", "compile", _compiled)
    shown = run_lutc(capsys, *command.split())
    assert not calls and shown.status in (2, 3)
    golden(shown.transcript().replace(str(tmp_path), "<folder>"), f"cli/compile-error-{name}.txt")


def test_calibrate(capsys, api, golden) -> None:
    calls = api("lutc.calibrate", "calibrate_file", {"conv1": 1, "fc": 2})
    command = (
        "calibrate model.onnx --data x.npz --num-centroids 32 --samples 7 --seed 3 --encode-dtype float32 "
        "--layers conv* --keep-float fc"
    )
    _run_golden(capsys, golden, "calibrate", *command.split())
    ((args, kwargs),) = calls
    assert args == (Path("model.onnx"), Path("x.npz"), Path("model.codebooks.safetensors"))
    config = kwargs["config"]
    assert (config.num_centroids, config.subvector_len, config.encode_dtype) == (32, None, "float32")
    assert (kwargs["samples"], kwargs["seed"], kwargs["overwrite"]) == (7, 3, False)
    assert (kwargs["layers"], kwargs["keep_float"]) == (("conv*",), ("fc",))


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("data", "calibrate model.onnx --data y.npz"),
        ("output", "calibrate model.onnx --data x.npz -o x.npz"),
    ],
)
def test_calibrate_refuses_early(capsys, api, golden, name: str, command: str) -> None:
    calls = api("lutc.calibrate", "calibrate_file", {})
    shown = _run_golden(capsys, golden, f"calibrate-error-{name}", *command.split())
    assert not calls and shown.status in (2, 3)


def _session(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"y": inputs["x"].reshape(1, -1)[:, :10] * np.arange(10, dtype=np.float32)}


def test_run(capsys, api, golden) -> None:
    calls = api("lutc.runtime.session", "load", SimpleNamespace(run=_session))
    _run_golden(capsys, golden, "run", "run", "net.lutc", "-i", "x.npz", "-o", "y.npz", "--threads", "2")
    assert calls == [((Path("net.lutc"),), {"threads": 2})]
    np.testing.assert_array_equal(np.load("y.npz")["y"], np.arange(10, dtype=np.float32)[None])


def test_run_on_random_inputs(capsys, api) -> None:
    api("lutc.runtime.session", "load", SimpleNamespace(run=_session))
    first, same, other = (run_lutc(capsys, "run", "net.lutc", "--seed", seed).out for seed in ("1", "1", "2"))
    assert first == same != other and "random, seed 1" in first


def test_run_emulated(capsys, api) -> None:
    calls = api("lutc.runtime.emulated_session", "EmulatedSession", SimpleNamespace(run=_session))
    assert run_lutc(capsys, "run", "foreign.lutc", "--emulate", "-i", "x.npz").status == 0
    assert calls == [((Path("foreign.lutc"),), {})]


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("missing", "run ned.lutc"),
        ("input", "run net.lutc -i y.npz"),
        ("output-suffix", "run net.lutc -o y.txt"),
        ("output-exists", "run net.lutc -o x.npz"),
    ],
)
def test_run_refuses_early(capsys, api, golden, name: str, command: str) -> None:
    calls = api("lutc.runtime.session", "load", None)
    shown = _run_golden(capsys, golden, f"run-error-{name}", *command.split())
    assert not calls and shown.status in (2, 3)


@pytest.mark.parametrize("passed", [True, False])
def test_verify_exit_status(capsys, api, passed: bool) -> None:
    class Verdict(Report):
        pass

    report = Verdict([{"output": "y", "max_error": 0.5}])
    report.passed = passed  # type: ignore[attr-defined]
    calls = api("lutc.verify", "verify", report)
    command = "verify net.lutc --reference model.onnx -i x.npz --samples 3 --seed 4 --no-per-layer"
    shown = run_lutc(capsys, *command.split())
    assert shown.status == (0 if passed else 1) and "max error" in shown.out
    (((path, reference, inputs), kwargs),) = calls
    assert (path, reference, list(inputs)) == (Path("net.lutc"), Path("model.onnx"), ["x"])
    places = {"emulate": False, "remote": None}
    assert kwargs == {"codebooks": None, "samples": 3, "seed": 4, "sizes": {}, "per_layer": False, **places}


def test_verify_refuses_a_foreign_artifact_early(capsys, api) -> None:
    calls = api("lutc.verify", "verify", None)
    shown = run_lutc(capsys, "verify", "foreign.lutc")
    assert shown.status == 2 and f"it is {_OTHER} code" in shown.err and not calls


def test_bench(capsys, api) -> None:
    calls = api("lutc.benchmark", "benchmark", Report([{"engine": "lutc"}]))
    for options in ([], ["--against", "model.onnx"], ["--against", "model.onnx", "--baseline", "onnxruntime"]):
        assert run_lutc(capsys, "bench", "net.lutc", "--repeat", "3", *options, "--html", "b.html").status == 0
    assert [kwargs["baselines"] for _, kwargs in calls] == [
        (),
        ("onnxruntime", "onnxruntime-int8"),
        ("onnxruntime",),
    ]
    assert calls[1][1]["float_model"] == Path("model.onnx") and calls[1][1]["repeat"] == 3
    assert "<!doctype html>" in Path("b.html").read_text()


@pytest.mark.parametrize(("flag", "emulate"), [([], "auto"), (["--emulate"], True), (["--no-emulate"], False)])
def test_demo(capsys, api, flag: list[str], emulate: object) -> None:
    calls = api("lutc.demo", "run_demo", 1)
    assert run_lutc(capsys, "demo", "-o", "here", *flag).status == 1
    ((args, kwargs),) = calls
    assert args == (Path("here"),) and kwargs["emulate"] == emulate
