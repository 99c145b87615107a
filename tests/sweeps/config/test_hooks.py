"""Hooks against a real HTTP server on loopback and real processes."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sweeps.config.hooks import Caller, Hook, HooksConfig, tell
from sweeps.config.load import parse_config
from sweeps.config.study_identity import config_yaml
from sweeps.execution.hooked_display import calling_hooks
from sweeps.execution.progress import Display, LineDisplay
from sweeps.execution.study_tally import Tally
from sweeps.storage.errors import UserError
from tests.sweeps.ended_trial import POINT, TRIAL

SECRET = "T0K3N"


@dataclass
class Server:
    """What was posted to it; it answers with `status`, after `delay` seconds."""

    address: str = ""
    status: int = 200
    delay: float = 0.0
    posted: list[tuple[str, str | None, Any]] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.posted.append((self.path, self.headers["Content-Type"], json.loads(body)))
            over.wait(state.delay)
            if not over.is_set():
                self.send_response(state.status)
                self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing on stderr."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{http.server_port}/hook/{SECRET}"
    thread = threading.Thread(target=http.serve_forever, args=(0.05,))
    thread.start()
    yield state
    over.set()
    http.shutdown()
    thread.join()
    http.server_close()


def reads_into(target: Path) -> str:
    """A command that writes what it is told to a file."""
    code = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(sys.stdin.read())"
    return f"{sys.executable} -c '{code}' {target}"


def test_a_webhook_gets_the_event_as_json(server: Server) -> None:
    assert tell(Hook(webhook=server.address), {"event": "sweep_ended", "n": 1}, 5) == []
    posted = [(f"/hook/{SECRET}", "application/json", {"event": "sweep_ended", "n": 1})]
    assert server.posted == posted


def test_an_address_from_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = Hook(webhook="$MY_HOOK")
    assert tell(hook, {}, 5) == ["the environment variable MY_HOOK does not hold an http address."]
    monkeypatch.setenv("MY_HOOK", server.address)
    assert tell(hook, {}, 5) == []
    assert len(server.posted) == 1


def test_home_in_a_command_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    hook = Hook(command=f"{sys.executable} -c 'import sys; open(sys.argv[1], \"x\")' ~/called")
    assert tell(hook, {"event": "sweep_ended"}, 20) == []
    assert (tmp_path / "called").exists()


def test_a_command_gets_the_event_on_its_standard_input(tmp_path: Path) -> None:
    target = tmp_path / "told.json"
    assert tell(Hook(command=reads_into(target)), {"event": "trial_failed"}, 10) == []
    assert json.loads(target.read_text()) == {"event": "trial_failed"}


def test_what_fails_is_told_without_its_secrets(server: Server) -> None:
    server.status = 500
    hook = Hook(command=f"false {SECRET}", webhook=server.address)
    said = tell(hook, {}, 5)
    assert said == [
        "the command exited with code 1.",
        "the webhook answered with HTTP status 500.",
    ]
    nowhere = Hook(command=f"/no/such/program {SECRET}", webhook=f"http://127.0.0.1:9/{SECRET}")
    said = tell(nowhere, {}, 5)
    assert said == [
        "the command could not be started (No such file or directory).",
        "the webhook did not respond.",
    ]
    unreadable = Hook(webhook=f"http://127.0.0.1:port/{SECRET}")
    assert tell(unreadable, {}, 5) == ["the webhook did not respond."]


def test_a_slow_hook_is_given_up(server: Server, tmp_path: Path) -> None:
    server.delay = 30
    mark = tmp_path / "mark"
    hook = Hook(command=f"sh -c 'sleep 30; touch {mark}'", webhook=server.address)
    started = time.monotonic()
    said = tell(hook, {}, 0.3)
    assert time.monotonic() - started < 10
    assert said == [
        "the command took more than 0.3 s and was killed.",
        "the webhook did not respond within 0.3 s.",
    ]
    assert not mark.exists()


def test_a_caller_returns_at_once_and_names_the_occasion(server: Server) -> None:
    server.status = 404
    said: list[str] = []
    caller = Caller(HooksConfig(on_failure=Hook(webhook=server.address)), said.append)
    caller.call("on_failure", {"event": "trial_failed"})
    caller.call("on_end", {"event": "sweep_ended"})  # nobody listens
    caller.close()
    assert len(server.posted) == 1
    assert {"time", "host", "event"} <= set(server.posted[0][2])
    assert said == [
        "hooks.on_failure: the webhook answered with HTTP status 404. The sweep continues."
    ]


def run_three_trials(display: Display) -> None:
    tally = Tally("sums", trials=3, finished_before=0)
    failed = {"score": None, "state": "failed", "failure": "out of memory\nline 2", "kind": "oom"}
    for trial in (TRIAL, {**TRIAL, "number": 1, **failed}):
        tally.endings[trial["state"]] += 1
        tally.best = TRIAL
        display.ended(tally, trial)


def hooked(tree: dict[str, Any], server: Server) -> Any:
    hook = {"webhook": server.address}
    return parse_config({**tree, "hooks": {"on_end": hook, "on_failure": hook}})


def test_a_sweep_tells_of_failures_and_of_its_end(tree: dict[str, Any], server: Server) -> None:
    with calling_hooks(hooked(tree, server), LineDisplay()) as display:
        run_three_trials(display)
    failure, end = [body for _, _, body in server.posted]
    assert failure["event"] == "trial_failed"
    assert failure["text"] == "small, sums: trial 1 failed: out of memory"
    assert failure["trial"]["kind"] == "oom"
    assert failure["trial"]["point"] == POINT
    assert "metrics" not in failure["trial"]
    assert end["state"] == "finished"
    assert end["text"] == "small finished: sums 2 of 3 trials, best score 0.5000"
    assert end["domains"]["sums"]["endings"] == {"finished": 1, "failed": 1}


def test_a_sweep_that_its_budget_ends_is_stopped(tree: dict[str, Any], server: Server) -> None:
    with calling_hooks(hooked(tree, server), LineDisplay()) as display:
        display.stopped = "the budget is spent: wall_hours 1 of 1"
    ((_, _, end),) = server.posted
    assert (end["state"], end["reason"]) == ("stopped", display.stopped)


@pytest.mark.parametrize(
    ("error", "state"), [(KeyboardInterrupt(), "stopped"), (RuntimeError("lost"), "failed")]
)
def test_any_other_end_is_told_too(
    tree: dict[str, Any], server: Server, error: BaseException, state: str
) -> None:
    with (
        pytest.raises(type(error)),
        calling_hooks(hooked(tree, server), LineDisplay()),
    ):
        raise error
    assert server.posted[0][2]["state"] == state
    assert server.posted[0][2]["reason"] == ("RuntimeError: lost" if state == "failed" else "")


@pytest.mark.parametrize(
    ("hook", "expected"),
    [
        ({}, "expected a command, a webhook, or both"),
        ({"command": "echo 'open"}, "closed quotes"),
        ({"command": ""}, "a program and its arguments"),
        ({"webhook": f"ftp://x/{SECRET}"}, "expected http://"),
        ({"webhook": f"{SECRET}"}, "expected http://"),
        ({"webhok": "$X"}, "did you mean 'webhook'?"),
    ],
)
def test_a_mistake_is_named_without_the_address(
    tree: dict[str, Any], hook: dict[str, str], expected: str
) -> None:
    with pytest.raises(UserError) as caught:
        parse_config({**tree, "hooks": {"on_end": hook}})
    assert expected in str(caught.value)
    assert SECRET not in str(caught.value)


def test_no_limit_is_no_limit() -> None:
    with pytest.raises(ValidationError):
        HooksConfig(seconds=float("inf"))


def test_reports_and_mlflow_never_hold_an_address(tree: dict[str, Any], server: Server) -> None:
    assert SECRET not in config_yaml(hooked(tree, server))
