"""The bits per byte of a text at the end of a run, which no score contains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evaluators.benchmarks import build
from evaluators.evaluate import evaluate
from evaluators.language_model import LanguageModel
from sweeps.config.path_types import resolve_run
from sweeps.finetune.finetune_config import FinetuneConfig, ModelConfig
from sweeps.finetune.loop import finetune
from sweeps.finetune.model import load_model
from sweeps.finetune.process_group import Group
from sweeps.finetune.run_identity import run_identity
from sweeps.finetune.validation import evaluate_model
from sweeps.mini.world import resolve
from tests.sweeps.finetune.tiny import MemoryReporter, config


def with_text(world: Path, text: Path | str | None, **changes: Any) -> FinetuneConfig:
    plain = config(world).evaluation.model_dump()
    return config(world, evaluation=plain | {"forgetting": text and str(text)}, **changes)


def test_it_is_that_of_the_saved_model_and_not_part_of_the_score(
    world: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("12 + 3 = 15\nabc def\n" * 60)
    plain = finetune(with_text(world, None), tmp_path / "plain", MemoryReporter())
    reporter = MemoryReporter()
    result = finetune(with_text(world, text), tmp_path / "run", reporter)
    assert result.score == plain.score
    names = ["forgetting/bits_per_byte" in check.metrics for check in reporter.checks]
    assert names == [False, False, True]
    names = ["validation/low" in check.metrics for check in reporter.checks]
    assert names == [False, False, True]
    model = ModelConfig(path=str(result.model_folder))
    lm = LanguageModel(*load_model(model, Group().device()))
    benchmark = build("text")
    found = evaluate(lm, benchmark, benchmark.load(text, "all")).metrics["bits_per_byte"]
    assert result.metrics["forgetting/bits_per_byte"] == pytest.approx(found, rel=1e-6)
    benchmarks = with_text(world, text).evaluation.benchmarks
    (scored,) = evaluate_model(
        *load_model(model, Group().device()), benchmarks, "validation"
    ).values()
    ends = [result.metrics[f"validation/{name}"] for name in ("items", "low", "high")]
    assert ends == pytest.approx([scored.n, scored.low, scored.high])
    assert ends[1] < scored.score < ends[2]


def test_the_content_of_the_text_identifies_a_run(world: Path, tmp_path: Path) -> None:
    texts = [tmp_path / name for name in ("one.txt", "same.txt", "other.txt")]
    for text, content in zip(texts, ("a", "a", "b"), strict=True):
        text.write_text(content)
    one, same, other = (run_identity(with_text(world, text)) for text in texts)
    assert one == same != other
    assert "forgetting" not in run_identity(with_text(world, None))["evaluation"]


def test_names_of_the_embedded_world_are_resolved(world: Path, tmp_path: Path) -> None:
    run = resolve_run(with_text(world, "mini:code/text.jsonl"), tmp_path)
    assert run.evaluation.forgetting == resolve("mini:code/text.jsonl")
    assert len(Path(str(run.evaluation.forgetting)).read_text().splitlines()) == 64


@pytest.mark.parametrize(("content", "said"), [(None, "absent.txt"), ("", "expected")])
def test_a_text_that_cannot_be_read_is_named(
    world: Path, tmp_path: Path, content: str | None, said: str
) -> None:
    text = tmp_path / "absent.txt"
    if content is not None:
        text.write_text(content)
    with pytest.raises(ValueError, match=rf"evaluation\.forgetting: .*{said}"):
        finetune(with_text(world, text), tmp_path / "run", MemoryReporter())
