"""What a check says: fine, or what is wrong and the command that mends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class Finding:
    """One check's answer. ``mend`` is empty where ``ok``, or where there is only something to know
    (``ok`` with a ``mend`` is advice: it works, and could be better)."""

    name: str
    ok: bool
    said: str
    mend: str = ""
