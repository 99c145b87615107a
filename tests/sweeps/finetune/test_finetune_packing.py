"""Packed rows: nothing is lost, nothing leaks, nothing changes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AttentionInterface,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from sweeps.finetune.loop import finetune
from sweeps.finetune.loss import MicroBatch, TokenLoss, Tokens, collate
from sweeps.finetune.packing import (
    PackingError,
    attending,
    check_packing,
    choose_attention,
    first_fit,
)
from tests.sweeps.finetune.tiny import MemoryReporter, config, largest_difference, parameters

SMALL: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def _example(length: int) -> st.SearchStrategy[Tokens]:
    """`length` ids with up to three spans of targets, none before the first token."""
    ids = st.lists(st.integers(1, 31), min_size=length, max_size=length)
    edges = st.lists(st.integers(1, length), min_size=2, max_size=6, unique=True).map(sorted)
    return st.tuples(ids, edges.map(lambda each: list(zip(each[0::2], each[1::2], strict=False))))


EXAMPLE = st.integers(2, 12).flatmap(_example)
few = settings(max_examples=30, deadline=None)


def pack(examples: list[Tokens], capacity: int) -> MicroBatch:
    rows = first_fit([len(tokens) for tokens, _ in examples], capacity)
    return collate([[examples[index] for index in row] for row in rows])


@few
@given(st.lists(st.integers(1, 20), min_size=1, max_size=40), st.integers(20, 60))
def test_every_example_lies_in_one_row_that_holds_it(lengths: list[int], capacity: int) -> None:
    rows = first_fit(lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    sizes = [sum(lengths[index] for index in row) for row in rows]
    assert max(sizes) <= capacity
    assert len(rows) <= 11 / 9 * -(-sum(lengths) // capacity) + len(lengths) / 9 + 1
    assert sum(size <= capacity / 2 for size in sizes) <= 1, "two rows would fit into one"


@few
@given(st.lists(EXAMPLE, min_size=1, max_size=8), st.integers(12, 30))
def test_a_packed_batch_holds_every_token_and_target(
    examples: list[Tokens], capacity: int
) -> None:
    packed = pack(examples, capacity)
    ids = packed.input_ids.flatten()
    for position, target in zip(packed.positions.tolist(), packed.targets.tolist(), strict=True):
        assert ids[position + 1] == target
    wanted = [t for tokens, spans in examples for s, e in spans for t in tokens[s:e]]
    assert sorted(packed.targets.tolist()) == sorted(wanted)
    if packed.position_ids is None:
        assert len(packed.input_ids) == len(examples)
    else:
        assert packed.input_ids.shape == packed.position_ids.shape
        assert (packed.position_ids == 0).sum() >= len(examples)


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    grouped = {**SMALL, "num_key_value_heads": 1}
    return LlamaForCausalLM(LlamaConfig(**grouped, max_position_embeddings=64)).double()


def differentiated(
    model: LlamaForCausalLM, batch: MicroBatch, attention: str | None = None
) -> list[torch.Tensor]:
    """The loss and all gradients."""
    model.zero_grad()
    with attending(model, attention):
        loss = TokenLoss(model)(*batch)
        loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    return [loss.detach(), *(g.clone() for g in gradients if g is not None)]


@few
@given(st.lists(EXAMPLE, min_size=1, max_size=6), st.integers(12, 40))
def test_packing_changes_neither_loss_nor_gradient(
    llama: LlamaForCausalLM, examples: list[Tokens], capacity: int
) -> None:
    batches = (pack(examples, capacity), collate([[each] for each in examples]))
    found = [differentiated(llama, batch) for batch in batches]
    for packed, padded in zip(*found, strict=True):
        torch.testing.assert_close(packed, padded, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("checkpointing", [False, True])
@few
@given(st.lists(EXAMPLE, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_a_row_without_padding_changes_neither_loss_nor_gradient(
    llama: LlamaForCausalLM, checkpointing: bool, examples: list[Tokens], order: random.Random
) -> None:
    """In any order of the examples, though no mask keeps them apart."""
    padded = differentiated(llama, collate([[each] for each in examples]))
    order.shuffle(examples)
    row = collate([[each] for each in examples], unpadded=True)
    assert row.input_ids.shape == (1, sum(len(tokens) for tokens, _ in examples))
    attention = choose_attention(llama, 12)
    assert attention is not None
    if checkpointing:
        llama.train()
        llama.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        found = differentiated(llama, row, attention)
    finally:
        llama.gradient_checkpointing_disable()
    assert llama.config._attn_implementation == "sdpa"
    for one, other in zip(found, padded, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_a_window_that_is_too_narrow_keeps_its_mask() -> None:
    torch.manual_seed(0)
    mistral = MistralForCausalLM(MistralConfig(**SMALL, sliding_window=8)).double()
    assert choose_attention(mistral, 8) == choose_attention(mistral, 2) == "sdpa_per_example"
    assert choose_attention(mistral, 9) is None
    examples: list[Tokens] = [([*range(length)], [(1, length)]) for length in (5, 8)]
    padded = differentiated(mistral, collate([[each] for each in examples]))
    row = differentiated(mistral, collate([examples], unpadded=True), "sdpa_per_example")
    for one, other in zip(row, padded, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_flash_attention_is_told_the_lengths(
    llama: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in: the function itself needs a GPU."""
    told: list[list[int]] = []

    def flash(*states: Any, **options: Any) -> Any:
        if "cu_seq_lens_q" not in options:
            return AttentionInterface()["sdpa"](*states, **options)
        told.append(options["cu_seq_lens_q"].tolist())
        return AttentionInterface()["sdpa_per_example"](*states, **options)

    monkeypatch.setitem(AttentionInterface._global_mapping, "flash_attention_2", flash)
    monkeypatch.setattr(llama.config, "_attn_implementation_internal", "flash_attention_2")
    assert choose_attention(llama, 12) == "flash_attention_2"
    told.clear()
    examples: list[Tokens] = [([*range(length)], [(1, length)]) for length in (5, 8)]
    differentiated(llama, collate([examples], unpadded=True), "flash_attention_2")
    assert told == [[0, 5, 13]] * 2


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_models_that_heed_positions_pass(attention: str) -> None:
    torch.manual_seed(0)
    qwen = Qwen2Config(**SMALL, max_position_embeddings=64, attn_implementation=attention)
    gpt2 = GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, attn_implementation=attention)
    for model in (Qwen2ForCausalLM(qwen), GPT2LMHeadModel(gpt2).train()):
        check_packing(model)
        needs_none = "sdpa_per_example" if attention == "sdpa" else None
        assert choose_attention(model, 12) == needs_none
        assert choose_attention(model, 12, compiled=True) is None
    assert model.training


