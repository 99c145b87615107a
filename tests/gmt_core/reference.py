"""The methods and the optimizer modes in a few naive lines: whole tensors, full sorts."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from gmt_core import (
    SFT,
    GradientMask,
    HalfFineTuning,
    Method,
    RandomMask,
    RatioSchedule,
    kept_count,
)

MOMENTS = ("momentum_buffer", "exp_avg", "exp_avg_sq")


def naive_drops(
    method: Method,
    gradients: Sequence[Tensor],
    weights: Sequence[Tensor],
    names: Sequence[str],
    update: int,
) -> list[Tensor]:
    """What each method masks: bool, the shapes of the gradients."""
    if isinstance(method, SFT):
        return [torch.zeros_like(g, dtype=torch.bool) for g in gradients]
    if isinstance(method, HalfFineTuning):
        frozen = method.frozen(names)
        pairs = zip(gradients, names, strict=True)
        return [torch.full_like(g, name in frozen, dtype=torch.bool) for g, name in pairs]
    if isinstance(method, RandomMask):  # has a reference of its own: see test_methods.py
        ones = [torch.ones(g.shape) for g in gradients]
        method.mask_(ones, update)
        return [one == 0 for one in ones]
    assert isinstance(method, GradientMask)
    pairs = zip(gradients, weights, strict=True)
    saliency = [naive_saliency(method.saliency, g, w) for g, w in pairs]
    if not method.needs_names:
        names = [""] * len(gradients)
    patterns = [naive_pattern(method.ratios.schedules, name) for name in names]
    found = []
    for own, pattern in zip(saliency, patterns, strict=True):
        alike = [s for s, p in zip(saliency, patterns, strict=True) if p == pattern]
        pool = torch.cat([s.flatten() for s in (alike if method.scope == "global" else [own])])
        ratio = method.ratios.schedules[pattern](update) if pattern else 0.0
        threshold = pool.sort(descending=True).values[kept_count(pool.numel(), ratio) - 1]
        found.append(own < threshold if ratio else torch.zeros_like(own, dtype=torch.bool))
    return found


def naive_saliency(saliency: str, gradient: Tensor, weight: Tensor) -> Tensor:
    """What ranks the elements, in the dtype of the gradient."""
    if saliency == "gradient":
        return gradient.abs()
    if saliency == "product":
        return (gradient * weight).abs()
    if saliency == "weight":
        return weight.detach().abs()
    return gradient.abs() / (weight.detach().abs() + torch.finfo(gradient.dtype).tiny)


def naive_pattern(patterns: Iterable[str], name: str) -> str | None:
    """The pattern that fits a name; "*" only where no other does."""
    fits = sorted((p for p in patterns if fnmatch.fnmatch(name, p)), key="*".__eq__)
    return fits[0] if fits else None


class NaiveMasks:
    """As `naive_drops`, for methods that hold a mask: it remembers the latest that was drawn."""

    def __init__(self, method: Method) -> None:
        self.method = method
        self.held: list[Tensor] = []

    def drops(
        self,
        gradients: Sequence[Tensor],
        weights: Sequence[Tensor],
        names: Sequence[str],
        update: int,
    ) -> list[Tensor]:
        hold = self.method.hold
        if hold is None or update == 0 or (hold != "training" and update % hold == 0):
            self.held = naive_drops(self.method, gradients, weights, names, update)
        return self.held


def naive_step(
    optimizer: Optimizer, parameters: Sequence[Tensor], drops: Sequence[Tensor], mode: str
) -> None:
    """Mask, step, and put back what the mode keeps."""
    before = [p.detach().clone() for p in parameters]
    moments = [
        {n: m.clone() for n, m in optimizer.state.get(p, {}).items() if n in MOMENTS}
        for p in parameters
    ]
    for parameter, drop in zip(parameters, drops, strict=True):
        parameter.grad = torch.where(drop, 0, parameter.grad)
    optimizer.step()
    with torch.no_grad():
        for p, drop, old, kept in zip(parameters, drops, before, moments, strict=True):
            if mode in ("update", "state"):
                p.copy_(torch.where(drop, old, p))
            for name, moment in optimizer.state[p].items():
                if mode == "state" and name in MOMENTS:
                    was = kept.get(name)
                    moment.copy_(torch.where(drop, 0.0 if was is None else was, moment))


RATIOS = RatioSchedule(0.8, "linear", start=0.2, updates=6)
METHODS: dict[str, Callable[[], Method]] = {
    "sft": SFT,
    "gmt": lambda: GradientMask(0.6),
    "gmt 0": lambda: GradientMask(0.0),
    "gmt 0.95": lambda: GradientMask(0.95),
    "global": lambda: GradientMask(0.7, "global"),
    "product": lambda: GradientMask(0.6, saliency="product"),
    "product global": lambda: GradientMask(0.3, "global", saliency="product"),
    "random": lambda: RandomMask(0.5, seed=4),
    "weight": lambda: GradientMask(0.6, saliency="weight"),
    "over weight global": lambda: GradientMask(0.7, "global", saliency="gradient_over_weight"),
    "sift": lambda: GradientMask(0.6, hold="training"),
    "gallop": lambda: GradientMask(0.6, saliency="gradient_over_weight", hold="training"),
    "held twice": lambda: GradientMask(RATIOS, "global", hold=2),
    "shira": lambda: RandomMask(0.5, seed=4, hold="training"),
    "random held twice": lambda: RandomMask(0.5, seed=4, hold=2),
    "by name": lambda: GradientMask({"*gate*": 0.5, "*.1.*up*": RATIOS, "*down*": 0.0}, "global"),
    "by name or rest": lambda: GradientMask({"*gate*": 0.0, "*": 0.7}, hold=3),
    "hft": lambda: HalfFineTuning(seed=1),
}
