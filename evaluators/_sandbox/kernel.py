"""What Linux itself refuses a program from now on: files, network, signals, processes, root.

Landlock (Linux 5.13) confines reading to some folders and forbids writing; seccomp forbids new
processes but not threads. A kernel that lacks one of them leaves the other. Used by `confined`.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

NO_NEW_PRIVS, SECCOMP, KEEPCAPS = 38, 22, 8  # of prctl
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # system calls
WRITE, READ, LIST, TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
# Rights that Landlock handles since a version: on files, on TCP ports, to reach processes.
FILES = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
PORTS = {4: 3}
SCOPES = {6: 3}
# The architecture, its numbers of clone, clone3 and socket, and those of fork and vfork.
CALLS = {
    "x86_64": (0xC000003E, 56, 435, 41, (57, 58)),
    "aarch64": (0xC00000B7, 220, 435, 198, ()),
}
OTHER_NUMBERS = 0x40000000  # from here on: those of x32
CLONE_THREAD, AF_UNIX = 0x10000, 1
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, NOT_PERMITTED, NO_SUCH_CALL, KILL = 0x7FFF0000, 0x50001, 0x50026, 0x80000000


def become(user: int, *, reads_all: bool) -> None:
    """Change from root to `user`, whose permissions do not keep it from reading if `reads_all`."""
    libc = ctypes.CDLL(None)
    os.setgroups([])
    os.setgid(user)
    libc.prctl(KEEPCAPS, int(reads_all), 0, 0, 0)
    os.setuid(user)
    if reads_all:
        kept = 1 << 2  # CAP_DAC_READ_SEARCH
        libc.capset(struct.pack("Ii", 0x20080522, 0), struct.pack("6I", kept, kept, 0, 0, 0, 0))


def landlock_version() -> int:
    """The version of Landlock that this kernel has; below 1 for none."""
    size = ctypes.c_size_t(0)
    return int(ctypes.CDLL(None).syscall(CREATE_RULESET, None, size, 1))


def confine_files(readable: Sequence[str], devices: Sequence[str]) -> None:
    """Forbid all access to files but reading below `readable` and using `devices`.

    TCP, abstract sockets and signals to other processes go as well, where Landlock knows them.
    """
    version = landlock_version()
    if version < 1:
        return
    libc = ctypes.CDLL(None)
    files, ports, scopes = (_since(version, table) for table in (FILES, PORTS, SCOPES))
    size = 8 if version < 4 else 16 if version < 6 else 24
    attributes = struct.pack("QQQ", files, ports, scopes)
    rules = libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(size), 0)
    allowed = {path: READ | LIST for path in readable}
    allowed |= {path: (READ | WRITE | TRUNCATE) & files for path in devices}
    for path, rights in allowed.items():
        if Path(path).exists():
            place = os.open(path, os.O_PATH)
            kept = rights if Path(path).is_dir() else rights & ~LIST
            libc.syscall(ADD_RULE, rules, 1, struct.pack("=Qi", kept, place), 0)
            os.close(place)
    libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.syscall(RESTRICT_SELF, rules, 0)
    os.close(rules)


def _since(version: int, table: Mapping[int, int]) -> int:
    return max((bits for since, bits in table.items() if since <= version), default=0)


def forbid_processes() -> bool:
    """Refuse new processes, and sockets other than AF_UNIX; whether this kernel can.

    Threads stay possible. The calls of another architecture end the program.
    """
    if platform.machine() not in CALLS:
        return False
    architecture, clone, clone3, socket, forks = CALLS[platform.machine()]
    # (operation, instructions to skip if true, and if false, operand)
    filters = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, architecture), (RETURN, 0, 0, KILL)]
    filters += [(LOAD, 0, 0, 0), (AT_LEAST, 0, 1, OTHER_NUMBERS), (RETURN, 0, 0, KILL)]
    for number in forks:
        filters += [(EQUAL, 0, 1, number), (RETURN, 0, 0, NOT_PERMITTED)]
    # The C library then falls back to clone, whose flags a filter can see.
    filters += [(EQUAL, 0, 1, clone3), (RETURN, 0, 0, NO_SUCH_CALL)]
    filters += [(EQUAL, 0, 4, clone), (LOAD, 0, 0, 16), (ANY_BIT, 0, 1, CLONE_THREAD)]
    filters += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, NOT_PERMITTED)]
    filters += [(EQUAL, 0, 3, socket), (LOAD, 0, 0, 16), (EQUAL, 1, 0, AF_UNIX)]
    filters += [(RETURN, 0, 0, NOT_PERMITTED), (RETURN, 0, 0, ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in filters))
    program = struct.pack("HP", len(filters), ctypes.addressof(code))
    libc = ctypes.CDLL(None)
    libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(libc.prctl(SECCOMP, 2, program, 0, 0) == 0)
