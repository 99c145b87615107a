"""Training steps with and without the mask, on the CPU and on a GPU; run through masking.py."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from gmt_core import GradientMask, GradientMasker, kept_count, magnitude_thresholds
from gmt_core.rules import KeepLargest, apply_all_
from sweeps.finetune.run_costs import Throughput

Row = dict[str, object]
TOKENS = 16_384  # of one update, on the CPU
LENGTH = 512
# hidden size, feed-forward size, layers, heads, key-value heads, vocabulary
SHAPES = {
    "10m": (256, 688, 8, 4, 4, 8192),
    "100m": (640, 1728, 16, 10, 10, 16384),
    "smollm2": (576, 1536, 30, 9, 3, 49152),  # SmolLM2-135M
    "1b": (2048, 5632, 22, 32, 32, 32000),
    "7b": (4096, 11008, 32, 32, 32, 32000),
}


def llama(name: str, layers: int | None = None) -> LlamaForCausalLM:
    """Random weights; `layers` instead of the model's own where it is given."""
    hidden, inner, depth, heads, pairs, words = SHAPES[name]
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=hidden,
            intermediate_size=inner,
            num_hidden_layers=layers or depth,
            num_attention_heads=heads,
            num_key_value_heads=pairs,
            vocab_size=words,
            max_position_embeddings=2048,
            tie_word_embeddings=name == "smollm2",
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
    shape = (TOKENS // 2048, 2048 // LENGTH, LENGTH)
    yield from _turns(llama(name), shape, rounds)


def train_rows(name: str, rounds: int) -> Iterator[Row]:
    """As `step_rows`, as a sweep trains on a GPU: float32 weights, products in bfloat16.

    32,768 tokens in micro-batches of 4,096; on a CPU 256 in two. A model that does not
    fit beside its gradients and moments is cut to the layers that do.
    """
    if not torch.cuda.is_available():
        yield from _turns(llama(name), (2, 1, 128), rounds, mixed=True)
        return
    with torch.device("meta"):
        bytes_ = 16 * sum(p.numel() for p in llama(name).parameters())
    depth = SHAPES[name][2]
    layers = min(depth, int(0.6 * torch.cuda.mem_get_info()[0] / bytes_ * depth))
    model = llama(name, layers).cuda()
    model.gradient_checkpointing_enable()
    yield from _turns(model, (8, 2, 2048), rounds, mixed=True)


def _turns(
    model: LlamaForCausalLM, shape: tuple[int, int, int], rounds: int, *, mixed: bool = False
) -> Iterator[Row]:
    """`shape` of the tokens of an update: micro-batches, rows, length."""
    device = model.device
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.config.vocab_size, shape, generator=generator).to(device)
    parameters = sum(p.numel() for p in model.train().parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.0, fused=mixed)
    masker = GradientMasker(GradientMask(0.3), statistics_every=0)
    masking = masker_seconds(masker, _wait)
    rates = Throughput.of(model, torch.bfloat16 if mixed else torch.float32, device, 1)
    lengths = [shape[2]] * shape[0] * shape[1]
    taken: list[dict[str, float]] = []
    for number in range(rounds + 1):
        row: dict[str, float] = {}
        for method in ("sft", "gmt"):
            if method == "gmt":
                masker.attach(optimizer)
            with (
                _peak_of(device, row, f"{method}_peak_gib"),
                torch.autocast(device.type, torch.bfloat16, enabled=mixed),
            ):
                seconds, step = update(model, optimizer, tokens, _wait)
            row[f"{method}_s"] = seconds
            row.setdefault("optimizer_step_s", step)
            for key, value in rates.metrics(lengths, tokens.numel(), seconds).items():
                row[f"{method}_{key.removeprefix('train/')}"] = value
        masker.detach()
        row["masker_s"] = masking[-1]
        row["masker_share_of_sft"] = masking[-1] / row["sft_s"]
        if number:  # the first allocates memory
            taken.append(row)
    middle = {key: statistics.median(each[key] for each in taken) for key in taken[0]}
    for name, row in [*enumerate(taken, 1), ("median", middle)]:
        rounded = {key: float(f"{value:.5g}") for key, value in row.items()}
        yield {"parameters": parameters, "tokens": tokens.numel(), "round": name, **rounded}


@contextmanager
def _peak_of(device: torch.device, found: dict[str, float], key: str) -> Iterator[None]:
    """Note the peak of the GPU's memory during the block; nothing on a CPU."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.reset_peak_memory_stats()
    yield
    found[key] = torch.cuda.max_memory_allocated() / 2**30


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def gpu_rows(name: str, rounds: int) -> Iterator[Row]:
    """bfloat16 gradients of a Llama's shapes: bytes per second beside a copy's.

    The bytes that it must move: selection reads each gradient once, masking reads and writes it.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
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
        copy = _seconds(partial(target.copy_, buffer))
        select = _seconds(partial(magnitude_thresholds, gradients, kept))
        mask = _seconds(partial(apply_all_, gradients, rules))
        if number:
            copied = 2 * buffer.numel() / copy
            yield {
                "round": number, "elements": moved // 2, "exact": exact,
                "copy_gb_s": round(copied / 1e9, 1), "select_ms": round(select * 1e3, 3),
                "mask_ms": round(mask * 1e3, 3),
                "share_of_copy": round(3 * moved / (select + mask) / copied, 3),
            }  # fmt: skip


def _seconds(run: Callable[[], object]) -> float:
    _wait()
    start = time.perf_counter()
    run()
    _wait()
    return time.perf_counter() - start
