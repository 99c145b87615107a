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
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluators.benchmark import BenchmarkResult, Item, ItemRecord
from evaluators.benchmarks import build
from evaluators.errors import EvaluationError
from evaluators.evaluate import evaluate
from evaluators.language_model import LanguageModel
from evaluators.text_model import TextModel

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


def worker(rank: int, folder: str, world_size: int, sharded: bool) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world_size)
    share = {"rank": rank, "world_size": world_size}
    try:
        lm = load(folder)
        if sharded:
            mesh = init_device_mesh("cpu", (world_size,))
            for layer in lm.model.model.layers:
                fully_shard(layer, mesh=mesh)
            fully_shard(lm.model, mesh=mesh)
        result = evaluate(lm, build("exact_match"), ITEMS, **share)
        Path(folder, f"result{rank}.json").write_text(describe(result))
        single = evaluate(lm, build("exact_match"), ITEMS[:1], **share)
        assert single.n == 1
        try:
            broken = FailsOnRankOne() if rank == 1 and not sharded else lm
            items = [*ITEMS, Item("bad", None, "x")] if sharded else ITEMS
            evaluate(broken, build("exact_match"), items, **share)
        except (EvaluationError, RuntimeError, ValueError) as error:
            Path(folder, f"error{rank}.txt").write_text(f"{type(error).__name__}: {error}")
    finally:
        dist.destroy_process_group()


def load(folder: str) -> LanguageModel:
    model = AutoModelForCausalLM.from_pretrained(folder)
    return LanguageModel(model, AutoTokenizer.from_pretrained(folder))


@pytest.mark.parametrize(
    ("world_size", "sharded"),
    [(2, False), (2, True), pytest.param(4, False, marks=pytest.mark.slow)],
)
def test_several_ranks_score_what_one_scores(tmp_path, model, tokenizer, world_size, sharded):
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    alone = evaluate(load(str(tmp_path)), build("exact_match"), ITEMS)
    multiprocessing.spawn(worker, args=(str(tmp_path), world_size, sharded), nprocs=world_size)
    results = [(tmp_path / f"result{rank}.json").read_text() for rank in range(world_size)]
    assert set(results) == {results[0]}
    together = json.loads(results[0])
    assert together["score"] == alone.score
    assert [record["id"] for record in together["records"]] == [item.id for item in ITEMS]
    for mine, theirs in zip(alone.records, together["records"], strict=True):
        assert (mine.output, mine.score, mine.tokens) == (
            theirs["output"],
            theirs["score"],
            theirs["tokens"],
        )
        assert mine.reference_nats == pytest.approx(theirs["reference_nats"], rel=1e-5)
    errors = [(tmp_path / f"error{rank}.txt").read_text() for rank in range(world_size)]
    if sharded:  # item 7 of 8 is rank 1's: the error is its own, rank 0 hears of it
        assert errors[1].startswith("ValueError") and "rank 1 failed: ValueError" in errors[0]
    else:
        assert errors[1] == "RuntimeError: boom"
        assert "rank 1 failed: RuntimeError: boom" in errors[0]


@pytest.mark.parametrize("batch_size", [1, 8, 32])
@pytest.mark.parametrize("name", ["exact_match", "multiple_choice"])
def test_scores_do_not_depend_on_the_batch_size(model, tokenizer, name, batch_size):
    choices = (" 1", " 2 or so", " 3")
    items = [
        Item(f"i{n}", f"Q: {n}?\nA:", f" {n % 7}", choices, answer=str(n % 3)) for n in range(40)
    ]
    expected = evaluate(LanguageModel(model, tokenizer), build(name), items)
    lm = LanguageModel(model, tokenizer, batch_size=batch_size)
    found = evaluate(lm, build(name), items)
    assert found.score == expected.score and found.standard_error == expected.standard_error
    for mine, theirs in zip(found.records, expected.records, strict=True):
        assert dataclasses.replace(mine, reference_nats=0) == dataclasses.replace(
            theirs, reference_nats=0
        )
        assert mine.reference_nats == pytest.approx(theirs.reference_nats, rel=1e-5)


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
