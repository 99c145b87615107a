"""One run from config to result: what it computes, and what it leaves behind."""

from __future__ import annotations

import json
import math
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluators.prompt_formats import written
from evaluators.tokens import TokenCodec
from sweeps.finetune.checkpoint import run_fingerprint
from sweeps.finetune.finetune_config import BenchmarkConfig, ModelConfig
from sweeps.finetune.loop import RunResult, finetune
from sweeps.finetune.model import load_model
from sweeps.finetune.model_facts import ModelError
from sweeps.finetune.order import DataOrder
from sweeps.finetune.process_state import Cache
from sweeps.finetune.reporter import FolderReporter
from sweeps.finetune.tokenized_data import load_training_data
from sweeps.finetune.trainer import Trainer
from sweeps.storage.trial_files import RESULT_FILE
from tests.sweeps.finetune.tiny import (
    ABSENT_TEST,
    Killed,
    MemoryReporter,
    assert_equal,
    config,
    evaluate_folder,
    largest_difference,
    parameters,
    save_model,
)

_opened: list[str] = []
_listening = False


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if _listening and event == "open":
        _opened.append(str(arguments[0]))


sys.addaudithook(_listen)


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """The paths that anything in the process opens during the test."""
    global _listening
    _opened.clear()
    _listening = True
    yield _opened
    _listening = False


def run(world: Path, folder: Path, **changes: Any) -> tuple[RunResult, MemoryReporter]:
    reporter = MemoryReporter()
    return finetune(config(world, **changes), folder, reporter), reporter


def test_a_run_learns_and_reports(world: Path, tmp_path: Path, opened: list[str]) -> None:
    result, reporter = run(world, tmp_path / "run", statistics_every=1)
    assert (result.state, result.step, result.steps) == ("finished", 6, 6)
    assert [(check.step, check.done) for check in reporter.checks] == [
        (2, False),
        (4, False),
        (6, True),
    ]
    assert sorted(reporter.steps) == [1, 2, 3, 4, 5, 6]
    assert reporter.losses()[-1] < reporter.losses()[0] - 0.3
    assert result.score == reporter.checks[-1].score > reporter.checks[0].score
    assert result.score == pytest.approx(-result.metrics["eval/exact_match/bits_per_byte"])
    first = reporter.steps[2]
    assert first["gmt/kept_fraction"] == pytest.approx(0.6, abs=0.01)
    assert first["train/learning_rate"] == 0.01
    assert {"train/grad_norm", "train/tokens_per_second"} < first.keys()
    assert {"cost/train_seconds", "cost/eval_seconds", "data/truncated"} < result.metrics.keys()
    assert not (tmp_path / "run" / "checkpoint").exists()
    assert any("validation.jsonl" in path for path in opened)
    assert not any(ABSENT_TEST in path for path in opened)


