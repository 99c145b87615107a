"""The folder in which the workers of one machine meet."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

MEET = """
from pathlib import Path
from ray.train.torch.config import _TorchBackend
from sweeps.execution.rendezvous import torch_config

class Group:
    def execute(self, function):
        return [""]

    def execute_single_async(self, index, function, *, init_method):
        assert init_method.startswith("file:///")
        Path(init_method.removeprefix("file://")).touch()

def meet(backend, group, config):
    group.execute_single_async(0, None, init_method="tcp://")

_TorchBackend.on_start = meet
config = torch_config()
for _ in range(2):
    config.backend_cls().on_start(Group(), config)
print(*Path(config.folder).iterdir())
raise KeyboardInterrupt
"""


def test_a_driver_that_ends_leaves_nothing_although_its_workers_were_killed(
    tmp_path: Path, root: Path
) -> None:
    here = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(root)}
    here.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-c", MEET]
    done = subprocess.run(command, env=here, capture_output=True, text=True, check=False)
    places = [Path(place) for place in done.stdout.split()]
    assert len(set(places)) == 2, done.stderr
    assert {place.parent.parent for place in places} == {tmp_path}
    assert list(tmp_path.glob("gmt-rendezvous-*")) == []


def test_on_a_cluster_ray_has_its_own_place(monkeypatch: pytest.MonkeyPatch) -> None:
    from sweeps.execution.rendezvous import TIMEOUT_SECONDS, GroupConfig, torch_config

    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert torch_config() == GroupConfig(timeout_s=TIMEOUT_SECONDS, folder="")


def test_a_node_whose_gpu_cannot_be_used_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from sweeps.execution import rendezvous

    blamed = list[str]()
    queue = SimpleNamespace(blame=SimpleNamespace(remote=blamed.append))
    monkeypatch.setattr(ray, "get_actor", lambda name: queue)
    monkeypatch.setattr(ray, "get", lambda refs: refs)
    group = SimpleNamespace(execute=lambda look: ["", "node-b"])
    with pytest.raises(RuntimeError, match="no CUDA GPUs are available on node-b"):
        rendezvous._check_gpus(group, "queue")
    assert blamed == ["node-b"]
    rendezvous._check_gpus(SimpleNamespace(execute=lambda look: ["", ""]), "queue")

    context = SimpleNamespace(
        get_accelerator_ids=lambda: {"GPU": ["0"]}, get_node_id=lambda: "node-b"
    )
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert rendezvous.node_without_gpu() == "node-b"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert rendezvous.node_without_gpu() == ""
