"""`python -m sweeps compare`: two models on the same items."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.table import Table

from evaluators.paired_comparison import Difference, differences, left_out
from sweeps.cli.answer import Answer, refuse
from sweeps.cli.command_results import Comparison

SHOWN = 3
"""Items that are named of those that do not match; `--json` names all."""


def compare(
    a: Annotated[
        str, typer.Argument(metavar="A", help="Folder or file of scored items; see below.")
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="The same for the other model.")],
    metric: Annotated[
        str | None, typer.Option(help="A metric of the items, instead of the primary one.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="File for a figure, .png, .svg or .pdf.")
    ] = None,
) -> Answer[Comparison]:
    """Compare two models on the same items: paired differences with 95 % intervals.

    A and B: folders of `eval --samples-out` or of lm-eval's `--log_samples`, single files in
    them, or a sweep, domain or trial with scored test items. SWEEP@sft is the best
    SFT trial of a search.
    """
    from sweeps.execution.compared import other_rules, read_items

    try:
        in_a, in_b = read_items(a, metric), read_items(b, metric)
        differing = other_rules(in_a, in_b)
        ours, others = ({name: each.items for name, each in side.items()} for side in (in_a, in_b))
        found = differences(ours, others)
        lonely = left_out(ours, others, found)
        if figure is not None:
            from sweeps.report.drawing import difference_figure

            difference_figure(found, (a, b)).savefig(figure)
    except (ValueError, OSError) as error:
        refuse(str(error))
    result = Comparison.model_validate(
        {"differences": tuple(found), "left_out": lonely, "other_protocols": tuple(differing)}
    )
    return Answer(result, view(result, f"A {a}, B {b}"))


def view(found: Comparison, title: str) -> Iterator[RenderableType]:
    """The table, how to read it, and what was left out."""
    yield _table(found.differences, title)
    yield (
        "Higher scores are better. Intervals and p-values (McNemar's, exact) are over items: they "
        "hold for these two models, not for other seeds. A difference below 'detectable' would be "
        "missed more than one time in five."
    )
    for each in found.differences:
        yield from unmatched(each)
    for name, (of_a, of_b) in found.left_out.items():
        yield f"{name}: left out, no item in common; A has {of_a}, B has {of_b}"
    for name in found.other_protocols:
        yield (
            f"{name}: A and B have different protocols (decoding, rules, BOS or sandbox limits); "
            "the difference is not of the models alone"
        )


def _table(found: Sequence[Difference], title: str) -> Table:
    table = Table(title=title)
    heads = ("A", "B", "A - B", "95 % interval", "p", "p (Holm)", "detectable", "n")
    table.add_column("benchmark", no_wrap=True)
    for column in heads:
        table.add_column(column, justify="right")
    for each in found:
        table.add_row(
            each.benchmark or "mean of all",
            *(f"{value:.4f}" for value in (each.a, each.b)),
            f"{each.difference:+.4f}",
            f"{each.low:+.4f} to {each.high:+.4f}",
            *(_p(value) for value in (each.p_value, each.adjusted)),
            "n/a" if math.isnan(each.detectable) else f"{each.detectable:.4f}",
            str(each.n),
        )
    return table


def _p(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}" if value >= 0.0001 else "<0.0001"


def unmatched(found: Difference) -> list[str]:
    """A sentence for each kind of items that could not be compared."""
    kinds = (
        ("only in A", found.only_a),
        ("only in B", found.only_b),
        ("with different prompts", found.asked_differently),
    )
    sentences = []
    for what, names in kinds:
        if names:
            some = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
            noun = "item" if len(names) == 1 else "items"
            sentences.append(f"{found.benchmark}: {len(names)} {noun} left out, {what}: {some}")
    return sentences