def test_a_run_in_the_chat_template_is_validated_in_it(world: Path, tmp_path: Path) -> None:
    """What is asked are the tokens that were trained on, up to the answer."""
    tokenizer = AutoTokenizer.from_pretrained(world / "model")
    tokenizer.chat_template = (
        "<s>{% for m in messages %}{{ m.role }}:{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    shutil.copytree(world / "model", tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    data = {"path": str(world / "train.jsonl"), "max_length": 48, "template": "chat"}
    chat = config(world, model={"path": str(tmp_path / "model")}, data=data)
    result = finetune(chat, tmp_path / "run", MemoryReporter())
    asked = chat.evaluation.benchmarks
    (same,) = evaluate_folder(tmp_path / "run/model", asked, "validation").values()
    assert same.score == pytest.approx(result.score, rel=1e-5)
    raw = tuple(each.model_copy(update={"prompt_format": "raw"}) for each in asked)
    (other,) = evaluate_folder(tmp_path / "run/model", raw, "validation").values()
    assert other.score < same.score and other.protocol_sha256 != same.protocol_sha256
    trained = load_training_data(chat.data, tokenizer)
    row = json.loads((world / "train.jsonl").read_text().splitlines()[0])
    prompt = written("chat", tokenizer, [{"role": "user", "content": row["prompt"]}])
    ids = TokenCodec(tokenizer).prompt(prompt)
    assert ids == list(trained.tokens[0][: trained.spans[0][0][0]])
    assert ids.count(tokenizer.bos_token_id) == 1


def test_the_final_model_is_a_hugging_face_folder_with_the_score_of_the_run(
    world: Path, tmp_path: Path
) -> None:
    result, _ = run(world, tmp_path / "run")
    assert result.model_folder == str(tmp_path / "run" / "model")
    AutoTokenizer.from_pretrained(result.model_folder)
    modes = {file.stat().st_mode for file in Path(result.model_folder).iterdir() if file.is_file()}
    assert len(modes) == 1  # whoever reads the configuration may read the weights
    (benchmark,) = config(world).evaluation.benchmarks
    scores = evaluate_folder(result.model_folder, [benchmark], split="validation")
    assert scores["exact_match"].score == result.score
    as_test = BenchmarkConfig(
        name="exact_match",
        validation=ABSENT_TEST,
        test=benchmark.validation,
        test_limit=4,
        metric="bits_per_byte",
    )
    assert evaluate_folder(result.model_folder, [as_test])["exact_match"].n == 4


def test_mask_ratio_zero_is_sft_bit_for_bit(world: Path, tmp_path: Path) -> None:
    results = [
        run(world, tmp_path / name, method={"name": name, "mask_ratio": 0.0})[0].model_folder
        for name in ("sft", "gmt", "random")
    ]
    sft, gmt, drawn = map(parameters, results)
    assert_equal(sft, gmt)
    assert_equal(sft, drawn)
    masked = run(world, tmp_path / "masked")[0].model_folder
    assert largest_difference(sft, parameters(masked)) > 1e-4


def naive_run(world: Path, mask_ratio: float) -> dict[str, torch.Tensor]:
    """The same run in a script of its own: one batch, labels, full sort, AdamW, cosine."""
    settings = config(world)
    tokenizer = AutoTokenizer.from_pretrained(world / "model")
    model = AutoModelForCausalLM.from_pretrained(world / "model", dtype=torch.float32).train()
    data = load_training_data(settings.data, tokenizer)
    order = DataOrder(len(data), settings.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0)
    for update in range(6):
        rows = order.batch(update, 8)
        length = max(data.lengths[row] for row in rows)
        ids = torch.zeros(8, length, dtype=torch.long)
        labels = torch.full((8, length), -100)
        for place, row in enumerate(rows):
            tokens = torch.tensor(data.tokens[row])
            ids[place, : len(tokens)] = tokens
            ((start, end),) = data.spans[row]
            labels[place, start:end] = tokens[start:end]
        model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for parameter in model.parameters():
            gradient = parameter.grad
            assert gradient is not None
            kept = gradient.numel() - math.floor(mask_ratio * gradient.numel() + 1e-9)
            threshold = gradient.abs().flatten().sort(descending=True).values[kept - 1]
            gradient[gradient.abs() < threshold] = 0.0
        # One warm-up update at rate 0, then half a cosine over the other five.
        rate = 0.0 if update == 0 else 0.01 * 0.5 * (1 + math.cos(math.pi * (update - 1) / 5))
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
    return {name: value.detach() for name, value in model.named_parameters()}


@pytest.mark.parametrize("mask_ratio", [0.0, 0.4, 0.9])
def test_a_run_equals_a_naive_script(world: Path, tmp_path: Path, mask_ratio: float) -> None:
    changes = {
        "method": {"name": "gmt", "mask_ratio": mask_ratio},
        "batch": {"mini_batch": 8},
        "accumulation_interval": 1,
    }
    result, _ = run(world, tmp_path / "run", **changes)
    trained = parameters(result.model_folder)
    assert largest_difference(trained, parameters(world / "model")) > 0.01
    assert largest_difference(trained, naive_run(world, mask_ratio)) < 2e-5


def test_running_again_is_bit_equal(world: Path, tmp_path: Path) -> None:
    one, other = (run(world, tmp_path / name) for name in ("one", "other"))
    assert_equal(parameters(one[0].model_folder), parameters(other[0].model_folder))
    assert one[1].losses() == other[1].losses()
    assert one[0].score == other[0].score
    changed, _ = run(world, tmp_path / "seed", seed=1)
    assert largest_difference(parameters(changed.model_folder), parameters(one[0].model_folder))


def test_micro_batches_equal_one_big_batch(world: Path, tmp_path: Path) -> None:
    def held(interval: int) -> tuple[RunResult, MemoryReporter]:
        return run(
            world,
            tmp_path / str(interval),
            batch={"fixed": "global_batch", "global_batch": 8},
            accumulation_interval=interval,
        )

    whole, whole_reporter = held(1)
    for interval in (2, 4, 8):
        parts, reporter = held(interval)
        assert reporter.losses() == pytest.approx(whole_reporter.losses(), abs=1e-5)
        difference = largest_difference(
            parameters(parts.model_folder), parameters(whole.model_folder)
        )
        assert difference < 1e-4


@pytest.mark.parametrize("method", ["gmt", "random"])
@pytest.mark.parametrize(
    ("death", "redone"),
    [
        ({"die_at_step": 4}, [3, 4, 5, 6]),
        ({"die_at_check": 4}, [5, 6]),
        ({"die_at_check": 6}, []),
    ],
)
def test_killed_and_resumed_is_bit_equal(
    world: Path, tmp_path: Path, death: dict[str, int], redone: list[int], method: str
) -> None:
    settings = {"method": {"name": method, "mask_ratio": 0.4}}
    whole, whole_reporter = run(world, tmp_path / "whole", **settings)
    folder = tmp_path / "killed"
    with pytest.raises(Killed):
        finetune(config(world, **settings), folder, MemoryReporter(**death))
    resumed, reporter = run(world, folder, **settings)
    assert_equal(parameters(resumed.model_folder), parameters(whole.model_folder))
    assert resumed.score == whole.score
    assert sorted(reporter.steps) == redone
    for step, metrics in reporter.steps.items():
        assert metrics["train/loss"] == whole_reporter.steps[step]["train/loss"]
    assert reporter.checks[-1].done


def test_a_finished_run_is_not_run_again(world: Path, tmp_path: Path) -> None:
    result, _ = run(world, tmp_path / "run")
    again, reporter = run(world, tmp_path / "run")
    assert again == result
    assert reporter.steps == {}
    assert [check.done for check in reporter.checks] == [True]


def test_the_folder_of_another_run_is_refused(world: Path, tmp_path: Path) -> None:
    run(world, tmp_path / "run")
    with pytest.raises(ValueError, match="result of a run with another config"):
        run(world, tmp_path / "run", seed=1)
    with pytest.raises(Killed):
        finetune(config(world), tmp_path / "killed", MemoryReporter(die_at_step=4))
    with pytest.raises(ValueError, match="checkpoint of a run with another config"):
        run(world, tmp_path / "killed", seed=1)


def test_tokens_beyond_the_embedding_are_refused_with_a_way_on(
    world: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(world / "model", tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    known = len(tokenizer)
    tokenizer.add_tokens(["<call>"])
    tokenizer.save_pretrained(folder)
    model = {"path": str(folder)}
    says = r"no row for '<call>'\. .* model\.added_tokens, which adds their rows"
    with pytest.raises(ModelError, match=says):
        run(world, tmp_path / "run", model=model)
    larger = AutoModelForCausalLM.from_pretrained(folder)
    larger.resize_token_embeddings(known + 1, mean_resizing=False)
    larger.save_pretrained(folder)
    result, _ = run(world, tmp_path / "run", model=model, examples=8)
    assert result.state == "finished"


def test_another_number_of_workers_is_named(world: Path, tmp_path: Path) -> None:
    run(world, tmp_path / "run")
    path = tmp_path / "run" / RESULT_FILE
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "fingerprint": run_fingerprint(config(world), 3)}))
    with pytest.raises(ValueError, match="result of this run on 3 workers, but now there are 1"):
        run(world, tmp_path / "run")
    with pytest.raises(Killed):
        finetune(config(world), tmp_path / "killed", MemoryReporter(die_at_step=4))
    (state,) = (tmp_path / "killed").rglob("state.pt")
    torch.save({**torch.load(state), "fingerprint": run_fingerprint(config(world), 2)}, state)
    with pytest.raises(
        ValueError, match="checkpoint of this run on 2 workers, but now there are 1, "
    ):
        run(world, tmp_path / "killed")


