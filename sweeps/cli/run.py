"""``run``, ``resume``, ``retry`` and ``paper`` train; ``validate`` checks without starting."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from sweeps.cli.arguments import (
    ConfigFile,
    Overrides,
    command_line,
    load,
    load_stored,
    mistakes_explained,
    print_skipped,
    refuse,
)
from sweeps.config.failures import KINDS
from sweeps.config.load import is_paper
from sweeps.config.sweep_config import SweepConfig, paths_for
from sweeps.config.trial_keys import shown
from sweeps.execution.progress import Display, build_display
from sweeps.report.trial_row import fresh_scores, score_text
from sweeps.search.retry_failed import queue_failed
from sweeps.search.trial_records import Records, label_of
from sweeps.storage.errors import nearest
from sweeps.storage.interrupts import interruptible, shielded
from sweeps.tracking.tracker import SERVE

if TYPE_CHECKING:
    from sweeps.execution.study_session import DomainResult
    from sweeps.execution.sweep import StudyResult
    from sweeps.execution.test_scores import TestScores


Adopt = Annotated[
    bool,
    typer.Option(
        "--adopt",
        help="Continue although the search or the scoring changed; mixes old and new trials.",
    ),
]


def run(config: ConfigFile, overrides: Overrides = None, adopt: Adopt = False) -> None:
    """Run or continue every domain's study. Finished trials are never run again.

    Ctrl-C stops within seconds and keeps finished trials; run the same command to continue.
    """
    again = command_line("run", config, overrides)
    with _stoppable(again):
        with mistakes_explained():
            parsed = load(config, overrides)
        run_sweep(parsed, again, adopt=adopt)


def resume(config: ConfigFile, overrides: Overrides = None, adopt: Adopt = False) -> None:
    """Continue a stopped sweep or paper with the configuration stored in its folder.

    Like `run`, but does not need the original YAML file. If CONFIG is that file, it only
    identifies the folder.
    """
    with _stoppable(command_line("resume", config, overrides)):
        _resume(config, overrides, adopt=adopt)


def _resume(config: str, overrides: list[str] | None, *, adopt: bool) -> None:
    with mistakes_explained():
        folder = paths_for(load(config, overrides)).folder
        if not folder.is_dir():
            refuse(f"nothing to resume: {folder} does not exist; start the sweep with `run`")
        stored = load(str(folder), overrides)
        again = command_line("resume", str(folder), overrides)
        whole = is_paper(stored)
        if whole and adopt:
            refuse(
                "--adopt is for one sweep: give the folder of one study of the paper, "
                "STORAGE/NAME-KIND"
            )
    if whole:
        run_paper(stored, again)
    else:
        run_sweep(stored, again, adopt=adopt)


def run_sweep(config: SweepConfig, again: str, *, adopt: bool) -> None:
    """Run a sweep, show progress and results; ``again``: the command that continues it."""
    with _shown(again) as display:
        from sweeps.execution import sweep

        result = sweep.run(config, display, adopt=adopt)
    for name, domain in result.domains.items():
        if config.study.kind != "efficiency":
            _print_best(config, domain)
        _print_tests(config, name, domain.test_scores)
    print()
    for label, text in _next_steps(result):
        print(f"{label}:\n  {text}")
    _say_stopped(result.stopped, again)
    if names := result.unreached():
        _refuse_unreached(config, f"domain {', '.join(names)}")


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
) -> None:
    """Queue failed trials again, with the same points and the same numbers.

    A trial that ran out of memory may fit with half the micro-batch at the same effective batch:
    `retry FOLDER --kind oom --run failures.on_oom=halve`.
    """
    with mistakes_explained():
        for one in kind or ():
            if one not in KINDS:
                refuse(f"--kind {one}: no such kind of failure ({nearest(one, [*KINDS])})")
        if not failed and not kind:
            refuse("specify --failed or --kind KIND (for example oom)")
        parsed = load_stored(config, overrides)
        records = Records(parsed)
        queued = {
            name: found for name, found in queue_failed(records, kind or []).items() if found
        }
    for name, numbers in queued.items():
        print(f"{name}: queued again: trial {', '.join(map(str, numbers))}")
    if not queued:
        print("No failed trials to retry.")
        return
    again = command_line("resume", str(records.place.folder), overrides)
    if at_once:
        run_sweep(parsed, again, adopt=False)
        return
    print(f"To continue:\n  {again}")


def paper(config: ConfigFile, overrides: Overrides = None) -> None:
    """Run or continue every study of the paper, and write one report on all of them.

    `study.paper` lists the studies: search, sensitivity, methods, drop, data, efficiency. Each is
    a separate sweep, NAME-KIND. Finished trials are never run again.
    """
    again = command_line("paper", config, overrides)
    with _stoppable(again):
        with mistakes_explained():
            parsed = load(config, overrides)
        run_paper(parsed, again)


def run_paper(config: SweepConfig, again: str) -> None:
    """Run a paper, show progress and results; ``again``: the command that continues it."""
    with _shown(again) as display:
        from sweeps.execution import paper as studies

        result = studies.run(config, display)
    for label, text in (*result.links, ("report", str(result.html))):
        print(f"{label}:\n  {text}")
    _say_stopped(result.stopped, again)
    if result.unreached:
        names = ", ".join(f"{domain} ({kind})" for kind, domain in result.unreached)
        _refuse_unreached(config, f"domain {names}")


def _refuse_unreached(config: SweepConfig, what: str) -> NoReturn:
    """End with exit code 1: a part of the requested result was not reached."""
    why = command_line("status", str(paths_for(config).folder))
    refuse(f"{what}: no trial finished, so there is no result. `{why}` shows why", code=1)


@contextmanager
def _shown(again: str) -> Iterator[Display]:
    """A display for a long command; when stopped, prints the command that continues it."""
    with _stoppable(again):
        display = build_display()
        try:
            with mistakes_explained():
                yield display
        finally:
            display.close()


@contextmanager
def _stoppable(again: str) -> Iterator[None]:
    """Within this context, a stop signal ends the command with a message and exit code 130."""
    try:
        with interruptible():
            with shielded():  # compiled code that swallows exceptions raised during its import
                importlib.import_module("numpy.random")
            yield
    except KeyboardInterrupt:
        print(f"\nStopped. Finished trials are kept. To continue:\n  {again}", flush=True)
        raise typer.Exit(130) from None


def _say_stopped(stopped: str, again: str) -> None:
    if stopped:
        print(f"\nStopped because {stopped}:\n  {again}")


def _print_best(config: SweepConfig, result: DomainResult) -> None:
    name, best = result.domain, result.best
    if best is None:
        print(f"{name}: no trial finished within the constraints")
        return
    score = f"{best.score:.4f}"
    if best.scores or fresh_scores(best, result.rows):
        score = score_text(label_of(config, name), best, result.rows)
    others = "".join(f", {key} {shown(value)}" for key, value in best.others.items())
    print(
        f"{name}: best score {score} on validation items with "
        f"mask_ratio {best.mask_ratio:g}, accumulation_interval {best.accumulation_interval}, "
        f"learning_rate {best.learning_rate:.2e}{others} (trial {best.number})"
    )
    print_skipped(best.metrics)


def _print_tests(config: SweepConfig, name: str, scores: TestScores) -> None:
    """Compare the chosen trial with the SFT control, or say why they are not compared."""
    from sweeps.execution.paired_tests import paired_tests, paired_text

    if "best" in scores.keys and scores.keys["best"] == scores.keys.get("sft"):
        print("  not compared with SFT on test items: the best trial is itself plain SFT")
    elif "best" in scores.keys and "sft" not in scores.keys:
        print("  not compared with SFT on test items: no trial with mask ratio 0 finished")
    for found in paired_tests(scores):
        print(f"  {paired_text(found, label_of(config, name))}")


def _next_steps(result: StudyResult) -> list[tuple[str, str]]:
    steps = [(f"{name}: report", str(d.report.html)) for name, d in result.domains.items()]
    shared = []
    for name, domain in result.domains.items():
        steps += [(f"{name}: {label}", text) for label, text in domain.links if label != SERVE]
        shared += [(label, text) for label, text in domain.links if label == SERVE]
    # The command that serves a local store is the same for all domains: print it once.
    return list(dict.fromkeys([*shared, *steps]))


def validate(config: ConfigFile, overrides: Overrides = None) -> None:
    """Check a sweep's file, its model, every data row and the tracker, without starting it."""
    with mistakes_explained():
        parsed = load(config, overrides)
        from sweeps.execution import sweep

        sweep.validate(parsed)
    noun = "domain" if len(parsed.domains) == 1 else "domains"
    domains = f"{noun} {', '.join(parsed.domains)}"
    kind = parsed.study.kind
    what = f"{sum(map(parsed.search_trials, parsed.domains))} trials" if kind == "search" else kind
    for domain in parsed.domains:
        remarks = parsed.search.remarks(parsed.space_of(domain)) if kind == "search" else ()
        for remark in filter(None, (parsed.shortfall(domain), *remarks)):
            print(f"{domain}: {remark}")
    print(f"{config} is valid: {what}, {domains}. Run it with:")
    print(f"  {command_line('run', config, overrides)}")
