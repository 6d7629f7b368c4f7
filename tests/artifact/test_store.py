"""Artifacts are written whole or not at all, and a damaged or hostile one is refused with a reason."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from lutc.artifact import store
from lutc.artifact.store import check_output, read_artifact, write_artifact
from lutc.errors import ArtifactError
from tests.artifact.sample import make_manifest

PAYLOAD = {"model.so": b"code" * 100, "constants.safetensors": b"tensors"}


def _message(error: ArtifactError, folder: Path) -> str:
    return "error: " + re.sub(r"[0-9a-f]{64}", "<sha256>", str(error)).replace(str(folder), "<folder>")


def test_round_trip(tmp_path: Path) -> None:
    written = write_artifact(tmp_path / "net.lutc", make_manifest(), PAYLOAD)
    assert sorted(written.manifest.files) == ["constants.safetensors", "model.so"]
    again = read_artifact(tmp_path / "net.lutc")
    assert again == written
    assert again.library.read_bytes() == PAYLOAD["model.so"]
    assert again.constants == tmp_path / "net.lutc" / "constants.safetensors"
    assert again.size_bytes == sum(file.stat().st_size for file in again.path.iterdir())
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.lutc"]


def test_same_input_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_artifact(tmp_path / name, make_manifest(), PAYLOAD)
    assert (tmp_path / "a/manifest.json").read_bytes() == (tmp_path / "b/manifest.json").read_bytes()


def test_payload_function_and_copied_files(tmp_path: Path) -> None:
    (tmp_path / "lib").write_bytes(b"elf")

    def fill(folder: Path) -> None:
        (folder / "model.so").write_bytes(b"elf")
        (folder / "asm").mkdir()
        (folder / "asm" / "model.s").write_text("ret")

    by_function = write_artifact(tmp_path / "f", make_manifest(), fill)
    by_copy = write_artifact(tmp_path / "c", make_manifest(), {"model.so": tmp_path / "lib", "asm/model.s": b"ret"})
    assert by_function.manifest == by_copy.manifest == read_artifact(tmp_path / "f").manifest
    assert by_function.constants is None


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        artifact = write_artifact(tmp_path / "net.lutc", make_manifest(), PAYLOAD)
    finally:
        os.umask(old)
    assert artifact.path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("existing", [False, True])
def test_interrupted_write_leaves_nothing(tmp_path: Path, error: type[BaseException], existing: bool) -> None:
    output = tmp_path / "net.lutc"
    if existing:
        write_artifact(output, make_manifest(name="first"), PAYLOAD)

    def fill(folder: Path) -> None:
        (folder / "model.so").write_bytes(b"half")
        raise error

    with pytest.raises(error):
        write_artifact(output, make_manifest(), fill, overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == (["net.lutc"] if existing else [])
    if existing:
        assert read_artifact(output).manifest.name == "first"


def test_interrupted_rename_brings_the_old_artifact_back(tmp_path: Path, monkeypatch) -> None:
    output = tmp_path / "net.lutc"
    write_artifact(output, make_manifest(name="first"), PAYLOAD)
    real = os.replace

    def replace(source: Path, destination: Path) -> None:
        if Path(source).name == "new":
            raise KeyboardInterrupt
        real(source, destination)

    monkeypatch.setattr(store.os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        write_artifact(output, make_manifest(), PAYLOAD, overwrite=True)
    assert read_artifact(output).manifest.name == "first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.lutc"]


def test_overwrite(tmp_path: Path) -> None:
    output = tmp_path / "net.lutc"
    write_artifact(output, make_manifest(), PAYLOAD)
    write_artifact(output, make_manifest(name="second"), {"model.so": b"new"}, overwrite=True)
    assert read_artifact(output).manifest.name == "second"
    assert sorted(entry.name for entry in output.iterdir()) == ["manifest.json", "model.so"]


def test_existing_output_is_kept(tmp_path: Path, golden) -> None:
    write_artifact(tmp_path / "net.lutc", make_manifest(), PAYLOAD)
    with pytest.raises(ArtifactError) as caught:
        write_artifact(tmp_path / "net.lutc", make_manifest(), PAYLOAD)
    golden(_message(caught.value, tmp_path), "artifact/output-exists.txt")


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_not_an_artifact_is_never_replaced(tmp_path: Path, golden, kind: str) -> None:
    output = tmp_path / "net.lutc"
    if kind == "folder":
        output.mkdir()
        (output / "thesis.txt").write_text("precious")
    elif kind == "file":
        output.write_text("precious")
    else:
        output.symlink_to(tmp_path)
    with pytest.raises(ArtifactError) as caught:
        write_artifact(output, make_manifest(), PAYLOAD, overwrite=True)
    golden(_message(caught.value, tmp_path), "artifact/output-not-an-artifact.txt")


def test_missing_parent(tmp_path: Path, golden) -> None:
    with pytest.raises(ArtifactError) as caught:
        check_output(tmp_path / "no" / "net.lutc")
    golden(_message(caught.value, tmp_path), "artifact/no-parent.txt")


def test_unwritable_parent(tmp_path: Path, golden, monkeypatch) -> None:
    monkeypatch.setattr(store.os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(ArtifactError) as caught:
        check_output(tmp_path / "net.lutc")
    golden(_message(caught.value, tmp_path), "artifact/not-writable.txt")


def test_full_disk(tmp_path: Path, golden) -> None:
    def fill(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(ArtifactError) as caught:
        write_artifact(tmp_path / "net.lutc", make_manifest(), fill)
    golden(_message(caught.value, tmp_path), "artifact/no-space.txt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "", "manifest.json", "a\\b"])
def test_escaping_names_are_not_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a plain"):
        write_artifact(tmp_path / "net.lutc", make_manifest(), {"model.so": b"", name: b""})
    assert not list(tmp_path.iterdir())


def test_links_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no links"):
        write_artifact(tmp_path / "net.lutc", make_manifest(), lambda folder: (folder / "x").symlink_to("/etc"))


def _edit(artifact: Path, **changes: object) -> None:
    path = artifact / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[7] ^= 1
    path.write_bytes(data)


def _link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


DAMAGES = {
    "flipped-byte": lambda a: _flip(a / "model.so"),
    "truncated-file": lambda a: (a / "model.so").write_bytes(b"code"),
    "missing-file": lambda a: (a / "model.so").unlink(),
    "no-manifest": lambda a: (a / "manifest.json").unlink(),
    "truncated-manifest": lambda a: (a / "manifest.json").write_bytes((a / "manifest.json").read_bytes()[:200]),
    "empty-manifest": lambda a: (a / "manifest.json").write_bytes(b""),
    "binary-manifest": lambda a: (a / "manifest.json").write_bytes(b"\xff\xfe\x00"),
    "not-an-object": lambda a: (a / "manifest.json").write_bytes(b"[1]"),
    "newer-format": lambda a: _edit(a, format_version=7),
    "wrong-type": lambda a: _edit(a, inputs="x"),
    "path-escape": lambda a: _edit(a, files={"../outside": "0" * 64}),
    "absolute-path": lambda a: _edit(a, files={"/etc/passwd": "0" * 64}),
    "no-library": lambda a: _edit(a, files={}),
    "linked-file": lambda a: _link(a / "model.so"),
    "linked-manifest": lambda a: _link(a / "manifest.json"),
    "folder-for-file": lambda a: ((a / "model.so").unlink(), (a / "model.so").mkdir()),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named(tmp_path: Path, golden, name: str) -> None:
    write_artifact(tmp_path / "net.lutc", make_manifest(), PAYLOAD)
    DAMAGES[name](tmp_path / "net.lutc")
    with pytest.raises(ArtifactError) as caught:
        read_artifact(tmp_path / "net.lutc")
    golden(_message(caught.value, tmp_path), f"artifact/{name}.txt")


def test_unchecked_read_skips_only_the_hashes(tmp_path: Path) -> None:
    write_artifact(tmp_path / "net.lutc", make_manifest(), PAYLOAD)
    _flip(tmp_path / "net.lutc" / "model.so")
    assert read_artifact(tmp_path / "net.lutc", check=False).manifest.name == "net"
    _link(tmp_path / "net.lutc" / "model.so")
    with pytest.raises(ArtifactError, match="link"):
        read_artifact(tmp_path / "net.lutc", check=False)


def test_missing_artifact_offers_the_nearest_name(tmp_path: Path, golden) -> None:
    write_artifact(tmp_path / "resnet20.lutc", make_manifest(), PAYLOAD)
    with pytest.raises(ArtifactError) as caught:
        read_artifact(tmp_path / "resnet2.lutc")
    golden(_message(caught.value, tmp_path), "artifact/missing.txt")


def test_a_file_is_not_an_artifact(tmp_path: Path, golden) -> None:
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(ArtifactError) as caught:
        read_artifact(tmp_path / "net.onnx")
    golden(_message(caught.value, tmp_path), "artifact/a-file.txt")
