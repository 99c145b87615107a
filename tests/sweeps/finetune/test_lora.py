"""LoRA: equal to peft's, merged without loss, resumed bit for bit, and small."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import torch.distributed as dist
from pydantic import ValidationError
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from sweeps.finetune.adapter import add_adapter, check_method, merged_state, save_adapter
from sweeps.finetune.checkpoint import SHARDS, STATE, saved
from sweeps.finetune.finetune_config import FinetuneConfig, ModelConfig
from sweeps.finetune.loop import finetune
from sweeps.finetune.memory_check import adapter_parameters, memory_need
from sweeps.finetune.method_options import AdapterConfig, MethodConfig
from sweeps.finetune.model_facts import ModelError
from tests.sweeps.finetune.beside_the_trainer import SETTINGS, train_both
from tests.sweeps.finetune.processes import run_ranks
from tests.sweeps.finetune.tiny import (
    Killed,
    MemoryReporter,
    assert_equal,
    config,
    largest_difference,
    parameters,
)

IDS = torch.arange(4, 20)[None]


def lora(world: Path, options: dict[str, Any] | None = None, **changes: Any) -> FinetuneConfig:
    return config(
        world, method={"name": "lora", "lora": {"rank": 4, **(options or {})}}, **changes
    )


@pytest.mark.filterwarnings("ignore:.*pin_memory.*")
@pytest.mark.parametrize("rslora", [False, True])
def test_it_learns_what_peft_learns_under_transformers_trainer(
    world: Path, tmp_path: Path, rslora: bool
) -> None:
    # AdamW turns the rounding of tiny gradients into steps as large as the learning rate.
    settings = lora(world, {"rslora": rslora}, learning_rate=1e-3, **SETTINGS)
    ours, weights, losses, model = train_both(settings, tmp_path / "ours")
    assert ours == pytest.approx(losses, abs=1e-5)
    merged = dict(model.merge_and_unload().named_parameters())
    assert largest_difference(weights, merged) < 1e-5
    assert largest_difference(parameters(world / "model"), merged) > 1e-3


def trained(model: Any, options: AdapterConfig) -> Any:
    """The model with an adapter whose matrices are not zero."""
    add_adapter(model, options, seed=3)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("changes", [{}, {"rslora": True, "dropout": 0.5}, {"targets": None}])
def test_merged_adapted_and_saved_have_the_same_logits(
    world: Path, tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    base = world / "model"
    if kind == "gpt2":  # its layers hold their matrices transposed
        base = tmp_path / "gpt2"
        torch.manual_seed(1)
        facts = GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=32, bos_token_id=1)
        GPT2LMHeadModel(facts).save_pretrained(base)
    targets = ("c_attn", "mlp.c_proj") if kind == "gpt2" else ("q_proj", "mlp.down_proj")
    options = AdapterConfig.model_validate({"rank": 3, "targets": targets, **changes})
    model = trained(AutoModelForCausalLM.from_pretrained(base), options)
    state = model.state_dict()
    plain = AutoModelForCausalLM.from_pretrained(base)
    before = plain(IDS).logits
    plain.load_state_dict(merged_state(model, state))
    adapted = model(IDS).logits
    assert (plain(IDS).logits - adapted).abs().max() < 1e-5
    assert (before - adapted).abs().max() > 1e-2
    save_adapter(model, tmp_path / "adapter", state)
    theirs = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "adapter")
    )
    assert torch.equal(theirs(IDS).logits, adapted)


def test_an_adapter_of_a_bfloat16_model_is_float32(world: Path, tmp_path: Path) -> None:
    model = {"path": str(world / "model"), "dtype": "bfloat16"}
    result = finetune(lora(world, model=model), tmp_path / "run", MemoryReporter())
    adapter, merged = (
        {tensor.dtype for tensor in load_file(tmp_path / "run" / "model" / name).values()}
        for name in ("adapter/adapter_model.safetensors", "model.safetensors")
    )
    assert (adapter, merged) == ({torch.float32}, {torch.bfloat16})
    assert result.metrics["cost/trained_share"] < 0.2


def test_a_resumed_run_is_bit_equal_and_its_checkpoint_holds_the_adapter_alone(
    world: Path, tmp_path: Path
) -> None:
    settings = lora(world, {"dropout": 0.3}, checkpoint_updates=1)
    whole = finetune(settings, tmp_path / "whole", MemoryReporter())
    with pytest.raises(Killed):
        finetune(settings, tmp_path / "killed", MemoryReporter(die_at_step=4))
    [place] = saved(tmp_path / "killed")
    state = torch.load(place / STATE, weights_only=True)
    assert state["model"]
    assert all(".lora_" in name for name in state["model"])
    resumed = finetune(settings, tmp_path / "killed", MemoryReporter())
    assert_equal(parameters(resumed.model_folder), parameters(whole.model_folder))
    assert resumed.score == whole.score
    other = lora(world, {"dropout": 0.3}, checkpoint_updates=1, seed=1)
    differs = finetune(other, tmp_path / "other", MemoryReporter())
    assert differs.score != whole.score


GLOBAL = SETTINGS["batch"]


def train(world: Path, folder: Path, parallel: str) -> None:
    """On one rank: a run, and one with dropout that dies and goes on."""
    model = {"path": str(world / "model"), "dtype": "float64"}
    finetune(
        lora(world, batch=GLOBAL, parallel=parallel, model=model), folder / "run", MemoryReporter()
    )
    often = lora(world, {"dropout": 0.3}, batch=GLOBAL, parallel=parallel, checkpoint_updates=1)
    finetune(often, folder / "whole", MemoryReporter())
    with pytest.raises(Killed):
        finetune(often, folder / "killed", MemoryReporter(die_at_step=4))
    dist.barrier()
    if parallel == "fsdp":
        [place] = saved(folder / "killed")
        names = FileSystemReader(place / SHARDS).read_metadata().state_dict_metadata
        assert all(".lora_" in name for name in names if name.startswith("model."))
    reporter = MemoryReporter()
    finetune(often, folder / "killed", reporter)
    assert sorted(reporter.steps) == [4, 5, 6]
    if dist.get_rank() == 0:
        (folder / "losses.json").write_text(json.dumps(reporter.losses()))


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_workers_equal_one_and_resume_bit_for_bit(
    world: Path, tmp_path: Path, parallel: str
) -> None:
    run_ranks(train, 2, tmp_path, world, tmp_path, parallel)
    model = {"path": str(world / "model"), "dtype": "float64"}
    one = finetune(lora(world, batch=GLOBAL, model=model), tmp_path / "one", MemoryReporter())
    both = parameters(tmp_path / "run" / "model")
    assert largest_difference(both, parameters(one.model_folder)) < 1e-6
    whole, killed = (parameters(tmp_path / name / "model") for name in ("whole", "killed"))
    assert_equal(whole, killed)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (("q_porj",), "no linear layer 'q_porj' (did you mean 'q_proj'?)"),
        (("q_proj", "attn"), "no linear layer 'attn' (expected one of: down_proj, gate_proj"),
        (("lm_head",), "'lm_head' is the output layer"),
        (("roj",), "no linear layer 'roj'"),
    ],
)
def test_a_target_that_the_model_does_not_have_is_named(
    world: Path, targets: tuple[str, ...], said: str
) -> None:
    model = AutoModelForCausalLM.from_pretrained(world / "model")
    with pytest.raises(ModelError) as raised:
        add_adapter(model, AdapterConfig(targets=targets), seed=0)
    assert f"method.lora.targets: {said}" in str(raised.value)


def test_what_it_could_not_train_is_said_before_the_model_is_loaded(world: Path) -> None:
    path, misspelt = str(world / "model"), AdapterConfig(targets=("q_prj",))
    with pytest.raises(ModelError, match=r"no linear layer 'q_prj' \(did you mean 'q_proj'"):
        check_method(MethodConfig(name="lora", lora=misspelt), ModelConfig(path=path))
    added = ModelConfig(path=path, added_tokens=("<call>",))
    check_method(MethodConfig(name="sft"), added)
    with pytest.raises(ModelError, match=r"model\.added_tokens: method 'lora' freezes the embed"):
        check_method(MethodConfig(name="lora"), added)


def test_without_peft_a_sentence_tells_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    method, model = MethodConfig(name="lora"), ModelConfig(path="model")
    check_method(method, model)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "sweeps.finetune.adapter.find_spec", lambda name: None if name == "peft" else find(name)
    )
    with pytest.raises(ModelError, match="pip install 'peft"):
        check_method(method, model)
    check_method(MethodConfig(name="sft"), model)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": "sft", "lora": {}}, "method.lora is required by method.name 'lora', and only"),
        ({"name": "lora", "mask_ratio": 0.5}, "'lora' masks nothing, expected mask_ratio 0"),
        ({"name": "lora", "lora": {"rank": 0}}, "greater than or equal to 1"),
        ({"name": "lora", "lora": {"dropout": 1.0}}, "less than 1"),
        ({"name": "lora", "lora": {"targets": []}}, "at least 1 item"),
        ({"name": "lora", "lora": {"r": 8}}, "Extra inputs"),
        ({"name": "lora", "lora": []}, "valid dictionary"),
    ],
)
def test_settings_are_checked(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        MethodConfig.model_validate(values)


def test_its_settings_have_one_form() -> None:
    bare = MethodConfig(name="lora")
    assert bare == MethodConfig.model_validate({"name": "lora", "lora": {}})
    assert bare.lora == AdapterConfig()


@pytest.mark.parametrize("options", [{}, {"targets": ["q_proj", "mlp.up_proj"]}])
def test_memory_counts_gradients_and_moments_of_the_adapter(
    world: Path, options: dict[str, Any]
) -> None:
    settings = lora(world, options)
    model = AutoModelForCausalLM.from_pretrained(world / "model")
    assert settings.method.lora is not None
    add_adapter(model, settings.method.lora, seed=0)
    added = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert adapter_parameters(settings.model, settings.method) == added
    assert adapter_parameters(settings.model, MethodConfig(name="sft")) == 0
    need = memory_need(settings, {}, 10**6, 1, "cpu", added)
    assert (need.weights, need.gradients) == (4 * (10**6 + added), 4 * added)
    assert need.optimizer == 8 * added
