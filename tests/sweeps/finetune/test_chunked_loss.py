"""The loss from chunks of logits: the same loss and gradients, and less memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTJConfig,
    GPTJForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from sweeps.finetune.loop import finetune
from sweeps.finetune.loss import MicroBatch, TokenLoss, chunked_from, collate
from tests.sweeps.finetune.tiny import MemoryReporter, config

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
PLAIN: dict[str, Callable[[], Any]] = {
    "tied": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True)),
    "untied": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=False)),
    "bias": lambda: GPTJForCausalLM(
        GPTJConfig(vocab_size=97, n_embd=16, n_layer=2, n_head=2, rotary_dim=4)
    ),
}


def batch() -> MicroBatch:
    rows = [[*range(start, start + length)] for start, length in ((3, 20), (40, 9), (60, 30))]
    return collate([[(rows[0], [(4, 20)]), (rows[1], [(2, 5), (7, 9)])], [(rows[2], [(1, 30)])]])


def gradients(model: Any, computes_in: torch.dtype | None, chunked: bool) -> list[Tensor]:
    model.zero_grad()
    loss = TokenLoss(model, computes_in, 1 if chunked else None)
    micro = batch()
    found = loss(micro.input_ids, micro.positions, micro.targets, micro.position_ids)
    (found / len(micro.targets)).backward()
    return [found.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_chunks_give_the_same_loss_and_gradients(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = PLAIN[name]().to(dtype)
    assert chunked_from(model, True) == 1
    within = 1e-12 if dtype == torch.float64 else 1e-5
    full, chunked = (gradients(model, None, each) for each in (False, True))
    assert len(full) == len(chunked) > 10
    for one, other in zip(full, chunked, strict=True):
        assert other.dtype == dtype
        torch.testing.assert_close(other, one, rtol=within, atol=within)


@pytest.mark.parametrize(
    ("dtype", "computes_in"), [(torch.bfloat16, None), (torch.float32, torch.bfloat16)]
)
def test_in_bfloat16_the_sum_keeps_its_precision(
    dtype: torch.dtype, computes_in: torch.dtype | None
) -> None:
    torch.manual_seed(0)
    model = PLAIN["tied"]().to(dtype)
    full, chunked = (gradients(model, computes_in, each) for each in (False, True))
    assert chunked[0].dtype == torch.float32
    assert chunked[0].item() == pytest.approx(full[0].item(), rel=1e-3)
    for one, other in zip(full[1:], chunked[1:], strict=True):
        torch.testing.assert_close(other, one, rtol=0.1, atol=0.02 * one.abs().max().item())


def capped() -> Any:
    wide = {**SMALL, "head_dim": 8, "attn_implementation": "eager"}
    return Gemma2ForCausalLM(Gemma2Config(**wide, final_logit_softcapping=30.0))


def scaled() -> Any:
    return CohereForCausalLM(CohereConfig(**SMALL, logit_scale=0.0625))


@pytest.mark.parametrize("build", [capped, scaled])
def test_changed_logits_are_computed_in_full(
    build: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model = build()
    with caplog.at_level(logging.WARNING):
        assert chunked_from(model, True) is None
    assert f"chunked_loss: not used, {type(model).__name__} changes its logits" in caplog.text


def test_by_default_a_cpu_computes_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    model = PLAIN["tied"]()
    assert chunked_from(model, "auto") is None
    assert chunked_from(model, False) is None
    monkeypatch.setattr("sweeps.finetune.loss._is_plain", lambda *_: True)
    meta = model.to("meta")  # stands for an accelerator
    assert chunked_from(meta, "auto") == SMALL["hidden_size"]
    assert chunked_from(meta, False) is None


def test_a_run_with_chunks_is_the_same_run(world: Path, tmp_path: Path) -> None:
    curves = []
    for chunked in (False, True):
        reporter = MemoryReporter()
        model = {"path": str(world / "model"), "dtype": "float64"}
        run = config(world, model=model, chunked_loss=chunked)
        finetune(run, tmp_path / str(chunked), reporter)
        curves.append(reporter.losses())
    assert curves[1] == pytest.approx(curves[0], abs=1e-9)


def peak_bytes(model: Any, chunked: bool) -> int:
    """The most memory that a forward and backward pass holds at once, above the model's."""
    micro = collate([[(list(range(1, 64)), [(1, 63)])] for _ in range(8)])
    loss = TokenLoss(model, None, 1 if chunked else None)
    model.zero_grad()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        loss(micro.input_ids, micro.positions, micro.targets).backward()
    held = peak = 0
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def test_chunks_need_less_memory() -> None:
    model = LlamaForCausalLM(LlamaConfig(**{**SMALL, "vocab_size": 16384}))
    logits = 8 * 62 * 16384 * 4
    full, chunked = peak_bytes(model, False), peak_bytes(model, True)
    assert full > 2 * logits
    assert chunked < 0.25 * logits
