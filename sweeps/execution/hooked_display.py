"""A display that calls the hooks of a sweep when trials fail and when the sweep ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

from sweeps.config.hooks import Caller
from sweeps.config.sweep_config import SweepConfig, paths_for
from sweeps.execution.progress import Display, Phase
from sweeps.execution.study_tally import Tally


@contextmanager
def calling_hooks(config: SweepConfig, display: Display) -> Iterator[HookedDisplay]:
    """The display to run a sweep with; calls ``on_end`` with the way the block ended."""
    hooked = HookedDisplay(config, display)
    try:
        yield hooked
    except KeyboardInterrupt:
        hooked.over("stopped", "")
        raise
    except BaseException as error:
        hooked.over("failed", f"{type(error).__name__}: {error}".splitlines()[0])
        raise
    else:
        hooked.over("stopped" if hooked.stopped else "finished", hooked.stopped)


@final
class HookedDisplay(Display):
    """Forwards to another display, and calls hooks. ``stopped``: how the budget ended the sweep
    early; else empty."""

    def __init__(self, config: SweepConfig, display: Display) -> None:
        self._sweep = {"sweep": config.name, "folder": str(paths_for(config).folder)}
        self._display, self.stopped = display, ""
        self._caller = Caller(config.hooks, display.say)
        self._domains: dict[str, dict[str, Any]] = {}

    def say(self, text: str) -> None:
        """As the other display."""
        self._display.say(text)

    def phase(self, name: Phase) -> None:
        """As the other display."""
        self._display.phase(name)

    def show(self, tally: Tally) -> None:
        """As the other display."""
        self._display.show(tally)

    def ended(self, tally: Tally, trial: dict[str, Any]) -> None:
        """As the other display; also calls ``on_failure`` for a failed trial."""
        self._display.ended(tally, trial)
        self._domains[tally.domain] = {
            "trials": tally.trials,
            "done": tally.done(),
            "endings": dict(tally.endings),
            "best": _told(tally.best),
        }
        if trial["state"] == "failed":
            told = _told(trial) or {}
            text = (
                f"{self._sweep['sweep']}, {tally.domain}: trial {trial['number']} failed: "
                f"{told['failure']}"
            )
            event = {"event": "trial_failed", "text": text, "domain": tally.domain}
            self._caller.call("on_failure", {**event, **self._sweep, "trial": told})

    def close(self) -> None:
        """As the other display."""
        self._display.close()

    def over(self, state: str, reason: str) -> None:
        """Tell ``on_end`` how the sweep ended, and wait until every hook has been called."""
        because = f" ({reason})" if reason else ""
        event = {
            "event": "sweep_ended",
            "text": f"{self._sweep['sweep']} {state}{because}: {self._summary()}",
            **self._sweep,
            "state": state,
            "reason": reason,
            "domains": self._domains,
        }
        self._caller.call("on_end", event)
        self._caller.close()

    def _summary(self) -> str:
        parts = []
        for name, found in self._domains.items():
            best = found["best"]
            score = "" if best is None else f", best score {best['score']:.4f}"
            parts.append(f"{name} {found['done']} of {found['trials']} trials{score}")
        return "; ".join(parts) or "no trial ended in this session"


def _told(trial: dict[str, Any] | None) -> dict[str, Any] | None:
    """What a hook hears of a trial: no metrics, and one line of its failure."""
    if trial is None:
        return None
    names = ("number", "state", "score", "seconds", "point", "kind", "log")
    first = (trial["failure"].splitlines() or [""])[0]
    return {**{name: trial[name] for name in names if name in trial}, "failure": first}
