"""The masker's hooks: once per outermost step, and what would go past them."""

from __future__ import annotations

import copy
import gc
import pickle
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from gmt_core import GradientMask, GradientMasker, RandomMask


class Nested(AdamW):
    def step(self, closure=None):
        return super().step(closure)


class NestedTwice(Nested):
    def step(self, closure=None):
        return super().step(closure)


class Failing(SGD):
    fails = True

    def step(self, closure=None):
        super().step(closure)
        if self.fails:
            raise RuntimeError("lost connection")


def parameter(size: int = 1000) -> nn.Parameter:
    weight = nn.Parameter(torch.ones(size))
    weight.grad = torch.ones(size)
    return weight


@pytest.mark.parametrize("kind", [Nested, NestedTwice])
def test_a_subclass_that_calls_its_base_masks_once(kind: type[AdamW]) -> None:
    for base in (AdamW, Nested):  # torch then wraps their step() too
        base([nn.Parameter(torch.ones(1))])
    weight = parameter()
    optimizer = kind([weight], lr=0.1)
    masker = GradientMasker(RandomMask(0.5), statistics_every=1).attach(optimizer)
    optimizer.step()
    assert weight.grad.count_nonzero() == 500
    assert masker.state_dict()["update"] == 1
    assert masker.statistics is not None and masker.statistics.update == 0


def test_a_step_that_failed_is_no_outer_step_of_the_next() -> None:
    SGD([nn.Parameter(torch.ones(1))])
    weight = parameter()
    optimizer = Failing([weight], lr=0.1)
    masker = GradientMasker(RandomMask(0.5)).attach(optimizer)
    with pytest.raises(RuntimeError, match="lost connection"):
        optimizer.step()
    optimizer.fails = False
    weight.grad = torch.ones(1000)
    optimizer.step()
    assert weight.grad.count_nonzero() == 500
    assert masker.state_dict()["update"] == 2
    assert masker.statistics is None  # the failed update was the one to measure


def test_a_function_called_step_is_no_outer_step() -> None:
    def step(optimizer: Optimizer) -> None:
        optimizer.step()

    weight = parameter()
    optimizer = SGD([weight], lr=0.1)
    masker = GradientMasker(RandomMask(0.5)).attach(optimizer)
    step(optimizer)
    assert weight.grad.count_nonzero() == 500
    assert masker.state_dict()["update"] == 1


class Wrapper(Optimizer):
    """An optimizer in name, which never ran the base class's `__init__`."""

    def __init__(self, base: Optimizer) -> None:
        self.base, self.param_groups, self.state = base, base.param_groups, base.state

    def step(self, closure=None):
        return self.base.step(closure)


def test_a_wrapper_without_hooks_is_refused_and_what_it_wraps_is_taken() -> None:
    weight = parameter()
    wrapper = Wrapper(SGD([weight], lr=0.1))
    with pytest.raises(ValueError, match=r"Wrapper runs no hooks, .* the optimizer that it wraps"):
        GradientMasker(RandomMask(0.5)).attach(wrapper)
    GradientMasker(RandomMask(0.5)).attach(wrapper.base)
    wrapper.step()
    assert weight.grad.count_nonzero() == 500


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("kind", [AdamW, Nested])
def test_a_compiled_step_masks_once_or_is_refused(kind: type[AdamW]) -> None:
    AdamW([nn.Parameter(torch.ones(1))])
    weight = parameter()
    optimizer = kind([weight], lr=0.1)
    masker = GradientMasker(RandomMask(0.5)).attach(optimizer)

    def step() -> None:
        optimizer.step()

    def whole() -> None:
        optimizer.step()

    for _ in range(2):
        weight.grad = torch.ones(1000)
        torch.compile(step, backend="eager")()
        assert weight.grad.count_nonzero() == 500
    torch.compile(optimizer.step, fullgraph=True, backend="eager")()
    assert masker.state_dict()["update"] == 3
    with pytest.raises(Exception, match="outside of compiled graphs; use fullgraph=False"):
        torch.compile(whole, fullgraph=True, backend="eager")()


