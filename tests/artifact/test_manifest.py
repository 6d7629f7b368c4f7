"""The manifest's JSON: deterministic, strict, versioned."""

from __future__ import annotations

import json

import msgspec
import pytest

from lutc.artifact.manifest import NewerFormatError, TensorSpec, decode_manifest, encode_manifest
from lutc.errors import TargetError
from lutc.targets import check_runs_here, host_arch
from tests.artifact.sample import make_manifest


def test_round_trip() -> None:
    manifest = make_manifest(constants=["b", "a"], files={"model.so": "1" * 64})
    assert decode_manifest(encode_manifest(manifest)) == manifest


def test_json_is_sorted_and_indented(golden) -> None:
    first = encode_manifest(make_manifest(versions={"b": "2", "a": "1"}))
    assert first == encode_manifest(make_manifest(versions={"a": "1", "b": "2"}))
    golden(first.decode(), "artifact/manifest.json")


def test_newer_version_is_told_apart_from_damage() -> None:
    later = {"format_version": 2, "surprise": True}
    with pytest.raises(NewerFormatError, match="2 is newer than 1"):
        decode_manifest(json.dumps(later).encode())


@pytest.mark.parametrize("change", [{"surprise": 1}, {"layers": [{"name": "x"}]}, {"files": {"a": 1}}])
def test_unknown_or_wrong_fields_are_refused(change: dict) -> None:
    data = json.loads(encode_manifest(make_manifest())) | change
    with pytest.raises(msgspec.ValidationError):
        decode_manifest(json.dumps(data).encode())


def test_a_target_of_a_manifest_can_be_checked() -> None:
    target = msgspec.structs.replace(make_manifest().target, arch=host_arch(), requires=["no_such_flag"])
    with pytest.raises(TargetError, match="no_such_flag"):
        check_runs_here(target)


def test_tensor_spec_text() -> None:
    assert str(TensorSpec("x", "float32", [1, 3])) == "x float32[1,3]"
