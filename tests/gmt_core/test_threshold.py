"""Every selection path against a full sort."""

from __future__ import annotations

import math
import random
from decimal import Decimal
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gmt_core import (
    GradientMask,
    NonFiniteGradientError,
    bracket_select,
    equal_size_select,
    kept_count,
    magnitude_threshold,
    magnitude_thresholds,
    pooled_threshold,
    threshold,
)
from gmt_core.block_counter import Block
from gmt_core.bracket_select import bracketed_select
from gmt_core.flat import INT_OF
from gmt_core.magnitudes import plain_pool
from gmt_core.radix import Counter, radix_select
from gmt_core.stream_counter import Interval, Scanner, Seen, Stream

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
LARGE = 300_000  # above the size at which sampling begins


def by_sorting(x: Tensor, kept: int) -> Tensor:
    return x.abs().flatten().sort(descending=True).values[kept - 1]


def draw(kind: str, numel: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(numel)
    x = torch.randn(numel, generator=generator)
    if kind == "heavy":
        x = x**7
    if kind == "ties":
        x = (x * 2).round() / 2
    if kind == "zeros":
        x = torch.where(torch.rand(numel, generator=generator) < 0.7, 0.0, x)
    if kind == "sorted":
        x = x.sort().values
    if kind == "constant":
        x = torch.full((numel,), -0.25)
    if kind == "tiny":
        x = x * 1e-42  # subnormal
    return x.to(dtype)


KINDS = ("normal", "heavy", "ties", "zeros", "sorted", "constant", "tiny")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("numel", [1, 2, 1000, LARGE])
def test_threshold_equals_a_full_sort(kind: str, numel: int, dtype: torch.dtype) -> None:
    x = draw(kind, numel, dtype).nan_to_num(posinf=1.0, neginf=1.0)
    for kept in {1, 2, numel // 10, numel // 2, numel - 1, numel}:
        if 1 <= kept <= numel:
            found = magnitude_threshold(x, kept)
            assert found.shape == () and found.dtype == dtype
            assert torch.equal(found, by_sorting(x, kept))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_counter_agrees(kind: str, dtype: torch.dtype) -> None:
    tensors = [draw(kind, n, dtype).nan_to_num(posinf=1.0, neginf=1.0) for n in (5000, 70)]
    pools = [plain_pool([x], dtype) for x in tensors]
    for kept in ([1, 70], [49, 1], [2500, 35], [4999, 69], [5000, 2]):
        pairs = zip(tensors, kept, strict=True)
        expected = [int(by_sorting(x, k).view(INT_OF[dtype])) for x, k in pairs]
        counters: list[Counter] = [Block.of(pools, dtype), Stream(pools, Scanner(dtype))]
        for counter in counters:
            assert radix_select(counter, kept, dtype).tolist() == expected
        assert bracketed_select(pools[0], kept[0], Scanner(dtype)) == expected[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_scan_counts_and_gathers_what_an_interval_holds(dtype: torch.dtype) -> None:
    tensors = [draw("heavy", numel, dtype).nan_to_num(posinf=1.0) for numel in (LARGE, 8, 3, 1)]
    bits = torch.cat(tensors).abs().view(INT_OF[dtype]).long()
    middle = int(bits.median())
    for width in (0, 1, 5, 12):
        interval = Interval(middle - (1 << width >> 1), width, max(0, width - 3))
        scanner = Scanner(dtype)
        seen = scanner.scan(plain_pool(tensors, dtype), interval, most=LARGE)
        inside = (bits >= interval.low) & (bits <= interval.last)
        assert seen.above == int((bits > interval.last).sum())
        assert seen.inside == int(inside.sum()) > 0
        bins = (bits[inside] - interval.low) >> interval.bin_width
        if width:
            assert torch.equal(torch.cat(seen.pieces).long().sort()[0], bits[inside].sort()[0])
            assert torch.equal(seen.counts(), bins.bincount(minlength=min(8, 1 << width)))
            assert torch.equal(
                scanner.scan(plain_pool(tensors, dtype), interval).counts(), seen.counts()
            )


@pytest.mark.parametrize("dtype", DTYPES)
def test_sizes_that_are_no_multiple_of_anything(dtype: torch.dtype) -> None:
    tensors = [draw("normal", LARGE + extra, dtype) for extra in (1, 3, 7, 1023)]
    kept = [x.numel() // 3 for x in tensors]
    expected = [by_sorting(x, k) for x, k in zip(tensors, kept, strict=True)]
    assert [float(t) for t in magnitude_thresholds(tensors, kept)] == [float(t) for t in expected]


def scans_for(x: Tensor, kept: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many passes the selection took; its result is checked."""
    count, scan = 0, Scanner.scan

    def counted(*arguments: Any, **options: Any) -> Seen:
        nonlocal count
        count += 1
        return scan(*arguments, **options)

    monkeypatch.setattr(Scanner, "scan", counted)
    monkeypatch.setattr(equal_size_select, "_MOST", 0)  # as if x were larger
    assert torch.equal(magnitude_threshold(x, kept), by_sorting(x, kept))
    return count


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["normal", "heavy"])
def test_one_pass_decides_ordinary_gradients(kind, dtype, monkeypatch) -> None:
    x = draw(kind, LARGE, dtype).nan_to_num(posinf=1.0, neginf=1.0)
    for kept in (LARGE // 100, LARGE // 10, LARGE // 2, LARGE * 9 // 10):
        assert scans_for(x, kept, monkeypatch) == 1


@pytest.mark.parametrize("seen", [0.0, 9.0])  # the sample sees the least, or the largest, alone
def test_misleading_sample_still_gives_the_exact_threshold(seen, monkeypatch) -> None:
    x = draw("normal", LARGE, torch.float32)
    places = torch.arange(LARGE)
    step = LARGE // (1 << 13) | 1
    pool = plain_pool([places.float()], torch.float32)
    assert bracket_select._sample(pool, LARGE).numel() == len(places[::step])
    x[::step] = seen
    assert scans_for(x, LARGE // 2, monkeypatch) > 1


def test_more_in_the_interval_than_is_gathered(monkeypatch) -> None:
    monkeypatch.setattr(bracket_select, "_HELD", 4000)
    for kind in KINDS:
        x = draw(kind, LARGE, torch.float32)
        for kept in (1, LARGE // 3, LARGE // 2, LARGE):
            scans_for(x, kept, monkeypatch)


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1),
    share=st.floats(0, 1),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
def test_any_values(values: list[float], share: float, dtype: torch.dtype) -> None:
    x = torch.tensor(values, dtype=dtype)
    x = torch.where(x.isfinite(), x, 0)  # rounding up to bfloat16 can reach infinity
    kept = max(1, math.ceil(share * len(values)))
    expected = by_sorting(x, kept)
    assert torch.equal(magnitude_threshold(x, kept), expected)
    assert bracketed_select(plain_pool([x], dtype), kept, Scanner(dtype)) == int(
        expected.view(INT_OF[dtype])
    )


def test_pool_of_tensors_of_several_dtypes() -> None:
    tensors = [
        draw("normal", 70_000, torch.bfloat16).view(70, 1000),
        torch.empty(0, 3),
        draw("heavy", 90_001, torch.float32),
        draw("ties", 1, torch.float16),
    ]
    together = torch.cat([t.flatten().float() for t in tensors])
    for kept in (1, 1000, 80_000, together.numel()):
        assert torch.equal(pooled_threshold(tensors, kept), by_sorting(together, kept))


@pytest.mark.parametrize("numel", [10, LARGE])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_named(bad: float, dtype: torch.dtype, numel: int) -> None:
    x = draw("normal", numel, dtype)
    x[numel // 2] = bad
    for kept in (1, numel // 2, numel):
        with pytest.raises(NonFiniteGradientError, match="NaN or infinity"):
            magnitude_threshold(x, kept)


def test_layouts() -> None:
    x = draw("normal", 2 * 3 * 40, torch.float32).view(2, 3, 40)
    for dense in (x.transpose(0, 2), x.permute(1, 2, 0), x[1]):
        assert torch.equal(magnitude_threshold(dense, 7), by_sorting(dense, 7))
    for holey in (x[:, :, ::2], x[:, :1].expand(2, 3, 40)):
        with pytest.raises(ValueError, match="contiguous"):
            magnitude_threshold(holey, 7)


@pytest.mark.parametrize("kept", [0, -1, 4])
def test_kept_out_of_range(kept: int) -> None:
    with pytest.raises(ValueError, match=r"\[1, 3\]"):
        magnitude_threshold(torch.ones(3), kept)


def test_nothing_to_select_from() -> None:
    with pytest.raises(ValueError, match="found none"):
        magnitude_threshold(torch.empty(0), 1)
    with pytest.raises(ValueError, match=r"found torch\.int64"):
        magnitude_threshold(torch.ones(3, dtype=torch.int64), 1)


@settings(deadline=None)
@given(numel=st.integers(1, 10**13), ratio=st.decimals(0, Decimal("0.999"), places=3))
def test_kept_count_is_exact_in_decimals(numel: int, ratio: Decimal) -> None:
    thousandths = int(ratio * 1000)
    assert kept_count(numel, float(ratio)) == max(1, numel - numel * thousandths // 1000)


def test_kept_count_corners() -> None:
    assert kept_count(0, 0.5) == 0
    assert kept_count(1, 0.99) == 1
    assert kept_count(10, 0.3) == 7
    assert kept_count(100, 0.29) == 71  # in binary 0.29 * 100 falls below 29
    assert kept_count(10**6, 1e-05) == 10**6 - 10
    for ratio in (1.0, -0.1, math.nan, 1.5):
        with pytest.raises(ValueError, match=r"\[0, 1\)"):
            kept_count(10, ratio)


sizes = st.lists(st.integers(1, 300), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(sizes=sizes, share=st.floats(0, 1), seed=st.integers(0, 99), data=st.data())
def test_many_tensors_at_once(sizes, share, seed, data) -> None:
    most = data.draw(st.sampled_from([1 << 13, 1 << 15, 1 << 20]))
    tensors = [
        draw(data.draw(st.sampled_from(KINDS)), numel, data.draw(st.sampled_from(DTYPES)))
        .nan_to_num(posinf=1.0, neginf=1.0)
        .unsqueeze(seed % 2)
        for numel in sizes
    ]
    kept = [max(1, math.ceil(share * numel)) for numel in sizes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(equal_size_select, "_MOST", most)
        patch.setattr(equal_size_select, "_DIRECT", data.draw(st.sampled_from([0, 100, 4096])))
        found = magnitude_thresholds(tensors, kept)
    for value, x, count in zip(found, tensors, kept, strict=True):
        assert value.dtype == x.dtype and torch.equal(value, by_sorting(x, count))


@pytest.mark.parametrize("numel", [50, LARGE])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_tensor_that_is_not_finite_is_named(numel: int, dtype: torch.dtype) -> None:
    tensors = [draw("normal", n, dtype) for n in (9, 20, numel, 400)]
    tensors[2][-1] = math.nan
    with pytest.raises(NonFiniteGradientError) as caught:
        magnitude_thresholds(tensors, [5] * 4)
    assert caught.value.index == 2


def mixed(seed: int) -> list[Tensor]:
    """Tensors of a few sizes, dtypes and kinds of values, in any order, several of each size."""
    choice = random.Random(seed)
    sizes = [round(10 ** choice.uniform(0, 5)) for _ in range(5)]
    found = []
    for number in range(choice.randint(5, 40)):
        kind, dtype = choice.choice(KINDS), choice.choice(DTYPES[:3] if seed % 4 else DTYPES)
        x = draw(kind, choice.choice(sizes), dtype).nan_to_num(posinf=1.0, neginf=1.0)
        x = x.roll(number)
        found.append(x.view(1, -1).t() if number % 3 else x)
    return found


@pytest.mark.parametrize("seed", range(40))
def test_groups_of_mixed_tensors(seed: int) -> None:
    tensors, ratio = mixed(seed), (0.2, 0.4, 0.5, 0.9, 0.99, 0.999)[seed % 6]
    kept = [kept_count(x.numel(), ratio) for x in tensors]
    expected = [by_sorting(x, count) for x, count in zip(tensors, kept, strict=True)]
    found = magnitude_thresholds(tensors, kept)
    assert all(map(torch.equal, found, expected))
    masked = [x.clone(memory_format=torch.preserve_format) for x in tensors]
    GradientMask(ratio).mask_(masked, 0)
    for x, after, least in zip(tensors, masked, expected, strict=True):
        assert torch.equal(after, torch.where(x.abs() >= least, x, 0))
    if seed % 5 == 0:
        bad = seed * 7 % len(tensors)
        tensors[bad].view(-1)[-1] = (math.nan, -math.inf)[seed % 2]
        with pytest.raises(NonFiniteGradientError) as caught:
            magnitude_thresholds(tensors, kept)
        assert caught.value.index == bad


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_equal_tensors_share_the_work(kind: str, dtype: torch.dtype) -> None:
    tensors = [
        draw(kind, 50_000, dtype).nan_to_num(posinf=1.0, neginf=1.0).roll(i) for i in range(30)
    ]
    for kept in (1, 5_000, 25_000, 49_999, 50_000):
        found = magnitude_thresholds(tensors, [kept] * len(tensors))
        assert all(torch.equal(value, by_sorting(tensors[0], kept)) for value in found)


def test_no_tensors_no_thresholds() -> None:
    assert magnitude_thresholds([], []) == []


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pool_of_more_than_two_to_the_31_elements(dtype: torch.dtype) -> None:
    x = draw("normal", 1 << 22, dtype)
    times = (1 << 9) + 1  # the same memory again and again
    for kept in (x.numel() * 3 // 10, 2, x.numel()):
        found = pooled_threshold([x] * times, kept * times - 7)
        assert torch.equal(found, by_sorting(x, kept))


def test_where_there_are_kernels_all_pools_are_selected_from_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches: list[int] = []

    def select(kernels: object, pools: object, kept: list[int], dtype: object) -> Tensor:
        batches.append(len(kept))
        return torch.zeros(len(kept), dtype=torch.int64)

    monkeypatch.setattr(threshold, "kernels_for", lambda device, dtype: object())
    monkeypatch.setattr(threshold, "select", select)
    magnitude_thresholds([torch.randn(10 + n % 7) for n in range(291)], [3] * 291)
    assert batches == [291]
