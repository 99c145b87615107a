"""``ui``: open a sweep in MLflow."""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import urljoin

import typer

from sweeps.cli.answer import Answer, refuse
from sweeps.cli.arguments import ConfigFile, Overrides, load_stored
from sweeps.cli.command_results import MlflowPages
from sweeps.config.load import is_paper, study_paths
from sweeps.config.sweep_config import SweepConfig, paths_for
from sweeps.storage.address import folder_of, sqlite_path
from sweeps.storage.interrupts import interruptible
from sweeps.storage.study_paths import by_name, saved_links, ways_to
from sweeps.tracking.mlflow_compat import EXPERIMENTS_PAGE
from sweeps.tracking.mlflow_store import public_address, tracking_uri
from sweeps.tracking.tracker import TrackingError

USUAL_PORT = 5000
"""A browser remembers choices made in MLflow by the port."""

SWITCH = "If MLflow opens its GenAI pages, choose 'Model training' at the top left, once."


def ui(
    config: ConfigFile,
    overrides: Overrides = None,
    browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Open a browser if there is a display.")
    ] = True,
) -> Iterator[Answer[MlflowPages]]:
    """Open a sweep or a paper in MLflow, while it runs or after.

    A local store is served on this machine alone, until Ctrl-C; the sweep continues. If the
    store is a server, the command opens the link and returns.
    """
    parsed = load_stored(config, overrides)
    links = recorded_links(parsed)
    uri = tracking_uri(parsed.tracking.uri, str(folder_of(parsed.storage)))
    database = sqlite_path(uri)
    if database is None or any("://" in page for page in links.values()):
        yield _opened(public_address(uri), links, browser)
        return
    if not database.is_file():
        refuse(f"{database}: no MLflow store there yet; a sweep creates it when its trials start")
    from sweeps.execution.cluster import free_port
    from sweeps.tracking.mlflow_server import serving

    port = free_port(USUAL_PORT)
    try:
        with interruptible(), serving(database, port) as server:
            yield _opened(f"http://127.0.0.1:{port}", links, browser, "Ctrl-C ends MLflow.")
            refuse(f"MLflow ended with exit code {server.wait()}", code=1)
    except TrackingError as error:
        refuse(str(error), code=1)
    except KeyboardInterrupt:
        return


def recorded_links(config: SweepConfig) -> dict[str, str]:
    """The pages of a sweep's domains, or of a paper's studies, by domain and label."""
    folders = {domain: paths_for(config).study(domain) for domain in config.domains}
    if is_paper(config):
        folders = {
            f"{kind}, {domain}": study_paths(config, kind).study(domain)
            for kind in config.study.paper
            for domain in config.domains
        }
    return by_name({name: saved_links(folder) for name, folder in folders.items()})


def seen_in(links: Mapping[str, str], folder: Path) -> list[str]:
    """Lines that say how to see the sweep in ``folder`` in MLflow; none without links."""
    lines = [f"{label}:\n  {way}" for label, way in ways_to(links, folder).items()]
    return [*lines, SWITCH] if lines else []


def _opened(
    address: str, links: Mapping[str, str], browser: bool, note: str = ""
) -> Answer[MlflowPages]:
    """The pages at a server, of which the first is opened."""
    found = links or {"experiments": EXPERIMENTS_PAGE}
    pages = {label: urljoin(address, page) for label, page in found.items()}
    if browser and _has_display():
        webbrowser.open(next(iter(pages.values())))
    lines = [f"{label}:\n  {page}" for label, page in pages.items()]
    return Answer(MlflowPages(links=pages), [*lines, SWITCH, *filter(None, [note])])


def _has_display() -> bool:
    """Whether a browser has a window; without one, Python would open a text browser here."""
    is_desktop = sys.platform in ("darwin", "win32")
    return is_desktop or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
