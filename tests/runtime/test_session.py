"""Sessions over hand-made artifacts: small Relax modules, no model file involved."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tvm
import tvm_ffi
from safetensors.numpy import save_file
from tvm import relax
from tvm.script import relax as R

from lutc.artifact.manifest import Manifest, Source, TargetInfo, TensorSpec
from lutc.artifact.store import Artifact, write_artifact
from lutc.errors import ArtifactError, InputError, TargetError
from lutc.runtime.emulated_session import EmulatedSession
from lutc.runtime.session import Session, load
from lutc.runtime.threads import default_threads
from lutc.targets import Target, parse_target
from tests.execute import export, skip_unless_runnable

_WEIGHT = np.random.default_rng(1).standard_normal((16, 8)).astype("float32")
Make = Callable[..., Path]


def _module(constants: bool) -> tvm.IRModule:
    builder = relax.BlockBuilder()
    x, shift = relax.Var("x", R.Tensor((4, 16), "float32")), relax.Var("shift", R.Tensor((8,), "float32"))
    weight = relax.Var("w", R.Tensor((16, 8), "float32"))
    with builder.function("main", [x, shift, weight] if constants else [x, shift]):
        with builder.dataflow():
            product = builder.emit(relax.op.matmul(x, weight if constants else relax.const(_WEIGHT)))
            shifted = builder.emit(relax.op.add(relax.op.nn.relu(product), shift))
            out = builder.emit_output(relax.Tuple([shifted, x]))
        builder.emit_func_output(out)
    return builder.get()


def _expected(x: np.ndarray, shift: np.ndarray) -> np.ndarray:
    return np.maximum(x @ _WEIGHT, 0) + shift


def _inputs() -> dict[str, np.ndarray]:
    random = np.random.default_rng(2)
    return {
        "shift": random.standard_normal(8).astype("float32"),
        "x": random.standard_normal((4, 16)).astype("float32"),
    }


def _write(path: Path, target: Target, constants: bool = False) -> Artifact:
    manifest = Manifest(
        name=path.stem,
        versions={},
        source=Source(file="m.onnx", sha256="0" * 64),
        target=TargetInfo(
            name=target.name,
            arch=target.arch,
            triple=target.triple,
            cpu=target.cpu,
            attrs=list(target.attrs),
            requires=list(target.requires),
        ),
        inputs=[TensorSpec("x", "float32", [4, 16]), TensorSpec("shift", "float32", [8])],
        outputs=[TensorSpec("y", "float32", [4, 8]), TensorSpec("same", "float32", [4, 16])],
        layers=[],
        constants=["w"] if constants else [],
    )
    executable = tvm.compile(_module(constants), target=tvm.target.Target(target.llvm()))

    def payload(folder: Path) -> None:
        export(executable, folder / "model.so", target.llvm())
        if constants:
            save_file({"w": _WEIGHT}, folder / "constants.safetensors")

    return write_artifact(path, manifest, payload)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact for any x86-64 machine."""
    target = parse_target("x86-64-v2")
    skip_unless_runnable(target.llvm())
    return _write(tmp_path_factory.mktemp("here") / "m.lutc", target).path


