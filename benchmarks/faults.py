"""What a sweep loses when it is disturbed: nothing. Schedules of faults, drawn with a seed, are
done to real sweeps of the embedded world with two workers per trial and a real MLflow server.

`python benchmarks/faults.py --seeds 0-24 --out FOLDER` (as root: each sweep mounts a small disk)
continues the record in FOLDER: it skips seeds whose sweep was sound, and prints the table. It
exits with 1 if a sweep was not sound.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, final

import torch
from fault_history import Finding, History, findings
from fault_injection import Disturbance, UnexpectedEnd
from fault_records import as_history, read_history
from fault_schedules import KINDS, Kind, Schedule, draw, single
from fault_sweep import Server, Sweep
from fault_table import SWEEPS, read_sweeps, table

from sweeps.config.study_identity import git_commit

REFERENCE = "undisturbed.json"


Judge = Callable[[History], list[Finding]]


@final
@dataclass(frozen=True)
class Outcome:
    """What became of one sweep; ``history`` is None where it did not finish."""

    history: History | None
    disturbance: Disturbance
    seconds: float
    findings: list[Finding]


@final
class Bench:
    """A folder for sweeps, and one MLflow server for all of them; a context manager."""

    def __init__(self, keep: Path | None = None, *, broken: bool = False) -> None:
        """``keep``: where the folders of sweeps that were not sound are copied to."""
        self._keep, self._broken = keep, broken

    def __enter__(self) -> Bench:
        # Short: the path of a socket has at most 107 bytes.
        self._place = TemporaryDirectory(prefix="gf-", ignore_cleanup_errors=True)
        self._folder = Path(self._place.name)
        self._server = Server(self._folder)
        self._server.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.stop()
        self._place.cleanup()

    def run(self, schedule: Schedule, name: str, judge: Judge = lambda history: []) -> Outcome:
        """Run one sweep to its end; nothing of it runs any more after that."""
        folder = self._folder / name
        with Sweep(folder, self._server.uri, schedule.nodes, broken=self._broken) as sweep:
            started = time.monotonic()
            disturbance = Disturbance(sweep, self._server, schedule)
            history = None
            try:
                disturbance.run()
                seconds, left = time.monotonic() - started, sweep.left()
                place = sweep.storage / name
                history = read_history(place, self._server.uri, disturbance.lives, left)
                found = judge(history)
            except UnexpectedEnd as end:
                seconds, found = time.monotonic() - started, [Finding("finished once", str(end))]
                self._server.stop()  # it may be paused
                self._server.start()
            if found and self._keep is not None:
                sweep.copy_to(self._keep / name)
        return Outcome(history, disturbance, round(seconds, 1), found)


def undisturbed(bench: Bench) -> History:
    """The history of the sweep that nobody disturbs."""
    outcome = bench.run(Schedule(-1, 1, ()), "undisturbed")
    if outcome.history is None:
        raise RuntimeError(outcome.findings[0].said)
    return outcome.history


def events(history: History) -> int:
    """The lines of all event logs."""
    return sum(map(len, history.events.values()))


def recorded(schedule: Schedule, outcome: Outcome) -> dict[str, Any]:
    """A line of the record."""
    done, history = outcome.disturbance.done, outcome.history
    missed = set(schedule.faults) - {each.fault for each in done}
    return {
        "seed": schedule.seed,
        "date": datetime.now().isoformat(timespec="seconds"),
        "commit": git_commit()[:7],
        "nodes": schedule.nodes,
        "seconds": outcome.seconds,
        "done": [{**asdict(each.fault), "to": each.to, "at": each.at} for each in done],
        "missed": sorted(fault.kind for fault in missed),
        "codes": outcome.disturbance.codes,
        "attempts": len(history.attempts) if history else None,
        "trial_seconds": round(history.trial_seconds, 1) if history else None,
        "findings": [asdict(each) for each in outcome.findings],
    }


def machine() -> dict[str, str]:
    """What bit-equal scores depend on beside the code."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")
    return {"cpu": cpu or platform.machine(), "torch": str(torch.__version__)}


def reference_of(folder: Path, bench: Bench) -> History:
    """The record's undisturbed sweep, which is run first if it is not there."""
    file = folder / REFERENCE
    if not file.exists():
        found = {"machine": machine(), "history": asdict(undisturbed(bench))}
        file.write_text(json.dumps(found) + "\n")
    tree = json.loads(file.read_text())
    if tree["machine"] != machine():
        sys.exit(f"{file} is of {tree['machine']}, this is {machine()}: give another folder")
    return as_history(tree["history"])


def seeds(text: str) -> list[int]:
    """``0-24``, ``3`` or ``0-4,7``."""
    parts = [part.partition("-") for part in text.split(",")]
    return [seed for low, _, high in parts for seed in range(int(low), int(high or low) + 1)]


def run_all(
    out: Path, bench: Bench, wanted: Iterable[int], kind: Kind | None, until: float
) -> int:
    """Run the seeds that the record has not, until it is late; the number that were not sound."""
    reference = reference_of(out, bench)
    size, bad = events(reference), 0
    for seed in wanted:
        if time.monotonic() > until:
            print("the time is over: give the same command again", flush=True)
            break
        schedule = draw(seed, size) if kind is None else single(kind, seed, size)
        outcome = bench.run(schedule, f"s{seed}", lambda history: findings(history, reference))
        line, found = recorded(schedule, outcome), outcome.findings
        with (out / SWEEPS).open("a") as file:
            file.write(json.dumps(line) + "\n")
        kinds = ", ".join(each["kind"] for each in line["done"])
        print("UNSOUND" if found else "sound", seed, kinds, f"{outcome.seconds:.0f} s", flush=True)
        for each in found:
            print(f"  {each.rule}: {each.said}", flush=True)
        bad += bool(found)
    return bad


def main() -> None:
    """Run the missing seeds, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=seeds, default=seeds("0-24"))
    parser.add_argument("--kind", choices=KINDS, help="one fault per sweep, always this")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no sweep after this")
    parser.add_argument("--keep", type=Path, help="where to copy sweeps that did not finish")
    parser.add_argument("--out", type=Path, required=True, help="the record's folder")
    arguments = parser.parse_args()
    if os.geteuid():
        parser.error("expected to be run as root, who may mount a small disk for each sweep")
    # The processes of a sweep are ended on the way out.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    until = time.monotonic() + 60 * arguments.minutes
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    sound = {line["seed"] for line in read_sweeps(out) if not line["findings"]}
    missing = [seed for seed in arguments.seeds if seed not in sound]
    bad = 0
    if missing:
        with Bench(arguments.keep) as bench:
            bad = run_all(out, bench, missing, arguments.kind, until)
    print(table(read_sweeps(out)))
    sys.exit(min(bad, 1))


if __name__ == "__main__":
    main()
