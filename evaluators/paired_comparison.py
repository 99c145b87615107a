"""Two models on the same items: the difference paired item by item, so that difficulty cancels.

Intervals are of the paired bootstrap over items (of one source together), p-values McNemar's
exact ones. They speak of the two models that were scored, not of other seeds of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from evaluators.benchmark import ItemRecord, bits_per_byte
from evaluators.statistics import holm, mcnemar

Array = NDArray[np.float64]
CHUNK = 2**22
"""Values drawn at a time; a full table would take gigabytes for a large benchmark."""
POWER = 0.8
FEWEST_WINS = 6
"""So many items must tell two models apart, all one way, for McNemar's p to be below 0.05."""


class TooFewScores(ValueError):
    """There are too few scores for the statistic; the message says what is missing."""


@final
@dataclass(frozen=True)
class Interval:
    """An estimate with its bounds."""

    estimate: float
    low: float
    high: float


class ScoredItem(NamedTuple):
    """An item's score, its weight in the benchmark's mean, and the source it shares with others.

    `prompt` is a fingerprint of what the model was asked, empty where it is not known.
    """

    id: str
    score: float
    weight: float = 1.0
    cluster: str = ""
    prompt: str = ""


@final
@dataclass(frozen=True)
class Difference:
    """The paired difference of two models on one benchmark, or on the mean over several.

    Attributes:
        benchmark: its name; empty for the mean over several.
        a: the score of the first model, on the common items.
        b: the score of the second.
        difference: `a` - `b`.
        low: the lower end of its 95 % interval, by a paired bootstrap over items.
        high: the upper end.
        p_value: McNemar's exact one; None if items are not right or wrong, or not independent.
        n: the number of common items.
        detectable: the smallest difference that these items would have shown in four of five
            comparisons.
        adjusted: the p-value after Holm's correction over the benchmarks.
        only_a: items left out, since only the first model has them.
        only_b: items left out, since only the second model has them.
        asked_differently: items left out, since their prompts differ.
    """

    benchmark: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    p_value: float | None
    n: int
    detectable: float
    adjusted: float | None = None
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()
    asked_differently: tuple[str, ...] = ()


def scored_items(
    records: Sequence[ItemRecord], metric: str = "", aggregation: str = "items"
) -> list[ScoredItem]:
    """The items of a result, with their weights in its score by `metric`."""
    sizes = Counter(record.group for record in records)
    rows = []
    for record in records:
        score, weight = record.score, 1.0
        if metric == "bits_per_byte":  # pooled: an item's weight is its number of bytes
            weight = float(record.reference_bytes)
            score = -bits_per_byte(record.reference_nats, record.reference_bytes)
        elif aggregation == "groups":
            weight = 1 / sizes[record.group]
        rows.append(ScoredItem(record.id, score, weight, record.cluster, record.prompt_sha256))
    return rows


def differences(
    a: Mapping[str, Sequence[ScoredItem]], b: Mapping[str, Sequence[ScoredItem]]
) -> tuple[Difference, ...]:
    """The paired difference for each common benchmark, and of several their mean last.

    Args:
        a: the items of the first model by benchmark, see `scored_items`.
        b: the items of the second.

    Raises:
        ValueError: there is no item to compare.
    """
    names = [name for name in a if name in b]
    pairs = {name: _matched(a[name], b[name]) for name in names}
    parts = {name: part for name in names if len((part := pairs[name])[0])}
    if not parts:
        both = any({x.id for x in a[name]} & {y.id for y in b[name]} for name in names)
        found_none = "items asked in other words only" if both else "no item in common"
        raise ValueError(
            f"expected the same items of the same benchmarks, found {', '.join(a) or 'none'} and "
            f"{', '.join(b) or 'none'} with {found_none}"
        )
    found = [_difference(name, [part], a[name], b[name]) for name, part in parts.items()]
    known = [each.p_value for each in found if each.p_value is not None]
    corrected = iter(holm(known))
    found = [
        replace(each, adjusted=None if each.p_value is None else next(corrected)) for each in found
    ]
    if len(parts) > 1:
        found.append(_difference("", list(parts.values()), [], []))
    return tuple(found)


def left_out(
    a: Mapping[str, Sequence[ScoredItem]],
    b: Mapping[str, Sequence[ScoredItem]],
    found: Sequence[Difference],
) -> dict[str, tuple[int, int]]:
    """The benchmarks without an item in common, and how many items each side has of them."""
    compared = {each.benchmark for each in found}
    return {
        name: (len(a.get(name, ())), len(b.get(name, ())))
        for name in dict.fromkeys((*a, *b))
        if name not in compared
    }


_Pair = tuple[list[ScoredItem], list[ScoredItem]]


def _matched(a: Sequence[ScoredItem], b: Sequence[ScoredItem]) -> _Pair:
    """The items of both, asked in the same words."""
    for side in (a, b):
        twice = [name for name, count in Counter(item.id for item in side).items() if count > 1]
        if twice:
            raise ValueError(f"expected each item once, found {twice[0]!r} more than once")
    other = {item.id: item for item in b}
    pairs = [(item, other[item.id]) for item in a if item.id in other]
    same = [(x, y) for x, y in pairs if not (x.prompt and y.prompt) or x.prompt == y.prompt]
    return [x for x, _ in same], [y for _, y in same]


