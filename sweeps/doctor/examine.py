"""All checks: of the machine that a sweep is driven from, and of every node of its cluster."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import sweeps
from sweeps.config import SweepConfig
from sweeps.doctor import machine, services, shipping, storage
from sweeps.doctor.finding import Finding
from sweeps.doctor.versions import check_installed, check_shadowed, read_pins, versions
from sweeps.storage.address import folder_of, is_address

Findings = dict[str, list[Finding]]
DRIVER = "this machine"


def examine(config: str | None, overrides: Sequence[str], joined: bool) -> Findings:
    """Findings by machine, the driver's own first. ``config``: a sweep's file, or None for what
    holds for all sweeps; ``joined``: ask every node of the cluster of ``RAY_ADDRESS`` too.

    Raises:
        UserError: the configuration is wrong, or the cluster cannot be joined.
    """
    from sweeps.folder.load import load_config
    from sweeps.tracking.mlflow_store import tracking_uri

    parsed = None if config is None else load_config(config, overrides)
    shared = "runs" if parsed is None else parsed.storage
    shared = shared if is_address(shared) else str(folder_of(shared))
    uri = "" if parsed is None else tracking_uri(parsed.tracking.uri, str(folder_of(shared)))
    found = {DRIVER: examine_driver(shared, uri, parsed, joined)}
    return found | examine_nodes(shared, uri) if joined else found


def examine_driver(
    shared: Path | str, uri: str, config: SweepConfig | None, joined: bool
) -> list[Finding]:
    """The machine that this process runs on; ``shared``: its storage."""
    folder = folder_of(str(shared))
    pins = read_pins(Path("constraints.txt"))
    loaded = Path(next(iter(sweeps.__path__)))
    # In a cluster the driver sits on the head, which trains nothing.
    wanted = 0.0 if joined or config is None else config.resources.gpus_per_worker
    findings = [
        check_installed(versions(), pins),
        check_shadowed(dict(metadata.packages_distributions()), loaded),
        machine.check_gpus(machine.gpus(), wanted, machine.driver_sees_gpus()),
        storage.check_writable(shared),
        machine.check_disk(machine.free_disk(folder), folder),
        machine.check_memory(machine.free_memory()),
        services.check_sandbox(services.sandbox_level()),
    ]
    if uri:
        findings.append(_tracker(folder, uri))
    if Path("pyproject.toml").is_file() and not joined:
        findings.append(shipping.check_shipped(shipping.shipped_files(Path.cwd())))
    return findings


def examine_nodes(shared: str, uri: str) -> Findings:
    """Every node of the cluster of ``RAY_ADDRESS``."""
    from sweeps.doctor.nodes import check_cluster
    from sweeps.workers.cluster import connected

    # The pump beside the driver is all that talks to MLflow; a file is nobody else's business.
    tracker = uri if uri.startswith("http") else ""
    with connected("auto", {}):
        return check_cluster(shared, tracker)


def _tracker(folder: Path, uri: str) -> Finding:
    """A store in the storage folder is made there by the first run."""
    if uri.startswith("sqlite") and not folder.exists():
        return Finding("MLflow", True, "a file in the storage, made by the first run")
    return services.check_tracker(uri, services.tracker_problem(uri))
