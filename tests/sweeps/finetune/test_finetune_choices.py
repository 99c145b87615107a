"""What a run may choose: dtype, optimizer, method, recomputation; and what will not fit."""

from __future__ import annotations

import importlib.util
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from pydantic import ValidationError
from safetensors.torch import load_file

from sweeps.finetune import memory_check
from sweeps.finetune.finetune_config import ModelConfig
from sweeps.finetune.loop import finetune
from sweeps.finetune.memory_check import check_memory, memory_need, reduces_each, worker_need
from sweeps.finetune.method_options import MethodConfig
from sweeps.finetune.model import computing_dtype, load_model, save_model, training_dtype
from sweeps.finetune.model_facts import ModelError, count_parameters, read_model_config
from sweeps.finetune.optimizers import OptimizerError, check_optimizer
from sweeps.finetune.reporter import RunResult
from sweeps.finetune.run_costs import Throughput
from tests.sweeps.finetune.tiny import (
    MemoryReporter,
    assert_equal,
    config,
    largest_difference,
    parameters,
)

CPU = torch.device("cpu")
FACTS = {"num_hidden_layers": 2, "hidden_size": 32}


def run(world: Path, folder: Path, **changes: Any) -> tuple[RunResult, MemoryReporter]:
    reporter = MemoryReporter()
    return finetune(config(world, **changes), folder, reporter), reporter


def model_with(world: Path, **options: Any) -> dict[str, Any]:
    return {"path": str(world / "model"), **options}


def test_recomputation_changes_no_bit(world: Path, tmp_path: Path) -> None:
    plain, _ = run(world, tmp_path / "plain")
    again, _ = run(world, tmp_path / "again", model=model_with(world, gradient_checkpointing=True))
    assert_equal(parameters(plain.model_folder), parameters(again.model_folder))


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [("mixed_bfloat16", torch.float32), ("bfloat16", torch.bfloat16), ("float64", torch.float64)],
)
def test_dtypes_learn_and_keep_their_weights(
    world: Path, tmp_path: Path, dtype: str, stored: torch.dtype
) -> None:
    exact, exact_reporter = run(world, tmp_path / "exact")
    result, reporter = run(world, tmp_path / "run", model=model_with(world, dtype=dtype))
    assert reporter.losses() == pytest.approx(exact_reporter.losses(), abs=0.1)
    (file,) = (tmp_path / "run" / "model").glob("*.safetensors")
    assert {tensor.dtype for tensor in load_file(file).values()} == {stored}
    assert result.state == exact.state == "finished"


def test_auto_is_float32_and_on_accelerators_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    assert training_dtype("auto") == torch.float32
    assert computing_dtype("auto", CPU) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for supported, expected in ((True, torch.bfloat16), (False, None)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: supported)  # noqa: B023
        assert computing_dtype("auto", gpu) == expected
    assert computing_dtype("mixed_bfloat16", gpu) == torch.bfloat16
    assert computing_dtype("bfloat16", gpu) is None


