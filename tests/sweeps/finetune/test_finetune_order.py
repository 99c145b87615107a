from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.finetune.optimizers import check_steps, learning_rate
from sweeps.finetune.order import DataOrder, share
from sweeps.finetune.packing import first_fit


def test_every_example_is_seen_once_per_epoch() -> None:
    order = DataOrder(12, seed=3)
    epochs = [[*order.batch(2 * epoch, 6), *order.batch(2 * epoch + 1, 6)] for epoch in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(12))
    assert epochs[0] != epochs[1]


def test_a_batch_is_a_function_of_seed_and_position() -> None:
    walked = DataOrder(10, seed=3)
    batches = [walked.batch(update, 4) for update in range(9)]
    assert [DataOrder(10, seed=3).batch(update, 4) for update in range(9)] == batches
    assert [DataOrder(10, seed=4).batch(update, 4) for update in range(9)] != batches


@pytest.mark.parametrize(("micro", "workers"), [(12, 1), (3, 1), (6, 2), (3, 2), (1, 4)])
def test_the_ranks_share_a_batch_exactly(micro: int, workers: int) -> None:
    lengths = [5, 1, 4, 2, 3, 9, 8, 7, 6, 5, 5, 5]
    batch = DataOrder(12, seed=0).batch(0, 12)
    shares = [
        share(batch, lengths, micro=micro, rank=rank, workers=workers) for rank in range(workers)
    ]
    assert {len(parts) for parts in shares} == {12 // (micro * workers)}
    assert {len(rows) for rank in shares for rows in rank} == {micro}
    assert sorted(i for rank in shares for rows in rank for (i,) in rows) == sorted(batch)


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=8),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_the_ranks_share_a_packed_batch_exactly(
    few: list[int], micro: int, workers: int, interval: int
) -> None:
    lengths = [few[i % len(few)] for i in range(micro * workers * interval)]
    batch = range(len(lengths))
    shares = [
        share(batch, lengths, micro=micro, rank=rank, workers=workers, pack_to=20)
        for rank in range(workers)
    ]
    rows = [row for rank in shares for rows in rank for row in rows]
    assert sorted(index for row in rows for index in row) == list(batch)
    assert max(sum(lengths[index] for index in row) for row in rows) <= 20
    assert len(rows) < len(first_fit(lengths, 20)) + workers
    (sizes,) = {tuple(len(rows) for rows in rank) for rank in shares}
    assert max(sizes) <= micro
    assert 0 < len(sizes) <= interval


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=8),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_the_ranks_share_a_batch_without_padding_equally(
    few: list[int], micro: int, workers: int, interval: int
) -> None:
    lengths = [few[i % len(few)] for i in range(micro * workers * interval)]
    batch = range(len(lengths))
    shares = [
        share(batch, lengths, micro=micro, rank=rank, workers=workers, pack_to=20, unpadded=True)
        for rank in range(workers)
    ]
    rows = [row for rank in shares for (row,) in rank]
    assert sorted(index for row in rows for index in row) == list(batch)
    tokens = [sum(lengths[index] for index in row) for row in rows]
    assert max(tokens) <= 20 * micro
    assert max(tokens) - min(tokens) <= max(lengths)
    (number,) = {len(rank) for rank in shares}
    assert 0 < number <= interval


@pytest.mark.parametrize("name", ["cosine", "linear", "constant", "wsd"])
@pytest.mark.parametrize(("steps", "ratio"), [(100, 0.03), (7, 0.5), (3, 0.0), (1, 0.03)])
def test_the_schedule_is_the_one_of_transformers(steps: int, ratio: float, name: str) -> None:
    import math

    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    warmup, decay = math.ceil(ratio * steps), min(round(0.2 * steps), steps)
    theirs = {"constant": "constant_with_warmup", "wsd": "warmup_stable_decay"}.get(name, name)
    own = {"num_decay_steps": decay, "decay_type": "linear"} if name == "wsd" else {}
    schedule = get_scheduler(theirs, optimizer, warmup, steps, own)
    for update in range(steps):
        expected = optimizer.param_groups[0]["lr"]
        got = learning_rate(update, steps=steps, peak=0.5, warmup_ratio=ratio, schedule=name)
        assert got == pytest.approx(expected, rel=1e-12, abs=1e-15)
        optimizer.step()
        schedule.step()


def test_checks_are_even_and_end_at_the_end() -> None:
    assert check_steps(9, 3) == (3, 6, 9)
    assert check_steps(10, 3) == (4, 7, 10)
    assert check_steps(2, 5) == (1, 2)