def test_a_second_masker_on_one_optimizer_is_refused() -> None:
    optimizer = SGD([parameter()], lr=0.1)
    first = GradientMasker(GradientMask(0.5)).attach(optimizer)
    second = GradientMasker(GradientMask(0.5))
    with pytest.raises(ValueError, match=r"this SGD has a masker already; detach\(\)"):
        second.attach(optimizer)
    first.detach()
    second.attach(optimizer)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, copy.copy, lambda o: pickle.loads(pickle.dumps(o))]
)
def test_a_copied_optimizer_says_that_it_has_no_masker(
    duplicate: Callable[[Optimizer], Optimizer],
) -> None:
    optimizer = SGD([parameter()], lr=0.1)
    masker = GradientMasker(GradientMask(0.5)).attach(optimizer)
    with pytest.warns(UserWarning, match="copy of this SGD has no masker"):
        twin = duplicate(optimizer)
    GradientMasker(GradientMask(0.5)).attach(twin)
    masker.detach()
    duplicate(optimizer)


class SAM(Optimizer):
    """As most users have it: driven by its two half steps, without a closure."""

    def __init__(self, params: list[nn.Parameter], rho: float = 0.05, **options: float) -> None:
        super().__init__(params, {"rho": rho, **options})
        self.base_optimizer = SGD(self.param_groups, **options)

    @torch.no_grad()
    def first_step(self) -> None:
        for weight in self.param_groups[0]["params"]:
            self.state[weight]["before"] = weight.clone()
            weight.add_(weight.grad, alpha=self.defaults["rho"])
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for weight in self.param_groups[0]["params"]:
            weight.copy_(self.state[weight]["before"])
        self.base_optimizer.step()
        self.zero_grad()

    def step(self, closure=None) -> None:
        raise NotImplementedError


def train(optimizer: SAM, weight: Tensor) -> None:
    for _ in range(2):
        weight.square().sum().backward()
        optimizer.first_step()
        weight.square().sum().backward()
        optimizer.second_step()


def test_training_past_step_is_told_at_its_end() -> None:
    weight = nn.Parameter(torch.ones(10))
    optimizer = SAM([weight], lr=0.1)
    masker = GradientMasker(GradientMask(0.5)).attach(optimizer)
    train(optimizer, weight)
    with pytest.warns(UserWarning, match=r"no update was masked, since SAM.step\(\) never ran"):
        masker.detach()
    GradientMasker(GradientMask(0.5)).attach(optimizer)
    train(optimizer, weight)
    with pytest.warns(UserWarning, match="no update was masked"):
        del optimizer, masker
        gc.collect()


def test_training_that_was_masked_or_never_began_is_not_warned_of() -> None:
    weight = nn.Parameter(torch.ones(10))
    optimizer = SAM([weight], lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        masker = GradientMasker(RandomMask(0.5)).attach(optimizer.base_optimizer)
        train(optimizer, weight)
        masker.detach()
        assert masker.state_dict()["update"] == 2
        masker.attach(optimizer)
        for _ in range(2):
            weight.square().sum().backward()
        masker.detach()


class Extra(SGD):
    """Its step takes more than a closure."""

    def step(self, closure=None, weight: float = 1.0, *, tell: object = None):
        return super().step(closure)


def test_only_a_closure_is_taken_for_one() -> None:
    weight = parameter()
    optimizer = Extra([weight], lr=0.1)
    masker = GradientMasker(RandomMask(0.5)).attach(optimizer)
    optimizer.step(None, 2.0, tell=print)
    assert masker.state_dict()["update"] == 1
    with pytest.raises(ValueError, match="expected no closure"):
        optimizer.step(lambda: 0.0, 2.0)