def test_a_run_in_pure_bfloat16_warns(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(world, tmp_path / "mixed", model=model_with(world, dtype="mixed_bfloat16"), examples=8)
    assert "rounding" not in caplog.text
    run(world, tmp_path / "pure", model=model_with(world, dtype="bfloat16"), examples=8)
    assert "lose updates to rounding" in caplog.text and "use mixed_bfloat16" in caplog.text


def test_a_large_model_is_saved_in_shards(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = load_model(ModelConfig(path=str(world / "model")), CPU)
    monkeypatch.setattr("sweeps.finetune.model.SHARD", "10KB")
    save_model(model, tokenizer, tmp_path / "model", model.state_dict())
    assert len(list((tmp_path / "model").glob("model-*.safetensors"))) > 1
    assert_equal(parameters(tmp_path / "model"), parameters(world / "model"))


@pytest.mark.slow
@pytest.mark.timeout(900)  # each new shape is compiled anew by a C++ compiler
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.* is deprecated:DeprecationWarning")
# Dynamo looks at `.grad` of the blocks' inputs, and torch warns of it.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not:UserWarning")
def test_a_compiled_run_is_the_same_run(world: Path, tmp_path: Path) -> None:
    short = {"examples": 16}
    _, plain = run(world, tmp_path / "plain", **short)
    model = model_with(world, compile=True)
    _, compiled = run(world, tmp_path / "compiled", model=model, **short)
    assert len(plain.losses()) == 2
    assert compiled.losses() == pytest.approx(plain.losses(), abs=1e-4)


def test_adafactor_learns_and_resumes(world: Path, tmp_path: Path) -> None:
    _, reporter = run(world, tmp_path / "run", optimizer="adafactor", learning_rate=0.05)
    assert reporter.losses()[-1] < reporter.losses()[0] - 0.1


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed"
)
def test_eight_bits_need_a_library(world: Path, tmp_path: Path) -> None:
    with pytest.raises(OptimizerError, match="bitsandbytes, which is not installed"):
        run(world, tmp_path / "run", optimizer="adamw_8bit")
    check_optimizer("adamw")


@pytest.mark.skipif(
    importlib.util.find_spec("flash_attn") is not None, reason="flash-attn is installed"
)
def test_flash_attention_needs_a_library(world: Path) -> None:
    model = ModelConfig(path=str(world / "model"), attention="flash_attention_2")
    with pytest.raises(ModelError, match="requires flash-attn, which is not installed"):
        load_model(model, CPU)


def test_code_of_a_model_runs_only_where_it_is_trusted(world: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(world / "model", tmp_path / "model")
    (folder / "modeling_own.py").write_text("raise AssertionError('this code was run')")
    facts = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "modeling_own.C", "AutoModelForCausalLM": "modeling_own.M"}
    own = {"model_type": "own", "auto_map": names}
    (folder / "config.json").write_text(json.dumps({**facts, **own}))
    with pytest.raises(ModelError, match="trust_remote_code"):
        load_model(ModelConfig(path=str(folder)), CPU)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (GatedRepoError, "the model is gated: request access, and set HF_TOKEN"),
        (RepositoryNotFoundError, r"no model of that name \(or it is private: set HF_TOKEN\)"),
        (RevisionNotFoundError, "the model has no revision 'v9'"),
    ],
)
def test_what_the_hub_refuses_is_said(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], said: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error.__new__(error)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(ModelError, match=f"model.path some/model: .*{said}"):
        read_model_config(ModelConfig(path="some/model", revision="v9"))


def test_half_fine_tuning_freezes_half_of_the_blocks(world: Path, tmp_path: Path) -> None:
    result, reporter = run(world, tmp_path / "run", method={"name": "hft"})
    before, after = parameters(world / "model"), parameters(result.model_folder)
    frozen = [name for name in before if torch.equal(before[name], after[name])]
    in_blocks = [name for name in before if ".layers." in name]
    assert set(frozen) < set(in_blocks)
    assert 0.4 < len(frozen) / len(in_blocks) < 0.6
    assert reporter.losses()[-1] < reporter.losses()[0]


@pytest.mark.parametrize("name", ["hft", "sft", "drop"])
def test_a_method_without_a_ratio_takes_none(name: str) -> None:
    with pytest.raises(ValidationError, match=rf"'{name}' .*expected mask_ratio 0"):
        MethodConfig(name=name, mask_ratio=0.2)


