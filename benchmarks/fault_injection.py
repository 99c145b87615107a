"""Run a sweep by the same command until it has finished, while faults are done to it."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, final

import fault_processes as processes
from fault_history import Life
from fault_schedules import Fault, Kind, Schedule
from fault_sweep import Server, Sweep

LIMIT_SECONDS = 600.0
KILL_LOSES_SECONDS = 10.0
"""The most usage that a killed driver has not recorded."""

# Tune wraps a class that is given resources; the name in front shows while it waits.
ACTORS: Final[Mapping[str, tuple[str, ...]]] = {
    "worker": ("ray::RayTrainWorker",),
    "actor": ("ray::ResourceTrainable", "ray::GmtTrial"),
    "controller": ("ray::TrainController",),
}
ENDS: Final[Mapping[Kind, tuple[int, ...]]] = {
    "driver": (-signal.SIGKILL,),
    "terminated": (130, -signal.SIGTERM),  # the latter before Python has begun to run the command
    "disk": (2,),
}
"""The exit codes with which a driver may end after a fault."""


class UnexpectedEnd(Exception):
    """A command ended as it should not, or not in time."""


@final
@dataclass(frozen=True)
class Done:
    """A fault that was done: to what, and how many seconds after the first command."""

    fault: Fault
    to: str
    at: float


@final
class Disturbance:
    """A sweep that is run to its end while the faults of a schedule are done to it.

    ``done``: the faults that had a moment and a process; ``lives``: of the drivers.
    """

    def __init__(self, sweep: Sweep, server: Server, schedule: Schedule) -> None:
        self._sweep, self._server = sweep, server
        self._waiting = list(schedule.faults)
        self._due: dict[Fault, float] = {}  # since when its number of events was reached
        self._later: list[tuple[float, Callable[[], object]]] = []
        self._began, self._excused, self._filled = 0.0, set[Kind](), 0.0
        self._second: subprocess.Popen[str] | None = None
        self.done: list[Done] = []
        self.codes: list[int] = []
        self.lives: list[Life] = []

    def run(self) -> None:
        """Raises: UnexpectedEnd."""
        started = time.monotonic()
        driver, finished = self._start(), False
        while not finished:
            now = time.monotonic()
            if now > started + LIMIT_SECONDS:
                raise UnexpectedEnd(f"not finished after {LIMIT_SECONDS:.0f} s")
            self._do_later(now)
            if driver.poll() is None:
                self._watch_second(driver)
                self._do_due(driver, now, started)
            else:
                finished = self._ended(driver)
                self._wait_for_what_is_away()
                driver = driver if finished else self._start()
            time.sleep(0.1)

    def _start(self) -> subprocess.Popen[str]:
        self._began, self._excused, self._filled = time.time(), set(), 0.0
        return self._sweep.start()

    def _ended(self, driver: subprocess.Popen[str]) -> bool:
        """Note the end of a driver; whether the sweep has finished."""
        if self._second is not None:  # it could go on now
            self._second.kill()
            self._second = None
        code, now = driver.returncode, time.time()
        self.codes.append(code)
        recorded = min(
            now - (KILL_LOSES_SECONDS if code == -signal.SIGKILL else 0),
            self._filled - KILL_LOSES_SECONDS if self._filled else now,
        )
        self.lives.append(Life(self._began, now, recorded))
        said = self._sweep.said(driver)
        self._sweep.empty_disk()
        is_excused = any(code in ENDS.get(kind, ()) for kind in self._excused)
        if "Traceback" in said or (code and not is_excused):
            after = f" after {', '.join(sorted(self._excused))}" if self._excused else ""
            raise UnexpectedEnd(f"exit code {code}{after}: {said[-3000:]}")
        if code == 2 and "No space left" not in said:
            raise UnexpectedEnd(f"a full disk was not named: {said[-3000:]}")
        return code == 0

    def _do_later(self, now: float) -> None:
        for moment, call in [*self._later]:
            if now >= moment:
                self._later.remove((moment, call))
                call()

    def _wait_for_what_is_away(self) -> None:
        while self._later:
            self._do_later(time.monotonic())
            time.sleep(0.1)

    def _do_due(self, driver: subprocess.Popen[str], now: float, started: float) -> None:
        logged = self._sweep.logged()
        for fault in [*self._waiting]:
            if logged < fault.events:
                continue
            if now < self._due.setdefault(fault, now) + fault.delay:
                continue
            if to := self._do(fault, driver, now):
                self._waiting.remove(fault)
                self._excused.add(fault.kind)
                self.done.append(Done(fault, to, round(now - started, 1)))

    def _do(self, fault: Fault, driver: subprocess.Popen[str], now: float) -> str:
        """Do a fault, and say to what; empty if there is nothing yet to do it to."""
        match fault.kind:
            case "driver":
                return _signal(driver.pid, signal.SIGKILL)
            case "terminated":
                return _signal(driver.pid, signal.SIGTERM)
            case "pause_driver":
                return self._pause([driver.pid], fault, now)
            case "second_driver":
                return self._start_second(driver)
            case "disk":
                return self._fill(driver)
            case "raylet":
                return f"raylet {self._sweep.lose_node()}" if self._trains(driver) else ""
            case "tracking":
                return self._stop_server(driver, fault, now)
            case "pause_tracking":
                return self._pause(self._server.pids(), fault, now) if self._trains(driver) else ""
            case "pause_worker":
                return self._pause(self._sweep.actors(driver, *ACTORS["worker"]), fault, now)
        pids = self._sweep.actors(driver, *ACTORS[fault.kind])
        return _signal(_one(pids, fault), signal.SIGKILL) if pids else ""

    def _trains(self, driver: subprocess.Popen[str]) -> bool:
        """Whether workers are there: a driver that starts without server or disk is refused."""
        return bool(self._sweep.actors(driver, *ACTORS["worker"]))

    def _pause(self, pids: list[int], fault: Fault, now: float) -> str:
        if not pids:
            return ""
        pid = _one(pids, fault)
        until = now + fault.seconds
        self._later.append((until, lambda: processes.send(pid, signal.SIGCONT)))
        return _signal(pid, signal.SIGSTOP)

    def _stop_server(self, driver: subprocess.Popen[str], fault: Fault, now: float) -> str:
        if not self._trains(driver):
            return ""
        self._server.stop()
        self._later.append((now + fault.seconds, self._server.start))
        return "the server"

    def _fill(self, driver: subprocess.Popen[str]) -> str:
        if not self._trains(driver):
            return ""
        self._filled = time.time()
        self._sweep.fill_disk()
        return "the disk"

    def _start_second(self, first: subprocess.Popen[str]) -> str:
        if not self._sweep.logged():
            return ""
        self._second = self._sweep.start()
        return f"driver {first.pid}"

    def _watch_second(self, first: subprocess.Popen[str]) -> None:
        """A second driver must be refused, by the name of the first or for what is away."""
        if self._second is None or (code := self._second.poll()) is None:
            return
        said = self._sweep.said(self._second)
        is_away = self._excused & {"tracking", "pause_tracking", "disk"}
        if code != 2 or not (is_away or f"process {first.pid} of " in said):
            raise UnexpectedEnd(f"a second driver ended with exit code {code}: {said[-3000:]}")
        self._second = None


def _one(pids: list[int], fault: Fault) -> int:
    return sorted(pids)[int(fault.which * len(pids))]


def _signal(pid: int, number: signal.Signals) -> str:
    to = f"{processes.title(pid).split('/')[-1]} ({pid})"
    processes.send(pid, number)
    return to
