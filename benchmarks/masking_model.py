"""The mask on a real model's gradients of real text; run through masking.py."""

from __future__ import annotations

import ctypes
import json
import math
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from masking_steps import masker_seconds, update
from resident_memory import peak_growth
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from gmt_core import GradientMask, GradientMasker, kept_count
from gmt_core.rules import KeepLargest, apply_

Row = dict[str, object]
RATIOS = (0.2, 0.4, 0.9)
DTYPES = (torch.float32, torch.bfloat16)
LENGTH = 512


class Idle(torch.optim.Optimizer):
    """An optimizer whose steps are what is hooked around them."""

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        super().__init__(parameters, {})

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Change nothing."""


def tokens_of(folder: Path, rows: Path, number: int) -> Tensor:
    """The text of the rows, end to end: micro-batches of one sequence of 512 tokens."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found: list[int] = []
    with rows.open() as lines:
        while len(found) < number:
            found += tokenizer("\n".join(map(str, json.loads(next(lines)).values())))["input_ids"]
    return torch.tensor(found[:number]).view(-1, 1, LENGTH)


def load(folder: Path, dtype: torch.dtype) -> Any:
    """The model, ready to train."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_cache=False).train()


def model_rows(
    take_turns: Callable[..., dict[str, Any]], folder: Path, rows: Path, rounds: int
) -> Iterator[Row]:
    """Selection and masking of all gradients of 1,024 tokens, beside loops of torch's own.

    kthvalue and topk are given |g| and pay no abs(); `measured` is a masker with statistics;
    `floor` is what an exact mask cannot do without in torch's operations.
    """
    for dtype in DTYPES:
        model = load(folder, dtype)
        parameters = [p for p in model.parameters() if p.requires_grad]
        for part in tokens_of(folder, rows, 2 * LENGTH):
            model(input_ids=part, labels=part).loss.backward()
        fresh = [p.grad.clone() for p in parameters]
        magnitudes = [g.abs().flatten() for g in fresh]
        for ratio in RATIOS:
            kept = [kept_count(g.numel(), ratio) for g in fresh]
            maskers = {
                every: GradientMasker(GradientMask(ratio), statistics_every=every)
                for every in (0, 1)
            }
            steps = {every: Idle(parameters) for every in maskers}
            for every, masker in maskers.items():
                masker.attach(steps[every])
            renew = partial(_renew, parameters, fresh)
            renew()
            steps[0].step()
            exact = _exact(parameters, fresh, magnitudes, kept)
            renew()
            ctypes.CDLL(None).malloc_trim(0)
            extra = peak_growth(steps[0].step)
            times = take_turns(
                {
                    "renew": renew,
                    "ours": steps[0].step,
                    "renew_again": renew,
                    "measured": steps[1].step,
                    "floor": partial(_floor, fresh),
                    "abs_clone": partial(_abs_clone, fresh),
                    "kthvalue": partial(_kthvalue, magnitudes, kept),
                    "topk": partial(_topk, magnitudes, kept),
                },
                rounds,
            )
            middle = {name: statistics.median(t.wall) for name, t in times.items()}
            yield {
                "dtype": str(dtype).removeprefix("torch."), "ratio": ratio,
                "tensors": len(fresh), "elements": sum(g.numel() for g in fresh),
                "exact": exact, "extra_mib": round(extra, 2),
                **{f"{n}_ms": round(v, 1) for n, v in middle.items() if "renew" not in n},
                "ours_over_abs_clone": round(middle["ours"] / middle["abs_clone"], 2),
                "floor_over_abs_clone": round(middle["floor"] / middle["abs_clone"], 2),
                "kthvalue_over_ours": round(middle["kthvalue"] / middle["ours"], 2),
                "topk_over_ours": round(middle["topk"] / middle["ours"], 2),
                "measured_over_ours": round(middle["measured"] / middle["ours"], 2),
            }  # fmt: skip


def _renew(parameters: list[torch.nn.Parameter], fresh: list[Tensor]) -> None:
    for parameter, gradient in zip(parameters, fresh, strict=True):
        assert parameter.grad is not None
        parameter.grad.copy_(gradient)


def _exact(
    parameters: list[torch.nn.Parameter],
    fresh: list[Tensor],
    magnitudes: list[Tensor],
    kept: list[int],
) -> bool:
    """Whether every masked gradient is what kthvalue's threshold leaves."""
    return all(
        torch.equal(p.grad, torch.where(m.view(g.shape) >= threshold, g, 0))
        for p, g, m, threshold in zip(
            parameters, fresh, magnitudes, _kthvalue(magnitudes, kept), strict=True
        )
        if p.grad is not None
    )


