from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from evaluators import benchmarks
from evaluators.split import is_validation
from sweeps.finetune.data_config import DataConfig
from sweeps.finetune.example import Example, Part, Row, RowError
from sweeps.finetune.tokenized_data import TrainingData, load_training_data
from sweeps.finetune.training_sets import TRAINING_SETS
from tests.sweeps.finetune.tiny import pair_of, save_rows

GOOD = {"prompt": "1+1=", "response": "2"}


@pytest.fixture(scope="module")
def tokenizer(world: Path) -> Any:
    return AutoTokenizer.from_pretrained(world / "model")


def load(path: Path | str, tokenizer: Any, **options: Any) -> TrainingData:
    return load_training_data(DataConfig(path=str(path), **options), tokenizer)


def examples(name: str, fields: dict[str, Any]) -> list[Example]:
    return list(TRAINING_SETS[name](Row("rows.jsonl, line 1", fields)))


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("{oops", r"expected one JSON object, found .*oops"),
        ("[1]", r"expected one JSON object, found \[1\]"),
        ('{"prompt": "a"}', r"non-empty string 'response', found the fields prompt"),
        ('{"prompt": "a", "response": 3}', r"non-empty string 'response', found 3"),
        ('{"prompt": "a", "response": " "}', r"non-empty string 'response', found ' '"),
    ],
)
def test_a_broken_row_names_file_and_line(
    tmp_path: Path, tokenizer: Any, line: str, found: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n\n{line}\n")
    with pytest.raises(RowError, match=r"rows\.jsonl, line 3: expected .*" + found[9:]):
        load(path, tokenizer)
    skipped = load(path, tokenizer, on_bad_row="skip")
    assert len(skipped) == 1
    assert skipped.counts.bad_rows == 1


def test_a_row_of_a_json_array_is_named(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([GOOD, {"prompt": "a"}]))
    with pytest.raises(RowError, match=r"rows\.json, row 2: .*'response'"):
        load(path, tokenizer)


def test_missing_and_empty_files_are_named(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(RowError, match="nothing there"):
        load(tmp_path / "none.jsonl", tokenizer)
    with pytest.raises(RowError, match=r"files ending in \.jsonl.* found none"):
        load(tmp_path, tokenizer)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(RowError, match="at least one example"):
        load(empty, tokenizer)


def test_tokens_are_bos_prompt_response_eos(tmp_path: Path, tokenizer: Any) -> None:
    data = load(save_rows(tmp_path / "rows.jsonl", [GOOD]), tokenizer)
    prompt = tokenizer("1+1=", add_special_tokens=False)["input_ids"]
    response = tokenizer("2", add_special_tokens=False)["input_ids"]
    assert tuple(data.tokens) == ((1, *prompt, *response, 2),)
    (tokens,) = data.tokens
    assert [*data.spans] == [([1 + len(prompt), len(tokens)],)]
    batch = data.micro_batch([[0]])
    assert batch.targets.tolist() == [*response, 2]
    assert batch.positions.tolist() == [len(prompt), len(prompt) + 1]


def test_positions_point_into_the_padded_batch(tmp_path: Path, tokenizer: Any) -> None:
    rows = [GOOD, {"prompt": "10+10=", "response": "20"}]
    data = load(save_rows(tmp_path / "rows.jsonl", rows), tokenizer)
    batch = data.micro_batch([[0], [1]])
    length = batch.input_ids.shape[1]
    assert length == max(data.lengths)
    flat = batch.input_ids.flatten()
    assert flat[batch.positions + 1].tolist() == batch.targets.tolist()
    assert len(batch.targets) == data.targets([0, 1]) == 2 + 3


def test_truncation_is_counted_and_rows_without_a_target_are_dropped(
    tmp_path: Path, tokenizer: Any
) -> None:
    rows = [GOOD, {"prompt": "1+1=", "response": "2222222"}, {"prompt": "1" * 9, "response": "2"}]
    data = load(save_rows(tmp_path / "rows.jsonl", rows), tokenizer, max_length=8)
    assert data.lengths == (7, 8)
    assert (data.counts.examples, data.counts.truncated, data.counts.no_target) == (2, 2, 1)
    with pytest.raises(RowError, match="max_length 2 tokens"):
        load(tmp_path / "rows.jsonl", tokenizer, max_length=2)


def test_several_files_are_read_in_order(tmp_path: Path, tokenizer: Any) -> None:
    one = save_rows(tmp_path / "one.jsonl", [GOOD])
    two = save_rows(tmp_path / "two.jsonl", [{"prompt": "2+2=", "response": "4"}])
    data = load(f"{one}, {two}", tokenizer)
    assert [*data.tokens] == [*load(one, tokenizer).tokens, *load(two, tokenizer).tokens]


def test_part_train_leaves_out_what_validation_takes(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"prompt": f"{number}+1=", "response": f"{number + 1}"} for number in range(300)]
    path = save_rows(tmp_path / "rows.jsonl", rows)
    held_out = sum(is_validation(row["prompt"]) for row in rows)
    data = load(path, tokenizer, part="train")
    assert 0 < held_out == data.counts.held_out
    assert len(data) == 300 - held_out


def test_alpaca_with_and_without_input() -> None:
    fields = {"instruction": "Add.", "input": "1 2", "output": "3"}
    (example,) = examples("alpaca", fields)
    prompt, response = pair_of(example)
    assert prompt.endswith("### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n")
    assert response == "3"
    (bare,) = examples("alpaca", {**fields, "input": ""})
    assert "### Input" not in pair_of(bare)[0]


def test_self_instruct_gives_an_example_for_each_instance() -> None:
    instances = [{"input": "1", "output": "a"}, {"input": "", "output": "b"}]
    found = examples("self_instruct", {"instruction": "Do.", "instances": instances})
    assert [pair_of(example)[1] for example in found] == ["a", "b"]
    with pytest.raises(RowError, match=r"line 1, instance 1: .*'output'"):
        examples("self_instruct", {"instruction": "Do.", "instances": [{"input": "1"}]})


def test_messages_give_one_example_that_learns_each_answer() -> None:
    turns = [("user", "hi"), ("assistant", "yo"), ("user", "bye"), ("assistant", "ciao")]
    chat = [{"role": role, "content": content} for role, content in turns]
    (example,) = examples("messages", {"messages": chat})
    assert example.own == (
        Part("<|user|>\nhi\n<|assistant|>\n"),
        Part("yo", is_learned=True, ends=True),
        Part("\n<|user|>\nbye\n<|assistant|>\n"),
        Part("ciao", is_learned=True, ends=True),
    )
    with pytest.raises(RowError, match="message 1: expected 'role' one of"):
        examples("messages", {"messages": [{"role": "usr", "content": "hi"}]})
    with pytest.raises(RowError, match="role 'assistant'"):
        examples("messages", {"messages": chat[:1]})


def test_gsm8k_trains_on_the_prompt_and_reference_of_the_benchmark(tmp_path: Path) -> None:
    rows = [
        {"question": f"What is {n}+1?", "answer": f"It is <<{n}+1={n + 1}>>{n + 1}.\n#### {n + 1}"}
        for n in range(200)
    ]
    path = save_rows(tmp_path / "train.jsonl", rows)
    trained = [example for row in rows for example in examples("gsm8k", row)]
    held_out = dict(pair_of(ex) for ex in trained if ex.is_held_out)
    items = benchmarks.build("gsm8k").load(path, "validation")
    assert {item.prompt: item.reference for item in items} == held_out
    assert 0 < len(items) < 200
    with pytest.raises(RowError, match="line 1: expected an 'answer' with '#### N'"):
        examples("gsm8k", {"question": "What?", "answer": "5"})


def test_mbpp_trains_on_the_prompt_and_reference_of_the_benchmark(tmp_path: Path) -> None:
    row = {
        "task_id": 511,
        "text": "Add one.",
        "code": "def f(x):\r\n    return x + 1",
        "test_list": ["assert f(1) == 2"],
        "test_setup_code": "",
    }
    path = save_rows(tmp_path / "mbpp.jsonl", [row])
    benchmark = benchmarks.build("mbpp", metric="bits_per_byte")
    (item,) = benchmark.load(path, "validation")
    (example,) = examples("mbpp", row)
    assert pair_of(example) == (item.prompt, item.reference)
    with pytest.raises(RowError, match="'test_list'"):
        examples("mbpp", {**row, "test_list": []})
