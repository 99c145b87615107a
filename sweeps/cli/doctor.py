"""``doctor``: check that this machine and every cluster node have what a sweep needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

import sweeps
from sweeps.cli import doctor_checks as checks
from sweeps.cli.answer import Answer, Problem
from sweeps.cli.arguments import Overrides
from sweeps.cli.doctor_checks import Finding
from sweeps.config.load import load_config
from sweeps.config.sweep_config import SweepConfig
from sweeps.finetune.disk import free_disk
from sweeps.finetune.memory import free_memory
from sweeps.storage.address import cluster_address, folder_of, is_address
from sweeps.tracking.mlflow_store import tracking_uri

Findings = dict[str, list[Finding]]
DRIVER = "this machine"


def examine(config: str | None, overrides: Sequence[str], joined: bool) -> Findings:
    """Findings by machine, the driver's own first. ``config``: a sweep's file, or None for the
    checks common to all sweeps; ``joined``: also check every node of the ``RAY_ADDRESS`` cluster.

    Raises:
        UserError: the configuration is wrong, or the cluster cannot be reached.
    """
    parsed = None if config is None else load_config(config, overrides)
    shared = "runs" if parsed is None else parsed.storage
    shared = shared if is_address(shared) else str(folder_of(shared))
    uri = "" if parsed is None else tracking_uri(parsed.tracking.uri, str(folder_of(shared)))
    found = {DRIVER: examine_driver(shared, uri, parsed, joined)}
    return found | examine_nodes(shared, uri) if joined else found


def examine_driver(
    shared: Path | str, uri: str, config: SweepConfig | None, joined: bool
) -> list[Finding]:
    """Check the machine that runs this process; ``shared``: the sweep's storage."""
    folder = folder_of(str(shared))
    pins, owners = checks.read_pins(Path("constraints.txt")), metadata.packages_distributions()
    # On a cluster the driver runs on the head, which does not train.
    wanted = 0.0 if joined or config is None else config.resources.gpus_per_worker
    findings = [
        checks.check_installed(checks.versions(), pins),
        checks.check_shadowed(dict(owners), Path(next(iter(sweeps.__path__)))),
        checks.check_gpus(gpus := checks.gpus(), wanted, checks.driver_sees_gpus()),
        *checks.check_masks(gpus),
        checks.check_writable(shared),
        checks.check_disk(free_disk(folder), folder),
        checks.check_memory(free_memory()),
        checks.check_sandbox(checks.sandbox_level()),
    ]
    if uri:
        findings.append(_tracker(folder, uri))
    if Path("pyproject.toml").is_file() and not joined:
        findings.append(checks.check_shipped(checks.shipped_files(Path.cwd())))
    return findings


def examine_nodes(shared: str, uri: str) -> Findings:
    """Check every node of the cluster at ``RAY_ADDRESS``."""
    from sweeps.cli.doctor_nodes import check_cluster
    from sweeps.execution.cluster import connected

    # Only the driver's process writes to MLflow, so nodes do not check a local file.
    tracker = uri if uri.startswith("http") else ""
    with connected("auto", {}):
        return check_cluster(shared, tracker)


def _tracker(folder: Path, uri: str) -> Finding:
    """Check the MLflow store; the first run creates a sqlite file in the storage folder."""
    if uri.startswith("sqlite") and not folder.exists():
        return Finding("MLflow", True, "a file in the storage, created by the first run")
    return checks.check_tracker(uri, checks.tracker_problem(uri))


def doctor(
    config: Annotated[
        str | None,
        typer.Argument(metavar="[CONFIG]", help="The sweep's YAML file; names the storage."),
    ] = None,
    overrides: Overrides = None,
) -> Answer[Findings]:
    """Check versions, GPUs, storage, disk, memory, sandbox and MLflow; say how to fix failures.

    As a cluster job it also runs a task on every node:
    `ray job submit --working-dir . -- python -m sweeps doctor my.yaml`. It starts no
    sweep, changes nothing, and exits with 1 if a check failed.
    """
    found = examine(config, overrides or [], bool(cluster_address()))
    failed = [f"{f.name} ({place})" for place, each in found.items() for f in each if not f.ok]
    problem = Problem.of(f"these checks failed: {', '.join(failed)}", 1) if failed else None
    return Answer(found, view(found), problem=problem)


def view(found: Findings) -> Iterator[str]:
    """The findings as lines, below each machine."""
    for place, findings in found.items():
        yield place
        for finding in findings:
            yield f"  {'ok' if finding.ok else 'FAILED':<6}  {finding.name}: {finding.said}"
            if finding.fix:
                yield f"          {'to fix' if not finding.ok else 'better'}: {finding.fix}"
