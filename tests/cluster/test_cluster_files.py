"""The cluster files hold what Ray can check of them without a cloud, and our own rules."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator, ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

from sweeps.config.load import load_config
from sweeps.execution.preflight import different_runs
from sweeps.finetune.memory_check import memory_need

ROOT = Path(__file__).resolve().parents[2]
FILES = ("cluster.yaml", "cluster-local.yaml")


def read(name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    return config


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return read("cluster.yaml")


@pytest.mark.parametrize("name", FILES)
def test_ray_accepts_it(name: str) -> None:
    """As the first half of `ray up`, which fills in Ray's own defaults."""
    validate_config(prepare_config(read(name)))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("no_such_key",), 1),
        (("head_node_type",), "head.tpu"),
        (("available_node_types", "worker.24gb.spot", "resources", "GPU"), "four"),
        (("available_node_types", "worker.24gb.spot", "min_workers"), 99),
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


def test_the_nodes_of_a_trial_are_in_one_zone(config: dict[str, Any]) -> None:
    assert re.fullmatch(r"[a-z]+-[a-z]+-\d[a-z]", config["provider"]["availability_zone"])


def test_head_trains_nothing_and_workers_come_on_demand(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    head = types[config["head_node_type"]]
    assert head["resources"] == {"CPU": 0} and head["max_workers"] == 0
    assert head["node_config"]["IamInstanceProfile"] == {"Name": "gmt-sweep-head"}
    workers = {name: kind for name, kind in types.items() if name != config["head_node_type"]}
    for name, kind in workers.items():
        market = kind["node_config"].get("InstanceMarketOptions")
        assert market == ({"MarketType": "spot"} if name.endswith(".spot") else None)
        assert kind["node_config"]["IamInstanceProfile"] == {"Name": "gmt-sweep-worker"}
        assert kind["resources"]["GPU"] >= 1 and kind["min_workers"] == 0
    assert any(kind["max_workers"] for kind in workers.values())
    assert config["idle_timeout_minutes"] > 0
    local = read("cluster-local.yaml")["head_start_ray_commands"][-1]
    assert "--num-cpus=0" in local


def test_every_node_is_closed_tagged_and_encrypted(config: dict[str, Any]) -> None:
    for kind in config["available_node_types"].values():
        node = kind["node_config"]
        # With a group of one's own Ray makes none, which would open SSH to the world.
        assert node["SecurityGroupIds"] and "security_group" not in config["provider"]
        assert node["MetadataOptions"] == {"HttpTokens": "required"}
        assert all(disk["Ebs"]["Encrypted"] for disk in node["BlockDeviceMappings"])
        assert all(disk["Ebs"]["Throughput"] >= 500 for disk in node["BlockDeviceMappings"])
        tagged = {spec["ResourceType"] for spec in node["TagSpecifications"]}
        assert tagged == {"instance", "volume"}
        for spec in node["TagSpecifications"]:
            assert {"project", "owner"} == {tag["Key"] for tag in spec["Tags"]}


GPU_BYTES = {"g5.12xlarge": 22 * 2**30, "p4de.24xlarge": 79 * 2**30}
"""Of one GPU, as torch reports it, or less."""

RECIPES = {  # the node type, the model's parameters, layers and width
    "first_gpu": ("24gb", 134_515_008, 30, 576),
    "math_mistral7b": ("80gb", 7_241_732_096, 32, 4096),
    "code_deepseek6.7b": ("80gb", 6_740_512_768, 32, 4096),
    "general_llama2_7b": ("80gb", 6_738_415_616, 32, 4096),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_recipe_has_nodes_that_hold_it(config: dict[str, Any], recipe: str) -> None:
    size, parameters, layers, width = RECIPES[recipe]
    facts = {"num_hidden_layers": layers, "hidden_size": width}
    sweep = load_config(ROOT / "sweeps" / "configs" / f"{recipe}.yaml")
    workers = sweep.resources.workers
    runs = [run for domain in sweep.domains for run in different_runs(sweep, domain)]
    for market in ("spot", "on_demand"):
        kind = config["available_node_types"][f"worker.{size}.{market}"]
        there = GPU_BYTES[kind["node_config"]["InstanceType"]]
        assert kind["resources"]["GPU"] >= workers
        assert all(memory_need(r, facts, parameters, workers, "cuda").total < there for r in runs)
    pods = read("examples/kuberay/rayjob.yaml")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (pod,) = (group for group in pods if group["groupName"] == f"gpu-{size}")
    limits = pod["template"]["spec"]["containers"][0]["resources"]["limits"]
    there = {"CPU": float(limits["cpu"]), "GPU": float(limits["nvidia.com/gpu"])}
    assert there["GPU"] >= workers
    assert there["CPU"] >= workers * sweep.resources.cpus([there])
    hosts = [memory_need(r, facts, parameters, workers, "cuda").on_machine(workers) for r in runs]
    assert max(hosts) < int(limits["memory"].removesuffix("Gi")) * 2**30


def test_seven_billion_parameters_do_not_fit_four_gpus_of_24_gb() -> None:
    sweep = load_config(ROOT / "sweeps" / "configs" / "math_mistral7b.yaml")
    run = different_runs(sweep, "math")[0].model_copy(update={"reduce_gradients": "micro_batch"})
    need = memory_need(run, {}, RECIPES["math_mistral7b"][1], 4, "cuda")
    assert need.total > GPU_BYTES["g5.12xlarge"]


@pytest.mark.parametrize(
    ("jobs", "connections", "ends"),
    [
        ("[JobDetails(status=<JobStatus.SUCCEEDED: 'SUCCEEDED'>)]", "", True),
        ("[]", "", True),
        ("[JobDetails(status=<JobStatus.RUNNING: 'RUNNING'>)]", "", False),
        ("[]", "0 0 10.0.0.1:22 10.0.0.9:4711", False),
    ],
)
def test_a_head_that_nobody_uses_shuts_down(
    tmp_path: Path, jobs: str, connections: str, ends: bool
) -> None:
    calls = tmp_path / "calls"
    programs = {"ray": f'echo "{jobs}"', "ss": f'echo -n "{connections}"'}
    programs["sudo"] = f'echo "$*" >> {calls}'
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    script = ROOT / "tools" / "cluster" / "idle_shutdown.sh"
    environment = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:/usr/bin:/bin"}
    with contextlib.suppress(subprocess.TimeoutExpired):
        command = ["bash", str(script), "1", "0.2"]
        subprocess.run(command, env=environment, check=True, timeout=20 if ends else 2.5)
    assert calls.exists() == ends
    assert not ends or calls.read_text() == "shutdown -h now\n"


@pytest.mark.parametrize("name", FILES)
def test_ray_asks_for_the_token_and_listens_to_no_stranger(name: str) -> None:
    config = read(name)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for kind in ("head", "worker"):
        start = config[f"{kind}_start_ray_commands"][-1]
        assert ". ~/gmt-sweep/environment.sh;" in start
        assert "0.0.0.0" not in start
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]


@pytest.mark.parametrize("name", FILES)
def test_nodes_install_the_pinned_set(name: str) -> None:
    config = read(name)
    mounted = config["file_mounts"]
    ours = {there: here for there, here in mounted.items() if there.startswith("~/gmt-sweep/")}
    assert {Path(here).name for here in ours.values()} == {Path(there).name for there in ours}
    assert all((ROOT / here).exists() for here in ours.values())
    assert {"evaluators", "gmt_core", "sweeps"} <= set(ours.values())  # for `ray submit`
    commands = config["setup_commands"] + config["head_setup_commands"]
    named = re.findall(r"~/gmt-sweep/[\w.]+", "\n".join(commands))
    assert set(named) <= set(ours)
    assert "ray-wheels" not in "\n".join(commands)
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert {"ray", "torch"} <= {pin.partition("==")[0] for pin in pins}


def test_setting_a_node_up_again_does_nothing(tmp_path: Path) -> None:
    """The second run finds its stamp, installs nothing and changes no file."""
    project, home = tmp_path / "gmt-sweep", tmp_path / "home"
    project.mkdir()
    (home / ".local" / "bin").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    for name in ("pyproject.toml", "constraints.txt"):
        (project / name).write_text("x")
    script = project / "setup_node.sh"
    script.write_text((ROOT / "tools" / "cluster" / "setup_node.sh").read_text())
    calls = tmp_path / "calls"
    own = [tmp_path / "bin" / name for name in ("python3", "sudo")]  # without gcc and bwrap
    for program in (home / ".local" / "bin" / "uv", *own):
        program.write_text(f'#!/bin/sh\necho "$0 $*" >> {calls}\nmkdir -p {home}/env\n')
        program.chmod(0o755)
    for name in (
        "bash",
        "cat",
        "cut",
        "dirname",
        "grep",
        "mkdir",
        "mv",
        "rm",
        "sha256sum",
        "touch",
    ):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or "")
    environment = {"HOME": str(home), "PATH": str(tmp_path / "bin")}

    def set_up() -> int:
        subprocess.run(["bash", str(script)], env=environment, check=True)
        return len(calls.read_text().splitlines())

    first = set_up()
    bashrc = (home / ".bashrc").read_text()
    wanted = " install --no-install-recommends gcc libc6-dev bubblewrap"
    assert calls.read_text().count(wanted) == 1
    image = (ROOT / "tools" / "cluster" / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"apt-get install .*\bgcc libc6-dev\b", image)
    assert first == 6 and bashrc.count("gmt-sweep/environment.sh") == 1
    assert set_up() == first and (home / ".bashrc").read_text() == bashrc
    (project / "constraints.txt").write_text("other pins")
    assert set_up() > first


