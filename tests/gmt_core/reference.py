"""The methods and the optimizer modes in a few naive lines: whole tensors, full sorts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from gmt_core import SFT, GradientMask, HalfFineTuning, Method, RandomMask, kept_count

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
    saliency = [g.abs() for g in gradients]
    if method.saliency == "product":
        saliency = [(g * w).abs() for g, w in zip(gradients, weights, strict=True)]
    pools = saliency
    if method.scope == "global":
        pools = [torch.cat([s.flatten() for s in saliency])] * len(saliency)
    found = []
    for own, pool in zip(saliency, pools, strict=True):
        kept = kept_count(pool.numel(), method.ratios.at("*", update))
        found.append(own < pool.flatten().sort(descending=True).values[kept - 1])
    return found


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


METHODS: dict[str, Callable[[], Method]] = {
    "sft": SFT,
    "gmt": lambda: GradientMask(0.6),
    "gmt 0": lambda: GradientMask(0.0),
    "gmt 0.95": lambda: GradientMask(0.95),
    "global": lambda: GradientMask(0.7, "global"),
    "product": lambda: GradientMask(0.6, saliency="product"),
    "product global": lambda: GradientMask(0.3, "global", saliency="product"),
    "random": lambda: RandomMask(0.5, seed=4),
    "hft": lambda: HalfFineTuning(seed=1),
}
