"""Whether a Ray cluster answers at an address, before Ray waits minutes for it without a word."""

from __future__ import annotations

import os
import re
import socket
import time

from sweeps.execution.ray_compat import running_here
from sweeps.storage.errors import UserError

PATIENCE_SECONDS = 15.0
"""How long a head that is just starting is waited for."""

TRY_SECONDS = 5.0

FORMS = "expected HOST:PORT, such as 10.0.0.5:6379, or ray://HOST:10001, auto or local"
_ADDRESS = re.compile(r"(?:ray://)?(\[[0-9a-fA-F:]+\]|[^\s:/\[\]]+):([0-9]{1,5})")
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
"""What opens an HTTP/2 connection, as gRPC's are: the preface and empty settings."""


def check_reachable(given: str, patience_seconds: float = PATIENCE_SECONDS) -> None:
    """``given``: the ``RAY_ADDRESS`` of a cluster that is to be joined.

    Raises:
        UserError: it is no such address, or no Ray answers there in time.
    """
    address = _found_here() if given == "auto" else given
    parts = _ADDRESS.fullmatch(address)
    if parts is None or int(parts[2]) > 65535:
        web = "; http:// is for `ray job submit --address`" if address.startswith("http") else ""
        raise UserError(f"RAY_ADDRESS {given!r}: {FORMS}{web}")
    host, port, deadline = parts[1].strip("[]"), int(parts[2]), time.monotonic() + patience_seconds
    while reason := _refusal(host, port):
        if time.monotonic() > deadline:
            at = given if given == address else f"{given}, which is {address} here"
            raise UserError(
                f"RAY_ADDRESS {at}: no Ray cluster responds there ({reason}). Start it, or give "
                "the address of one that runs; without RAY_ADDRESS the sweep runs on this machine"
            )
        time.sleep(1)


def _found_here() -> str:
    """The cluster that was started on this machine."""
    try:
        return running_here()
    except ConnectionError:
        raise UserError(
            "RAY_ADDRESS auto: no Ray runs on this machine. Start one (ray start --head), or "
            "give the address of one; without RAY_ADDRESS the sweep starts its own"
        ) from None


def _refusal(host: str, port: int) -> str:
    """Why no Ray can be spoken to there; empty where one can."""
    try:
        with socket.create_connection((host, port), timeout=TRY_SECONDS) as there:
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
                return ""  # which would have to be spoken first
            there.sendall(_HELLO)
            with there.makefile("rb") as stream:
                answer = stream.read(9)
    except OSError as error:
        return error.strerror or str(error) or type(error).__name__
    is_settings = answer[3:4] == b"\x04"
    return "" if is_settings else "something else listens there"
