"""Run the checks of ``doctor`` on each node of a cluster, as a Ray task."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from sweeps.cli import doctor_checks as checks
from sweeps.cli.doctor_checks import Finding
from sweeps.execution import shared_storage
from sweeps.finetune.disk import free_disk
from sweeps.finetune.memory import free_memory

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
class Answer:
    """What a node reports: its findings, what it saw in the storage, and its clock (Unix)."""

    findings: list[Finding]
    storage: str
    clock: float


def look(question: Question) -> Answer:
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
    return Answer(findings, seen, time.time())


def judge(question: Question, found: Answer, sent: float, received: float) -> list[Finding]:
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
        answer: Answer = ray.get(reference, timeout=ANSWER_SECONDS)
    except Exception as error:  # any failure on a node is that node's finding
        said = f"did not respond: {' '.join(str(error).split())[-300:]}"
        fix = "ray status; submit with: ray job submit --working-dir . -- python -m sweeps doctor"
        return [Finding("node", False, said, fix)]
    return judge(question, answer, sent, time.time())


def amounts(node: dict[str, Any]) -> str:
    """The CPUs, GPUs and accelerators that a node offers."""
    kinds = [
        f"{amount:g} {name}"
        for name, amount in sorted(node["Resources"].items())
        if amount and (name in ("CPU", "GPU") or name.startswith("accelerator_type"))
    ]
    return ", ".join(kinds) or "no CPU, no GPU"
