"""What crosses between the judge of a program and the child that runs it: plain data only.

Used by `runner` and `confined` on both ends of a socket. Values are JSON with tags for what
JSON lacks; a subclass crosses as its base type; any other object stays where it is and crosses
as a handle, a number. Nothing that is read can run code.
"""

from __future__ import annotations

import builtins
import json
import os
import select
import struct
import time
import types
from collections.abc import Callable
from typing import Any

PATIENCE = 5.0  # seconds
SCALARS = {str, int, float, bool, type(None)}
LARGE = 2**4096  # an int beyond which decimal digits are refused


class Failure(Exception):
    """A program that did not do what its tests ask; the message is a phrase."""


class WireError(Exception):
    """The other end is gone, late, or says what it should not."""

    GONE = "ended before its tests did"
    LATE = "timeout"  # the CPU time is used up
    IDLE = "timeout by the clock"  # it is not: asleep, or the machine had no time for it
    NOISE = "wrote into the pipe of its judge"


class Handle:
    """The judge's stand-in for an object of the child: calls, attributes and items are asked for.

    It equals itself only: the child's own `__eq__` is never asked.
    """

    def __init__(self, wire: Wire, number: int, module: str = "") -> None:
        for name, value in (("_wire", wire), ("_number", number), ("_module", module)):
            object.__setattr__(self, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._wire.ask("call", self, list(args), kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._wire.ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._wire.ask("set", self, name, value)

    def __iter__(self) -> Any:
        return iter(self._wire.ask("items", self))

    def __bool__(self) -> bool:
        return self._wire.ask("truth", self) is True

    def __len__(self) -> int:
        return len(self._wire.ask("items", self))

    def __getitem__(self, place: Any) -> Any:
        return self._wire.ask("items", self)[place]


class Wire:
    """One end of the conversation; `deadline` is on the monotonic clock, in seconds."""

    def __init__(
        self,
        channel: Any,
        deadline: float,
        most_bytes: int,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        """While `busy` says so, the deadline is put off. A longer message is refused."""
        self._most_bytes = most_bytes
        self._channel = channel  # kept open by whoever holds it
        self._number = channel if isinstance(channel, int) else channel.fileno()
        self._deadline = deadline
        self._busy = busy
        self._objects: list[Any] = []

    def ask(self, what: str, *values: Any) -> Any:
        """Let the other end do something, and return what came of it."""
        self.send([what, *values])
        return self.answer()

    def answer(self) -> Any:
        """What came of a request: a value, or the exception that the other end raised."""
        said = self.receive()
        if not isinstance(said, list) or len(said) != 2 or said[0] not in ("value", "error"):
            raise WireError(WireError.NOISE)
        if said[0] == "value":
            return said[1]
        kind = getattr(builtins, str(said[1]), None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            try:
                raised = kind()
            except TypeError:  # UnicodeDecodeError and its like need arguments
                raised = None
            if raised is not None:
                raise raised
        raise Failure(str(said[1])[:200])

    def send(self, value: Any) -> None:
        """Send a value."""
        data = json.dumps(self._encoded(value)).encode()
        data = struct.pack("!I", len(data)) + data
        while data:
            self._wait(writing=True)
            try:
                data = data[os.write(self._number, data[:65536]) :]
            except OSError:
                raise WireError(WireError.GONE) from None

    def receive(self) -> Any:
        """The next value."""
        (size,) = struct.unpack("!I", self._bytes(4))
        if size > self._most_bytes:
            raise WireError(WireError.NOISE)
        data = self._bytes(size)
        try:
            return self._decoded(json.loads(data))
        except (ValueError, TypeError, LookupError, RecursionError):
            raise WireError(WireError.NOISE) from None

    def object(self, number: int) -> Any:
        """The object that this end gave away as a handle."""
        return self._objects[number]

    def _wait(self, *, writing: bool) -> None:
        """Return once the channel is ready; raise when the deadline has come."""
        channel = [self._number]
        while True:
            left = max(0.0, self._deadline - time.monotonic())
            reading = [] if writing else channel
            if any(select.select(reading, channel if writing else [], [], left)):
                return
            if not self._busy():
                raise WireError(WireError.IDLE)
            self._deadline = time.monotonic() + PATIENCE

    def _bytes(self, size: int) -> bytes:
        parts = []
        while size:
            self._wait(writing=False)
            try:
                part = os.read(self._number, min(size, 1 << 20))
            except OSError:
                part = b""
            if not part:
                raise WireError(WireError.GONE)
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _encoded(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | str):
            return str(value) if isinstance(value, str) else value
        if isinstance(value, int):
            return int(value) if -LARGE < value < LARGE else {"int": hex(value)}
        if isinstance(value, float):
            return float(value)
        if type(value) in (list, tuple) and _is_flat(value):  # as it is: results may be large
            return value if type(value) is list else {"tuple": value}
        if type(value) is list and all(type(each) is tuple and _is_flat(each) for each in value):
            return {"tuples": value}
        if isinstance(value, list):
            return [self._encoded(each) for each in value]
        for name, kind in (("tuple", tuple), ("set", set), ("frozenset", frozenset)):
            if isinstance(value, kind):
                return {name: [self._encoded(each) for each in value]}
        if isinstance(value, dict):
            return {"dict": [[self._encoded(k), self._encoded(v)] for k, v in value.items()]}
        if isinstance(value, bytes | bytearray):
            return {"bytes": value.hex()}
        if isinstance(value, complex):
            return {"complex": [value.real, value.imag]}
        if isinstance(value, range):
            return {"range": [value.start, value.stop, value.step]}
        if isinstance(value, type) and value in vars(builtins).values():
            return {"type": value.__name__}
        if isinstance(value, Handle):
            return {"theirs": value._number}
        self._objects.append(value)
        module = value.__name__ if isinstance(value, types.ModuleType) else ""
        return {"mine": [len(self._objects) - 1, module]}

    def _decoded(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._decoded(each) for each in value]
        if not isinstance(value, dict):
            return value
        ((kind, inside),) = value.items()
        match kind:
            case "tuple" | "set" | "frozenset":
                return getattr(builtins, kind)(self._decoded(each) for each in inside)
            case "tuples":
                return [tuple(each) for each in inside]
            case "dict":
                return {self._decoded(key): self._decoded(each) for key, each in inside}
            case "int":
                return int(inside, 16)
            case "bytes":
                return bytes.fromhex(inside)
            case "complex":
                return complex(*inside)
            case "range":
                return range(*inside)
            case "type":
                found = getattr(builtins, inside)
                if isinstance(found, type):
                    return found
            case "mine":
                return Handle(self, int(inside[0]), str(inside[1]))
            case "theirs":
                return self._objects[inside]
        raise ValueError(kind)


def _is_flat(values: Any) -> bool:
    """Whether JSON has all that is in a list or tuple."""
    return all(
        type(each) in SCALARS and (type(each) is not int or -LARGE < each < LARGE)
        for each in values
    )
