"""All checks: of the machine that a sweep is driven from, and of every node of its cluster.

``doctor``: is everything there that a sweep needs, on this machine and on every node?
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import sweeps
from sweeps.cli import doctor_machine, doctor_services, doctor_storage
from sweeps.cli.doctor_machine import Finding
from sweeps.cli.doctor_services import check_installed, check_shadowed, read_pins, versions
from sweeps.config.sweep_config import SweepConfig
from sweeps.storage.address import folder_of, is_address

if TYPE_CHECKING:
    from sweeps.cli.doctor_machine import Finding


Findings = dict[str, list[Finding]]
DRIVER = "this machine"


def examine(config: str | None, overrides: Sequence[str], joined: bool) -> Findings:
    """Findings by machine, the driver's own first. ``config``: a sweep's file, or None for what
    holds for all sweeps; ``joined``: ask every node of the cluster of ``RAY_ADDRESS`` too.

    Raises:
        UserError: the configuration is wrong, or the cluster cannot be joined.
    """
    from sweeps.config.load import load_config
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
        doctor_machine.check_gpus(
            doctor_machine.gpus(), wanted, doctor_machine.driver_sees_gpus()
        ),
        doctor_storage.check_writable(shared),
        doctor_machine.check_disk(doctor_machine.free_disk(folder), folder),
        doctor_machine.check_memory(doctor_machine.free_memory()),
        doctor_services.check_sandbox(doctor_services.sandbox_level()),
    ]
    if uri:
        findings.append(_tracker(folder, uri))
    if Path("pyproject.toml").is_file() and not joined:
        findings.append(doctor_services.check_shipped(doctor_services.shipped_files(Path.cwd())))
    return findings


def examine_nodes(shared: str, uri: str) -> Findings:
    """Every node of the cluster of ``RAY_ADDRESS``."""
    from sweeps.cli.doctor_nodes import check_cluster
    from sweeps.execution.cluster import connected

    # The pump beside the driver is all that talks to MLflow; a file is nobody else's business.
    tracker = uri if uri.startswith("http") else ""
    with connected("auto", {}):
        return check_cluster(shared, tracker)


def _tracker(folder: Path, uri: str) -> Finding:
    """A store in the storage folder is made there by the first run."""
    if uri.startswith("sqlite") and not folder.exists():
        return Finding("MLflow", True, "a file in the storage, made by the first run")
    return doctor_services.check_tracker(uri, doctor_services.tracker_problem(uri))


MARKS = {True: "ok", False: "FAILED"}


def doctor(
    config: Annotated[
        str | None,
        typer.Argument(metavar="[CONFIG]", help="The sweep's YAML file, for its storage."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="As in `run`.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Check versions, GPUs, storage, disk, memory, sandbox and MLflow; say what mends a failure.

    Inside a cluster's job every node is asked too, by a task that runs there:
    `ray job submit --working-dir . -- python -m sweeps doctor my.yaml`. Starts and changes
    nothing; exits with 1 when something failed.
    """
    from sweeps.cli.arguments import mistakes_explained

    pass
    from sweeps.storage.cluster_address import cluster_address

    with mistakes_explained():
        found = examine(config, overrides or [], bool(cluster_address()))
    if as_json:
        print(json.dumps({place: [asdict(f) for f in each] for place, each in found.items()}))
    else:
        for place, findings in found.items():
            _print(place, findings)
    if not all(finding.ok for findings in found.values() for finding in findings):
        raise typer.Exit(1)


def _print(place: str, findings: list[Finding]) -> None:
    print(place)
    for finding in findings:
        print(f"  {MARKS[finding.ok]:<6}  {finding.name}: {finding.said}")
        if finding.fix:
            print(f"          {'to fix' if not finding.ok else 'better'}: {finding.fix}")
