"""Training steps with and without the mask, on the CPU and on a GPU; run through masking.py."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from gmt_core import GradientMask, GradientMasker, kept_count, magnitude_thresholds
from gmt_core.rules import KeepLargest, apply_all_

Row = dict[str, object]
TOKENS = 16_384  # of one update, on the CPU
LENGTH = 512
# hidden size, feed-forward size, layers, heads, vocabulary
SHAPES = {
    "10m": (256, 688, 8, 4, 8192),
    "100m": (640, 1728, 16, 10, 16384),
    "1b": (2048, 5632, 22, 32, 32000),
    "7b": (4096, 11008, 32, 32, 32000),
}


def llama(name: str, layers: int | None = None) -> LlamaForCausalLM:
    """Random weights; `layers` instead of the model's own where it is given."""
    hidden, inner, depth, heads, words = SHAPES[name]
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=hidden,
            intermediate_size=inner,
            num_hidden_layers=layers or depth,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            vocab_size=words,
            max_position_embeddings=2048,
            use_cache=False,
        )
    )


def update(
    model: LlamaForCausalLM,
    optimizer: torch.optim.Optimizer,
    tokens: Tensor,
    wait: Callable[[], None],
) -> tuple[float, float]:
    """Seconds of one update, and of its optimizer step with what is hooked before it."""
    wait()
    start = time.perf_counter()
    for part in tokens:
        model(input_ids=part, labels=part).loss.div(len(tokens)).backward()
    wait()
    stepped = time.perf_counter()
    optimizer.step()
    optimizer.zero_grad()
    wait()
    return time.perf_counter() - start, time.perf_counter() - stepped


def masker_seconds(masker: GradientMasker, wait: Callable[[], None]) -> list[float]:
    """A list that each masking of this masker adds its own time to."""
    seconds: list[float] = []
    mask = masker._before_step

    def timed(*arguments: Any) -> None:
        wait()
        start = time.perf_counter()
        mask(*arguments)
        wait()
        seconds.append(time.perf_counter() - start)

    masker._before_step = timed  # type: ignore[method-assign, assignment]
    return seconds


def step_rows(name: str, rounds: int) -> Iterator[Row]:
    """SFT and GMT updates in turns, float32, AdamW, 16,384 tokens in micro-batches of 2,048."""
    generator = torch.Generator().manual_seed(0)
    words = SHAPES[name][4]
    shape = (TOKENS // 2048, 2048 // LENGTH, LENGTH)
    yield from _turns(
        llama(name), torch.randint(words, shape, generator=generator), rounds, lambda: None
    )


def _turns(
    model: LlamaForCausalLM, tokens: Tensor, rounds: int, wait: Callable[[], None]
) -> Iterator[Row]:
    parameters = sum(p.numel() for p in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.0)
    masker = GradientMasker(GradientMask(0.3), statistics_every=0)
    masking = masker_seconds(masker, wait)
    sft, gmt, sft_step = [], [], []
    for number in range(rounds + 1):
        total, step = update(model, optimizer, tokens, wait)
        masker.attach(optimizer)
        masked, _ = update(model, optimizer, tokens, wait)
        masker.detach()
        if number:
            sft.append(total)
            sft_step.append(step)
            gmt.append(masked)
            yield {
                "parameters": parameters, "tokens": tokens.numel(), "round": number,
                "sft_s": round(total, 3), "gmt_s": round(masked, 3),
                "optimizer_step_s": round(step, 4), "masker_s": round(masking[-1], 4),
                "masker_share_of_sft": round(masking[-1] / total, 5),
            }  # fmt: skip
    del masking[0]
    middle = statistics.median
    yield {
        "parameters": parameters, "tokens": tokens.numel(), "round": "median",
        "sft_s": round(middle(sft), 3), "gmt_s": round(middle(gmt), 3),
        "optimizer_step_s": round(middle(sft_step), 4), "masker_s": round(middle(masking), 4),
        "masker_share_of_sft": round(middle(masking) / middle(sft), 5),
    }  # fmt: skip


def gpu_rows(name: str, rounds: int) -> Iterator[Row]:
    """bfloat16 gradients of a Llama's shapes: bytes per second beside a copy's; then the step.

    The bytes that it must move: selection reads each gradient once, masking reads and writes it.
    The step runs at 32,768 tokens; a 7 B model is cut to the layers that fit beside AdamW.
    """
    if not torch.cuda.is_available():
        raise SystemExit("gpu: needs CUDA, found none")
    device = torch.device("cuda")
    with torch.device("meta"):
        shapes = [p.shape for p in llama(name).parameters()]
    gradients = [torch.randn(s, device=device, dtype=torch.bfloat16) for s in shapes]
    kept = [kept_count(g.numel(), 0.3) for g in gradients]
    moved = sum(g.numel() * g.itemsize for g in gradients)
    sample = range(0, len(gradients), max(1, len(gradients) // 8))
    found = magnitude_thresholds(gradients, kept)
    exact = all(
        torch.equal(found[i].cpu(), magnitude_thresholds([gradients[i].cpu()], [kept[i]])[0])
        for i in sample
    )
    rules = [KeepLargest(threshold) for threshold in found]
    buffer = torch.empty(min(moved, 4 * 2**30), dtype=torch.uint8, device=device)
    target = torch.empty_like(buffer)
    for number in range(rounds + 1):
        copy = _gpu_seconds(partial(target.copy_, buffer))
        select = _gpu_seconds(partial(magnitude_thresholds, gradients, kept))
        mask = _gpu_seconds(partial(apply_all_, gradients, rules))
        if number:
            copied = 2 * buffer.numel() / copy
            yield {
                "round": number, "elements": moved // 2, "exact": exact,
                "copy_gb_s": round(copied / 1e9, 1), "select_ms": round(select * 1e3, 3),
                "mask_ms": round(mask * 1e3, 3),
                "share_of_copy": round(3 * moved / (select + mask) / copied, 3),
            }  # fmt: skip
    del gradients, buffer, target, found, rules
    torch.cuda.empty_cache()
    # AdamW in bfloat16 takes 8 bytes per parameter; activations take the rest.
    free = torch.cuda.mem_get_info()[0]
    layers = min(SHAPES[name][2], int(0.6 * free / 8 / (moved / 2) * SHAPES[name][2]))
    model = llama(name, layers).to(device, torch.bfloat16)
    model.gradient_checkpointing_enable()
    tokens = torch.randint(SHAPES[name][4], (16, 1, 2048), device=device)
    for row in _turns(model.train(), tokens, rounds, torch.cuda.synchronize):
        print(row, flush=True)


def _gpu_seconds(run: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start