def _floor(gradients: list[Tensor]) -> None:
    """The cheapest known operations of a mask whose threshold is foretold and only proven.

    Keys of 16 bits, a look for infinities, how many keys are at least the threshold's and above
    it, and the mask, which drops nothing here.
    """
    spare = torch.empty(1 << 20, dtype=torch.int16)
    for gradient in gradients:
        for part in gradient.view(-1).split(spare.numel()):
            if part.itemsize == 2:
                keys = part.view(torch.int16) & 0x7FFF
            else:
                keys = (part.view(torch.int32) >> 16).to(torch.int16).bitwise_and_(0x7FFF)
            keys.amax()
            for compare in (torch.ge, torch.gt):
                compare(keys, 0x3000, out=spare[: keys.numel()]).sum(dtype=torch.int16)
            apply_(part, KeepLargest(torch.tensor(1e-38, dtype=part.dtype)))


def _abs_clone(gradients: list[Tensor]) -> None:
    for gradient in gradients:
        gradient.abs()
        gradient.clone()


def _kthvalue(magnitudes: list[Tensor], kept: list[int]) -> list[Tensor]:
    pairs = zip(magnitudes, kept, strict=True)
    return [m.kthvalue(m.numel() - k + 1).values for m, k in pairs]


def _topk(magnitudes: list[Tensor], kept: list[int]) -> None:
    for each, number in zip(magnitudes, kept, strict=True):
        each.topk(number, sorted=False)


def update_rows(folder: Path, rows: Path, tokens: int, rounds: int) -> Iterator[Row]:
    """SFT and GMT updates in turns, AdamW, and the masker's own time as a share of SFT's.

    The last row of each dtype has the means, and the half widths of their 95 % intervals.
    """
    from scipy.stats import t as student  # the other benchmarks need torch and transformers alone

    for dtype in DTYPES:
        model, batch = load(folder, dtype), tokens_of(folder, rows, tokens)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.0, fused=True)
        masker = GradientMasker(GradientMask(0.3), statistics_every=0)
        masking = masker_seconds(masker, lambda: None)
        found: list[tuple[float, float, float, float]] = []
        for number in range(rounds + 1):
            plain, _ = update(model, optimizer, batch, lambda: None)
            masker.attach(optimizer)
            masked, _ = update(model, optimizer, batch, lambda: None)
            masker.detach()
            found.append((plain, masked, masking[-1], masking[-1] / plain))
            if number:
                yield _update_row(dtype, tokens, number, found[-1], (0.0,) * 4)
        columns = list(zip(*found[1:], strict=True))
        wide = student.ppf(0.975, rounds - 1) / math.sqrt(rounds)
        halves = tuple(float(wide * statistics.stdev(column)) for column in columns)
        yield _update_row(dtype, tokens, "mean", [statistics.mean(c) for c in columns], halves)


def _update_row(
    dtype: torch.dtype, tokens: int, number: object, values: Any, halves: tuple[float, ...]
) -> Row:
    row: Row = {"dtype": str(dtype).removeprefix("torch."), "tokens": tokens, "round": number}
    names = ("sft_s", "gmt_s", "masker_s", "masker_share_of_sft")
    for name, value, half in zip(names, values, halves, strict=True):
        row |= {name: round(value, 5), f"{name}_half_width": round(half, 5)}
    return row
