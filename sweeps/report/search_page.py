"""The report page of a search: one self-contained file, legible on a phone and on paper."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import mean, stdev

from sweeps.report.intervals import score_interval
from sweeps.report.page import Cells, Drawn, Page, table
from sweeps.report.pareto_front import search_fronts
from sweeps.report.search_figures import (
    best_score_so_far,
    learning_curves,
    score_against_mask_ratio,
    slices,
)
from sweeps.report.search_verdict import is_control, verdict
from sweeps.report.sensitivity_figures import importance
from sweeps.report.trial_row import (
    COUNT,
    CUT_SHORT,
    NO_VALUE,
    SCORE,
    STANDARD_ERROR,
    PairedTest,
    StudyData,
    TrialRow,
    as_text,
    best_by_mask_ratio,
    best_first,
    distinct,
    fresh_scores,
    other_parameters,
    p_text,
    scored,
    stopped_controls,
    violations,
)


def page(data: StudyData) -> Page:
    """The whole page of a search."""
    return Page(
        f"{data.name}: {data.domain}",
        [(verdict(data), _lead(data))],
        {"": [*_figures(data), *search_fronts(data)]},
        data.config_yaml,
        _cards(data),
        [
            _test_results(data),
            _trials(data),
            *_forks(data),
            *_replicates(data),
            *_elsewhere(data),
        ],
        _caveats(data),
    )


def _lead(data: StudyData) -> str:
    counts = Counter(row.state.replace("_", " ") for row in data.rows)
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    minutes = sum(row.seconds for row in data.rows) / 60
    noun = "trial" if len(data.rows) == 1 else "trials"
    counted = f"{len(data.rows)} {noun} ({states or 'none started'}), {minutes:.1f} trial minutes."
    short = f" Small space: {data.shortfall}." if data.shortfall else ""
    broken = violations(data.rows)
    outside = f" {broken}; these are not selected." if broken else ""
    return stopped_controls(data.rows) + counted + short + outside


def _cards(data: StudyData) -> list[tuple[str, str, object, str]]:
    sft, best = best_by_mask_ratio(data.rows).get(0.0), data.best
    items: list[tuple[str, str, object, str]] = []
    for kind, title, row in (
        ("best", f"Best validation {data.label.text}", best),
        ("sft", "Best SFT (mask ratio 0)", sft),
    ):
        items.append((kind, title, data.label.number(row and row.score), _place(data, row)))
    if best is None:
        return items
    if len({row.method for row in data.rows}) > 1:
        items.append(("", "Method", best.method, "of the best trial"))
    interval, searched = best.accumulation_interval, other_parameters(data.rows)
    return [
        *items,
        ("", "Mask ratio", f"{best.mask_ratio:.3g}", "gradient elements zeroed"),
        ("", "Accumulation interval", interval, "mini-batches/update"),
        ("", "Learning rate", f"{best.learning_rate:.2e}", "of the best trial"),
        *(("", name, as_text(best.others.get(name)), "of the best trial") for name in searched),
    ]


def _place(data: StudyData, row: TrialRow | None) -> str:
    if row is None:
        return "no finished trial"
    seeds = f"mean of {len(row.scores)} seeds" if row.scores else f"seed {row.seed}"
    fresh = fresh_scores(row, data.replicates)
    found = f"; {data.label.number(mean(fresh))} over {len(fresh)} fresh seeds" if fresh else ""
    interval = score_interval(row)
    spans = f"; 95 % {data.label.interval(interval)}" if interval else ""
    return f"trial {row.number}, {seeds}{spans}{found}"


def _figures(data: StudyData) -> list[Drawn]:
    no_sft = 0.0 not in best_by_mask_ratio(data.rows)
    control = " No SFT trial (mask ratio 0) has finished, so there is no line." if no_sft else ""
    hollow = any(row.state in CUT_SHORT and row.score is not None for row in data.rows)
    score = (
        "Each mark is a finished trial: colour is the learning rate, shape the accumulation "
        "interval N. The dashed line is the best trial with mask ratio 0 (SFT)."
        f"{' Hollow marks were stopped early, at an earlier step.' if hollow else ''}{control}"
    )
    curve = "If the line still improves at its end, more trials may find a better point."
    each = "Each mark is a finished trial; other parameters vary too."
    checks = "One line per trial. Checks before the last may use fewer items."
    shares = (
        "Optuna's fANOVA on the finished trials, with 95 % bootstrap intervals over trials. The "
        "sampler tried some regions more often than others, so the shares are rough."
    )
    drawn = [
        Drawn("score", "Score against mask ratio", score, score_against_mask_ratio(data)),
        Drawn("curve", "Best score so far", curve, best_score_so_far(data)),
        Drawn("learning_curves", "Learning curves", checks, learning_curves(data)),
        importance(data.importance, shares),
        Drawn("slices", "Score against the other parameters", each, slices(data)),
    ]
    return [part for part in drawn if part.figure is not None] if scored(data.rows) else []


def _test_results(data: StudyData) -> Drawn:
    best, sft = data.test_results.get("best", {}), data.test_results.get("sft", {})
    names = sorted({key.rpartition("/")[0] for key in (*best, *sft)})
    if not names:
        unread = (
            "They are scored once, after the search, for the best trial and the best SFT trial."
        )
        return Drawn("", "Test items", f"Not read. {unread}")
    paired = {each.benchmark: each for each in data.paired}
    rows: list[Cells] = [
        {
            "benchmark": name,
            "best trial": _with_error(data, best, name),
            "best SFT trial": _with_error(data, sft, name),
            **_difference(data, paired.get(name)),
            "items": f"{(best or sft).get(f'{name}/{COUNT}', 0):.0f}",
        }
        for name in names
    ]
    if (overall := paired.get("")) is not None:
        scores = map(data.label.number, (overall.best, overall.sft))
        cells = ["mean of all", *scores, *_difference(data, overall).values(), overall.n]
        rows.append(dict(zip(rows[0], cells, strict=True)))
    note = f"Score ± one standard error over items. {_about_the_difference(data)}"
    return Drawn("", "Test items, read once", note, table=table(rows))


def _about_the_difference(data: StudyData) -> str:
    if is_control(data):
        return "The best trial is the best SFT trial, so there is no difference to show."
    if not data.paired:
        return "No difference is shown, because the trials have no scores on the same items."
    return (
        "The difference is paired: both trials answered the same items. Its 95 % interval is a "
        "bootstrap over items. McNemar's exact test is given if items are right or wrong. It "
        "holds for these two models, with one seed each, not for other seeds."
    )


def _with_error(data: StudyData, results: Mapping[str, float], name: str) -> str | None:
    if f"{name}/{SCORE}" not in results:
        return None
    error = results.get(f"{name}/{STANDARD_ERROR}", float("nan"))
    shown = "n/a" if error != error else f"{error:.3f}"
    return f"{data.label.number(results[f'{name}/{SCORE}'])} ± {shown}"


def _difference(data: StudyData, paired: PairedTest | None) -> Cells:
    """The paired difference, its interval and its p-value."""
    test = None if is_control(data) else paired
    return {
        "difference": data.label.difference(test and test.difference),
        "95 %": data.label.interval(test, signed=True),
        "McNemar's p": None if test is None or test.p_value is None else p_text(test.p_value),
    }


def _trials(data: StudyData) -> Drawn:
    """All trials: those the study selects from by score, then the others."""
    best = best_first(data.rows)
    chosen = {row.number for row in best}
    others = [row for row in data.rows if row.number not in chosen]
    note = "" if best else "No trial has finished with a score yet."
    if any(map(score_interval, best)):
        note = (
            "Intervals are over other validation items, for each model by itself: differences "
            "between trials on the same items are more certain, and the highest score is partly "
            "luck."
        )
    cells = _trial_cells(data, [*best, *others])
    shown = table(cells, data.best and data.best.number) if cells else ""
    return Drawn("", "Trials on the validation items", note, table=shown)


def _elsewhere(data: StudyData) -> list[Drawn]:
    """The trials that the study knows and does not select from."""
    if not data.elsewhere:
        return []
    ranked = sorted(data.elsewhere, key=lambda row: (row.score is None, -(row.score or 0.0)))
    cells = zip(ranked, _trial_cells(data, ranked), strict=True)
    rows: list[Cells] = [{"of": row.origin, **each} for row, each in cells]
    note = (
        "They are in no figure and are not selected. The sampler knows imported trials, and not "
        "those of an earlier space, which lie outside the present one."
    )
    return [Drawn("", "Trials of an earlier space or another study", note, table=table(rows))]


def _trial_cells(data: StudyData, rows: Sequence[TrialRow]) -> list[Cells]:
    several = len({row.method for row in data.rows}) > 1
    averaged, known = any(row.scores for row in rows), any(map(score_interval, rows))
    searched = other_parameters((*data.rows, *rows))
    return [
        {
            "trial": row.number,
            data.label.text: data.label.number(row.score if row.state == "finished" else None),
            **({"95 %": data.label.interval(score_interval(row))} if known else {}),
            **({"method": row.method} if several else {}),
            "mask ratio": f"{row.mask_ratio:.3g}",
            "N": row.accumulation_interval,
            "learning rate": f"{row.learning_rate:.2e}",
            **{name: as_text(row.others.get(name)) for name in searched},
            **({"spread": _spread(data, row.scores)} if averaged else {"seed": row.seed}),
            "state": row.state.replace("_", " "),
            "updates": row.step,
            "seconds": f"{row.seconds:.1f}",
        }
        for row in rows
    ]


def _forks(data: StudyData) -> list[Drawn]:
    """The forks by score, each beside the trial that it continues."""
    known = {row.number: row for row in (*data.rows, *data.replicates, *data.forks)}
    rows: list[Cells] = []
    for fork in sorted(data.forks, key=lambda row: (row.score is None, -(row.score or 0.0))):
        parent = known.get(-1 if fork.parent is None else fork.parent)
        before = {} if parent is None else parent.point()
        changed = [f"{k} {as_text(v)}" for k, v in fork.point().items() if before.get(k) != v]
        rows.append(
            {
                "trial": fork.number,
                "continues": f"trial {fork.parent} from update {fork.parent_step}",
                "changed": ", ".join(changed) or NO_VALUE,
                data.label.text: data.label.number(fork.score),
                "of the continued trial": data.label.number(parent and parent.score),
                "state": fork.state.replace("_", " "),
            }
        )
    note = (
        "A fork changed settings in the middle of its training, so it is not a point of the "
        "space: it is in no figure, is never the best trial, and the sampler does not learn from "
        "it. Its model is kept in its folder."
    )
    return [Drawn("", "Forks", note, table=table(rows))] if rows else []


def _replicates(data: StudyData) -> list[Drawn]:
    """The best points with other seeds, which show how much of a lead is luck.

    The mean leaves out the search's own score, because that score selected the point.
    """
    rows: list[Cells] = []
    for trial in distinct(best_first(data.rows)):
        if scores := fresh_scores(trial, data.replicates):
            rows.append(
                {
                    "trial": trial.number,
                    f"{data.label.text} in the search": data.label.number(trial.score),
                    "mean of other seeds": data.label.number(mean(scores)),
                    "spread": _spread(data, scores),
                    "seeds": len(scores),
                }
            )
    note = (
        "Spread is the standard deviation over seeds. These scores are not used for selection: "
        "the best trial remains the one that the search chose."
    )
    title = "The best points with other seeds"
    return [Drawn("", title, note, table=table(rows))] if rows else []


def _spread(data: StudyData, scores: Sequence[float]) -> str | None:
    """The standard deviation over seeds."""
    return f"{stdev(scores):.{data.label.decimals}f}" if len(scores) > 1 else None


def _caveats(data: StudyData) -> list[str]:
    count = len(best_first(data.rows))
    winners_curse = [
        f"The best validation score is the highest of {count}, so it is optimistically biased "
        "(the winner's curse). Judge by the test items."
    ]
    return [
        "This is a search, not a sensitivity study. A sampler such as TPE tries more points where "
        "scores were high, so the samples are biased: neither the shape of the curve nor a gap "
        "between mask ratios is evidence that the mask ratio matters, or that it does not. That "
        "requires a fixed design with several seeds per point.",
        *(winners_curse if count > 1 else []),
    ]
