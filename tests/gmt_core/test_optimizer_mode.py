"""Which optimizers the modes know: by what they are, not by their name."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from gmt_core import GradientMask, GradientMasker


class Plain(torch.optim.AdamW):
    """Changes nothing."""


class Defaults(SGD):
    """Changes no step."""

    def __init__(self, params, momentum: float = 0.9) -> None:
        super().__init__(params, lr=0.1, momentum=momentum)


class Overriding(AdamW):
    def step(self, closure=None):
        return super().step(closure)


class Growing(AdamW):
    """Keeps more than AdamW does."""

    def _init_group(self, group, *lists):
        found = super()._init_group(group, *lists)
        for weight in group["params"]:
            self.state[weight]["slow_weight"] = weight.detach().clone()
        return found


def look_alike() -> type[Optimizer]:
    class AdamW(Optimizer):
        """As that of bitsandbytes: the name of torch's, and other moments."""

        def __init__(self, params) -> None:
            super().__init__(params, {})

        def step(self, closure=None) -> None:
            for weight in self.param_groups[0]["params"]:
                self.state[weight]["state1"] = weight.grad.clone()

    return AdamW


def weight() -> nn.Parameter:
    made = nn.Parameter(torch.ones(100))
    made.grad = torch.arange(100.0)
    return made


@pytest.mark.parametrize("build", [Plain, Defaults])
def test_subclasses_that_change_nothing_are_known(build: type[Optimizer]) -> None:
    AdamW([nn.Parameter(torch.ones(1))]).step()
    held = weight()
    optimizer = build([held])
    GradientMasker(GradientMask(0.5), mode="state").attach(optimizer)
    for _ in range(2):
        held.grad = torch.arange(100.0)
        optimizer.step()
    assert (held == 1).sum() == 50
    moment = "exp_avg" if build is Plain else "momentum_buffer"
    assert (optimizer.state[held][moment] == 0).sum() == 50


@pytest.mark.parametrize("mode", ["update", "state"])
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (look_alike(), "does not know the optimizer AdamW of tests.gmt_core.test_optimizer_mode"),
        (Overriding, r"does not know the optimizer Overriding, since it overrides step\(\)"),
    ],
)
def test_others_are_refused(build: type[Optimizer], message: str, mode: str) -> None:
    with pytest.raises(ValueError, match=message):
        GradientMasker(GradientMask(0.5), mode=mode).attach(build([weight()]))
    GradientMasker(GradientMask(0.5)).attach(build([weight()]))


@pytest.mark.parametrize("mode", ["update", "state"])
def test_an_unknown_part_of_the_state_is_refused(mode: str) -> None:
    held = weight()
    optimizer = Growing([held], foreach=False)
    GradientMasker(GradientMask(0.5), mode=mode).attach(optimizer)
    with pytest.raises(ValueError, match="state of Growing holds 'slow_weight'"):
        optimizer.step()
    assert (held == 1).sum() == 50
    resumed = Growing([weight()], foreach=False)
    resumed.load_state_dict(optimizer.state_dict())
    with pytest.raises(ValueError, match="state of Growing holds 'slow_weight'"):
        GradientMasker(GradientMask(0.5), mode=mode).attach(resumed)


def test_a_moment_in_another_memory_order_is_kept_too() -> None:
    held = nn.Parameter(torch.ones(6, 8).t())
    held.grad = torch.arange(48.0).view(8, 6)
    optimizer = SGD([held], lr=0.1, momentum=0.9)
    GradientMasker(GradientMask(0.75), mode="state").attach(optimizer)
    for _ in range(2):
        held.grad = torch.arange(48.0).view(8, 6)
        optimizer.step()
        assert torch.equal(held == 1, torch.arange(48).view(8, 6) < 36)
        assert torch.equal(optimizer.state[held]["momentum_buffer"] == 0, held == 1)
