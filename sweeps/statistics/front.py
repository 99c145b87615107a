"""Trade-offs and progress: the Pareto front of score and cost, and the best score so far."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (score, cost) points that none beats in one without losing the other.

    High scores and low costs are good; ascending by cost. Of equal points the first stays.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][1], -points[i][0], i))
    front: list[int] = []
    for index in order:
        if not front or points[index][0] > points[front[-1]][0]:
            front.append(index)
    return front


def best_so_far(scores: Sequence[float]) -> list[float]:
    """The highest score up to each place."""
    best: list[float] = []
    for score in scores:
        best.append(max(score, best[-1]) if best else score)
    return best
