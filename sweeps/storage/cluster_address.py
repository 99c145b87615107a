"""Which Ray cluster a sweep is to join, if any."""

from __future__ import annotations

import os


def cluster_address() -> str:
    """``RAY_ADDRESS``; empty for a Ray on this machine alone, which "local" means too."""
    given = os.environ.get("RAY_ADDRESS", "").strip()
    return "" if given == "local" else given
