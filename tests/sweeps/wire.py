"""A wire to a server, which can be cut: `python wire.py PORT SERVER_PORT`, then "cut" or "mend" on
its standard input, each answered by the same word.

A process of its own: pyarrow may ask a store while no thread of its process can run.
"""

from __future__ import annotations

import socket
import sys
import threading
from contextlib import suppress


class Wire:
    """Passes on what callers of one port say to another one, unless it is cut."""

    def __init__(self, port: int, server: int) -> None:
        self._server, self._is_cut = server, threading.Event()
        self._listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._listen, daemon=True).start()

    def obey(self, word: str) -> None:
        """Be cut or mended."""
        {"cut": self._is_cut.set, "mend": self._is_cut.clear}[word]()

    def _listen(self) -> None:
        while True:
            caller, _ = self._listener.accept()
            if self._is_cut.is_set():
                caller.close()
                continue
            server = socket.create_connection(("127.0.0.1", self._server))
            for one, other in ((caller, server), (server, caller)):
                threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while (data := one.recv(1 << 16)) and not self._is_cut.is_set():
                other.sendall(data)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        one.close()


if __name__ == "__main__":
    wire = Wire(int(sys.argv[1]), int(sys.argv[2]))
    for line in sys.stdin:
        wire.obey(line.strip())
        print(line.strip(), flush=True)