def test_outputs_by_name(here: Path) -> None:
    session, inputs = load(here), _inputs()
    result = session.run(inputs)
    assert list(result) == ["y", "same"]
    np.testing.assert_allclose(result["y"], _expected(**inputs), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(result["same"], inputs["x"])
    assert [spec.name for spec in session.inputs] == ["x", "shift"]
    assert [spec.name for spec in session.outputs] == ["y", "same"]


def test_outputs_belong_to_the_caller(here: Path) -> None:
    session, inputs = load(here), _inputs()
    first = session.run(inputs)
    kept = {name: array.copy() for name, array in first.items()}
    session.run({name: -array for name, array in inputs.items()})
    for name, array in first.items():
        np.testing.assert_array_equal(array, kept[name])
        assert array.flags.writeable and not np.shares_memory(array, inputs["x"])


@pytest.mark.parametrize("offset", [0, 1, 2, 4, 8])
def test_any_alignment_and_layout(here: Path, offset: int) -> None:
    inputs = _inputs()
    buffer = np.zeros(64 + offset, "float32")
    shifted = buffer[offset:].reshape(4, 16)
    shifted[...] = inputs["x"]
    read_only = shifted.view()
    read_only.flags.writeable = False
    strided = np.repeat(inputs["x"], 2, axis=1)[:, ::2]
    transposed = np.asfortranarray(inputs["x"])
    session = load(here)
    for x in (shifted, read_only, strided, transposed):
        result = session.run({"x": x, "shift": inputs["shift"]})["y"]
        np.testing.assert_allclose(result, _expected(**inputs), rtol=1e-5, atol=1e-5)


def test_nan_and_infinity_do_not_crash(here: Path) -> None:
    x = np.full((4, 16), np.nan, "float32")
    x[1], x[2] = np.inf, -np.inf
    result = load(here).run({"x": x, "shift": np.zeros(8, "float32")})
    assert np.array_equal(result["same"], x, equal_nan=True)


def test_wrong_inputs_name_the_artifact(here: Path) -> None:
    session, inputs = load(here), _inputs()
    with pytest.raises(InputError, match="by name"):
        session.run(inputs["x"])
    with pytest.raises(InputError) as caught:
        session.run({**inputs, "x": inputs["x"].astype("float64")})
    assert caught.value.where == str(here)


def test_profile_names_kernels_in_order(here: Path) -> None:
    session = load(here)
    rows = session.profile(_inputs(), repeat=3)
    assert rows[0][0].startswith("matmul")
    assert all(time > 0 for _, time in rows) and not any(name.startswith("vm.builtin") for name, _ in rows)
    with pytest.raises(InputError):
        session.profile(_inputs(), repeat=0)


def test_threads(here: Path) -> None:
    inputs, sizes, failures = _inputs(), [], []

    def work() -> None:  # a new thread has a pool of its own
        try:
            for threads in (1, 2, 1, None):
                result = load(here, threads=threads).run(inputs)["y"]
                np.testing.assert_allclose(result, _expected(**inputs), rtol=1e-5, atol=1e-5)
                sizes.append(tvm_ffi.get_global_func("runtime.NumThreads")())
        except BaseException as error:
            failures.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert not failures
    cores = len(os.sched_getaffinity(0))
    assert sizes == [1, min(2, cores), 1, min(default_threads(), cores)]
    with pytest.raises(InputError):
        load(here, threads=0)


def test_shared_by_threads(here: Path) -> None:
    session, wrong = load(here), []

    def work(seed: int) -> None:
        x = np.random.default_rng(seed).standard_normal((4, 16)).astype("float32")
        shift = np.full(8, seed, "float32")
        for _ in range(50):
            if not np.allclose(session.run({"x": x, "shift": shift})["y"], _expected(x, shift), atol=1e-4):
                wrong.append(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_constants_outside_the_library(tmp_path: Path) -> None:
    target = parse_target("x86-64-v2")
    skip_unless_runnable(target.llvm())
    inputs = _inputs()
    session = load(_write(tmp_path / "c.lutc", target, constants=True).path)
    np.testing.assert_allclose(session.run(inputs)["y"], _expected(**inputs), rtol=1e-5, atol=1e-5)


def test_damaged_artifacts(here: Path, tmp_path: Path) -> None:
    copy = tmp_path / "m.lutc"
    shutil.copytree(here, copy)
    with (copy / "model.so").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ArtifactError):
        load(copy)
    with pytest.raises(ArtifactError):
        load(tmp_path / "nothing.lutc")


def test_a_library_that_does_not_load(here: Path, tmp_path: Path) -> None:
    manifest = load(here).manifest
    broken = write_artifact(tmp_path / "b.lutc", manifest, {"model.so": b"not a library"})
    with pytest.raises(ArtifactError) as caught:
        load(broken.path)
    assert caught.value.where.endswith("model.so")


def test_arm64_is_emulated_not_loaded(tmp_path: Path) -> None:
    target = parse_target("arm64")
    skip_unless_runnable(target.llvm())
    path = _write(tmp_path / "arm.lutc", target, constants=True).path
    inputs = _inputs()
    with pytest.raises(TargetError):
        load(path)
    session = EmulatedSession(path)
    assert session.cpu == "cortex-a72"
    first, second = session.run_many([inputs, inputs])
    np.testing.assert_allclose(first["y"], _expected(**inputs), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(first["y"], second["y"])
    np.testing.assert_array_equal(first["same"], inputs["x"])
    with pytest.raises(InputError):
        session.run(inputs["x"])


def test_only_arm64_is_emulated(here: Path) -> None:
    with pytest.raises(TargetError, match="only AArch64"):
        EmulatedSession(here)
    assert isinstance(load(here), Session)


def test_armv7_has_no_runtime_here(tmp_path: Path) -> None:
    path = _write(tmp_path / "armv7.lutc", parse_target("armv7")).path
    for run in (load, EmulatedSession):
        with pytest.raises(TargetError, match="lutc cannot run code for armv7") as caught:
            run(path)
        assert "docs/other-targets.md" in caught.value.fix
