"""Mixtures of sources with weights, and columns of other names."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import AutoTokenizer

from sweeps.config.path_types import resolve_data
from sweeps.finetune.data_config import DataConfig
from sweeps.finetune.example import RowError
from sweeps.finetune.example_selection import DataCounts, read_examples
from sweeps.finetune.loop import finetune
from sweeps.finetune.order import DataOrder, Share
from sweeps.finetune.run_identity import data_identity
from sweeps.finetune.tokenized_data import load_training_data
from tests.sweeps.finetune.tiny import MemoryReporter, config, save_rows


@pytest.fixture
def mixture(tmp_path: Path) -> dict[str, Any]:
    """4 and 12 examples of two formats, the second with three times the weight of the first."""
    sums = [{"prompt": f"{n}+{n}=", "response": f"{2 * n}"} for n in range(4)]
    asked = [{"instruction": f"Say {n}.", "output": str(n)} for n in range(12)]
    return {
        "max_length": 200,
        "sources": {
            "sums": {"path": str(save_rows(tmp_path / "sums.jsonl", sums)), "weight": 1},
            "asked": {
                "path": str(save_rows(tmp_path / "asked.jsonl", asked)),
                "format": "alpaca",
                "weight": 3,
            },
        },
    }


@pytest.fixture(scope="module")
def tokenizer(world: Path) -> Any:
    return AutoTokenizer.from_pretrained(world / "model")


def test_each_source_has_its_format_and_its_counts(
    mixture: dict[str, Any], tokenizer: Any
) -> None:
    data = load_training_data(DataConfig.model_validate(mixture), tokenizer)
    texts = [tokenizer.decode(tokens) for tokens in data.tokens]
    assert len(texts) == len(data.spans) == len(data) == 16
    assert ["Instruction:" in text for text in texts] == [True] * 12 + [False] * 4
    assert data.counts.examples == 16
    assert data.counts.sources == {"asked": DataCounts(12), "sums": DataCounts(4)}
    metrics = data.counts.metrics()
    assert (metrics["data/examples"], metrics["data/sums/examples"]) == (16, 4)
    del mixture["sources"]["asked"]
    alone = load_training_data(DataConfig.model_validate(mixture), tokenizer)
    assert [tuple(each) for each in alone.tokens] == [tuple(each) for each in data.tokens][12:]


@pytest.mark.parametrize(
    ("weights", "quotas"), [((1, 3), (4, 12)), ((1, 1), (8, 8)), ((7, 1), (14, 2))]
)
def test_an_epoch_has_the_share_of_each_source(
    mixture: dict[str, Any], tokenizer: Any, weights: tuple[int, int], quotas: tuple[int, int]
) -> None:
    mixture["sources"]["sums"]["weight"], mixture["sources"]["asked"]["weight"] = weights
    data = load_training_data(DataConfig.model_validate(mixture), tokenizer)
    order = data.order(seed=3)
    for epoch in range(4):
        drawn = Counter(index >= 12 for index in order.batch(epoch, 16))
        assert (drawn[True], drawn[False]) == quotas


def test_without_weights_an_epoch_has_each_example_once(
    mixture: dict[str, Any], tokenizer: Any
) -> None:
    for source in mixture["sources"].values():
        del source["weight"]
    data = load_training_data(DataConfig.model_validate(mixture), tokenizer)
    assert data.mixture == ()
    assert sorted(data.order(seed=3).batch(1, 16)) == list(range(16))


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 12)), min_size=1, max_size=4))
def test_the_order_of_a_mixture_is_a_function_of_the_position(
    shares: list[tuple[int, int]],
) -> None:
    mixture = [Share(size, quota) for size, quota in shares]
    epoch = sum(share.quota for share in mixture)
    walked = DataOrder(epoch, 5, mixture)
    stream = [index for update in range(3 * epoch) for index in walked.batch(update, 1)]
    for update in (2, 0, 1):
        jumped = DataOrder(epoch, 5, mixture).batch(update, epoch)
        assert jumped == stream[update * epoch : (update + 1) * epoch]
    start = 0
    for share in mixture:  # a source is passed over as a whole before any example repeats
        counts = Counter(index for index in stream if start <= index < start + share.size)
        assert sum(counts.values()) == 3 * share.quota
        assert max(counts.values()) <= -(-3 * share.quota // share.size)
        start += share.size


def test_a_weight_below_one_example_is_refused(mixture: dict[str, Any], tokenizer: Any) -> None:
    mixture["sources"]["sums"]["weight"] = 0.01
    with pytest.raises(RowError, match=r"data\.sources\.sums\.weight: expected at least one of"):
        load_training_data(DataConfig.model_validate(mixture), tokenizer)


def test_an_absent_source_is_named(mixture: dict[str, Any], tokenizer: Any) -> None:
    mixture["sources"]["sums"]["path"] = "/nonexistent/sums.jsonl"
    with pytest.raises(RowError, match=r"data\.sources\.sums: .*/nonexistent/sums\.jsonl"):
        load_training_data(DataConfig.model_validate(mixture), tokenizer)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"path": "x.jsonl"}, "either a path or sources, got both"),
        ({"sources": {}}, "expected a path, or sources by name"),
        ({"sources": {"a": {"path": "x", "weight": 0}}}, r"sources\.a\.weight"),
        ({"sources": {"a": {"path": "x", "wieght": 1}}}, r"sources\.a\.wieght"),
        ({"sources": {"a": {"weight": 1}}}, r"sources\.a\.path"),
        ({"sources": {"a/b": {"path": "x"}}}, r"sources\.a/b"),
        (
            {"sources": {"a": {"path": "x", "weight": 1}, "b": {"path": "y"}}},
            "a weight for each or for none, got none for b",
        ),
    ],
)
def test_impossible_mixtures_are_refused(
    mixture: dict[str, Any], change: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        DataConfig.model_validate({**mixture, **change})


def test_keys_beside_the_sources_are_their_defaults(mixture: dict[str, Any]) -> None:
    mixture |= {"template": "chat", "format": "gsm8k", "train_fraction": 0.5}
    mixture["sources"]["hub"] = {"weight": 1}
    data = DataConfig.model_validate(mixture)
    formats = {name: (part.format, part.template) for name, part in data.parts().items()}
    assert formats == {
        "asked": ("alpaca", "chat"),
        "hub": ("gsm8k", "chat"),
        "sums": ("gsm8k", "chat"),
    }
    assert data.parts()["hub"].path == "openai/gsm8k"
    assert {part.train_fraction for part in data.parts().values()} == {0.5}
    assert DataConfig.model_validate(data.model_dump(mode="json")) == data


def test_the_identity_of_a_mixture_is_its_content(mixture: dict[str, Any], tmp_path: Path) -> None:
    data = DataConfig.model_validate(mixture)
    (tmp_path / "moved").mkdir()
    for name, source in mixture["sources"].items():
        moved = Path(source["path"]).rename(tmp_path / "moved" / f"{name}.jsonl")
        source["path"] = moved.name
    before = resolve_data(DataConfig.model_validate(mixture), tmp_path / "moved")
    found = data_identity(before)
    assert "moved" not in json.dumps(found)
    (tmp_path / "moved" / "sums.jsonl").write_text('{"prompt": "1+1=", "response": "2"}\n')
    assert data_identity(before) != found
    assert data.parts().keys() == before.parts().keys()


def test_a_mixture_trains_and_reports_its_counts(
    world: Path, tmp_path: Path, mixture: dict[str, Any]
) -> None:
    model = {"path": str(world / "model")}
    mixture["max_length"] = 64  # cuts every example of the second source
    with pytest.raises(RowError, match=r"data\.sources\.asked: .* shorter than max_length 64"):
        finetune(config(world, model=model, data=mixture), tmp_path / "cut", MemoryReporter())
    mixture["sources"]["asked"]["format"] = "prompt_response"
    columns = {"prompt": "instruction", "response": "output"}
    mixture["sources"]["asked"]["columns"] = columns
    run = config(world, model=model, data={**mixture, "packing": True})
    result = finetune(run, tmp_path / "run", MemoryReporter())
    assert result.metrics["data/asked/examples"] == 12
    assert result.metrics["data/examples"] == 16


NESTED = {"data": {"q": "1+1=", "a": "2"}, "prompt": "not this", "a.b": "3"}


def read(path: Path, **options: Any) -> list[tuple[str, ...]]:
    examples, _ = read_examples(DataConfig(path=str(path), **options))
    return [tuple(part.text for part in example.own) for example in examples]


def test_fields_are_read_from_their_columns(tmp_path: Path) -> None:
    path = save_rows(tmp_path / "rows.jsonl", [NESTED])
    columns = {"prompt": "data.q", "response": "a.b"}
    assert read(path, columns=columns) == [("1+1=", "3")]
    asked = save_rows(tmp_path / "asked.jsonl", [{"q": "Add.", "with": "1 2", "a": "3"}])
    named = save_rows(
        tmp_path / "named.jsonl", [{"instruction": "Add.", "input": "1 2", "output": "3"}]
    )
    mapped = {"instruction": "q", "input": "with", "output": "a"}
    assert read(asked, format="alpaca", columns=mapped) == read(named, format="alpaca")
    turns = [{"role": "user", "content": "1+1="}, {"role": "assistant", "content": "2"}]
    chat = save_rows(tmp_path / "chat.jsonl", [{"chat": turns}, {"chat": turns, "rules": "Add."}])
    plain, ruled = read(chat, format="messages", columns={"messages": "chat", "system": "rules"})
    assert "Add." in ruled[0]
    assert "Add." not in plain[0]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (
            {"prompt": "data.qq"},
            r"'data\.qq' of data\.columns\.prompt, found no 'qq' \(did you mean 'q'",
        ),
        ({"prompt": "dat.q"}, r"line 1: expected the column 'dat\.q' .*did you mean 'data'"),
        ({"response": "data.a.b"}, r"found no 'b'"),
    ],
)
def test_a_missing_column_is_named(tmp_path: Path, columns: dict[str, str], said: str) -> None:
    path = save_rows(tmp_path / "rows.jsonl", [NESTED])
    with pytest.raises(RowError, match=said):
        read(path, columns=columns)


def test_an_optional_column_that_no_row_has_is_named(tmp_path: Path) -> None:
    rows = [{"instruction": "Add.", "output": "3", "context": "1 2"}]
    path = save_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(RowError, match=r"data\.columns\.input: .*no row has 'contxt'"):
        read(path, format="alpaca", columns={"input": "contxt"})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"columns": {"promt": "q"}}, "no field 'promt' .did you mean 'prompt'"),
        ({"columns": {"prompt": "a..b"}}, r"columns\.prompt: expected a column"),
        (
            {"format": "gsm8k", "columns": {"question": "q"}},
            "'gsm8k' has the columns of its dataset",
        ),
    ],
)
def test_impossible_columns_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        DataConfig.model_validate({"path": "x.jsonl", **options})
