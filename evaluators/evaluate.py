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
    """The `limit` items with the smallest sha256(id): the same ones every time, in file order.

    A smaller limit selects a subset of a larger one. None keeps every item.
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
    """The result of `benchmark` on `items`, the same on every rank.

    With world_size > 1 every rank of the default process group must call this with the same
    items; rank r scores items r::world_size. An error on one rank is raised on all of them, so
    that none waits for ever. Items are scored `chunk_size` at a time (None: all at once); after
    each chunk its records go to `cache`, which answers for chunks that it knows already, and
    `progress` hears how many items were done.
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
