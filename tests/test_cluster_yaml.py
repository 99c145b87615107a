"""cluster.yaml holds what Ray can check of it without calling AWS, and our own rules."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """As the first half of `ray up` makes it: Ray's own defaults filled in."""
    return prepare_config(copy.deepcopy(config))


def test_ray_accepts_it(prepared: dict[str, Any]) -> None:
    validate_config(prepared)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("no_such_key",), 1),
        (("head_node_type",), "head.tpu"),
        (("available_node_types", "worker.gpu", "resources", "GPU"), "four"),
        (("available_node_types", "worker.gpu", "min_workers"), 99),
    ],
)
def test_the_check_sees_mistakes(
    config: dict[str, Any], path: tuple[str, ...], value: Any
) -> None:
    broken = copy.deepcopy(config)
    part = broken
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    with pytest.raises((ValidationError, ValueError)):
        validate_config(prepare_config(broken))


def test_head_has_no_gpu_and_workers_come_on_demand(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    head = types[config["head_node_type"]]
    assert "GPU" not in head["resources"]
    assert head["max_workers"] == 0
    workers = [kind for name, kind in types.items() if name != config["head_node_type"]]
    assert workers
    for kind in workers:
        assert kind["resources"]["GPU"] >= 1
        assert kind["min_workers"] == 0 < kind["max_workers"]
    assert config["idle_timeout_minutes"] > 0


def test_nodes_install_the_pinned_set(config: dict[str, Any]) -> None:
    commands = "\n".join(config["setup_commands"])
    mounted = config["file_mounts"]
    for name in ("constraints.txt", "pyproject.toml"):
        assert mounted[f"~/gmt-sweep/{name}"] == name
        assert (ROOT / name).is_file()
        assert f"~/gmt-sweep/{name}" in commands
    assert "ray-wheels" not in commands
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert {"ray", "torch"} <= {pin.partition("==")[0] for pin in pins}


def test_pins_are_exact_and_cover_what_is_declared() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all("==" in pin and "+" not in pin for pin in pins)
    names = {pin.partition("==")[0].lower().replace("_", "-") for pin in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    declared = list(project["project"]["dependencies"])
    for name, group in project["project"]["optional-dependencies"].items():
        if name not in ("gpu", "vllm"):  # not tested here: they want a GPU
            declared += group
    declared += project["dependency-groups"]["dev"] + project["build-system"]["requires"]
    assert {line.partition(">=")[0].partition("[")[0].lower() for line in declared} <= names
