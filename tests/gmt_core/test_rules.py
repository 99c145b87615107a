"""The pass that applies a rule, against the mask that the rule states."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gmt_core.flat import INT_OF
from gmt_core.permutation import Permutation
from gmt_core.rules import KeepAll, KeepLargest, KeepRandom, Rule, apply_, apply_and_count_all_

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
LONG = 300_001  # several chunks


def naive(gradient: Tensor, rule: Rule) -> Tensor:
    keeps = rule.keeps(gradient.flatten(), 0)
    zeros = torch.zeros_like(gradient)
    return torch.where(keeps.view(gradient.shape), gradient, zeros)


def same_bits(left: Tensor, right: Tensor) -> bool:
    return torch.equal(left.view(INT_OF[left.dtype]), right.view(INT_OF[right.dtype]))


@settings(max_examples=300, deadline=None)
@given(
    values=st.lists(st.floats(width=16, allow_nan=False, allow_infinity=False), min_size=1),
    threshold=st.floats(min_value=0, width=32, allow_infinity=False),
    own=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    other=st.sampled_from(DTYPES),
)
def test_any_threshold_of_any_dtype(values, threshold, own, dtype, other) -> None:
    gradient = torch.tensor(values).to(dtype)
    limit = torch.tensor(abs(values[0]) if own else threshold, dtype=other)
    rule = KeepLargest(limit if limit.isfinite() else torch.tensor(1.0, dtype=other))
    found = gradient.clone()
    apply_(found, rule)
    assert same_bits(found, naive(gradient, rule))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", ["all", "largest", "random", "nothing dropped"])
def test_counts_are_those_of_the_mask(name: str, ties: bool, dtype: torch.dtype) -> None:
    gradient = torch.randn(LONG, generator=torch.Generator().manual_seed(0)).to(dtype)
    gradient = gradient.round() if ties else gradient
    rule = {
        "all": KeepAll(),
        "largest": KeepLargest(torch.tensor(1.0, dtype=dtype)),
        "random": KeepRandom(Permutation.of(LONG, 1), LONG // 3),
        "nothing dropped": KeepLargest(torch.tensor(0.0, dtype=dtype)),
    }[name]
    expected, keeps = naive(gradient, rule), rule.keeps(gradient, 0)
    found, alone = gradient.clone().view(-1, 1), gradient.clone()
    (kept,) = apply_and_count_all_([found], [rule])
    apply_(alone, rule)
    assert same_bits(found.view(-1), expected) and same_bits(alone, expected)
    assert int(kept) == int(keeps.sum())
    for sample in (slice(0, None, 1), slice(5, None, 7), slice(LONG + 2, None, 3)):
        chosen = rule.keeps_of(gradient[sample], gradient, sample)
        assert torch.equal(chosen, Rule.keeps_of(rule, gradient[sample], gradient, sample))
        assert torch.equal(chosen, keeps[sample])


def test_an_empty_gradient_counts_as_nothing() -> None:
    (kept,) = apply_and_count_all_([torch.empty(0, 3)], [KeepAll()])
    assert int(kept) == 0
