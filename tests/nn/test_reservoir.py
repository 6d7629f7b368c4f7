from __future__ import annotations

import torch

from lutc.nn.reservoir import InputRange, Reservoir


def filled(seed: int, batches: list[int], capacity: int = 100) -> torch.Tensor:
    reservoir = Reservoir(capacity, seed)
    start = 0
    for size in batches:
        reservoir.add(torch.arange(start, start + size, dtype=torch.float32)[:, None])
        start += size
    assert reservoir.rows is not None
    return reservoir.rows[:, 0]


def test_keeps_everything_while_there_is_room():
    assert filled(0, [30, 40]).sort().values.tolist() == list(range(70))


def test_sample_is_uniform_over_a_sorted_stream():
    means = torch.stack([filled(seed, [500, 3, 497, 4000]).mean() for seed in range(40)])
    assert abs(means.mean() - 2500) < 150


def test_every_batch_has_its_share_of_the_sample():
    for seed in range(10):
        shares = (filled(seed, [300, 100, 600]) / 100).long().bincount(minlength=10)
        for share, wanted in zip((shares[:3].sum(), shares[3], shares[4:].sum()), (30, 10, 60), strict=True):
            assert abs(share - wanted) <= 2  # a row by chance, and what that moves the others by


def test_sample_is_shuffled_bounded_and_repeatable():
    rows = filled(3, [1000, 1000])
    assert len(rows) == 100
    assert len(rows.unique()) == 100
    assert not torch.equal(rows, rows.sort().values)
    assert torch.equal(rows, filled(3, [1000, 1000]))
    assert not torch.equal(rows, filled(4, [1000, 1000]))


def test_range_covers_rows_the_sample_drops():
    seen = InputRange()
    seen.add(torch.tensor([[1.0, -5.0], [2.0, 0.0]]))
    seen.add(torch.empty(0, 2))
    seen.add(torch.tensor([[7.0, 1.0]]))
    assert seen.low is not None
    assert seen.high is not None
    assert seen.low.tolist() == [1.0, -5.0]
    assert seen.high.tolist() == [7.0, 1.0]
