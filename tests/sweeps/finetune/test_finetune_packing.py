"""Packed rows: nothing is lost, nothing leaks, nothing changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from sweeps.finetune.loop import finetune
from sweeps.finetune.loss import MicroBatch, TokenLoss, Tokens, collate
from sweeps.finetune.packing import PackingError, check_packing, first_fit
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
    return LlamaForCausalLM(LlamaConfig(**SMALL, max_position_embeddings=64)).double()


@few
@given(st.lists(EXAMPLE, min_size=1, max_size=6), st.integers(12, 40))
def test_packing_changes_neither_loss_nor_gradient(
    llama: LlamaForCausalLM, examples: list[Tokens], capacity: int
) -> None:
    found = []
    for batch in (pack(examples, capacity), collate([[each] for each in examples])):
        llama.zero_grad()
        loss = TokenLoss(llama)(
            batch.input_ids, batch.positions, batch.targets, batch.position_ids
        )
        loss.backward()
        gradients = [parameter.grad for parameter in llama.parameters()]
        found.append([loss.detach(), *(g.clone() for g in gradients if g is not None)])
    for packed, padded in zip(*found, strict=True):
        torch.testing.assert_close(packed, padded, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_models_that_heed_positions_pass(attention: str) -> None:
    torch.manual_seed(0)
    qwen = Qwen2Config(**SMALL, max_position_embeddings=64, attn_implementation=attention)
    gpt2 = GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, attn_implementation=attention)
    for model in (Qwen2ForCausalLM(qwen), GPT2LMHeadModel(gpt2).train()):
        check_packing(model)
    assert model.training


def test_a_model_without_positions_is_refused() -> None:
    torch.manual_seed(0)
    bloom = BloomForCausalLM(BloomConfig(vocab_size=32, hidden_size=16, n_layer=2, n_head=2))
    with pytest.raises((PackingError, TypeError)):
        check_packing(bloom)


def test_a_packed_run_is_the_same_run(world: Path, tmp_path: Path) -> None:
    curves, models = [], []
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
    assert curves[1] == pytest.approx(curves[0], abs=1e-9)
    assert largest_difference(*models) < 1e-6
