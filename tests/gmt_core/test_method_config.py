"""Methods as values: their repr, their config in JSON, and what a resumed masker compares."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.optim import SGD

import gmt_core
from gmt_core import (
    SFT,
    GradientMask,
    GradientMasker,
    HalfFineTuning,
    Method,
    MethodConfig,
    RandomMask,
    RatioSchedule,
    method_from_config,
)

RISING = RatioSchedule(0.9, "cosine", start=0.1, updates=20, warmup=2)
METHODS: list[Method] = [
    SFT(),
    HalfFineTuning(seed=3),
    GradientMask(0.2),
    GradientMask(RISING, "global", saliency="product", hold=4),
    GradientMask({"*mlp*": 0.5, "*": RISING}, saliency="weight"),
    RandomMask({"*mlp*": 0.5}, seed=7, hold="training"),
]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_method_is_rebuilt_from_json_and_from_its_repr(method: Method) -> None:
    saved = json.loads(json.dumps(method.config.to_json(), sort_keys=True))
    for again in (
        method_from_config(MethodConfig.from_json(saved)),
        eval(repr(method), vars(gmt_core)),
    ):
        assert type(again) is type(method)
        assert again.config == method.config


def test_numbers_of_numpy_are_saved_as_json() -> None:
    numpy = pytest.importorskip("numpy")
    schedule = RatioSchedule(numpy.float32(0.5), "linear", updates=numpy.int64(10))
    masker = GradientMasker(GradientMask(schedule, hold=numpy.int64(2)))
    masker.load_state_dict(json.loads(json.dumps(masker.state_dict())))


def test_reprs_are_short() -> None:
    assert repr(SFT()) == "SFT()"
    assert repr(GradientMask(0.2, hold="training")) == (
        "GradientMask(mask_ratio=0.2, hold='training')"
    )
    masker = GradientMasker(RandomMask(0.5), mode="update", exclude="*.bias", statistics_every=5)
    assert repr(masker) == (
        "GradientMasker(RandomMask(mask_ratio=0.5), mode='update', exclude=['*.bias'], "
        "statistics_every=5)"
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([], "method: expected {'name': 'gmt'"),
        ({"mask_ratio": 0.2}, "method: expected {'name': 'gmt'"),
        ({"name": "gmt", "ratio": 0.2}, "did you mean 'mask_ratio'"),
        ({"name": "gmt", "mask_ratio": {"end": 0.2, "warm": 3}}, "did you mean 'warmup'"),
    ],
)
def test_another_config_is_refused(config: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MethodConfig.from_json(config)


@pytest.mark.parametrize(
    ("masker", "message"),
    [
        (GradientMasker(GradientMask(0.4)), "has mask_ratio 0.4, and .* with mask_ratio 0.2"),
        (GradientMasker(GradientMask(0.2, "global")), "has scope global, and .* scope tensor"),
        (GradientMasker(GradientMask(0.2, hold=2)), "has hold 2, and .* with hold None"),
        (GradientMasker(RandomMask(0.2)), "has method random, and .* with method gmt"),
        (GradientMasker(GradientMask(0.2), mode="state"), "has mode state, and .* mode gradient"),
        (GradientMasker(GradientMask(0.2), exclude="*.bias"), r"exclude \['\*.bias'\], and"),
    ],
)
def test_a_state_of_another_masker_is_refused(masker: GradientMasker, message: str) -> None:
    state = GradientMasker(GradientMask(0.2)).state_dict()
    with pytest.raises(ValueError, match=f"masker state: this masker .*{message}"):
        masker.load_state_dict(state)
    masker.load_state_dict({"update": 3})
    assert masker.state_dict()["update"] == 3


NAMES = ["layers.0.mlp.up.weight", "layers.0.attn.q.weight", "norm.weight"]


def masked_by(method: Method) -> list[int]:
    """How many of ten elements each parameter keeps."""
    weights = [nn.Parameter(torch.ones(10)) for _ in NAMES]
    for weight in weights:
        weight.grad = torch.arange(1.0, 11.0)
    optimizer = SGD(list(zip(NAMES, weights, strict=True)), lr=0.1)
    GradientMasker(method).attach(optimizer).detach()
    GradientMasker(method).attach(optimizer)
    optimizer.step()
    return [int(weight.grad.count_nonzero()) for weight in weights]


def test_a_ratio_for_each_pattern() -> None:
    for build in (GradientMask, RandomMask):
        assert masked_by(build({"*mlp*": 0.5})) == [5, 10, 10]
        assert masked_by(build({"*mlp*": 0.5, "*": 0.9})) == [5, 1, 1]
        assert masked_by(build({"*norm*": 0.0, "*": 0.8})) == [2, 2, 10]


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        ({}, "expected a ratio for each name pattern"),
        ({"*mlp*": 1.0}, r"expected a number in \[0, 1\), found 1.0"),
        ({"*mpl*": 0.5}, r"mask_ratio: no parameter is called '\*mpl\*'"),
        ({"*mlp*": 0.5, "*weight": 0.2}, r"up.weight fits '\*mlp\*' and '\*weight'"),
    ],
)
def test_patterns_that_cannot_be_right_are_refused(ratios, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        masked_by(GradientMask(ratios))


def test_patterns_ask_for_names() -> None:
    optimizer = SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"method gmt reads the names .*named_parameters\(\)"):
        GradientMasker(GradientMask({"*weight": 0.5})).attach(optimizer)
