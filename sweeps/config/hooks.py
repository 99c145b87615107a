"""Hooks: commands or webhooks called when a sweep ends or a trial fails.

A thread of its own calls them, with a time limit. The sweep continues whatever a hook does.
Messages never show a hook's address or arguments, which may be secret.
"""

from __future__ import annotations

import json
import os
import queue
import re
import shlex
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, Any, Literal, Self, final

from pydantic import Field, model_validator

from sweeps.finetune.strict_model import StrictModel

Event = Mapping[str, Any]
Occasion = Literal["on_end", "on_failure"]


@final
class Hook(StrictModel):
    """A call with an event as JSON; at least one of the two keys."""

    command: str | None = None
    """A program and its arguments; it gets the event on its standard input."""
    webhook: str | None = None
    """An address, which gets the event as a POST, or `$NAME`: the environment variable NAME holds
    the address, so it is in no file."""

    @model_validator(mode="after")
    def _can_be_called(self) -> Self:
        # A model validator, because pydantic's error for a field would show its value.
        if self.command is None and self.webhook is None:
            raise ValueError("expected a command, a webhook, or both")
        if self.command is not None and not _words(self.command):
            raise ValueError("command: expected a program and its arguments, with closed quotes")
        if self.webhook is not None and not re.fullmatch(
            r"https?://[^\s/]+(/\S*)?|\$[A-Za-z_]\w*", self.webhook
        ):
            raise ValueError(
                "webhook: expected http://..., https://..., or $NAME for an environment variable"
            )
        return self


@final
class HooksConfig(StrictModel):
    """What is called when the sweep ends or a trial fails."""

    on_end: Hook | None = None
    """The sweep finished, stopped (also by its budget) or failed."""
    on_failure: Hook | None = None
    """A trial failed."""
    seconds: Annotated[float, Field(gt=0, le=600)] = 10.0
    """The most seconds that a hook may take."""


@final
class Caller:
    """Calls the hooks of one sweep one after another in a background thread."""

    def __init__(self, config: HooksConfig, say: Callable[[str], None]) -> None:
        self._config, self._say = config, say
        self._waiting: queue.SimpleQueue[tuple[Occasion, Event] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="hooks", daemon=True)
        self._thread.start()

    def call(self, occasion: Occasion, event: Event) -> None:
        """Queue ``event`` for the occasion's hook and return at once."""
        stamp = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "host": socket.gethostname(),
        }
        self._waiting.put((occasion, {**event, **stamp}))

    def close(self) -> None:
        """Wait for queued calls, at most twice the time limit."""
        self._waiting.put(None)
        self._thread.join(2 * self._config.seconds)

    def _run(self) -> None:
        while (call := self._waiting.get()) is not None:
            occasion, event = call
            hook = getattr(self._config, occasion)
            for complaint in [] if hook is None else tell(hook, event, self._config.seconds):
                self._say(f"hooks.{occasion}: {complaint} The sweep continues.")


def tell(hook: Hook, event: Event, seconds: float) -> list[str]:
    """Call a hook; returns a sentence for each error, without anything that may be secret."""
    body = json.dumps(event).encode()
    said = []
    if hook.command is not None:
        said.append(_run_command(hook.command, body, seconds))
    if hook.webhook is not None:
        said.append(_post(hook.webhook, body, seconds))
    return [complaint for complaint in said if complaint]


def _run_command(command: str, body: bytes, seconds: float) -> str:
    quiet = subprocess.DEVNULL
    try:
        # Its own session: Ctrl-C must not reach it, and a timeout must kill its children too.
        process = subprocess.Popen(
            _words(command),
            stdin=subprocess.PIPE,
            stdout=quiet,
            stderr=quiet,
            start_new_session=True,
        )
    except OSError as error:
        return f"the command could not be started ({error.strerror})."
    try:
        process.communicate(body, timeout=seconds)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"the command took more than {seconds:g} s and was killed."
    return f"the command exited with code {process.returncode}." if process.returncode else ""


def _post(webhook: str, body: bytes, seconds: float) -> str:
    address = os.environ.get(webhook[1:], "") if webhook.startswith("$") else webhook
    if not address.startswith(("http://", "https://")):
        return f"the environment variable {webhook[1:]} does not hold an http address."
    try:
        request = urllib.request.Request(
            address, data=body, headers={"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=seconds):
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return f"the webhook answered with HTTP status {error.code}."
    except (OSError, ValueError, HTTPException) as error:  # its text may hold the address
        reason = getattr(error, "reason", error)
        late = isinstance(error, TimeoutError) or isinstance(reason, TimeoutError)
        return f"the webhook did not respond{f' within {seconds:g} s' if late else ''}."


def _words(command: str) -> list[str]:
    """The command split as a shell does, ``~/`` expanded; empty if a quote is left open."""
    try:
        return [
            str(Path(word).expanduser()) if word.startswith("~/") else word
            for word in shlex.split(command)
        ]
    except ValueError:
        return []
