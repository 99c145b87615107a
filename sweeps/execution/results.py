"""The results of a sweep from Python: read from its records, whether it runs or has ended."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from sweeps.config.failure_kinds import cause
from sweeps.config.load import load_config
from sweeps.config.sweep_config import SweepConfig
from sweeps.execution.export import chosen, run_yaml
from sweeps.report.trial_row import TrialRow
from sweeps.search.attempt_records import KEY
from sweeps.search.requests import latest
from sweeps.search.steering import check_domain, fork_trial, queue_point, stop_trial
from sweeps.search.trial_records import Records
from sweeps.storage.object_store import as_user_error
from sweeps.storage.remote_sync import fetcher
from sweeps.storage.trial_files import EVENTS_FILE, step_events

if TYPE_CHECKING:
    import pandas as pd


POINT = ["method", "mask_ratio", "accumulation_interval", "learning_rate", "seed"]
SHOWN = ["domain", "number", "state", *POINT, "score", "seconds"]
"""The columns that a `Results` prints."""


@final
@dataclass(frozen=True)
class BestTrial:
    """A domain's best trial."""

    domain: str
    """The domain."""
    trial: int
    """The trial's number."""
    score: float
    """The mean over the domain's benchmarks on validation items; higher is better."""
    config: str
    """The YAML of a single run that repeats it."""
    model: Path | None
    """The folder of its model; None if its weights were not kept."""


@final
class Results:
    """The records of a sweep; see `open_results`. It shows as a table of trials.

    Nothing is run here. `queue`, `fork` and `stop` leave a request for the process that runs the
    sweep, or will run it.
    """

    def __init__(self, config: SweepConfig) -> None:
        """Read the records.

        Raises:
            UserError: nothing of this sweep is on record.
        """
        self._records = Records(config)
        self.config = self._records.config

    def refresh(self) -> None:
        """Fetch new records from an object store. Those in a folder are always read anew."""
        self._records.look_again()

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains of the sweep, in the order of its configuration."""
        return tuple(self.config.domains)

    @property
    def failures(self) -> dict[str, str]:
        """Why trials failed: ``DOMAIN/NUMBER`` to the first line of the cause."""
        return {
            f"{domain}/{trial.user_attrs.get('number', trial.number)}": cause(
                str(outcome.get("failure", ""))
            )
            for domain in self.domains
            for trial in self._records.trials(domain)
            if (outcome := trial.user_attrs.get("outcome", {})).get("state") == "failed"
        }

    def dataframe(self) -> pd.DataFrame:
        """One row per trial of every domain: its point, state, score, seconds and metrics.

        What a trial has not measured is NaN.
        """
        import pandas as pd

        return pd.DataFrame([_flat(domain, row) for domain, row in self._rows()])

    def best(self, domain: str) -> BestTrial | None:
        """The best finished trial by validation score; None before one has finished.

        Raises:
            UserError: the sweep has no such domain.
        """
        check_domain(self._records, domain)
        row = chosen(self.config, self._records.rows(domain))
        if row is None or row.score is None:
            return None
        model = self._records.place.model(domain, row.key)
        config = run_yaml(self.config, domain, row)
        kept = model if model.is_dir() else None
        return BestTrial(domain, row.number, row.score, config, kept)

    def history(self, domain: str, trial: int) -> pd.DataFrame:
        """What a trial reported: a row per measured or checked update, with `step` and metrics.

        If an attempt repeated steps, its values count.

        Raises:
            UserError: the sweep has no such domain or trial.
        """
        import pandas as pd

        check_domain(self._records, domain)
        found, place = latest(domain, self._records.trials(domain), trial), self._records.place
        events = place.trial(domain, found.user_attrs[KEY]) / EVENTS_FILE
        with as_user_error():
            fetcher(place)(events)
        steps: dict[int, dict[str, float]] = {}
        for event in step_events(events):
            steps.setdefault(event["step"], {}).update(event["metrics"])
        return pd.DataFrame([{"step": step, **values} for step, values in sorted(steps.items())])

    def queue(self, domain: str, point: Mapping[str, Any]) -> str:
        """Add a point to a search. Returns what happens next, as a sentence.

        Args:
            domain: its name.
            point: values by key; the sampler draws the parameters that are not given.

        Raises:
            UserError: a value is outside the space, or the point is on record.
        """
        return queue_point(self._records, domain, point)

    def fork(self, domain: str, trial: int, changes: Mapping[str, Any]) -> str:
        """Continue a trial from its latest checkpoint as a new one.

        Args:
            domain: its name.
            trial: the trial's number.
            changes: new values by key; see the command `fork` for the keys.

        Returns:
            What happens next, as a sentence.

        Raises:
            UserError: the trial has no checkpoint, or a value cannot change there.
        """
        return fork_trial(self._records, domain, trial, changes)

    def stop(self, domain: str, trial: int) -> str:
        """Stop one running trial at its next validation check. Returns a sentence.

        Raises:
            UserError: the trial does not run.
        """
        return stop_trial(self._records, domain, trial)

    def _rows(self) -> Iterator[tuple[str, TrialRow]]:
        return ((domain, row) for domain in self.domains for row in self._records.rows(domain))

    def __repr__(self) -> str:
        table = self.dataframe()
        shown = table.filter(SHOWN).to_string(max_rows=20, line_width=120)
        return f"sweep {self.config.name}\n{shown}\nall {table.shape[1]} columns: dataframe()"

    def _repr_html_(self) -> str:
        """The table of trials, as a notebook shows it."""
        return str(self.dataframe().to_html(max_rows=60, escape=True))


def open_results(path: str | Path) -> Results:
    """The results of a sweep, whether it runs or has ended.

    Args:
        path: its folder STORAGE/NAME, its YAML file, or its address in an object store.

    Raises:
        UserError: there is no such sweep, or nothing of it is on record.
    """
    return Results(load_config(path))


def _flat(domain: str, row: TrialRow) -> dict[str, Any]:
    fields = asdict(row)
    others, metrics = fields.pop("others"), fields.pop("metrics")
    fields["violated"] = ", ".join(row.violated)
    score = math.nan if row.score is None else row.score
    return {"domain": domain, **fields, "score": score, **others, **metrics}
