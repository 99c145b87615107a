"""What the commands find, as data: printed with `--json`, and the source of the text.

A plan, a status, a trial and a difference have types of their own: `sweeps.execution.planning`,
`sweeps.cli.sweep_status`, `sweeps.report.trial_row`, `evaluators.paired_comparison`. Heavy
libraries are not imported here; a result is made from the attributes of the object that the layer
below returns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, final

from pydantic import BaseModel, ConfigDict

from evaluators.paired_comparison import Difference
from sweeps.report.trial_row import PairedTest, ScoreLabel, TrialRow


class Result(BaseModel):
    """Plain, frozen values, also read from another object's attributes."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


@final
class ValidConfig(Result):
    """A configuration without mistakes. `trials`: of a search, over all domains; `remarks`: by
    domain, what is unusual but allowed."""

    config: str
    kind: str
    domains: tuple[str, ...]
    trials: int | None
    remarks: dict[str, tuple[str, ...]]


@final
class DomainEnd(Result):
    """A domain's study. `reached`: whether there is a result; `searched`: what the space of a
    search varies; `best`: by validation score, null if no trial finished within the constraints;
    `best_score`: its score as text, with that of fresh seeds.
    `paired`: the best trial minus the best SFT trial on test items; `test_remarks`: the same in
    sentences, or why it is missing. `links`: pages of MLflow by label; of a store without a
    server, the part of the address after that of the server that `ui` starts."""

    reached: bool
    label: ScoreLabel
    searched: tuple[str, ...]
    best: TrialRow | None
    best_score: str
    paired: tuple[PairedTest, ...]
    test_remarks: tuple[str, ...]
    report: Path
    links: dict[str, str]


@final
class SweepEnd(Result):
    """A sweep that was run. `stopped`: how its budget ended it; else empty."""

    name: str
    kind: str
    folder: Path
    domains: dict[str, DomainEnd]
    stopped: str


@final
class PaperEnd(Result):
    """A paper that was run. `html`: the report on all studies; `stopped`: how its budget ended
    it, else empty; `unreached`: (study, domain) pairs without a finished trial."""

    html: Path
    links: dict[str, str]
    stopped: str
    unreached: tuple[tuple[str, str], ...]


@final
class MlflowPages(Result):
    """The pages of a sweep in MLflow, by domain and label. A local store is served until the
    command ends."""

    links: dict[str, str]


@final
class DomainExport(Result):
    """A domain's export. `config`: of a single run; `model`: null if its weights were removed."""

    config: Path
    model: Path | None


@final
class Comparison(Result):
    """Two models on the same items. `left_out`: benchmarks without a common item, with the number
    of items in A and B; `other_protocols`: benchmarks that A and B ran by different rules."""

    differences: tuple[Difference, ...]
    left_out: dict[str, tuple[int, int]]
    other_protocols: tuple[str, ...]


@final
class FinetuneEnd(Result):
    """A single run after `step` updates. `score`: on validation items, higher is better; null if
    it diverged, for the `reason`. `result`: its file; `model_folder`: null unless it was kept."""

    state: Literal["finished", "diverged"]
    step: int
    score: float | None
    metrics: dict[str, float]
    reason: str
    result: Path
    model_folder: Path | None


@final
class BenchmarkScore(Result):
    """A model's score on a benchmark, higher is better; [`low`, `high`] is its 95 % interval.
    `tokens`: generated."""

    name: str
    metric: str
    score: float
    standard_error: float
    low: float
    high: float
    n: int
    metrics: dict[str, float]
    protocol_sha256: str
    sandbox_level: str | None
    aggregation: str
    items_sha256: str
    seconds: float
    tokens: int


@final
class Evaluation(Result):
    """A model's scores by benchmark."""

    model: str
    weights_sha256: str
    split: str
    results: dict[str, BenchmarkScore]