def test_what_the_head_changes_is_its_own(config: dict[str, Any]) -> None:
    """Nodes with the tag of this cluster, and the workers' role for nothing but nodes."""
    text = (ROOT / "tools" / "cluster" / "iam" / "autoscaler.json").read_text()
    statements = {each["Sid"]: each for each in json.loads(text)["Statement"]}
    ends = statements["TagAndTerminateOwnNodes"]["Condition"]["StringEquals"]
    assert ends == {"ec2:ResourceTag/ray-cluster-name": config["cluster_name"]}
    passes = statements["GiveNodesTheirRole"]
    assert passes["Resource"].endswith(":role/gmt-sweep-worker")
    assert passes["Condition"]["StringEquals"] == {"iam:PassedToService": "ec2.amazonaws.com"}
    assert not [sid for sid, each in statements.items() if "*" in str(each["Action"])]


def test_checkpoints_and_the_cache_of_the_hub_are_on_the_nvme(
    config: dict[str, Any], tmp_path: Path
) -> None:
    assert any("chmod 1777 /opt/dlami/nvme" in line for line in config["worker_setup_commands"])
    text = (ROOT / "tools" / "cluster" / "environment.sh").read_text(encoding="utf-8")
    script = text.replace("nvme=/opt/dlami/nvme", f"nvme={tmp_path}")
    asked = ["bash", "-c", script + "echo $GMT_SWEEP_SCRATCH $HF_HOME"]
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    said = subprocess.run(asked, env=environment, check=True, capture_output=True, text=True)
    assert said.stdout.split() == [f"{tmp_path}/gmt-sweep", f"{tmp_path}/huggingface"]


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


