"""Optimizers that Accelerate wrapped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState
from accelerate.utils.deepspeed import DeepSpeedOptimizerWrapper
from torch import nn

from gmt_core import GradientMask, GradientMasker


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_accumulated_mini_batches_are_masked_once() -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    torch.manual_seed(0)
    network = nn.Linear(8, 8)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    network, prepared = accelerator.prepare(network, optimizer)
    masker = GradientMasker(GradientMask(0.75)).attach(prepared)
    for place in range(12):
        with accelerator.accumulate(network):
            accelerator.backward(network(torch.randn(3, 8)).square().mean())
            if place % 4 != 3:
                assert network.weight.grad.count_nonzero() == 64
            prepared.step()
            if place % 4 == 3:
                assert network.weight.grad.count_nonzero() == 16
            prepared.zero_grad()
    assert masker.state_dict()["update"] == 3


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_scaler_skips_draws_no_mask(fused: bool) -> None:
    Accelerator(cpu=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    parameter = nn.Parameter(torch.ones(10))
    optimizer = torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.0, fused=fused)
    prepared = AcceleratedOptimizer(optimizer, scaler=scaler)
    masker = GradientMasker(GradientMask(0.5), statistics_every=1).attach(prepared)
    for poison in (float("inf"), 1.0):
        scaler.scale((parameter * torch.arange(10.0) * poison).sum()).backward()
        prepared.step()
        prepared.zero_grad()
    assert masker.state_dict()["update"] == 1
    assert masker.statistics is not None
    assert masker.statistics.kept_fraction == 0.5
    assert (parameter != 1).sum() == 5


def test_deepspeed_is_refused() -> None:
    Accelerator(cpu=True)
    inner = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    with pytest.raises(ValueError, match=r"DeepSpeed ZeRO partitions.*use DDP or FSDP2"):
        GradientMasker(GradientMask(0.5)).attach(DeepSpeedOptimizerWrapper(inner))