def test_the_twentieth_run_in_a_process_equals_the_first(world: Path, tmp_path: Path) -> None:
    cold, cold_reporter = run(world, tmp_path / "cold")
    cache = Cache()
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    python_state, training_grad = random.getstate(), torch.is_grad_enabled()
    other = config(world, seed=5, learning_rate=0.1, method={"name": "random", "mask_ratio": 0.9})
    finetune(other, tmp_path / "other", MemoryReporter(), cache)
    with pytest.raises(Killed):
        finetune(config(world, seed=6), tmp_path / "dead", MemoryReporter(die_at_step=3), cache)
    torch.rand(5)
    reporter = MemoryReporter()
    warm = finetune(config(world), tmp_path / "warm", reporter, cache)
    assert_equal(parameters(warm.model_folder), parameters(cold.model_folder))
    assert reporter.losses() == cold_reporter.losses()
    assert warm.score == cold.score
    torch.set_rng_state(state)
    finetune(config(world, threads=2), tmp_path / "threads", MemoryReporter(), cache)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert random.getstate() == python_state
    assert torch.is_grad_enabled() == training_grad


def test_the_cached_model_is_copied_to_its_device(world: Path) -> None:
    loaded = load_model(ModelConfig(path=str(world / "model")), torch.device("cpu"))
    loaded[0].model.norm.weight.requires_grad_(False)
    copied, _ = Cache().model("key", lambda: loaded, torch.device("meta"))
    assert {value.device.type for value in copied.state_dict().values()} == {"meta"}
    assert copied.lm_head.weight is copied.get_input_embeddings().weight  # still tied
    assert [n for n, p in copied.named_parameters() if not p.requires_grad] == [
        "model.norm.weight"
    ]
    assert {value.device.type for value in loaded[0].state_dict().values()} == {"cpu"}