def test_a_model_without_positions_is_refused() -> None:
    torch.manual_seed(0)
    bloom = BloomForCausalLM(BloomConfig(vocab_size=32, hidden_size=16, n_layer=2, n_head=2))
    with pytest.raises((PackingError, TypeError)):
        check_packing(bloom)
    with pytest.raises((PackingError, TypeError)):
        choose_attention(bloom, 8)


def test_a_packed_run_is_the_same_run_without_padding(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curves, models = [], []
    batches: list[MicroBatch] = []
    forward = TokenLoss.forward

    def watched(loss: TokenLoss, *batch: Any) -> torch.Tensor:
        batches.append(MicroBatch(*batch))
        return forward(loss, *batch)

    monkeypatch.setattr(TokenLoss, "forward", watched)
    for packing in (False, True):
        reporter = MemoryReporter()
        run = config(
            world,
            model={"path": str(world / "model"), "dtype": "float64"},
            data={"path": str(world / "train.jsonl"), "max_length": 32, "packing": packing},
        )
        result = finetune(run, tmp_path / str(packing), reporter)
        curves.append(reporter.losses())
        models.append(parameters(result.model_folder))
    starts = [batch.cu_seq_lens for batch in batches]
    rows = [batch.input_ids.shape for batch in batches]
    unpadded = [
        row == (1, start[-1]) for row, start in zip(rows, starts, strict=True) if start is not None
    ]
    assert all(unpadded)
    assert 0 < len(unpadded) < len(batches)
    assert curves[1] == pytest.approx(curves[0], abs=1e-9)
    assert largest_difference(*models) < 1e-6
