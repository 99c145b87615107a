"""Run the checks of ``doctor`` on this machine, or on each node of a cluster as a Ray task."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from sweeps.cli import doctor_machine, doctor_services
from sweeps.cli import doctor_storage as storage
from sweeps.cli.doctor_machine import Finding
from sweeps.cli.doctor_services import check_same, versions
from sweeps.execution import shared_storage
from sweeps.finetune.memory import free_memory

ANSWER_SECONDS = 90.0
"""A node's first task starts a process and imports torch."""


@final
@dataclass(frozen=True)
class Question:
    """What a node has to check. ``tracker``: an address, or "" for a file that only the driver
    uses; ``word``: the content of the probe file that the node must find in the storage."""

    storage: str
    tracker: str
    word: str
    node: str


@final
@dataclass(frozen=True)
class Answer:
    """What a node reports; ``clock`` in Unix seconds, sizes in bytes."""

    host: str
    versions: dict[str, str]
    gpus: list[doctor_machine.Gpu]
    has_gpu: bool
    memory: int
    disk: int
    sandbox: str
    tracker: str
    storage: str
    clock: float


def look(question: Question) -> Answer:
    """Collect the answers on the machine that runs this process."""
    return Answer(
        host=socket.gethostname(),
        versions=versions(),
        gpus=doctor_machine.gpus(),
        has_gpu=doctor_machine.driver_sees_gpus(),
        memory=free_memory(),
        disk=doctor_machine.free_disk(Path("/tmp")),
        sandbox=doctor_services.sandbox_level(),
        tracker=doctor_services.tracker_problem(question.tracker) if question.tracker else "",
        storage=shared_storage.answer(question.storage, question.word, question.node),
        clock=time.time(),
    )


def check_node(
    question: Question, found: Answer, here: dict[str, str], sent: float, received: float
) -> list[Finding]:
    """Turn a node's answer into findings; ``here``: the driver's versions."""
    findings = [
        check_same(here, found.versions),
        doctor_machine.check_gpus(found.gpus, 0, found.has_gpu),
        storage.check_shared(question.storage, question.word, question.node, found.storage),
        doctor_services.check_sandbox(found.sandbox),
        doctor_machine.check_disk(found.disk, Path("/tmp")),
        doctor_machine.check_memory(found.memory),
        doctor_machine.check_clock(sent, found.clock, received),
    ]
    if question.tracker:
        findings.append(doctor_services.check_tracker(question.tracker, found.tracker))
    return findings


def node_kind(node: dict[str, Any]) -> tuple[tuple[str, float], ...]:
    """The node's type: its CPUs, GPUs and accelerators."""
    resources: dict[str, float] = node["Resources"]
    return tuple(
        sorted(
            (name, amount)
            for name, amount in resources.items()
            if name in ("CPU", "GPU") or name.startswith("accelerator_type")
        )
    )


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

    here, asked = versions(), []
    # The head may offer no CPU, and every node must be checked: request none, pin to the node.
    task = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(look)
    for node in (each for each in ray.nodes() if each["Alive"]):
        question = Question(shared, tracker, word, node["NodeID"][:12])
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        reference = task.options(scheduling_strategy=place).remote(question)
        asked.append((node, question, reference, time.time()))
    for node, question, reference, sent in asked:
        name = f"{node['NodeManagerAddress']} ({_amounts(node)})"
        found[name] = _heard(question, reference, here, sent)


def _heard(question: Question, reference: Any, here: dict[str, str], sent: float) -> list[Finding]:
    import ray

    try:
        answer: Answer = ray.get(reference, timeout=ANSWER_SECONDS)
    except Exception as error:  # any failure on a node is that node's finding
        said = f"did not respond: {' '.join(str(error).split())[-300:]}"
        fix = "ray status; submit with: ray job submit --working-dir . -- python -m sweeps doctor"
        return [Finding("node", False, said, fix)]
    return check_node(question, answer, here, sent, time.time())


def _amounts(node: dict[str, Any]) -> str:
    kinds = [f"{amount:g} {name}" for name, amount in node_kind(node) if amount]
    return ", ".join(kinds) or "no CPU, no GPU"
