"""The bound of an operator: known numbers, units, and that more work is never less time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lutc.cost_model import LayerShape, bound, find_peak
from lutc.cost_model.peak import _PEAKS, host_maker
from tvm_ext.tensor_intrin import list_isas

_CONV = LayerShape(rows=56 * 56, num_codebooks=64, num_centroids=16, subvector_len=9, outputs=64)


def _zen4(shape: LayerShape, ghz: float = 3.67):
    peak = find_peak("avx512_vbmi", "amd")
    assert peak is not None
    return bound(shape, peak, ghz)


@pytest.mark.parametrize(
    ("shape", "us"),
    [
        # search 56*56/16 * 64*16 * 3 dot products at one a cycle, read 56*56*64*64 lookups at 48 a cycle, 3.67 GHz
        (_CONV, 237),
        (LayerShape(49, 512, 16, 9, 512), 93),
        (LayerShape(128, 48, 16, 16, 768), 33),
        (LayerShape(128, 192, 16, 16, 768), 133),
        (LayerShape(128, 96, 16, 32, 768), 80),
    ],
)
def test_known_numbers(shape: LayerShape, us: float) -> None:
    assert _zen4(shape).total_us == pytest.approx(us, rel=0.02)


def test_a_pair_a_cycle_on_intel() -> None:
    peak = find_peak("avx512_vbmi", "intel")
    assert peak is not None
    found = bound(_CONV, peak, 1.0)
    assert found.read_us == pytest.approx(56 * 56 * 64 * 64 / 64 / 1e3)
    # three dot products, the tag and the maximum on two ports: 2.5 cycles a centroid
    assert found.search_us == pytest.approx(56 * 56 / 16 * 64 * 16 * 2.5 / 1e3)


def test_float_search_is_bound_by_multiply_adds() -> None:
    exact = _zen4(replace(_CONV, encode_dtype="float32"))
    assert exact.search_us == pytest.approx(56 * 56 / 16 * 64 * 16 * 9 / 3.67 / 1e3)
    assert exact.read_us == _zen4(_CONV).read_us


def test_trees_take_four_operations_a_level() -> None:
    """For 64 rows of a codebook at two operations a cycle, and for 16 where the values are float32."""
    tree = replace(_CONV, encoder="tree")
    assert _zen4(tree, 1.0).search_us == pytest.approx(56 * 56 / 64 * 64 * (4 * 4 + 1) / 2 / 1e3)
    assert _zen4(replace(tree, encode_dtype="float32"), 1.0).search_us == pytest.approx(4 * _zen4(tree, 1.0).search_us)
    assert _zen4(replace(tree, num_centroids=4)).search_us < _zen4(tree).search_us < _zen4(_CONV).search_us / 10


def test_one_row_reads_the_table_from_the_cache() -> None:
    """So few rows cannot hide the load of the table, of which a gather reads only a sixteenth."""
    one = LayerShape(1, 48, 16, 16, 768)
    assert _zen4(one).read_us == pytest.approx(48 * 16 * 768 / 32 / 3.67 / 1e3)
    assert _zen4(replace(one, gather=True)).read_us < _zen4(one).read_us / 8


@pytest.mark.parametrize("field", ["rows", "num_codebooks", "num_centroids", "subvector_len", "outputs"])
@pytest.mark.parametrize("encode_dtype", ["int8", "float32"])
@pytest.mark.parametrize("peak", _PEAKS, ids=lambda peak: f"{peak.isa}-{peak.maker}")
def test_more_work_takes_no_less(peak, field: str, encode_dtype: str) -> None:
    shape = replace(_CONV, encode_dtype=encode_dtype)
    times = [bound(replace(shape, **{field: getattr(shape, field) * k}), peak, 3.0).total_us for k in (1, 2, 5)]
    assert 0 < times[0] <= times[1] <= times[2] and times[0] < times[2]


def test_measured_bandwidth_bounds_a_table_in_an_outer_cache() -> None:
    peak, wide = find_peak("avx512_vbmi", "intel"), LayerShape(49, 512, 16, 9, 512)
    assert peak is not None
    slow = bound(wide, peak, 4.0, table_gb_per_s=30)
    assert slow.read_us == pytest.approx(512 * 16 * 512 / 30 / 1e3)
    assert bound(wide, peak, 4.0, table_gb_per_s=300).read_us == pytest.approx(49 * 512 * 512 / 64 / 4 / 1e3)


def test_twice_the_clock_is_half_the_time() -> None:
    assert _zen4(_CONV, 4.0).total_us == pytest.approx(_zen4(_CONV, 2.0).total_us / 2)


_MAKERS = {"x86": {"amd", "intel"}, "aarch64": {"arm"}, "arm": {"arm"}}


def test_every_shuffle_of_a_machine_has_a_row() -> None:
    """And the dot product's shape is that of the kernel. WebAssembly is as fast as the engine makes it."""
    for isa in list_isas():
        rows = [peak for peak in _PEAKS if peak.isa == isa.name]
        assert {peak.maker for peak in rows} == _MAKERS.get(isa.arch, set())
        if rows and isa.dot.intrin:
            assert {(peak.dot_rows, peak.dot_depth) for peak in rows} == {(isa.dot.rows, isa.dot.depth)}
        assert all(peak.lookups <= isa.table_read.rows * isa.table_read.group for peak in rows)


def test_unknown_machines_have_no_bound() -> None:
    assert find_peak("avx512_vbmi", "") is None and find_peak("generic") is None
    assert host_maker() in ("amd", "intel", "arm", "")
