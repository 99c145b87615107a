"""Several ranks give what one rank gives: real gloo processes."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluators.benchmark import BenchmarkResult, Item, ItemRecord
from evaluators.benchmarks import build
from evaluators.errors import EvaluationError
from evaluators.evaluate import evaluate
from evaluators.language_model import LanguageModel, TextModel

ITEMS = tuple(
    Item(f"i{n}", f"Question: {n * 7} + {n}?\nAnswer:", f" The answer is: {n * 8}", answer=f"{n}")
    for n in range(7)
)


def describe(result: BenchmarkResult) -> str:
    return json.dumps(dataclasses.asdict(result), sort_keys=True)


class FailsOnRankOne(TextModel):
    def generate(self, *_, **__):
        raise AssertionError("not reached")

    def loglikelihood(self, pairs):
        raise RuntimeError("boom")


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    try:
        lm = load(folder)
        result = evaluate(lm, build("exact_match"), ITEMS, rank=rank, world_size=2)
        Path(folder, f"result{rank}.json").write_text(describe(result))
        single = evaluate(lm, build("exact_match"), ITEMS[:1], rank=rank, world_size=2)
        assert single.n == 1
        try:
            broken = FailsOnRankOne() if rank == 1 else lm
            evaluate(broken, build("exact_match"), ITEMS, rank=rank, world_size=2)
        except (EvaluationError, RuntimeError) as error:
            Path(folder, f"error{rank}.txt").write_text(f"{type(error).__name__}: {error}")
    finally:
        dist.destroy_process_group()


def load(folder: str) -> LanguageModel:
    model = AutoModelForCausalLM.from_pretrained(folder)
    return LanguageModel(model, AutoTokenizer.from_pretrained(folder))


def test_two_ranks_score_what_one_scores(tmp_path, model, tokenizer):
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    alone = evaluate(load(str(tmp_path)), build("exact_match"), ITEMS)
    multiprocessing.spawn(worker, args=(str(tmp_path),), nprocs=2)
    first, second = ((tmp_path / f"result{rank}.json").read_text() for rank in (0, 1))
    assert first == second
    together = json.loads(first)
    assert [record["id"] for record in together["records"]] == [item.id for item in ITEMS]
    for mine, theirs in zip(alone.records, together["records"], strict=True):
        assert (mine.output, mine.score, mine.tokens) == (
            theirs["output"],
            theirs["score"],
            theirs["tokens"],
        )
        assert mine.reference_nats == pytest.approx(theirs["reference_nats"], rel=1e-5)
    assert (tmp_path / "error1.txt").read_text() == "RuntimeError: boom"
    assert "rank 1 failed: RuntimeError: boom" in (tmp_path / "error0.txt").read_text()


class Miscounting:
    """A benchmark that loses or doubles an item."""

    def __init__(self, inner, change) -> None:
        self.name, self._inner, self._change = inner.name, inner, change

    def score(self, lm, items: Sequence[Item]) -> list[ItemRecord]:
        return self._change(self._inner.score(lm, items))


@pytest.mark.parametrize(
    "change", [lambda records: records[1:], lambda records: [*records, records[0]]]
)
def test_every_item_is_scored_exactly_once(model, tokenizer, change):
    benchmark = Miscounting(build("exact_match", metric="bits_per_byte"), change)
    with pytest.raises(EvaluationError, match="one record for each of 7 items"):
        evaluate(LanguageModel(model, tokenizer), benchmark, ITEMS)


def test_repeated_ids_are_refused(model, tokenizer):
    with pytest.raises(ValueError, match="'i0' occurs more than once"):
        evaluate(LanguageModel(model, tokenizer), build("exact_match"), [*ITEMS, ITEMS[0]])


def test_a_single_item_has_no_standard_error(model, tokenizer):
    result = evaluate(LanguageModel(model, tokenizer), build("exact_match"), ITEMS[:1])
    assert math.isnan(result.standard_error)
