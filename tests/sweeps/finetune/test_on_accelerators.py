"""What runs do only on accelerators, shown on a CPU: precision, attention, memory, disk."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from evaluators.language_model import LanguageModel
from sweeps.cli.app import app
from sweeps.execution.job_messages import Scored, ScoringJob
from sweeps.execution.test_scoring import score_model
from sweeps.finetune import loop, model, process_state
from sweeps.finetune.derived_models import score_derived
from sweeps.finetune.disk_check import DiskError
from sweeps.finetune.finetune_config import FinetuneConfig, ModelConfig
from sweeps.finetune.loop import Cache, finetune
from sweeps.finetune.model import computing_dtype, load_model
from sweeps.finetune.process_group import Group
from sweeps.finetune.tokenized_data import load_training_data
from sweeps.finetune.trainer import Trainer
from tests.sweeps.finetune.tiny import MemoryReporter, config

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def build(run: FinetuneConfig, attention: str = "sdpa") -> Trainer:
    loaded, tokenizer = load_model(run.model, CPU)
    loaded.config._attn_implementation_internal = attention
    return Trainer(run, loaded, load_training_data(run.data, tokenizer), Group(), CPU)


def flash(module: Any, query: torch.Tensor, *states: Any, **options: Any) -> Any:
    """A stand-in for transformers' flash attention: the function itself has no float32."""
    from transformers import AttentionInterface
    from transformers.integrations.flash_attention import get_target_dtype

    if (get_target_dtype(query, module) or query.dtype) == torch.float32:
        raise RuntimeError("FlashAttention only supports fp16 and bf16 data type")
    same = "sdpa_per_example" if "cu_seq_lens_q" in options else "sdpa"
    return AttentionInterface()[same](module, query, *states, **options)


def test_flash_attention_never_meets_float32(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AttentionInterface

    monkeypatch.setitem(AttentionInterface._global_mapping, "flash_attention_2", flash)
    mixed = {"path": str(world / "model"), "dtype": "mixed_bfloat16"}
    packed = {"path": str(world / "train.jsonl"), "max_length": 32, "packing": True}
    run = config(world, model=mixed, data=packed, chunked_loss=True)
    trainer = build(run, "flash_attention_2")
    assert trainer._attention == "flash_attention_2"
    assert math.isfinite(trainer.update(0)["train/loss"])
    with pytest.raises(RuntimeError, match="only supports"):
        trainer._model(input_ids=torch.tensor([[1, 2]]))


@pytest.mark.parametrize(
    ("dtype", "device", "expected"),
    [
        ("auto", CUDA, "flash_attention_2"),
        ("mixed_bfloat16", CUDA, "flash_attention_2"),
        ("bfloat16", CUDA, "flash_attention_2"),
        ("float32", CUDA, None),
        ("mixed_bfloat16", CPU, None),
    ],
)
def test_flash_attention_is_asked_for_where_it_computes_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch, dtype: Any, device: torch.device, expected: str | None
) -> None:
    monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # as on a driver
    assert model._attention(ModelConfig(path="m", dtype=dtype), device) == expected


def test_emulated_bfloat16_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_a_t4(*, including_emulation: bool = True) -> bool:
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", of_a_t4)
    assert computing_dtype("auto", CUDA) is None


def test_a_run_computes_its_loss_in_chunks(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, real = [], torch.nn.functional.linear_cross_entropy

    def counted(*given: Any, **options: Any) -> Any:
        calls.append(given)
        return real(*given, **options)

    monkeypatch.setattr(torch.nn.functional, "linear_cross_entropy", counted)
    build(config(world, chunked_loss=False)).update(0)
    assert not calls
    build(config(world, chunked_loss=True)).update(0)
    assert calls


def test_every_scoring_computes_as_training_does(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, real = [], LanguageModel.__init__

    def recorded(
        self: LanguageModel, *given: Any, computes_in: Any = None, **options: Any
    ) -> None:
        found.append(computes_in)
        real(self, *given, computes_in=computes_in, **options)

    monkeypatch.setattr(LanguageModel, "__init__", recorded)
    run = config(world, model={"path": str(world / "model"), "dtype": "mixed_bfloat16"})
    (benchmark,) = run.evaluation.benchmarks
    asked = benchmark.model_copy(update={"test": benchmark.validation})
    scored = score_model(ScoringJob("key", run.model, None, (asked,), threads=1))
    assert isinstance(scored, Scored)
    score_derived(run, None, tmp_path / "base", Cache(), keep=False)
    words = ["--benchmarks", "exact_match", "--data", f"exact_match={benchmark.validation}"]
    options = ["--dtype", "mixed_bfloat16", "--device", "cpu", "--cache", str(tmp_path)]
    done = CliRunner().invoke(app, ["eval", run.model.path, *words, *options])
    assert done.exit_code == 0, done.output
    assert len(found) == 3 and set(found) == {torch.bfloat16}


def test_a_large_base_model_is_not_kept_beside_its_copy(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []

    def load() -> tuple[Any, Any]:
        loads.append(load_model(ModelConfig(path=str(world / "model")), CPU))
        return loads[-1]

    cache = Cache()
    for _ in range(2):
        assert (
            cache.model("key", load, CPU)[0] is not loads[0][0]
        )  # a copy of the one that is kept
    assert len(loads) == 1
    monkeypatch.setattr(process_state, "LARGEST_KEPT", 0)
    for number in range(1, 3):
        assert cache.model("another", load, CPU)[0] is loads[number][0]


def test_a_run_saves_in_the_background_where_its_config_says_so(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def no_saver(*given: Any, background: bool, **options: Any) -> None:
        asked.append(background)
        raise DiskError("enough")

    monkeypatch.setattr(loop, "Saver", no_saver)
    for given in (True, False):
        with pytest.raises(DiskError, match="enough"):
            finetune(config(world, checkpoint_async=given), tmp_path, MemoryReporter())
    assert asked == [True, False]


def test_a_run_looks_for_room_in_the_cache_of_the_hub(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(run: FinetuneConfig) -> None:
        raise DiskError("no room for the download")

    monkeypatch.setattr(loop, "check_hub_cache", full)
    with pytest.raises(DiskError, match="no room"):
        finetune(config(world), tmp_path, MemoryReporter())
