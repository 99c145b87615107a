"""The mask ratio over the updates."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD

from gmt_core import GradientMask, GradientMasker, RandomMask, RatioSchedule, build_method


def ratios(schedule: RatioSchedule, updates: int) -> list[float]:
    return [round(schedule(update), 6) for update in range(updates)]


def test_shapes() -> None:
    assert ratios(RatioSchedule(0.3), 3) == [0.3, 0.3, 0.3]
    assert ratios(RatioSchedule(0.4, warmup=4), 6) == [0.0, 0.1, 0.2, 0.3, 0.4, 0.4]
    assert ratios(RatioSchedule(0.8, "linear", updates=4), 6) == [0.0, 0.2, 0.4, 0.6, 0.8, 0.8]
    falling = RatioSchedule(0.2, "linear", start=0.6, updates=4, warmup=2)
    assert ratios(falling, 6) == [0.0, 0.3, 0.6, 0.4, 0.2, 0.2]
    assert ratios(RatioSchedule(0.8, "cosine", updates=4), 5) == [
        0.0,
        0.117157,
        0.4,
        0.682843,
        0.8,
    ]


@settings(deadline=None)
@given(
    start=st.floats(0, 0.99),
    end=st.floats(0, 0.99),
    shape=st.sampled_from(["linear", "cosine"]),
    warmup=st.integers(0, 20),
    rest=st.integers(1, 50),
    update=st.integers(0, 200),
)
def test_stays_between_its_ends(start, end, shape, warmup, rest, update) -> None:
    schedule = RatioSchedule(end, shape, start=start, updates=warmup + rest, warmup=warmup)
    assert 0.0 <= schedule(update) <= max(start, end) + 1e-12
    assert schedule(warmup) == pytest.approx(start)
    assert schedule(warmup + rest) == end


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"end": 1.0}, r"\[0, 1\)"),
        ({"end": 0.5, "start": -0.1, "shape": "linear", "updates": 3}, r"\[0, 1\)"),
        ({"end": 0.5, "shape": "cosin", "updates": 3}, "did you mean 'cosine'"),
        ({"end": 0.5, "shape": "linear"}, "expected more than the 0 of the warm-up, found 0"),
        ({"end": 0.5, "shape": "linear", "updates": 5, "warmup": 5}, "more than the 5"),
        ({"end": 0.5, "warmup": -1}, "0 or more updates"),
        ({"end": 0.5, "updates": 5}, "takes neither start nor updates"),
    ],
)
def test_mistakes_are_named(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RatioSchedule(**options)


@pytest.mark.parametrize("build", [GradientMask, RandomMask])
def test_masker_follows_it_and_goes_on_where_it_was(build) -> None:
    schedule = RatioSchedule(0.8, "linear", updates=4)

    def masked(masker: GradientMasker, updates: range) -> list[list[int]]:
        parameter = nn.Parameter(torch.zeros(10))
        optimizer = SGD([parameter], lr=0.1)
        masker.attach(optimizer)
        found = []
        for update in updates:
            parameter.grad = torch.randn(10, generator=torch.Generator().manual_seed(update)) + 9
            optimizer.step()
            found.append((parameter.grad == 0).nonzero().flatten().tolist())
        return found

    whole = GradientMasker(build(schedule))
    masks = masked(whole, range(6))
    assert [len(mask) for mask in masks] == [0, 2, 4, 6, 8, 8]
    first, second = GradientMasker(build(schedule)), GradientMasker(build(schedule))
    masked(first, range(3))
    second.load_state_dict(first.state_dict())
    assert masked(second, range(3, 6)) == masks[3:]
    assert second.state_dict() == whole.state_dict()


def test_the_factory_takes_one() -> None:
    schedule = RatioSchedule(0.4, warmup=10)
    for name in ("gmt", "random"):
        assert build_method(name, schedule).mask_ratio == 0.4
    with pytest.raises(ValueError, match="masks nothing"):
        build_method("sft", schedule)