def test_drop_takes_back_a_share_of_what_a_run_changed(world: Path, tmp_path: Path) -> None:
    parent, _ = run(world, tmp_path / "sft", method={"name": "sft"})
    base, tuned = parameters(world / "model"), parameters(parent.model_folder)

    def dropped(ratio: float, **options: Any) -> tuple[RunResult, MemoryReporter]:
        drop = {"tuned": str(tmp_path / "sft" / "model"), "rate": ratio, **options}
        folder = tmp_path / f"drop{ratio}{options.get('rule')}"
        return run(world, folder, method={"name": "drop", "drop": drop})

    whole, reporter = dropped(0.0)
    assert_equal(parameters(whole.model_folder), tuned)
    assert whole.score == parent.score
    assert reporter.steps == {}
    assert [check.done for check in reporter.checks] == [True]
    half, _ = dropped(0.5)
    for name, value in parameters(half.model_folder).items():
        change = (tuned[name] - base[name]).abs().flatten()
        kept = change.numel() - change.numel() // 2
        threshold = change.sort(descending=True).values[kept - 1]
        naive = torch.where((tuned[name] - base[name]).abs() >= threshold, tuned[name], base[name])
        assert torch.equal(value, naive)
    salient, _ = dropped(0.9, rule="salient")
    assert largest_difference(parameters(salient.model_folder), tuned) > largest_difference(
        parameters(half.model_folder), tuned
    )
    again, _ = dropped(0.5)
    assert again == half


def test_drop_needs_a_finished_parent(world: Path, tmp_path: Path) -> None:
    drop = {"tuned": str(tmp_path / "none"), "rate": 0.5}
    with pytest.raises(ModelError, match="expected the model folder of a finished SFT run"):
        run(world, tmp_path / "run", method={"name": "drop", "drop": drop})
    with pytest.raises(ValidationError, match=r"method\.drop is required by"):
        MethodConfig(name="drop")
    with pytest.raises(ValidationError, match=r"method\.drop is required by"):
        MethodConfig.model_validate({"name": "sft", "drop": drop})


def test_the_parameters_are_counted_without_loading(world: Path, tmp_path: Path) -> None:
    model, _ = load_model(ModelConfig(path=str(world / "model")), CPU)
    whole = sum(parameter.numel() for parameter in model.parameters())
    assert count_parameters(ModelConfig(path=str(world / "model"))) == whole
    there = ModelConfig(path=str(tmp_path))
    with pytest.raises(ModelError, match="has no config"):
        count_parameters(there)
    shutil.copy(world / "model" / "config.json", tmp_path)
    assert count_parameters(there) is None
    (tmp_path / "model.safetensors").write_bytes(b"none")
    with pytest.raises(ModelError, match="expected a safetensors file, found none"):
        count_parameters(there)


def test_a_shard_that_is_missing_is_named(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    load_model(ModelConfig(path=str(world / "model")), CPU)[0].save_pretrained(
        folder, max_shard_size="10KB"
    )
    shards = sorted(folder.glob("model-*.safetensors"))
    shutil.copy(shards[0], folder / "consolidated.safetensors")  # is not read
    model = ModelConfig(path=str(folder))
    assert len(shards) > 1
    assert count_parameters(model) == count_parameters(ModelConfig(path=str(world / "model")))
    shards[1].unlink()
    with pytest.raises(ModelError, match=f"names {shards[1].name}, which is missing"):
        count_parameters(model)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": []}')
    with pytest.raises(ModelError, match="expected an object 'weight_map'"):
        count_parameters(model)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (4, 4, 8)),
        ({"optimizer": "adafactor"}, (4, 4, 0)),
        ({"optimizer": "adamw_8bit"}, (4, 4, 2)),
        # Two micro-batches, which FSDP reduces at the end: the gradient is whole until then.
        ({"parallel": "fsdp"}, (2, 4, 4)),
        ({"parallel": "fsdp", "accumulation_interval": 1}, (2, 2, 4)),
        ({"parallel": "fsdp", "reduce_gradients": "micro_batch"}, (2, 2, 4)),
    ],
)
def test_what_a_worker_needs(
    world: Path, changes: dict[str, Any], expected: tuple[int, ...]
) -> None:
    batch = {"fixed": "mini_batch", "mini_batch": 4}
    need = memory_need(config(world, batch=batch, **changes), FACTS, 10**6, 2, "cpu")
    assert (need.weights, need.gradients, need.optimizer) == tuple(10**6 * e for e in expected)
    assert need.activations == 4 * 32 * 34 * 2 * 32 * 2
    assert need.host == need.total
    waiting = config(world, batch=batch, checkpoint_async=False, **changes)
    gpu = memory_need(waiting, FACTS, 10**6, 2, "cuda")
    # With FSDP, one worker loads the model for all, and each saves its shards.
    loads, saves = (1, 2) if changes.get("parallel") == "fsdp" else (2, 1)
    assert gpu.on_machine(2) == loads * 4 * 10**6
    assert gpu.activations == need.activations // 2
    background = config(world, batch=batch, **changes)  # the default on accelerators
    copied = memory_need(background, FACTS, 10**6, 2, "cuda").on_machine(2) - gpu.on_machine(2)
    assert copied == 4 * 10**6 + saves * need.optimizer


