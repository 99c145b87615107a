"""``run``, ``resume``, ``retry`` and ``paper`` train; ``validate`` checks without starting."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from sweeps.cli.answer import Answer, Problem, refuse, stopped
from sweeps.cli.arguments import (
    ConfigFile,
    Overrides,
    load,
    load_stored,
    paper_remark,
    skipped,
)
from sweeps.cli.command_results import DomainEnd, PaperEnd, SweepEnd, ValidConfig
from sweeps.cli.ui import recorded_links, seen_in
from sweeps.config.failure_kinds import KINDS
from sweeps.config.load import is_paper
from sweeps.config.sweep_config import SweepConfig, paths_for
from sweeps.config.trial_keys import shown
from sweeps.execution.progress import Display, build_display
from sweeps.report.trial_row import ScoreLabel, TrialRow, fresh_scores, score_text
from sweeps.search.retry import queue_failed
from sweeps.search.trial_records import Records, label_of
from sweeps.storage.command_line import command_line
from sweeps.storage.errors import nearest
from sweeps.storage.interrupts import interruptible, shielded
from sweeps.storage.study_paths import by_name, saved_links

if TYPE_CHECKING:
    from sweeps.execution.domain_result import DomainResult
    from sweeps.execution.sweep import StudyResult


Adopt = Annotated[
    bool,
    typer.Option(
        "--adopt",
        help="Continue although the search or the scoring changed; mixes old and new trials.",
    ),
]


def run(config: ConfigFile, overrides: Overrides = None, adopt: Adopt = False) -> Answer[SweepEnd]:
    """Run or continue every domain's study. Finished trials are never run again.

    Ctrl-C stops within seconds and keeps finished trials; run the same command to continue.
    """
    again = command_line("run", config, overrides)
    with stoppable(again):
        parsed = load(config, overrides)
        for line in paper_remark(config, parsed, command_line("paper", config, overrides)):
            print(line)
        return run_sweep(parsed, again, adopt=adopt)


def resume(
    config: ConfigFile, overrides: Overrides = None, adopt: Adopt = False
) -> Answer[SweepEnd | PaperEnd]:
    """Continue a stopped sweep or paper with the configuration stored in its folder.

    Like `run`, but does not need the original YAML file. If CONFIG is that file, it only
    identifies the folder.
    """
    with stoppable(command_line("resume", config, overrides)):
        folder = paths_for(load(config, overrides)).folder
        if not folder.is_dir():
            refuse(f"nothing to resume: {folder} does not exist; start the sweep with `run`")
        stored = load(str(folder), overrides)
        again = command_line("resume", folder, overrides)
        if not is_paper(stored):
            return run_sweep(stored, again, adopt=adopt)
        if adopt:
            refuse(
                "--adopt is for one sweep: give the folder of one study of the paper, "
                "STORAGE/NAME-KIND"
            )
        return run_paper(stored, again)


def run_sweep(config: SweepConfig, again: str, *, adopt: bool) -> Answer[SweepEnd]:
    """Run a sweep and show progress; ``again``: the command that continues it."""
    with displayed(again) as display:
        from sweeps.execution import sweep

        ended = _end_of(config, sweep.run(config, display, adopt=adopt))
    names = [name for name, domain in ended.domains.items() if not domain.reached]
    problem = _unreached(config, f"domain {', '.join(names)}") if names else None
    return Answer(ended, view(ended), (again,) if ended.stopped else (), problem)


def retry(
    config: ConfigFile,
    overrides: Overrides = None,
    failed: Annotated[bool, typer.Option("--failed", help="Retry all failed trials.")] = False,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="Only failures of this kind, e.g. oom (`status` shows the kinds). Repeatable."
        ),
    ] = None,
    at_once: Annotated[bool, typer.Option("--run", help="Continue the sweep at once.")] = False,
) -> Answer[dict[str, list[int]] | SweepEnd]:
    """Queue failed trials again, with the same points and the same numbers.

    A trial that ran out of memory may fit with half the micro-batch at the same effective batch:
    `retry FOLDER --kind oom --run failures.on_oom=halve`.
    """
    for one in kind or ():
        if one not in KINDS:
            refuse(f"--kind {one}: no such kind of failure ({nearest(one, [*KINDS])})")
    if not failed and not kind:
        refuse("specify --failed or --kind KIND (for example oom)")
    parsed = load_stored(config, overrides)
    records = Records(parsed)
    queued = {name: found for name, found in queue_failed(records, kind or []).items() if found}
    if not queued:
        return Answer(queued, ["No failed trials to retry."])
    lines = [f"{name}: queued again: trial {', '.join(map(str, n))}" for name, n in queued.items()]
    again = command_line("resume", records.place.folder, overrides)
    if at_once:
        print(*lines, sep="\n")
        return run_sweep(parsed, again, adopt=False)
    return Answer(queued, [*lines, "To continue:"], (again,))


def paper(config: ConfigFile, overrides: Overrides = None) -> Answer[PaperEnd]:
    """Run or continue every study of the paper, and write one report on all of them.

    `study.paper` lists the studies: search, sensitivity, methods, drop, data, efficiency. Each is
    a separate sweep, NAME-KIND. Finished trials are never run again.
    """
    again = command_line("paper", config, overrides)
    with stoppable(again):
        return run_paper(load(config, overrides), again)


def run_paper(config: SweepConfig, again: str) -> Answer[PaperEnd]:
    """Run a paper and show progress; ``again``: the command that continues it."""
    with displayed(again) as display:
        from sweeps.execution import paper as studies

        found = studies.run(config, display)
    ended = PaperEnd(**asdict(found), links=recorded_links(config))
    lines = [f"report:\n  {ended.html}", *seen_in(ended.links, paths_for(config).folder)]
    names = ", ".join(f"{domain} ({kind})" for kind, domain in ended.unreached)
    problem = _unreached(config, f"domain {names}") if names else None
    following = (again,) if ended.stopped else ()
    return Answer(ended, [*lines, *_because(ended.stopped)], following, problem)


def _unreached(config: SweepConfig, what: str) -> Problem:
    """A part of the requested result is missing."""
    why = command_line("status", paths_for(config).folder)
    return Problem.of(f"{what}: no trial finished, so there is no result. `{why}` shows why", 1)


@contextmanager
def displayed(again: str) -> Iterator[Display]:
    """A display for a long command; when stopped, the command ``again`` continues it."""
    with stoppable(again):
        display = build_display()
        try:
            yield display
        finally:
            display.close()


@contextmanager
def stoppable(again: str) -> Iterator[None]:
    """Within this context, a stop signal ends the command with a message and exit code 130."""
    try:
        with interruptible():
            with shielded():  # compiled code that swallows exceptions raised during its import
                importlib.import_module("numpy.random")
            yield
    except KeyboardInterrupt:
        message = "Stopped. Finished trials are kept. To continue:"
        raise stopped(message, again) from None


def _end_of(config: SweepConfig, result: StudyResult) -> SweepEnd:
    from sweeps.execution.paired_tests import comparison_remarks, paired_tests
    from sweeps.report.search_verdict import same_score  # imports matplotlib

    kind, place = config.study.kind, paths_for(config)
    domains = {}
    for name, domain in result.domains.items():
        label = label_of(config, name)
        same = same_score(domain.rows) if kind == "search" else ""
        domains[name] = DomainEnd(
            reached=domain.is_reached(),
            label=label,
            searched=tuple(config.space_of(name).parameters()) if kind == "search" else (),
            best=domain.best,
            best_score=_score(label, domain),
            paired=paired_tests(domain.test_scores),
            test_remarks=(*filter(None, [same]), *comparison_remarks(domain.test_scores, label)),
            report=domain.report.html,
            links=saved_links(place.study(name)),
        )
    return SweepEnd(
        name=config.name, kind=kind, folder=place.folder, domains=domains, stopped=result.stopped
    )


def _score(label: ScoreLabel, result: DomainResult) -> str:
    best = result.best
    if best is not None and (best.scores or fresh_scores(best, result.rows)):
        return score_text(label, best, result.rows)
    return "" if best is None else f"{best.score:.4f}"


def view(ended: SweepEnd) -> Iterator[str]:
    """The results of a sweep as lines."""
    for name, domain in ended.domains.items():
        if ended.kind != "efficiency":
            yield from _best(name, domain.best, domain.best_score, domain.searched)
        yield from (f"  {remark}" for remark in domain.test_remarks)
    yield f"\nall domains:\n  {ended.folder / 'index.html'}"
    yield from (f"{name}: report:\n  {one.report}" for name, one in ended.domains.items())
    links = by_name({name: domain.links for name, domain in ended.domains.items()})
    yield from seen_in(links, ended.folder)
    yield from _because(ended.stopped)


def _because(stopped: str) -> list[str]:
    return [f"\nStopped because {stopped}:"] if stopped else []


def _best(
    name: str, best: TrialRow | None, score: str, searched: Collection[str]
) -> Iterator[str]:
    if best is None:
        yield f"{name}: no trial finished within the constraints"
        return
    is_plain = best.method == "gmt" and not best.stage and "method" not in searched
    method = "" if is_plain else f"method {best.method}, "
    others = "".join(f", {key} {shown(value)}" for key, value in best.others.items())
    yield (
        f"{name}: best score {score} on validation items with {method}"
        f"mask_ratio {best.mask_ratio:g}, accumulation_interval {best.accumulation_interval}, "
        f"learning_rate {best.learning_rate:.2e}{others} (trial {best.number})"
    )
    yield from skipped(best.metrics)


def validate(config: ConfigFile, overrides: Overrides = None) -> Answer[ValidConfig]:
    """Check a sweep's file, its model, every data row and the tracker, without starting it."""
    parsed = load(config, overrides)
    from sweeps.execution import sweep

    sweep.validate(parsed)
    kind = parsed.study.kind
    trials = sum(map(parsed.search_trials, parsed.domains)) if kind == "search" else None
    result = ValidConfig(
        config=config,
        kind=kind,
        domains=tuple(parsed.domains),
        trials=trials,
        remarks={domain: _remarks(parsed, domain) for domain in parsed.domains},
    )
    noun = "domain" if len(parsed.domains) == 1 else "domains"
    what = kind if trials is None else f"{trials} trials"
    lines = [f"{domain}: {remark}" for domain, found in result.remarks.items() for remark in found]
    lines += paper_remark(config, parsed, command_line("paper", config, overrides))
    lines += [f"{config} is valid: {what}, {noun} {', '.join(parsed.domains)}. Run it with:"]
    return Answer(result, lines, (command_line("run", config, overrides),))


def _remarks(config: SweepConfig, domain: str) -> tuple[str, ...]:
    is_search = config.study.kind == "search"
    remarks = config.search.remarks(config.space_of(domain)) if is_search else ()
    return tuple(filter(None, (config.shortfall(domain), *remarks)))
