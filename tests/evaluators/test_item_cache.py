"""An evaluation that was interrupted and went on equals one that was not."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from evaluators.benchmark import Item
from evaluators.benchmarks import build
from evaluators.evaluate import evaluate
from evaluators.item_cache import ItemCache, evaluation_key, weights_sha256
from evaluators.language_model import LanguageModel
from tests.evaluators.conftest import build_model

ITEMS = tuple(
    Item(f"i{n}", f"Question: {n * 7} + {n}?\nAnswer:", f" The answer is: {n * 8}", answer=f"{n}")
    for n in range(11)
)


class Killed(BaseException):
    """As a signal would."""


def interrupt_after(chunks: int):
    left = [chunks]

    def progress(_: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    return progress


@pytest.mark.parametrize("torn", [False, True])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, model, tokenizer, torn):
    lm, benchmark = LanguageModel(model, tokenizer), build("exact_match")
    whole = evaluate(lm, benchmark, ITEMS, chunk_size=3)
    path = tmp_path / "cache" / "records.jsonl"
    with pytest.raises(Killed):
        evaluate(
            lm,
            benchmark,
            ITEMS,
            chunk_size=3,
            cache=ItemCache(path),
            progress=interrupt_after(2),
        )
    if torn:  # killed while it wrote
        path.write_text(path.read_text()[:-20])
    cache = ItemCache(path)
    assert len(cache) == (5 if torn else 6)
    scored: list[str] = []
    counting = Counting(benchmark, scored)
    steps: list[int] = []
    resumed = evaluate(lm, counting, ITEMS, chunk_size=3, cache=cache, progress=steps.append)
    assert dataclasses.replace(resumed, name=whole.name) == whole
    assert scored == [item.id for item in ITEMS[3 if torn else 6 :]]
    assert steps == [3, 3, 3, 2]
    again = evaluate(FailingModel(), benchmark, ITEMS, chunk_size=3, cache=ItemCache(path))
    assert again == whole


class Counting:
    """A benchmark that notes what it was asked to score."""

    def __init__(self, inner, scored: list[str]) -> None:
        self._inner, self._scored = inner, scored

    def __getattr__(self, name: str):
        return getattr(self._inner, name)

    def score(self, lm, items):
        self._scored += [item.id for item in items]
        return self._inner.score(lm, items)


class FailingModel:
    """Answers nothing: all must come from the cache."""

    add_bos = None


def test_the_key_changes_with_weights_protocol_items_and_tokens(model, tokenizer):
    weights = weights_sha256(model, tokenizer)
    assert weights == weights_sha256(build_model(tokenizer), tokenizer)
    assert weights != weights_sha256(build_model(tokenizer, seed=1), tokenizer)
    assert weights != weights_sha256(model.to(torch.bfloat16), tokenizer)
    ended, chatty = build_model(tokenizer), copy.deepcopy(tokenizer)
    ended.generation_config.eos_token_id = [tokenizer.eos_token_id, 5]
    chatty.chat_template = "{{ messages }}"
    assert weights not in (
        weights_sha256(ended, tokenizer),
        weights_sha256(build_model(tokenizer), chatty),
    )
    benchmark = build("exact_match")
    key = evaluation_key(weights, benchmark, ITEMS)
    assert key == evaluation_key(weights, build("exact_match"), list(ITEMS))
    changed = dataclasses.replace(ITEMS[0], answer="other")
    others = [
        evaluation_key("0" * 64, benchmark, ITEMS),
        evaluation_key(weights, build("exact_match", metric="bits_per_byte"), ITEMS),
        evaluation_key(weights, benchmark, ITEMS[1:]),
        evaluation_key(weights, benchmark, [changed, *ITEMS[1:]]),
    ]
    assert key not in others and len(set(others)) == 4


def test_what_is_no_record_is_not_taken_for_one(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text('{"id": "i0"}\n[1]\nnot json\n\n')
    assert len(ItemCache(path)) == 0
    assert ItemCache(tmp_path / "missing.jsonl").find(["i0"]) is None
