"""The address of the Ray cluster to join, if any."""

from __future__ import annotations

import os


def cluster_address() -> str:
    """``RAY_ADDRESS``; empty if Ray runs on this machine only, which "local" also means."""
    given = os.environ.get("RAY_ADDRESS", "").strip()
    return "" if given == "local" else given
