"""Artifacts on another machine: an AArch64 server under qemu, TVM's own server, and everything that can go wrong."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")  # lutc.export, which has the ONNX functions, imports it

from lutc.cli.main import main
from lutc.compiler import compile
from lutc.errors import ArtifactError, InputError, LutcError, TargetError, VerifyError
from lutc.runtime import aarch64, emulator, remote
from lutc.runtime.device_files import collect
from lutc.runtime.remote import RemoteDevice, RemoteSession, parse_address
from lutc.runtime.session import load
from lutc.verify.annotate import _add_functions
from tests.cli.models import save_annotated_model
from tests.execute import why_not_emulated


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.onnx, compiled for this machine (here.lutc) and for a Cortex-A76 (arm.lutc)."""
    folder = tmp_path_factory.mktemp("remote")
    model = onnx.load(save_annotated_model(folder / "net.onnx"))
    _add_functions(model)
    onnx.save(model, folder / "net.onnx")
    compile(folder / "net.onnx", "native", output=folder / "here.lutc")
    if not why_not_emulated():
        compile(folder / "net.onnx", "cortex-a76", output=folder / "arm.lutc", exact=True)
    return folder


@contextlib.contextmanager
def arm_server(folder: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """The C server as a Cortex-A76; its address, and the process."""
    reason = why_not_emulated()
    if reason:
        pytest.skip(reason)
    command = [*emulator.command("cortex-a76"), str(aarch64.rpc_server()), "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(folder), "TVM_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1], process
    finally:
        process.terminate()
        assert process.wait(20) == 0
        process.stdout.close()  # type: ignore[union-attr]
        assert list(folder.iterdir()) == []  # what clients sent is gone


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with arm_server(tmp_path_factory.mktemp("server")) as (address, _):
        yield address


_PYTHON_SERVER = """
import sys
from tvm.rpc.server import PopenRPCServerState
print(PopenRPCServerState("127.0.0.1", 9190, 9390, silent=True).port, flush=True)
"""


@pytest.fixture(scope="module")
def here() -> Iterator[str]:
    """TVM's own server, on this machine."""
    process = subprocess.Popen([sys.executable, "-c", _PYTHON_SERVER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield f"127.0.0.1:{process.stdout.readline().strip()}"
    process.kill()
    process.wait()
    process.stdout.close()


X = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)


def test_on_an_aarch64_server(arm: str, artifacts: Path) -> None:
    expected = load(artifacts / "here.lutc").run(X)
    with RemoteSession(artifacts / "arm.lutc", arm, threads=1) as session:
        assert session.device.info["machine"] == "aarch64" and "asimddp" in session.device.info["features"]
        assert [spec.name for spec in session.inputs] == ["x"]
        for scale in (1, 2):
            got = session.run(X * scale)
            assert list(got) == list(expected) == [spec.name for spec in session.outputs]
        np.testing.assert_allclose(session.run({"x": X})["y"], expected["y"], rtol=1e-5, atol=1e-5)
        seconds = session.time(X, repeat=3)
        assert len(seconds) == 3 and min(seconds) > 0
        with pytest.raises(InputError, match="wrong shape"):
            session.run(X[:1])


def test_on_tvms_own_server(here: str, artifacts: Path) -> None:
    with RemoteSession(artifacts / "here.lutc", here) as session:
        np.testing.assert_array_equal(session.run(X)["y"], load(artifacts / "here.lutc").run(X)["y"])


def test_verbs(arm: str, artifacts: Path, capsys) -> None:
    commands = [
        ["run", "arm.lutc", "--remote", arm],
        ["verify", "arm.lutc", "-r", "net.onnx", "--samples", "2", "--remote", arm],
        ["bench", "arm.lutc", "--repeat", "2", "--remote", arm],
    ]
    shown = {}
    for verb, artifact, *rest in commands:
        arguments = [str(artifacts / word) if word == "net.onnx" else word for word in rest]
        with pytest.raises(SystemExit) as ended:
            main([verb, str(artifacts / artifact), *arguments, "--json"])
        assert ended.value.code in (0, None)
        shown[verb] = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in shown["run"]["rows"]] == ["y"]
    assert [row["kind"] for row in shown["verify"]["rows"]] == ["output", "codes"]
    assert all(row["passed"] for row in shown["verify"]["rows"])
    assert shown["bench"]["rows"][0]["min_us"] > 0 and arm in shown["bench"]["machine"]


def test_code_for_another_machine(arm: str, here: str, artifacts: Path, golden: Callable) -> None:
    for name, address, artifact in (("arch", arm, "here"), ("arch-python", here, "arm")):
        with pytest.raises(TargetError) as raised:
            RemoteSession(artifacts / f"{artifact}.lutc", address)
        target = "native" if artifact == "here" else "cortex-a76"
        from lutc.targets import parse_target

        text = str(raised.value).replace(address, "ADDRESS").replace(parse_target(target).name, "TARGET")
        golden(f"error: {text}", f"remote/{name}.txt")
    compile(artifacts / "net.onnx", "neoverse-v1", output=artifacts / "new.lutc")
    with pytest.raises(TargetError, match="cannot run on") as raised:
        RemoteSession(artifacts / "new.lutc", arm)
    assert "lacks" in raised.value.reason and "i8mm" in raised.value.reason


def test_another_version_of_tvm(arm: str, monkeypatch: pytest.MonkeyPatch, golden: Callable) -> None:
    import tvm

    monkeypatch.setattr(tvm, "__version__", "9.9")
    with pytest.raises(TargetError) as raised:
        RemoteDevice(arm)
    monkeypatch.undo()
    golden(f"error: {raised.value}".replace(arm, "ADDRESS").replace(tvm.__version__, "VERSION"), "remote/version.txt")


def test_nothing_listens(golden: Callable) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(TargetError) as raised:
        RemoteDevice(f"127.0.0.1:{port}")
    golden(f"error: {raised.value}".replace(str(port), "PORT"), "remote/refused.txt")


@contextlib.contextmanager
def _listener(answer: bytes | None) -> Iterator[str]:
    """A server that answers anything with some bytes and hangs up, or that never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server, contextlib.ExitStack() as stack:

        def serve() -> None:
            connection = stack.enter_context(server.accept()[0])
            if answer is not None:
                connection.recv(64)
                connection.sendall(answer)
                connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join(5)


@pytest.mark.parametrize(("name", "answer"), [("http", b"HTTP/1.1 400 Bad Request\r\n\r\n"), ("silent", None)])
def test_something_else_listens(name: str, answer: bytes | None, monkeypatch, golden: Callable) -> None:
    monkeypatch.setattr(remote, "_GREET", 0.5)
    with _listener(answer) as address, pytest.raises(TargetError) as raised:
        RemoteDevice(address)
    golden(f"error: {raised.value}".replace(address, "ADDRESS"), f"remote/{name}.txt")


def test_a_server_that_dies(artifacts: Path, tmp_path: Path) -> None:
    with arm_server(tmp_path) as (address, process), RemoteSession(artifacts / "arm.lutc", address) as session:
        process.terminate()  # its connections end with it
        with pytest.raises(VerifyError, match="failed") as raised:
            session.run(X)
        assert "ended the connection" in raised.value.reason or "broke" in raised.value.reason


def test_a_call_that_takes_too_long_is_given_up(arm: str, artifacts: Path) -> None:
    with RemoteSession(artifacts / "arm.lutc", arm, timeout=1.0) as session:
        with pytest.raises(VerifyError, match="failed") as raised:
            session.time(X, repeat=1_000_000)
        assert raised.value.reason == "no answer within 1 s"
    with RemoteSession(artifacts / "arm.lutc", arm) as session:  # the server has stopped the old call
        assert session.run(X)["y"].shape[0] == 2


@pytest.mark.parametrize("text", ["board", "board:", "board:0", "board:99999", "a b:90", "tcp://board:9090", ":9090"])
def test_malformed_addresses(text: str) -> None:
    with pytest.raises(InputError, match="cannot read the address"):
        parse_address(text)


def test_addresses() -> None:
    assert parse_address("board.local:9090") == ("board.local", 9090)
    assert parse_address("[::1]:80") == ("::1", 80)


def test_the_device_files_are_complete(artifacts: Path, tmp_path: Path) -> None:
    """The server runs from them alone, as its script starts it: qemu is given no other AArch64 libraries."""
    reason = why_not_emulated()
    if reason:
        pytest.skip(reason)
    out = collect(tmp_path / "device")
    (line,) = [line for line in (out / "rpc-server.sh").read_text().splitlines() if line.startswith("exec ")]
    words = [word.replace("$here", str(out)).strip('"') for word in line.split()[1:-1]]
    command = [*emulator.command("cortex-a76")[:3], *words, "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            with RemoteSession(artifacts / "arm.lutc", process.stdout.readline().split()[-1]) as session:
                assert np.isfinite(session.run(X)["y"]).all()
        finally:
            process.terminate()
    with pytest.raises(ArtifactError, match="device files"):
        collect(out)


def test_every_error_is_ours() -> None:
    with pytest.raises(LutcError):
        RemoteDevice("no-such-host.invalid:9090")