def test_what_does_not_fit_is_named_before_anything_is_loaded(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "huge"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**FACTS, "max_position_embeddings": 64}))
    header = json.dumps({"w": {"dtype": "BF16", "shape": [70, 10**9], "data_offsets": [0, 0]}})
    content = struct.pack("<Q", len(header)) + header.encode()
    (folder / "model.safetensors").write_bytes(content)
    huge = config(world, model={"path": str(folder)})
    with pytest.raises(ModelError, match=r"training needs at least 1043\.\d+ GiB \(weights 260\."):
        finetune(huge, tmp_path / "run", MemoryReporter())
    monkeypatch.setattr(memory_check, "_available", lambda _: 2**50)
    with pytest.raises(ModelError, match=r"3 workers on this machine need at least 3129\.\d+ GiB"):
        check_memory(huge, 1, "cpu", neighbours=3)
    monkeypatch.setattr(memory_check, "machine_memory", lambda: 2**50)
    check_memory(huge, 1, "cpu")


def test_an_optimizer_that_cannot_be_sharded_is_refused(world: Path) -> None:
    with pytest.raises(ValidationError, match="expected optimizer 'adamw' or 'adafactor', or"):
        config(world, parallel="fsdp", optimizer="adamw_8bit")


def test_gradients_are_reduced_more_often_only_where_whole_ones_do_not_fit(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def need(memory_bytes: int, **changes: Any) -> tuple[bool, int]:
        monkeypatch.setattr(memory_check, "_available", lambda _: memory_bytes)
        run = config(world, parallel="fsdp", **changes)
        found = worker_need(run, 4, "cpu")
        assert found is not None
        return reduces_each(run, 4, "cpu"), found.gradients

    _, whole = need(2**50, reduce_gradients="update")
    assert need(0, reduce_gradients="update") == (False, whole)
    assert need(2**50) == (False, whole)
    assert need(0) == need(2**50, reduce_gradients="micro_batch") == (True, whole // 4)


def test_flops_are_those_of_the_matrix_products(world: Path) -> None:
    model, _ = load_model(ModelConfig(path=str(world / "model")), CPU)
    rates = Throughput.of(model, torch.float32, CPU, 2)
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    head = model.get_output_embeddings()
    products = sum(m.weight.numel() for m in linear if m is not head)
    norms = sum(p.numel() for n, p in model.named_parameters() if "norm" in n)
    assert rates.body == products + norms
    assert rates.head == head.weight.numel()
    assert rates.attention == 2 * 32
    expected = 6 * (rates.body * 30 + rates.head * 5 + rates.attention * (100 + 400))
    assert rates.flops([10, 20], 5) == expected
    metrics = rates.metrics([10, 20], 5, 0.5)
    assert metrics["train/tokens_per_second"] == 60
    assert metrics["train/samples_per_second"] == 4
    assert "train/mfu" not in metrics
    known = Throughput(rates.body, rates.head, rates.attention, peak=expected * 4.0)
    assert known.metrics([10, 20], 5, 0.5)["train/mfu"] == pytest.approx(0.5)
