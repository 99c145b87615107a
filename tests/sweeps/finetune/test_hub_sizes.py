"""The size of a model on the hub is known before its weights are downloaded."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import MistralConfig, MistralForCausalLM

from sweeps.finetune.finetune_config import ModelConfig
from sweeps.finetune.model_facts import count_parameters
from tests.stand_in_hub import serving

CLIENT = """
import json, sys
from sweeps.finetune.finetune_config import ModelConfig
from sweeps.finetune.model_facts import count_parameters

found = []
for path, revision in json.loads(sys.argv[1]):
    try:
        found.append(count_parameters(ModelConfig(path=path, revision=revision)))
    except ValueError as error:
        found.append(str(error))
print(json.dumps(found))
"""


def counts(environment: dict[str, str], *models: tuple[str, str | None]) -> list[int | str | None]:
    """The parameters of each model, or the sentence that says why not, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, json.dumps(models)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[int | str | None] = json.loads(done.stdout)
    return found


@pytest.fixture
def hub(world: Path, tmp_path: Path) -> Path:
    """A hub with owner/sharded, whose weights are in two shards, and owner/gated."""
    weights = load_file(world / "model" / "model.safetensors")
    names = sorted(weights)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for repository in ("sharded", "gated"):
        folder = tmp_path / "hub" / "models" / "owner" / repository
        folder.mkdir(parents=True)
        (folder / "config.json").write_text((world / "model" / "config.json").read_text())
        for file, held in shards.items():
            save_file({name: weights[name] for name in held}, folder / file)
        save_file(weights, folder / "consolidated.safetensors")
        places = {name: file for file, held in shards.items() for name in held}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / ".gated").touch()
    return tmp_path / "hub"


def test_weights_are_counted_on_the_hub(world: Path, hub: Path) -> None:
    whole = count_parameters(ModelConfig(path=str(world / "model")))
    wanted = [
        *(("owner/sharded", revision) for revision in (None, "main", "c" * 40)),
        ("owner/sharded", "v9"),
        ("owner/gated", None),
        ("owner/none", None),
    ]
    with serving(hub) as (environment, asked):
        *found, no_revision, gated, none = counts(environment, *wanted)
    assert found == [whole] * 3
    assert "has no revision 'v9'" in str(no_revision)
    assert "is gated: request access, and set HF_TOKEN" in str(gated)
    assert "the hub has no model of that name" in str(none)
    headers = [request for request in asked if request.startswith("GET /large/")]
    assert headers and all(request.endswith(" bytes=0-100000") for request in headers)
    # Without a network, the cached config.json says nothing about the size.
    assert counts(environment, ("owner/sharded", None), ("owner/new", None)) == [None, None]


def test_the_plan_of_a_recipe_knows_seven_billion_parameters(tmp_path: Path, root: Path) -> None:
    """The shapes of Mistral-7B-v0.1 on the hub, in a header without weights."""
    folder = tmp_path / "hub" / "models" / "mistralai" / "Mistral-7B-v0.1"
    folder.mkdir(parents=True)
    facts = MistralConfig(num_key_value_heads=8)  # the rest is its default
    facts.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {n: list(p.shape) for n, p in MistralForCausalLM(facts).named_parameters()}
    header = json.dumps(
        {n: {"dtype": "BF16", "shape": s, "data_offsets": [0, 0]} for n, s in shapes.items()}
    ).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    config = root / "sweeps" / "configs" / "math_mistral7b.yaml"
    with serving(tmp_path / "hub") as (environment, _):
        done = subprocess.run(
            [sys.executable, "-m", "sweeps", "plan", config, f"storage={tmp_path / 'runs'}"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    memory, disk = (
        next(line for line in done.stdout.splitlines() if line.startswith(word))
        for word in ("memory: ", "disk: ")
    )
    assert "37.59 GiB (weights 3.37, gradients 26.98, optimizer 6.74, activations 0.50)" in memory
    # Rank 0 loads the model for all, and each rank writes checkpoints from a copy of its shard.
    assert f"{26.98 + 80.93:.2f} GiB of host memory" in memory
    # Two checkpoints of weights and moments; two models that are kept, one that is written.
    assert "up to 242.80 GiB (161.87 for checkpoints, 80.93 for models)" in disk
