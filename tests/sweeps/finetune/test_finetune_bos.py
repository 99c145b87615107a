"""Training examples begin as the prompts that are scored; `model.add_bos` holds for both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evaluators.tokens import TokenCodec
from sweeps.finetune import tokenized_data as data_module
from sweeps.finetune.checkpoint import run_fingerprint
from sweeps.finetune.data_config import DataConfig
from sweeps.finetune.loop import finetune
from sweeps.finetune.run_identity import run_identity
from sweeps.finetune.tokenized_data import load_training_data
from tests.evaluators.tokenizer_families import FAMILIES, Family
from tests.sweeps.finetune.tiny import MemoryReporter, config, evaluate_folder, save_rows

ROW = {"prompt": "What is 1+1?\nAnswer:", "response": " 2"}


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where tokens are kept, of small files too."""
    monkeypatch.setattr(data_module, "_CACHED_BYTES", 0)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gmt_sweep_tokens"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_an_example_is_the_prompt_that_is_scored_response_and_eos(
    tmp_path: Path, family: Family, kept: Path
) -> None:
    tokenizer = family.load(tmp_path / "tokenizer")
    rows = DataConfig(path=str(save_rows(tmp_path / "rows.jsonl", [ROW])))
    found = {}
    for add_bos in ("auto", True, False) if family.bos else ("auto", False):
        codec = TokenCodec(tokenizer, add_bos)
        prompt = codec.prompt(ROW["prompt"])
        data = load_training_data(rows, tokenizer, add_bos=add_bos)
        expected = (*prompt, *codec.response(ROW["response"]), tokenizer.eos_token_id)
        assert tuple(data.tokens) == (expected,)
        assert [*data.spans] == [([len(prompt), len(expected)],)]
        found[add_bos] = expected
    own = tokenizer(ROW["prompt"]).input_ids
    assert list(found["auto"][: len(own)]) == own
    assert len(list(kept.glob("*.pt"))) == len(set(found.values()))


def test_an_override_is_another_run(world: Path) -> None:
    runs = [
        config(world, model={"path": str(world / "model"), "add_bos": add_bos})
        for add_bos in ("auto", True, False)
    ]
    assert len({run_fingerprint(each, 1) for each in runs}) == 3
    assert [run_identity(each)["model"].get("add_bos") for each in runs] == [None, True, False]


def test_a_run_is_validated_with_the_prompts_it_learns(world: Path, tmp_path: Path) -> None:
    settings = config(world, model={"path": str(world / "model"), "add_bos": False})
    result = finetune(settings, tmp_path / "run", MemoryReporter())
    assert result.model_folder is not None

    def score(**choice: Any) -> float:
        benchmarks = settings.evaluation.benchmarks
        found = evaluate_folder(result.model_folder, benchmarks, "validation", **choice)
        return found["exact_match"].score

    assert score(add_bos=False) == result.score
    assert score() != result.score


def test_bos_cannot_be_asked_of_a_tokenizer_without_it(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in (world / "model").iterdir():
        text = file.name == "tokenizer_config.json"
        content = file.read_bytes().replace(b'"<s>"', b"null") if text else file.read_bytes()
        (folder / file.name).write_bytes(content)
    settings = config(world, model={"path": str(folder), "add_bos": True})
    with pytest.raises(ValueError, match="add_bos: true needs a tokenizer with a beginning-of-"):
        finetune(settings, tmp_path / "run", MemoryReporter())