def closed(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    """A JSON schema of an object with these keys and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


TEXT, COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": TEXT}
CONTAINER = closed(
    ("name", "image", "resources"),
    name=TEXT,
    image=TEXT,
    resources=closed(("requests", "limits"), requests=TEXTS, limits=TEXTS),
    volumeMounts={
        "type": "array",
        "items": closed(("name", "mountPath"), name=TEXT, mountPath=TEXT),
    },
)
POD = closed(
    ("spec",),
    spec=closed(
        ("containers",),
        containers={"type": "array", "items": CONTAINER, "minItems": 1},
        volumes={
            "type": "array",
            "items": closed(
                ("name",),
                name=TEXT,
                persistentVolumeClaim=closed(("claimName",), claimName=TEXT),
                emptyDir=closed(medium=TEXT, sizeLimit=TEXT),
            ),
        },
    ),
)
RAY_JOB = closed(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=closed(("name",), name=TEXT, labels=TEXTS),
    spec=closed(
        ("entrypoint", "rayClusterSpec"),
        entrypoint=TEXT,
        shutdownAfterJobFinishes={"type": "boolean"},
        ttlSecondsAfterFinished=COUNT,
        backoffLimit=COUNT,
        rayClusterSpec=closed(
            ("rayVersion", "headGroupSpec"),
            rayVersion=TEXT,
            enableInTreeAutoscaling={"type": "boolean"},
            autoscalerOptions=closed(idleTimeoutSeconds=COUNT),
            authOptions=closed(("mode",), mode={"const": "token"}),
            headGroupSpec=closed(
                ("rayStartParams", "template"), rayStartParams=TEXTS, template=POD
            ),
            workerGroupSpecs={
                "type": "array",
                "items": closed(
                    ("groupName", "rayStartParams", "template"),
                    groupName=TEXT,
                    replicas=COUNT,
                    minReplicas=COUNT,
                    maxReplicas=COUNT,
                    rayStartParams=TEXTS,
                    template=POD,
                ),
            },
        ),
    ),
)
"""What the manifest uses of KubeRay's schema for `ray.io/v1` RayJob, every key spelt as there."""


def test_the_manifest_for_kuberay() -> None:
    job = read("examples/kuberay/rayjob.yaml")
    Draft7Validator(RAY_JOB).validate(job)
    cluster = job["spec"]["rayClusterSpec"]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert f"\nray=={cluster['rayVersion']}\n" in pins
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    config = re.search(r"sweeps run (\S+\.yaml)", job["spec"]["entrypoint"])
    assert config and load_config(ROOT / config[1]).resources.gpus_per_worker == 1
    misspelt = copy.deepcopy(job)
    misspelt["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["minReplica"] = 1
    assert not Draft7Validator(RAY_JOB).is_valid(misspelt)


@pytest.mark.parametrize("name", FILES)
def test_mounted_folders_hold_no_links(name: str) -> None:
    """Ray hashes each file on the head, where what a link points to may be missing."""
    for source in map(ROOT.joinpath, read(name)["file_mounts"].values()):
        assert not [path for path in source.rglob("*") if path.is_symlink()]


def test_gmt_core_has_the_license_of_the_project() -> None:
    """Its own wheel can only hold files of its own folder."""
    assert (ROOT / "gmt_core" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
