"""What a user may get wrong at the first try: each is a ValueError that says what was expected."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim import SGD

from gmt_core import (
    SFT,
    GradientMask,
    GradientMasker,
    HalfFineTuning,
    RandomMask,
    RatioSchedule,
    kept_count,
    magnitude_threshold,
    one_off_drop,
)

NOT_RATIOS = [
    1,
    1.0,
    -0.1,
    math.nan,
    math.inf,
    "0.2",
    "much",
    None,
    True,
    [0.2],
    torch.tensor(0.2),
]


@pytest.mark.parametrize("ratio", NOT_RATIOS, ids=repr)
@pytest.mark.parametrize(
    "use",
    [
        GradientMask,
        RandomMask,
        RatioSchedule,
        lambda ratio: RatioSchedule(0.5, "linear", start=ratio, updates=9),
        lambda ratio: one_off_drop({}, {}, ratio),
        lambda ratio: kept_count(10, ratio),
    ],
    ids=["gmt", "random", "schedule", "start", "drop", "count"],
)
def test_a_ratio_is_a_number_in_0_1(use: Callable[[object], object], ratio: object) -> None:
    with pytest.raises(ValueError, match=r"(ratio|start): expected a number in \[0, 1\), found"):
        use(ratio)


def optimizer() -> SGD:
    return SGD(nn.Linear(2, 2).parameters(), lr=0.1)


MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    "seed of text": (lambda: RandomMask(0.2, "1"), "seed: expected a whole number, found '1'"),
    "half a seed": (lambda: HalfFineTuning(0.5), "seed: expected a whole number, found 0.5"),
    "half a step": (
        lambda: GradientMasker(SFT(), statistics_every=1.5),
        r"statistics_every: expected 0 \(never\) or more updates, found 1.5",
    ),
    "updates of text": (
        lambda: RatioSchedule(0.2, "linear", updates="9"),
        "schedule updates: expected a number of updates, found '9'",
    ),
    "method by name": (
        lambda: GradientMasker("gmt"),
        r"expected a method, as GradientMask\(0.2\), found 'gmt'",
    ),
    "exclude a number": (
        lambda: GradientMasker(SFT(), exclude=[3]),
        r"exclude: expected patterns such as '\*.bias', found \[3\]",
    ),
    "parameters without names": (
        lambda: GradientMasker(SFT()).attach(optimizer(), nn.Linear(2, 2).parameters()),
        r"expected what model.named_parameters\(\) gives",
    ),
    "the model itself": (
        lambda: GradientMasker(SFT()).attach(optimizer(), nn.Linear(2, 2)),
        "pairs of a name and a parameter, found Linear",
    ),
    "state of a list": (
        lambda: GradientMasker(SFT()).load_state_dict([1]),
        r"masker state: expected .* found \[1\]",
    ),
    "no gradient": (
        lambda: GradientMask(0.2).mask_([None], 0),
        "gradient 0: expected a gradient, found NoneType",
    ),
    "one tensor": (
        lambda: GradientMask(0.2).mask_(torch.ones(2, 2), 0),
        "gradients: expected a list of tensors, found Tensor",
    ),
    "too few names": (
        lambda: GradientMask(0.2).mask_([torch.ones(2)] * 2, 0, names=["a"]),
        "names: expected one for each of 2 gradients, found 1",
    ),
    "weights of another shape": (
        lambda: GradientMask(0.2).mask_([torch.ones(2)], 0, weights=[torch.ones(1, 2)]),
        r"gradient 0: expected weights of shape \(2,\), as the gradient, found \(1, 2\)",
    ),
    "update before the first": (
        lambda: GradientMask(0.2).mask_([torch.ones(2)], -1),
        "update: expected a count of updates from 0, found -1",
    ),
    "half an element": (
        lambda: magnitude_threshold(torch.ones(3), 2.5),
        r"kept: expected a count in \[1, 3\], found 2.5",
    ),
}


@pytest.mark.parametrize(("mistake", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told(mistake: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mistake()
