"""Masks that serve for several updates, and what a resumed run needs of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adafactor, AdamW, Optimizer

from gmt_core import GradientMask, GradientMasker, Method, RandomMask, RatioSchedule

METHODS: dict[str, Callable[[], Method]] = {
    "sift": lambda: GradientMask(0.7, hold="training"),
    "global": lambda: GradientMask(0.7, "global", hold=3),
    "gallop": lambda: GradientMask(0.7, saliency="gradient_over_weight", hold="training"),
    "by name": lambda: GradientMask({"*weight": 0.7}, hold="training"),
    "scheduled": lambda: GradientMask(RatioSchedule(0.8, "linear", updates=6), hold=2),
    "shira": lambda: RandomMask(0.7, hold="training"),
}
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": partial(SGD, lr=0.1),
    "adamw": partial(AdamW, lr=1e-2, weight_decay=0.1, fused=True),
    "adafactor": partial(Adafactor, lr=1e-2),
}


class Run:
    """A network of three tensors and its optimizer, trained step by step."""

    def __init__(self, build: Callable[..., Optimizer], method: Method, dtype=torch.float32):
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4, bias=False)).to(dtype)
        self.optimizer = build(self.net.named_parameters())
        mode = "gradient" if isinstance(self.optimizer, Adafactor) else "state"
        self.masker = GradientMasker(method, mode=mode).attach(self.optimizer)
        self.masks: list[list[Tensor]] = []

    def train(self, updates: range) -> None:
        for update in updates:
            draw = torch.Generator().manual_seed(update)
            x = torch.randn(6, 8, generator=draw).to(next(self.net.parameters()).dtype)
            self.net(x).square().mean().backward()
            self.optimizer.step()
            self.masks.append([p.grad != 0 for p in self.net.parameters()])
            self.optimizer.zero_grad()

    def states(self) -> tuple[Any, Any, Any]:
        states = (self.net.state_dict(), self.optimizer.state_dict(), self.masker.state_dict())
        return copy.deepcopy(states)

    def restore(self, states: tuple[Any, Any, Any]) -> None:
        self.net.load_state_dict(states[0])
        self.optimizer.load_state_dict(states[1])
        self.masker.load_state_dict(json.loads(json.dumps(states[2])))


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("build", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_resumed_run_goes_on_with_the_same_masks(build, dtype, method) -> None:
    whole, first, second = (Run(build, method(), dtype) for _ in range(3))
    whole.train(range(8))
    first.train(range(5))
    second.restore(first.states())
    second.train(range(5, 8))
    assert all(same(a, b) for a, b in zip(whole.masks[5:], second.masks, strict=True))
    assert same(list(whole.net.parameters()), list(second.net.parameters()))


@pytest.mark.parametrize("hold", [None, 1, 3, "training"])
@pytest.mark.parametrize("method", [GradientMask, RandomMask])
def test_a_mask_is_drawn_as_often_as_asked(method, hold) -> None:
    run = Run(OPTIMIZERS["sgd"], method(0.5, hold=hold))
    run.train(range(7))
    changed = [u for u in range(1, 7) if not same(run.masks[u - 1], run.masks[u])]
    assert changed == {None: [1, 2, 3, 4, 5, 6], 1: [1, 2, 3, 4, 5, 6], 3: [3, 6]}.get(hold, [])


def test_a_held_mask_freezes_weights_in_mode_state() -> None:
    run = Run(OPTIMIZERS["adamw"], GradientMask(0.75, hold="training"))
    before = [p.detach().clone() for p in run.net.parameters()]
    run.train(range(5))
    for old, new, kept in zip(before, run.net.parameters(), run.masks[0], strict=True):
        assert torch.equal(new != old, kept)


def test_masks_take_a_byte_for_each_element_and_random_ones_nothing() -> None:
    for method, held in ((GradientMask(0.5, hold=2), 3), (RandomMask(0.5, hold=2), 0)):
        run = Run(OPTIMIZERS["sgd"], method)
        run.train(range(1))
        masks = [state["gmt_mask"] for state in run.optimizer.state.values()]
        assert len(masks) == run.masker.state_dict()["held"] == held
        assert all(mask.dtype == torch.bool for mask in masks)


def test_a_parameter_that_joins_later_draws_its_own_mask() -> None:
    first, second = nn.Parameter(torch.ones(10)), nn.Parameter(torch.ones(10))
    optimizer = SGD([first, second], lr=0.1)
    GradientMasker(GradientMask(0.5, hold="training")).attach(optimizer)
    first.grad = torch.arange(10.0)
    optimizer.step()
    for _ in range(2):
        first.grad, second.grad = torch.arange(10.0).flip(0), torch.arange(10.0)
        optimizer.step()
        assert first.grad.nonzero().squeeze(1).tolist() == [5, 6, 7, 8]  # 9's gradient is zero
        assert second.grad.nonzero().squeeze(1).tolist() == [5, 6, 7, 8, 9]
        second.grad = None


def test_an_error_names_the_parameter_that_draws() -> None:
    first, second = nn.Parameter(torch.ones(10)), nn.Parameter(torch.ones(10))
    optimizer = SGD([("first", first), ("second", second)], lr=0.1)
    GradientMasker(GradientMask(0.5, hold="training")).attach(optimizer)
    first.grad = torch.arange(10.0)
    optimizer.step()
    second.grad = torch.full((10,), torch.nan)
    with pytest.raises(ValueError, match=r"update 1, second: .*NaN or infinity"):
        optimizer.step()


def test_a_resumed_run_without_its_masks_is_refused() -> None:
    first, second = (Run(OPTIMIZERS["adamw"], GradientMask(0.5, hold=4)) for _ in range(2))
    first.train(range(3))
    second.masker.load_state_dict(first.masker.state_dict())
    with pytest.raises(ValueError, match=r"3 held masks, and the optimizer's has 0; load the opt"):
        second.train(range(3, 4))
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.train(range(3, 4))


def test_a_held_mask_needs_an_optimizer() -> None:
    method = GradientMask(0.5, hold=2)
    method.mask_([torch.ones(4)], 2)
    with pytest.raises(ValueError, match="mask of update 3 was drawn at update 2"):
        method.mask_([torch.ones(4)], 3)
    ones, again = torch.ones(100), torch.ones(100)
    for update, tensor in ((2, ones), (3, again)):
        RandomMask(0.5, hold=2).mask_([tensor], update)
    assert torch.equal(ones, again)


@pytest.mark.parametrize("hold", [0, -1, 1.5, True, "forever"])
def test_a_hold_is_a_count_or_training(hold: object) -> None:
    with pytest.raises(ValueError, match=r"hold: expected 'training', a count of updates"):
        GradientMask(0.5, hold=hold)


def test_a_mask_for_all_of_training_follows_no_schedule() -> None:
    with pytest.raises(ValueError, match="'training' draws one mask"):
        GradientMask(RatioSchedule(0.5, warmup=3), hold="training")


def test_ratio_zero_holds_nothing_and_changes_nothing() -> None:
    plain, held = Run(OPTIMIZERS["adamw"], RandomMask(0.0)), None
    held = Run(OPTIMIZERS["adamw"], GradientMask(0.0, hold="training"))
    for run in (plain, held):
        run.train(range(4))
    assert same(list(plain.net.parameters()), list(held.net.parameters()))
    assert held.masker.state_dict()["held"] == 0
