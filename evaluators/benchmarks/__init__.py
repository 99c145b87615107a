"""The benchmarks by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from evaluators.benchmark import Benchmark
from evaluators.benchmarks import (
    bbh,
    competition_math,
    exact_match,
    gsm8k,
    humaneval,
    mbpp,
    mmlu,
    multiple_choice,
    pass_at_1,
    short_answer,
    text,
    truthfulqa,
    tydiqa,
)
from evaluators.benchmarks.choice import NORMALISED
from evaluators.benchmarks.reprompted import asked
from evaluators.benchmarks.user import build_user_benchmark, made_by, own_runs_code
from evaluators.errors import unknown_name
from evaluators.protocol import Changes, Protocol, choose, is_harness, is_own
from evaluators.sandbox import Sandbox, no_sandbox

BITS_PER_BYTE = "bits_per_byte"
UNCHANGED = Changes()

Make = Callable[[str, Protocol, str | Sandbox | None], Benchmark]


@dataclass(frozen=True)
class _Entry:
    """How to make a benchmark from (metric, protocol, sandbox), and its protocols by preset.

    `default` is the preset that stands for none; `any_shots`: it draws as many demonstrations as
    the protocol says. `further` metrics may be the primary one, too.
    """

    make: Make
    protocols: Mapping[str, Protocol]
    default: str = "full"
    runs_code: bool = False
    any_shots: bool = False
    further: tuple[str, ...] = ()


def _single(make: Make, protocol: Protocol, **options: Any) -> _Entry:
    """A benchmark with one protocol and no presets."""
    return _Entry(make, {"": protocol}, "", **options)


def _plain(kind: Callable[[str, Protocol], Benchmark]) -> Make:
    return lambda metric, rules, sandbox: kind(metric, rules)


def _programs(kind: Callable[..., Benchmark], *, plus: bool) -> Make:
    return lambda metric, rules, sandbox: kind(metric, rules, sandbox=sandbox, plus=plus)


_ENTRIES: Mapping[str, _Entry] = MappingProxyType(
    {
        "exact_match": _single(_plain(exact_match.ExactMatch), exact_match.PROTOCOL),
        "pass_at_1": _single(
            lambda metric, rules, sandbox: pass_at_1.PassAt1(metric, rules, sandbox=sandbox),
            pass_at_1.PROTOCOL,
            runs_code=True,
        ),
        "multiple_choice": _single(
            _plain(multiple_choice.MultipleChoice),
            multiple_choice.PROTOCOL,
            further=(NORMALISED,),
        ),
        "short_answer": _single(_plain(short_answer.ShortAnswer), short_answer.PROTOCOL),
        "text": _single(lambda metric, *_: text.Text(metric), text.PROTOCOL),
        "gsm8k": _Entry(_plain(gsm8k.GSM8K), gsm8k.PROTOCOLS, "plain"),
        "math": _Entry(_plain(competition_math.CompetitionMath), competition_math.PROTOCOLS),
        "humaneval": _Entry(
            _programs(humaneval.HumanEval, plus=False), humaneval.PROTOCOLS, runs_code=True
        ),
        "humaneval_plus": _Entry(
            _programs(humaneval.HumanEval, plus=True), humaneval.PLUS_PROTOCOLS, runs_code=True
        ),
        "mbpp": _Entry(_programs(mbpp.MBPP, plus=False), mbpp.PROTOCOLS, runs_code=True),
        "mbpp_plus": _Entry(_programs(mbpp.MBPP, plus=True), mbpp.PLUS_PROTOCOLS, runs_code=True),
        "mmlu": _Entry(_plain(mmlu.MMLU), mmlu.PROTOCOLS, "plain", any_shots=True),
        "bbh": _Entry(_plain(bbh.BBH), bbh.PROTOCOLS),
        "tydiqa": _Entry(_plain(tydiqa.TyDiQA), tydiqa.PROTOCOLS),
        "truthfulqa_mc2": _Entry(_plain(truthfulqa.TruthfulQA), truthfulqa.PROTOCOLS),
    }
)
NAMES = tuple(_ENTRIES)
SHIPPED: Mapping[str, Path] = MappingProxyType(
    {path.stem: path for path in sorted((Path(__file__).parent / "shipped").glob("*.yaml"))}
)
"""Benchmarks that are YAML files of the kind that a user may write."""


def runs_code(name: str) -> bool:
    """Whether a benchmark runs what a model wrote, and so takes a sandbox."""
    return own_runs_code(name) if is_own(name) else name in NAMES and _ENTRIES[name].runs_code


def presets(name: str) -> tuple[str, ...]:
    """The presets that the benchmark called `name` has."""
    if name not in NAMES:
        raise unknown_name("benchmark", name, NAMES)
    return tuple(preset for preset in _ENTRIES[name].protocols if preset)


def build(
    name: str | Benchmark | Callable[[str | None, str | Sandbox | None], Benchmark],
    *,
    metric: str | None = None,
    sandbox: str | Sandbox | None = None,
    preset: str | None = None,
    changes: Changes = UNCHANGED,
) -> Benchmark:
    """A benchmark by name.

    Args:
        name: of a benchmark; the path of a .yaml or .py file; `lm_eval:TASK`; a `Benchmark`, which
            is returned as it is; or a function, which is called with the metric and the sandbox.
        metric: the primary one; None: the protocol's own. Every benchmark has "bits_per_byte",
            which generates nothing.
        sandbox: the level for generated programs, "bubblewrap" or "rlimits", or a `Sandbox` with
            limits; None: bubblewrap.
        preset: the protocol: "table1", "table2", "table2_chat" or "full"; None: the default.
        changes: what differs from the protocol.

    Raises:
        ValueError: an unknown name, metric or preset (with the nearest one), or a setting that the
            benchmark does not take.
        SandboxError: the sandbox cannot be used on this machine.
    """
    if not isinstance(name, str):
        return asked(_given(name, metric, sandbox, preset), changes)
    if is_harness(name):
        return _harness(name, metric, sandbox, preset, changes)
    return asked(_build(name, metric, sandbox, preset, changes), changes)


def _harness(
    name: str,
    metric: str | None,
    sandbox: str | Sandbox | None,
    preset: str | None,
    changes: Changes,
) -> Benchmark:
    from evaluators.benchmarks.harness import HarnessTasks  # needs torch, and lm-eval

    for what, value in (
        ("preset", preset),
        ("sandbox", sandbox),
        ("samples", changes.samples),
        ("k", changes.k),
        ("shots_from", changes.shots_from),
    ):
        if value is not None:
            raise ValueError(f"{name} is a task of lm-eval; expected no {what}, found {value!r}")
    return HarnessTasks(name, metric, changes)


def _build(
    name: str,
    metric: str | None,
    sandbox: str | Sandbox | None,
    preset: str | None,
    changes: Changes,
) -> Benchmark:
    if is_own(name) or name in SHIPPED:
        return build_user_benchmark(
            str(SHIPPED.get(name, name)),
            metric=metric,
            sandbox=sandbox,
            preset=preset,
            changes=changes,
        )
    if name not in NAMES:
        raise unknown_name("benchmark", name, (*NAMES, *SHIPPED))
    entry = _ENTRIES[name]
    if preset is not None and not presets(name):
        raise ValueError(f"{name} has one protocol; expected no preset, found {preset!r}")
    rules = changes.applied(choose(name, entry.protocols, preset, entry.default))
    if entry.any_shots and changes.shots is not None:
        rules = replace(rules, shots=changes.shots)
    allowed = tuple(dict.fromkeys((rules.metric, *entry.further, BITS_PER_BYTE)))
    chosen = rules.metric if metric is None else metric
    if chosen not in allowed:
        raise unknown_name(f"metric of {name}", chosen, allowed)
    if sandbox is not None and not entry.runs_code:
        raise no_sandbox(name, sandbox)
    return entry.make(chosen, rules, sandbox)


def _given(
    given: Benchmark | Callable[[str | None, str | Sandbox | None], Benchmark],
    metric: str | None,
    sandbox: str | Sandbox | None,
    preset: str | None,
) -> Benchmark:
    """A benchmark that comes as an object, or from a function that makes one."""
    if preset is not None:
        raise ValueError(f"a benchmark in Python has no preset; expected none, found {preset!r}")
    if not isinstance(given, Benchmark):
        return made_by(getattr(given, "__name__", repr(given)), given, metric, sandbox)
    if sandbox is not None or metric not in (None, given.metric):
        raise ValueError(f"{given.name}: expected metric and sandbox of the object, found others")
    return given
