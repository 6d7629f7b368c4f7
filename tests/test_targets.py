"""Named targets, their text form, their errors, and that our CPU tables say what LLVM's say."""

from __future__ import annotations

import pytest

from lutc import targets
from lutc.cpu_features import FEATURES, FLAGS, closure
from lutc.errors import TargetError
from lutc.targets import Target, check_models, check_runs_here, host_target, list_targets, parse_target


def test_named_targets() -> None:
    names = [target.name for target in list_targets()]
    assert len(set(names)) == len(names)
    assert {"x86-64-v2", "x86-64-v4-vbmi", "arm64", "arm64-dotprod", "raspberry-pi-5", "apple-m1"} <= set(names)
    for target in list_targets():
        assert parse_target(target.name) is target
        assert target.requires and target.description


def test_llvm_form() -> None:
    target = parse_target("cortex-a76")
    assert target.llvm() == {
        "kind": "llvm",
        "mtriple": "aarch64-linux-gnu",
        "mcpu": "neoverse-n1",
        "model": "cortex-a76",
        "mattr": ["+neon", "+dotprod"],
    }
    assert "mattr" not in parse_target("x86-64-v3").llvm()


def test_llvm_form_of_32_bits() -> None:
    """With a word for the vendor: without it LLVM knows no system, and calls division by another name."""
    armv7 = {"mtriple": "arm-unknown-linux-gnueabihf", "mcpu": "cortex-a9", "mfloat-abi": "hard", "mattr": ["+neon"]}
    assert parse_target("armv7").llvm() == {"kind": "llvm"} | armv7
    assert parse_target("armv7,cpu=cortex-a7").requires == ("neon", "vfpv4", "idivt", "idiva")
    assert parse_target("wasm32").llvm()["mattr"] == ["+simd128"]


def test_options() -> None:
    target = parse_target("arm64, cpu=cortex-a53 ,+dotprod")
    assert (target.name, target.cpu) == ("arm64,cpu=cortex-a53,+dotprod", "cortex-a53")
    assert target.attrs == ("+neon", "+dotprod")
    assert target.requires == ("asimd", "asimddp")


def test_last_word_on_a_feature_wins() -> None:
    target = parse_target("arm64-dotprod,-dotprod")
    assert target.attrs == ("+neon", "-dotprod")
    assert target.requires == ("asimd",)


def test_a_feature_brings_what_it_implies() -> None:
    assert {"avx512f", "avx512bw", "avx2"} <= set(parse_target("x86-64-v2,+avx512vbmi").requires)
    assert not {"avx512f", "avx512vbmi"} & set(parse_target("x86-64-v4-vbmi,-avx512f").requires)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("unknown-name", "cortex-a67"),
        ("unknown-name-far", "gpu"),
        ("unknown-cpu", "arm64,cpu=cortex-a67"),
        ("unknown-cpu-far", "arm64,cpu=z80"),
        ("unknown-feature", "x86-64-v3,+avx512vbni"),
        ("bad-option", "arm64,fast"),
        ("empty", ""),
    ],
)
def test_errors(golden, name: str, text: str) -> None:
    with pytest.raises(TargetError) as caught:
        parse_target(text)
    golden(f"error: {caught.value}", f"targets/{name}.txt")


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "pni ssse3 sse4_1 sse4_2 popcnt", "x86-64-v2"),
        ("aarch64", "fp asimd evtstrm crc32 cpuid", "arm64"),
        ("aarch64", "fp asimd asimddp", "arm64-dotprod"),
    ],
)
def test_host_target(monkeypatch, machine: str, flags: str, expected: str) -> None:
    monkeypatch.setattr(targets.platform, "machine", lambda: machine)
    monkeypatch.setattr(targets, "host_flags", lambda: frozenset(flags.split()))
    assert host_target().name == expected
    assert parse_target("native").name == expected
    check_runs_here(host_target())


def test_no_native_target(monkeypatch, golden) -> None:
    monkeypatch.setattr(targets.platform, "machine", lambda: "riscv64")
    monkeypatch.setattr(targets.platform, "system", lambda: "Linux")
    with pytest.raises(TargetError) as caught:
        parse_target("native")
    golden(f"error: {caught.value}", "targets/no-native.txt")


@pytest.mark.parametrize(
    ("name", "machine"), [("arm64", "x86_64"), ("x86-64-v3", "aarch64"), ("x86-64-v4-vbmi", "x86_64")]
)
def test_cannot_run_here(monkeypatch, golden, name: str, machine: str) -> None:
    monkeypatch.setattr(targets.platform, "machine", lambda: machine)
    known = targets._NAMED["x86-64-v4"].requires if machine == "x86_64" else ("asimd",)
    monkeypatch.setattr(targets, "host_flags", lambda: frozenset(known))
    with pytest.raises(TargetError) as caught:
        check_runs_here(parse_target(name))
    golden(f"error: {caught.value}", f"targets/cannot-run-{name}-on-{machine}.txt")


def test_no_runtime_anywhere(monkeypatch, golden) -> None:
    """Also on such a machine: TVM's packages have no runtime for it."""
    monkeypatch.setattr(targets.platform, "machine", lambda: "armv7l")
    monkeypatch.setattr(targets, "host_flags", lambda: frozenset(["neon", "vfpv4"]))
    with pytest.raises(TargetError) as caught:
        check_runs_here(parse_target("armv7"))
    golden(f"error: {caught.value}", "targets/cannot-run-armv7.txt")
    with pytest.raises(TargetError, match="no native target"):
        host_target()


def test_kernels_only(golden) -> None:
    with pytest.raises(TargetError) as caught:
        check_models(parse_target("wasm32"))
    golden(f"error: {caught.value}", "targets/kernels-only-wasm32.txt")
    assert [target.name for target in list_targets() if not target.models] == ["wasm32"]
    check_models(parse_target("armv7"))


def _llvm_features(target: Target) -> set[str]:
    tvm = pytest.importorskip("tvm")
    from tvm.target.codegen import target_has_features

    made = tvm.target.Target(target.llvm())
    return {feature for feature in FLAGS[target.arch] if target_has_features([feature], made)}


@pytest.mark.parametrize("name", [target.name for target in list_targets()])
def test_requires_is_what_llvm_switches_on(name: str) -> None:
    target = parse_target(name)
    assert {FLAGS[target.arch][feature] for feature in _llvm_features(target)} == set(target.requires)


_BASES = {
    "x86_64": ("x86-64-v2", "x86-64"),
    "aarch64": ("arm64", "generic"),
    "armv7": ("armv7", "cortex-a9"),
    "wasm32": ("wasm32,-simd128", "generic"),
}


@pytest.mark.parametrize("arch", list(FEATURES))
def test_cpu_table_agrees_with_llvm(arch: str) -> None:
    base, _ = _BASES[arch]
    for cpu, features in FEATURES[arch].items():
        assert _llvm_features(parse_target(f"{base},cpu={cpu}")) == set(features), cpu


@pytest.mark.parametrize("arch", list(FEATURES))
def test_implied_features_agree_with_llvm(arch: str) -> None:
    base, cpu = _BASES[arch]
    for feature in FLAGS[arch]:
        target = parse_target(f"{base},cpu={cpu},+{feature}")
        assert _llvm_features(target) == closure([feature, *FEATURES[arch][cpu]]), feature
