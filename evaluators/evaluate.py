"""Score a model on a benchmark, with the items shared over the ranks of a process group."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence

import torch.distributed as dist

from evaluators.benchmark import Benchmark, BenchmarkResult, Item, ItemRecord, summarise
from evaluators.errors import EvaluationError
from evaluators.item_cache import ItemCache
from evaluators.text_model import TextModel


def select(items: Sequence[Item], limit: int | None) -> list[Item]:
    """A fixed subset of items, in file order: those with the smallest sha256(id).

    Args:
        items: of one benchmark.
        limit: the number to keep; None: all. A smaller limit selects a subset of a larger one.

    Raises:
        ValueError: the limit is below 1.
    """
    if limit is None or limit >= len(items):
        return list(items)
    if limit < 1:
        raise ValueError(f"The item limit must be at least 1, found {limit}")
    ranked = sorted(items, key=lambda item: hashlib.sha256(item.id.encode()).hexdigest())
    chosen = {item.id for item in ranked[:limit]}
    return [item for item in items if item.id in chosen]


def evaluate(
    lm: TextModel,
    benchmark: Benchmark,
    items: Sequence[Item],
    *,
    rank: int = 0,
    world_size: int = 1,
    chunk_size: int | None = None,
    cache: ItemCache | None = None,
    progress: Callable[[int], None] | None = None,
) -> BenchmarkResult:
    """Score a model on a benchmark. The result is the same on every rank.

    With several ranks, all ranks of the default process group call this with the same items; rank
    r scores items r::world_size. An error on one rank is raised on all.

    Args:
        lm: the model.
        benchmark: see `evaluators.benchmarks.build`.
        items: as `Benchmark.load` returns them, perhaps after `select`.
        rank: of this process.
        world_size: the number of ranks.
        chunk_size: items scored at a time; None: all at once.
        cache: keeps the records of each chunk, and answers for chunks that it knows.
        progress: called after each chunk with its number of items.

    Raises:
        ValueError: an id occurs twice, or a number is out of range.
        InexactModelError: the model cannot be scored exactly.
        EvaluationError: another rank failed.
    """
    ids = [item.id for item in items]
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        raise ValueError(f"{benchmark.name}: the item id {twice[0]!r} occurs more than once")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, found {chunk_size}")

    def score(mine: Sequence[Item]) -> list[ItemRecord]:
        size = chunk_size or max(1, len(mine))
        # No items: the benchmark is still asked, for ranks may have to keep in step.
        starts = range(0, max(1, len(mine)), size)
        chunks = [mine[start : start + size] for start in starts]
        return [
            record for chunk in chunks for record in _chunk(lm, benchmark, chunk, cache, progress)
        ]

    mine = items[rank::world_size]
    if world_size == 1:
        records = score(mine)
    else:
        records = _gathered(lm, benchmark, lambda: score(mine), world_size)
    return summarise(benchmark, _in_order(benchmark, records, ids), lm.add_bos)


def _chunk(
    lm: TextModel,
    benchmark: Benchmark,
    items: Sequence[Item],
    cache: ItemCache | None,
    progress: Callable[[int], None] | None,
) -> list[ItemRecord]:
    """The records of `items`: known ones where all are known, so that batches stay the same."""
    records = cache.find([item.id for item in items]) if cache is not None else None
    if records is None:
        records = benchmark.score(lm, items)
        if cache is not None:
            cache.add(records)
    if progress is not None:
        progress(len(items))
    return records


def _gathered(
    lm: TextModel, benchmark: Benchmark, score: Callable[[], list[ItemRecord]], world_size: int
) -> list[ItemRecord]:
    """The records of all ranks; raises on every rank where one of them failed."""
    records: list[ItemRecord] = []
    failure: Exception | None = None
    with lm.together():
        try:
            records = score()
        except Exception as error:
            failure = error
    said = "" if failure is None else f"{type(failure).__name__}: {failure}"
    parts: list[tuple[str, list[ItemRecord]]] = [("", [])] * world_size
    dist.all_gather_object(parts, (said, records))
    if failure is not None:
        raise failure
    for other, (message, _) in enumerate(parts):
        if message:
            raise EvaluationError(f"{benchmark.name}: rank {other} failed: {message}")
    return [record for _, part in parts for record in part]


def _in_order(
    benchmark: Benchmark, records: Sequence[ItemRecord], ids: Sequence[str]
) -> list[ItemRecord]:
    """`records` in the order of `ids`; raises unless they cover the ids exactly once."""
    by_id = {record.id: record for record in records}
    if len(records) != len(ids) or by_id.keys() != set(ids):
        raise EvaluationError(
            f"{benchmark.name}: expected one record for each of {len(ids)} items, "
            f"found {len(records)} records of {len(by_id)} items"
        )
    return [by_id[name] for name in ids]
