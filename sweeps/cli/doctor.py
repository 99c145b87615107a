"""``doctor``: check that this machine and every cluster node have what a sweep needs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, final

import typer

import sweeps
from sweeps.cli import doctor_checks as checks
from sweeps.cli.answer import Answer, Problem
from sweeps.cli.arguments import Overrides
from sweeps.cli.doctor_checks import Finding
from sweeps.config.load import load_config
from sweeps.config.sweep_config import SweepConfig
from sweeps.execution import shared_storage
from sweeps.finetune.disk_check import free_disk
from sweeps.finetune.memory_check import free_memory
from sweeps.storage.address import cluster_address, folder_of, is_address
from sweeps.tracking.mlflow_store import tracking_uri

ANSWER_SECONDS = 90.0
"""A node's first task starts a process and imports torch."""


@final
@dataclass(frozen=True)
class Question:
    """What a node has to check. ``tracker``: an address, or "" for a file that only the driver
    uses; ``word``: the content of the probe file that the node must find in the storage;
    ``versions``: the driver's."""

    storage: str
    tracker: str
    word: str
    node: str
    versions: dict[str, str]


@final
@dataclass(frozen=True)
class Reply:
    """What a node reports: its findings, what it saw in the storage, and its clock (Unix)."""

    findings: list[Finding]
    storage: str
    clock: float


def look(question: Question) -> Reply:
    """Check the machine that runs this process."""
    disk = Path("/tmp")
    findings = [
        checks.check_same(question.versions, checks.versions()),
        checks.check_gpus(gpus := checks.gpus(), 0, checks.driver_sees_gpus()),
        *checks.check_masks(gpus),
        checks.check_sandbox(checks.sandbox_level()),
        checks.check_disk(free_disk(disk), disk),
        checks.check_memory(free_memory()),
    ]
    if uri := question.tracker:
        findings.append(checks.check_tracker(uri, checks.tracker_problem(uri)))
    seen = shared_storage.answer(question.storage, question.word, question.node)
    return Reply(findings, seen, time.time())


def judge(question: Question, found: Reply, sent: float, received: float) -> list[Finding]:
    """A node's findings with those that need the driver's view: storage and clock."""
    return [
        *found.findings,
        checks.check_shared(question.storage, question.word, question.node, found.storage),
        checks.check_clock(sent, found.clock, received),
    ]


def check_cluster(shared: str, tracker: str) -> dict[str, list[Finding]]:
    """Run a task on every live node of the connected cluster, each in its own worker process;
    findings by node. A node or a storage that does not respond is a finding too."""
    found: dict[str, list[Finding]] = {}
    try:
        with shared_storage.probe(shared) as word:
            _ask_nodes(shared, tracker, word, found)
    except OSError as error:
        fix = shared_storage.remedy(shared)
        found["the cluster"] = [Finding("storage", False, str(error), fix)]
    return found


def _ask_nodes(shared: str, tracker: str, word: str, found: dict[str, list[Finding]]) -> None:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here, asked = checks.versions(), []
    # The head may offer no CPU, and every node must be checked: request none, pin to the node.
    task = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(look)
    for node in (each for each in ray.nodes() if each["Alive"]):
        question = Question(shared, tracker, word, node["NodeID"][:12], here)
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        reference = task.options(scheduling_strategy=place).remote(question)
        asked.append((node, question, reference, time.time()))
    for node, question, reference, sent in asked:
        name = f"{node['NodeManagerAddress']} ({amounts(node)})"
        found[name] = _heard(question, reference, sent)


def _heard(question: Question, reference: Any, sent: float) -> list[Finding]:
    import ray

    try:
        reply: Reply = ray.get(reference, timeout=ANSWER_SECONDS)
    except Exception as error:  # any failure on a node is that node's finding
        said = f"did not respond: {' '.join(str(error).split())[-300:]}"
        fix = "ray status; submit with: ray job submit --working-dir . -- python -m sweeps doctor"
        return [Finding("node", False, said, fix)]
    return judge(question, reply, sent, time.time())


def amounts(node: dict[str, Any]) -> str:
    """The CPUs, GPUs and accelerators that a node offers."""
    kinds = [
        f"{amount:g} {name}"
        for name, amount in sorted(node["Resources"].items())
        if amount and (name in ("CPU", "GPU") or name.startswith("accelerator_type"))
    ]
    return ", ".join(kinds) or "no CPU, no GPU"


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
