"""The links of a study to its tracker's pages, kept in its folder for every reader."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from sweeps.storage.atomic_io import atomic_write
from sweeps.storage.program import command_line

LINKS_FILE = "links.json"


def save_links(study: Path, links: Mapping[str, str]) -> None:
    """Write the links, label to page, into the folder of a study."""
    study.mkdir(parents=True, exist_ok=True)
    atomic_write(study / LINKS_FILE, json.dumps(links, indent=1))


def saved_links(study: Path) -> dict[str, str]:
    """The links of a study; empty until the tracker has it."""
    try:
        links: dict[str, str] = json.loads((study / LINKS_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return links


def ways_to(links: Mapping[str, str], folder: Path | str) -> dict[str, str]:
    """What a person opens or types: the pages of a server or, for a local store, the command that
    serves it. ``folder``: the sweep's."""
    served = {label: page for label, page in links.items() if "://" in page}
    return served if served or not links else {"MLflow": command_line("ui", folder)}
