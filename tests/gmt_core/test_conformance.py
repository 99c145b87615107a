"""Every method, dtype, optimizer and mode on one process; `test_distributed.py` adds shardings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adafactor, AdamW, Optimizer

from gmt_core import GradientMask, GradientMasker, RandomMask
from tests.gmt_core.reference import METHODS, NaiveMasks, naive_drops, naive_step

NAMES = [f"layers.{i}.mlp.{kind}_proj.weight" for i in (0, 1) for kind in ("gate", "up", "down")]
SHAPES = [(5, 8), (1,), (40,), (2, 3, 4), (6, 7), ()]
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": partial(SGD, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adamw": partial(AdamW, lr=1e-2, eps=1e-3, weight_decay=0.1, foreach=False),
    "adamw foreach": partial(AdamW, lr=1e-2, eps=1e-3, weight_decay=0.1, foreach=True),
    "adamw fused": partial(AdamW, lr=1e-2, eps=1e-3, weight_decay=0.1, fused=True, amsgrad=True),
    "adafactor": partial(Adafactor, lr=1e-2, weight_decay=0.1),
}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def weights(dtype: torch.dtype) -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=draw).to(dtype)) for shape in SHAPES]


def give_gradients(parameters: list[nn.Parameter], update: int) -> None:
    """With ties and exact zeros."""
    draw = torch.Generator().manual_seed(update + 1)
    for parameter in parameters:
        x = torch.randn(parameter.shape, generator=draw)
        x = torch.where(torch.rand(x.shape, generator=draw) < 0.2, 0.0, x)
        x = torch.where(torch.rand(x.shape, generator=draw) < 0.2, -0.5, x)
        parameter.grad = x.to(parameter.dtype)


def state_of(optimizer: Optimizer, parameters: list[nn.Parameter]) -> list[Tensor]:
    """Beside the held masks."""
    items = [item for p in parameters for item in optimizer.state[p].items()]
    return [t for name, t in items if isinstance(t, Tensor) and name != "gmt_mask"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", ["gradient", "update", "state"])
@pytest.mark.parametrize("build", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_four_steps_equal_the_reference(method, build, mode: str, dtype: torch.dtype) -> None:
    ours, theirs = weights(dtype), weights(dtype)
    optimizer, other = build(list(zip(NAMES, ours, strict=True))), build(theirs)
    if mode == "state" and isinstance(optimizer, Adafactor):
        with pytest.raises(
            ValueError, match=r"mode 'state' does not know the optimizer Adafactor"
        ):
            GradientMasker(method(), mode=mode).attach(optimizer)
        return
    GradientMasker(method(), mode=mode, statistics_every=2).attach(optimizer)
    naive = NaiveMasks(method())
    for update in range(4):
        give_gradients(ours, update)
        give_gradients(theirs, update)
        drops = naive.drops([p.grad for p in theirs], theirs, NAMES, update)
        naive_step(other, theirs, drops, mode)
        optimizer.step()
        for mine, reference in zip(ours, theirs, strict=True):
            assert torch.equal(mine.grad, reference.grad)
    both = zip(ours, theirs, strict=True)
    assert all(torch.equal(mine, reference) for mine, reference in both)
    states = zip(state_of(optimizer, ours), state_of(other, theirs), strict=True)
    assert all(torch.equal(mine, reference) for mine, reference in states)


@pytest.mark.parametrize("build", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_only_update_and_state_keep_masked_weights_in_place(build) -> None:
    moved = {}
    for mode in ("gradient", "update"):
        parameters = weights(torch.float32)
        optimizer = build(parameters)
        GradientMasker(RandomMask(0.5, seed=0), mode=mode).attach(optimizer)
        shares = []
        for update in range(3):
            give_gradients(parameters, update)
            parameters[0].grad.fill_(1.0)
            before = parameters[0].detach().clone()
            optimizer.step()
            shares.append(float((parameters[0] != before).float().mean()))
        moved[mode] = shares[-1]
    assert moved["gradient"] > 0.9
    assert moved["update"] == 0.5


def test_modes_and_optimizers_that_do_not_fit_are_named() -> None:
    parameters = weights(torch.float32)
    optimizer = torch.optim.RMSprop(parameters)
    with pytest.raises(ValueError, match="mode 'update' does not know the optimizer RMSprop"):
        GradientMasker(GradientMask(0.5), mode="update").attach(optimizer)
    GradientMasker(GradientMask(0.5)).attach(optimizer)
    with pytest.raises(ValueError, match="did you mean 'state'"):
        GradientMasker(GradientMask(0.5), mode="stat")  # type: ignore[arg-type]


def test_update_serves_the_adafactor_of_transformers() -> None:
    optimization = pytest.importorskip("transformers.optimization")
    ours, theirs = weights(torch.float32), weights(torch.float32)
    options = {"lr": 1e-2, "relative_step": False, "scale_parameter": False}
    optimizer = optimization.Adafactor(ours, **options)
    other = optimization.Adafactor(theirs, **options)
    GradientMasker(GradientMask(0.6), mode="update").attach(optimizer)
    for update in range(3):
        give_gradients(ours, update)
        give_gradients(theirs, update)
        drops = naive_drops(GradientMask(0.6), [p.grad for p in theirs], theirs, NAMES, update)
        naive_step(other, theirs, drops, "update")
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    with pytest.raises(ValueError, match="rows and columns"):
        GradientMasker(GradientMask(0.6), mode="state").attach(optimizer)