def test_a_changed_file_is_not_served_from_the_cache(world: Path, tmp_path: Path) -> None:
    copy = tmp_path / "train.jsonl"
    copy.write_text((world / "train.jsonl").read_text())
    cache, data = Cache(), {"path": str(copy), "max_length": 32}
    finetune(config(world, data=data), tmp_path / "one", MemoryReporter(), cache)
    copy.write_text("".join((world / "train.jsonl").read_text().splitlines(True)[:30]))
    reporter = MemoryReporter()
    result = finetune(config(world, data=data), tmp_path / "two", reporter, cache)
    assert result.metrics["data/examples"] == 30.0


def test_a_stopped_run_says_so_and_can_go_on(world: Path, tmp_path: Path) -> None:
    whole, _ = run(world, tmp_path / "whole")
    reporter = MemoryReporter(stop_at=4)
    stopped = finetune(config(world), tmp_path / "run", reporter)
    assert (stopped.state, stopped.step, stopped.steps) == ("stopped", 4, 6)
    assert stopped.score == reporter.checks[-1].score
    assert stopped.model_folder is None
    assert max(reporter.steps) == 4
    resumed, _ = run(world, tmp_path / "run")
    assert_equal(parameters(resumed.model_folder), parameters(whole.model_folder))


def test_a_loss_that_is_not_finite_is_a_result(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulate = Trainer._accumulate
    calls: list[None] = []

    def poisoned(self: Trainer, batch: Any) -> torch.Tensor:
        calls.append(None)
        return accumulate(self, batch) * (math.nan if len(calls) == 4 else 1.0)

    monkeypatch.setattr(Trainer, "_accumulate", poisoned)
    result, reporter = run(world, tmp_path / "run")
    assert (result.state, result.step, result.score) == ("diverged", 3, None)
    assert "update 4: the loss is nan" in result.reason
    assert sorted(reporter.steps) == [1, 2, 3]
    assert result.model_folder is None
    assert run(world, tmp_path / "run")[0] == result


def test_a_learning_rate_that_explodes_is_a_result(world: Path, tmp_path: Path) -> None:
    result, _ = run(world, tmp_path / "run", learning_rate=1e38, clip_norm=None)
    assert result.state == "diverged"


def test_keep_none_saves_no_model(world: Path, tmp_path: Path) -> None:
    result, _ = run(world, tmp_path / "run", keep="none")
    assert result.model_folder is None
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["result.json"]


def test_the_folder_reporter_writes_a_line_per_update(world: Path, tmp_path: Path) -> None:
    finetune(config(world), tmp_path, FolderReporter(tmp_path))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 6 + 3


def test_a_model_folder_that_is_not_one_is_named(world: Path, tmp_path: Path) -> None:
    def load(path: Path | str) -> None:
        load_model(ModelConfig(path=str(path)), torch.device("cpu"))

    with pytest.raises(ModelError, match="nothing there"):
        load(tmp_path / "none")
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(tmp_path)
    with pytest.raises(ModelError, match="a file"):
        load(world / "train.jsonl")


def test_a_length_beyond_the_context_is_named(world: Path, tmp_path: Path) -> None:
    short = save_model(tmp_path / "short", context=16)
    with pytest.raises(ModelError, match="context of 16 tokens, got 32"):
        run(world, tmp_path / "run", model={"path": str(short)})