def _difference(
    name: str, parts: Sequence[_Pair], a: Sequence[ScoredItem], b: Sequence[ScoredItem]
) -> Difference:
    arrays = [_by_cluster(*part) for part in parts]
    sides = [
        float(np.mean([np.average(part[side], weights=part[2]) for part in arrays]))
        for side in (0, 1)
    ]
    interval = Interval(sides[0] - sides[1], math.nan, math.nan)
    if all(len(part[0]) > 1 for part in arrays):  # of one item no spread is known
        interval = stratified_bootstrap(arrays)
    in_a, in_b = {item.id for item in a}, {item.id for item in b}
    kept = {item.id for first, _ in parts for item in first}
    return Difference(
        benchmark=name,
        a=sides[0],
        b=sides[1],
        difference=interval.estimate,
        low=interval.low,
        high=interval.high,
        p_value=_p_value(*parts[0]) if len(parts) == 1 else None,
        n=sum(len(first) for first, _ in parts),
        detectable=_detectable(parts, arrays),
        only_a=tuple(item.id for item in a if item.id not in in_b),
        only_b=tuple(item.id for item in b if item.id not in in_a),
        asked_differently=tuple(item.id for item in a if item.id in in_b and item.id not in kept),
    )


def _clusters(items: Sequence[ScoredItem]) -> list[str]:
    """Whose source an item shares; by itself it is its own."""
    return [
        f"shared {item.cluster}" if item.cluster else f"own {number}"
        for number, item in enumerate(items)
    ]


def _by_cluster(
    ours: Sequence[ScoredItem], others: Sequence[ScoredItem]
) -> tuple[Array, Array, Array]:
    """Scores and weights by cluster: those of one source are resampled as one."""
    names = _clusters(ours)
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    rows = np.array([places[name] for name in names])
    weights = np.array([item.weight for item in ours], dtype=np.float64)
    total: Array = np.bincount(rows, weights).astype(np.float64)
    sides = [
        np.bincount(rows, weights * [item.score for item in items]) / np.maximum(total, 1e-300)
        for items in (ours, others)
    ]
    return sides[0], sides[1], total


def _p_value(a: Sequence[ScoredItem], b: Sequence[ScoredItem]) -> float | None:
    """McNemar's, where items are right or wrong, and each by itself."""
    if not _right_or_wrong((a, b)) or any(item.cluster for item in a):
        return None
    return mcnemar([item.score == 1 for item in a], [item.score == 1 for item in b])


def _right_or_wrong(part: _Pair | tuple[Sequence[ScoredItem], Sequence[ScoredItem]]) -> bool:
    return all(item.score in (0, 1) for side in part for item in side)


def _detectable(parts: Sequence[_Pair], arrays: Sequence[tuple[Array, Array, Array]]) -> float:
    """(z_0.975 + z_0.8) standard errors of the paired difference, found at 5 % with 80 % power.

    Of right and wrong items it is at least the difference that McNemar's test can find at all.
    """
    variances = []
    for a, b, weight in arrays:
        if len(a) < 2:
            return math.nan
        gap = (a - b) - np.average(a - b, weights=weight)
        share = weight / weight.sum()
        variances.append(len(a) / (len(a) - 1) * float((share**2 * gap**2).sum()))
    normal = NormalDist()
    reach = normal.inv_cdf(0.975) + normal.inv_cdf(POWER)
    found = reach * math.sqrt(sum(variances)) / len(arrays)
    alone = len(parts) == 1 and _right_or_wrong(parts[0])
    return max(found, min(1.0, FEWEST_WINS / len(parts[0][0]))) if alone else found


def paired_bootstrap(
    a: Array | Sequence[float],
    b: Array | Sequence[float],
    weights: Array | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """The mean of a - b with a percentile interval; a drawn item brings all of its seeds.

    `a`, `b`: (items,) or (items, seeds), aligned. `weights`: (items,), such as the bytes of a
    reference if scores are bits per byte. The interval covers new items for these models; the
    spread between seeds is another.

    Raises:
        TooFewScores: fewer than two items.
        ValueError: the shapes differ.
    """
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    parts = [(first, second, np.ones(len(first)) if weights is None else weights)]
    return stratified_bootstrap(parts, confidence=confidence, resamples=resamples, seed=seed)


def stratified_bootstrap(
    parts: Sequence[tuple[Array, Array, Array]],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """The mean difference over several benchmarks; items are drawn within each benchmark.

    `parts`: (a, b, weights) of each benchmark, as in `paired_bootstrap`.

    Raises:
        TooFewScores, ValueError: as `paired_bootstrap`.
    """
    random = np.random.default_rng(seed)
    found = [_resampled(*part, resamples, random) for part in parts]
    means = np.mean([drawn for _, drawn in found], axis=0)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(float(np.mean([mean for mean, _ in found])), float(low), float(high))


def _resampled(
    a: Array, b: Array, weights: Array, resamples: int, random: np.random.Generator
) -> tuple[float, Array]:
    """The weighted mean of a - b, and the same for each resample."""
    if a.shape != b.shape or a.ndim not in (1, 2):
        raise ValueError(f"expected two equal shapes (items, seeds), got {a.shape}, {b.shape}")
    count = len(a)
    if count < 2:
        raise TooFewScores(f"{count} question: a bootstrap over questions requires two or more")
    weight = np.asarray(weights, dtype=float)
    difference = (a - b).reshape(count, -1).mean(axis=1) * weight
    means = []
    chunk = max(1, CHUNK // count)
    for start in range(0, resamples, chunk):
        drawn = random.integers(count, size=(min(chunk, resamples - start), count))
        means.append(difference[drawn].sum(axis=1) / weight[drawn].sum(axis=1))
    return float(difference.sum() / weight.sum()), np.concatenate(means)
