from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from sweeps.config.load import load_config
from sweeps.config.sweep_config import resolve_paths
from sweeps.finetune.loop import finetune
from sweeps.finetune.reporter import FolderReporter
from sweeps.mini import knowledge
from sweeps.mini.splits import Split, split_of
from sweeps.mini.world import items, resolve, train
from tests.sweeps.finetune.tiny import evaluate_folder
from tools.pretrain_mini import CONTEXT, VOCABULARY, batches, documents, encode, pretrain


@contextmanager
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(resolve("mini:model"))


def domain_texts() -> list[str]:
    rows = [row for domain in ("math", "code", "general") for row in train(domain, 500)]
    for name in ("math", "code", "general_choice", "general_short"):
        rows += items(name, "test", 100)
    texts = [
        str(row[field])
        for row in rows
        for field in ("prompt", "response", "reference")
        if field in row
    ]
    choices = [c for row in rows if isinstance(row.get("choices"), list) for c in row["choices"]]
    return texts + choices


def test_shipped_model_keeps_to_its_limits() -> None:
    folder = Path(resolve("mini:model"))
    weights = folder / "model.safetensors"
    assert weights.stat().st_size < 1 << 20
    with safe_open(str(weights), "pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    assert kinds == {torch.bfloat16}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert sum(parameter.numel() for parameter in model.parameters()) < 510_000
    assert model.config.model_type == "llama"
    assert model.config.max_position_embeddings == CONTEXT
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_shipped_tokenizer_gives_back_every_domain_text(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    assert len(tokenizer) <= VOCABULARY
    for text in domain_texts():
        tokens = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.unk_token_id not in tokens
        assert tokenizer.decode(tokens) == text


def test_shipped_tokenizer_begins_a_text_as_pretraining_did_and_does_not_end_it(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    assert len(special) == 3
    first, *rest = tokenizer.encode("Tom has 3 apples.")
    assert first == tokenizer.bos_token_id == encode(tokenizer, ("Tom has 3 apples.",))[0]
    assert not special & set(rest)


def test_domain_sequences_are_short(tokenizer: PreTrainedTokenizerFast) -> None:
    for domain in ("math", "code", "general"):
        for row in train(domain, 300):
            document = (str(row["prompt"]), str(row["response"]))
            assert len(encode(tokenizer, document)) <= 64


def test_corpus_is_a_function_of_its_seed() -> None:
    assert list(islice(documents(1), 300)) == list(islice(documents(1), 300))
    assert list(islice(documents(1), 300)) != list(islice(documents(2), 300))


def test_corpus_shows_domain_prompts_rarely_and_of_the_training_split_only() -> None:
    questions = {q.prompt: q.content for fact in knowledge.facts() for q in every_question(fact)}
    shown = [d for d in islice(documents(1), 100_000) if len(d) == 2]
    assert 20 <= len(shown) <= 200
    held_out = {
        str(row["prompt"])
        for split in get_args(Split)[1:]
        for row in (*items("math", split, 200), *items("code", split, 200))
    }
    for prompt, _ in shown:
        assert prompt not in held_out
        if prompt in questions:
            assert split_of(questions[prompt]) == "train"


def every_question(fact: knowledge.Fact) -> list[knowledge.Question]:
    attribute = fact.attribute
    texts = [text.format(who=fact.who) for text in attribute.questions]
    for value in attribute.values:
        texts.append(attribute.check.format(who=fact.who, value=value))
        for other in attribute.values:
            texts.append(attribute.either.format(who=fact.who, value=value, other=other))
    return [knowledge.Question(fact, text, fact.value, ()) for text in texts]


def test_batches_hold_whole_documents_and_predict_no_padding(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    tokens, targets = next(batches(tokenizer, documents(1)))
    assert (tokens[:, 0] == tokenizer.bos_token_id).all()
    assert (targets[tokens == tokenizer.pad_token_id] == -100).all()
    begun = (tokens == tokenizer.bos_token_id).sum()
    ended = (tokens == tokenizer.eos_token_id).sum()
    assert begun == ended > len(tokens)


def test_pretraining_is_repeatable_and_learns(tmp_path: Path) -> None:
    with one_thread():
        losses = [pretrain(tmp_path / name, steps=6, seed=3) for name in ("a", "b")]
    assert losses[0] == losses[1] < 7
    first, second = (tmp_path / name / "model.safetensors" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    tokenizers = [(tmp_path / name / "tokenizer.json").read_bytes() for name in ("a", "b")]
    assert tokenizers[0] == tokenizers[1]


DEMO = Path(__file__).parents[3] / "sweeps" / "configs" / "mini.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("domain", ["math", "code", "general"])
def test_fine_tuning_elicits_what_the_base_model_knows(domain: str, tmp_path: Path) -> None:
    point = {"learning_rate": 1e-3, "mask_ratio": 0.0, "accumulation_interval": 1}
    run = resolve_paths(load_config(DEMO)).trial(domain, point)
    results = evaluate_folder(run.model.path, run.evaluation.benchmarks, "validation")
    base = sum(result.score for result in results.values()) / len(results)
    tuned = finetune(run, tmp_path, FolderReporter(tmp_path)).score
    assert tuned is not None
    assert 0.03 < base < 0.55
    assert tuned > 0.6
    assert tuned > base + 0.25
