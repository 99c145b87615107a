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
import sys
import types
from collections import deque
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

PERIOD = 0.1  # seconds
SCALARS = {str, int, float, bool, type(None)}
# Values that cross as the arguments that make them anew.
KINDS: tuple[type, ...] = (Decimal, Fraction, date, datetime, timedelta, deque)
VALUES = {kind.__name__: kind for kind in KINDS}
ENDS_LOOPS = (StopIteration, StopAsyncIteration)
LARGE = 2**4096  # an int beyond which decimal digits are refused


class Failure(Exception):
    """A program that did not do what its tests ask; the message is a phrase."""


class WireError(Exception):
    """The other end is gone, late, or says what it should not."""

    GONE = "ended before its tests did"
    LATE = "timeout"  # the CPU time is used up
    IDLE = "timeout by the clock"  # it slept for as long
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
    """One end of the conversation."""

    def __init__(
        self, channel: Any, most_bytes: int, gives_up: Callable[[], bool] | None = None
    ) -> None:
        """A longer message is refused. While waiting, `gives_up` is asked in every `PERIOD`."""
        self._most_bytes = most_bytes
        self._channel = channel  # kept open by whoever holds it
        self._number = channel if isinstance(channel, int) else channel.fileno()
        self._gives_up = gives_up
        self._objects: list[Any] = []

    def ask(self, what: str, *values: Any) -> Any:
        """Let the other end do something, and return what came of it."""
        self.send([what, *values])
        return self.answer()

    def answer(self) -> Any:
        """What came of a request: a value, or the exception that the other end raised."""
        said = self.receive()
        match said:
            case ["value", value]:
                return value
            case ["failed", str(reason)]:
                raise Failure(reason[:400])
            case ["error", str(name), str(message)]:
                raise _exception(name, message)
        raise WireError(WireError.NOISE)

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
        except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError):
            raise WireError(WireError.NOISE) from None

    def object(self, number: int) -> Any:
        """The object that this end gave away as a handle."""
        return self._objects[number]

    def _wait(self, *, writing: bool) -> None:
        """Return once the channel is ready; raise WireError to give up."""
        reading, written = ([], [self._number]) if writing else ([self._number], [])
        period = None if self._gives_up is None else PERIOD
        while not any(select.select(reading, written, [], period)):
            if self._gives_up is not None and self._gives_up():
                raise WireError(WireError.IDLE)

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
        numpy: Any = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, numpy.generic):  # a number of numpy
            return self._encoded(value.item())
        if type(value) in VALUES.values():
            return {"value": [type(value).__name__, *map(self._encoded, _arguments(value))]}
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
            case "value":
                return VALUES[inside[0]](*map(self._decoded, inside[1:]))
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


def _arguments(value: Any) -> tuple[Any, ...]:
    """The arguments with which the class of one of `VALUES` makes it again."""
    return (list(value), value.maxlen) if isinstance(value, deque) else value.__reduce__()[1]


def _exception(name: str, message: str) -> Exception:
    """The builtin exception called `name`, or a Failure where it is none to catch."""
    kind = getattr(builtins, name, None)
    # A StopIteration would end a loop of the tests early, as if all were well.
    if isinstance(kind, type) and issubclass(kind, Exception) and kind not in ENDS_LOOPS:
        try:
            return kind(message) if message else kind()
        except TypeError:  # UnicodeDecodeError and its like need more arguments
            pass
    return Failure(f"{name}: {message}".removesuffix(": ")[:200])
