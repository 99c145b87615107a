"""Every training set on a row of its schema, and where rows may come from."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import datasets
import pyarrow
import pytest
from pyarrow import parquet
from pydantic import ValidationError
from transformers import AutoTokenizer

from evaluators import benchmarks
from evaluators.prompt_formats import written
from evaluators.split import is_validation
from sweeps.finetune import tokenized_data as data_module
from sweeps.finetune.data_config import HOMES, PROMPTS, DataConfig, TrainFormat
from sweeps.finetune.example import Example, Row, RowError
from sweeps.finetune.example_selection import read_examples
from sweeps.finetune.finetune_config import BenchmarkConfig
from sweeps.finetune.tokenized_data import load_training_data
from sweeps.finetune.training_sets import TRAINING_SETS
from tests.sweeps.finetune.tiny import pair_of, save_rows

CHATML = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
PROMPTED = {"prompt": "1+1=", "response": "2"}
ROWS: dict[str, dict[str, Any]] = {
    "prompt_response": {"prompt": "1+1=", "response": "2"},
    "alpaca": {"instruction": "Add.", "input": "1 1", "output": "2"},
    "competition_math": {"problem": "1+1?", "solution": "It is $\\boxed{2}$.", "level": "Level 1"},
    "gsm8k": {"question": "1+1?", "answer": "It is 2.\n#### 2"},
    "magicoder_evol_instruct": {"instruction": "Write f.", "response": "def f(): ..."},
    "mbpp": {"text": "Add.", "code": "def f(): ...", "test_list": ["assert f()"], "task_id": 601},
    "messages": {
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    },
    "metamathqa": {
        "type": "GSM_Rephrased",
        "query": "What is 1 + 1?",
        "original_question": "1+1?",
        "response": "It is 2. The answer is: 2",
    },
    "self_instruct": {"instruction": "Add.", "instances": [{"input": "1 1", "output": "2"}]},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]
    },
    "tulu_v2": {
        "dataset": "flan",
        "id": "flan_1",
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}],
    },
}


@pytest.fixture(scope="module")
def tokenizer(world: Path) -> Any:
    return AutoTokenizer.from_pretrained(world / "model")


def examples(name: str, fields: dict[str, Any]) -> list[Example]:
    return list(TRAINING_SETS[name](Row("rows.jsonl, line 1", fields)))


def pairs(config: DataConfig) -> list[tuple[str, str]]:
    return [pair_of(example) for example in read_examples(config)[0]]


def test_the_registry_is_what_a_config_may_name() -> None:
    assert set(get_args(TrainFormat)) == set(TRAINING_SETS) == set(ROWS)


@pytest.mark.parametrize("name", TRAINING_SETS)
def test_a_row_gives_an_example_with_its_response_at_the_end(name: str) -> None:
    (example,) = examples(name, ROWS[name])
    prompt, response = pair_of(example)
    assert prompt.strip()
    assert response.strip()
    assert [turn.role for turn in example.turns[-2:]] == ["user", "assistant"]
    assert example.turns[-1].text == response


@pytest.mark.parametrize("name", PROMPTS)
def test_a_benchmark_in_a_set_s_format_is_asked_as_the_set_is_trained(name: str) -> None:
    fields = {**ROWS[name], "input": ""}
    if "instances" in fields:
        fields["instances"] = [{"input": "", "output": "2"}]
    (example,) = examples(name, fields)
    turns = [turn.message() for turn in example.turns[:-1]]
    assert written(PROMPTS[name], None, turns) == pair_of(example)[0]


def test_a_conversation_in_tulu_s_format_is_asked_as_it_is_trained(tokenizer: Any) -> None:
    turns = [("system", "Be brief."), ("user", "hi"), ("assistant", "yo"), ("user", "2?")]
    messages = [{"role": role, "content": text} for role, text in turns]
    rows = {"messages": [*messages, {"role": "assistant", "content": "2"}]}
    (example,) = examples("tulu_v2", rows)
    parts = (part.text + part.ends * tokenizer.eos_token for part in example.own[:-1])
    assert written("tulu", tokenizer, messages) == "".join(parts)


@pytest.mark.parametrize("name", TRAINING_SETS)
def test_a_row_of_another_schema_names_its_line(name: str) -> None:
    with pytest.raises(RowError, match=r"rows\.jsonl, line 1: expected "):
        examples(name, {"nonsense": 1})


@pytest.mark.parametrize("name", HOMES)
def test_a_format_without_a_path_is_read_from_its_home(name: str) -> None:
    home = HOMES[name]
    config = DataConfig.model_validate({"format": name})
    assert name in TRAINING_SETS
    assert (config.path, config.subset, config.split) == (
        home["path"],
        home.get("subset"),
        "train",
    )


def test_a_format_without_a_home_needs_a_path() -> None:
    with pytest.raises(ValidationError, match="path"):
        DataConfig.model_validate({"format": "sharegpt"})


@pytest.mark.parametrize("question", ["How many?", "  How many legs has\na cat? ", "Ünïcode?"])
def test_the_raw_question_decides_the_split_as_the_evaluators_do(question: str) -> None:
    (example,) = examples("gsm8k", {"question": question, "answer": "4\n#### 4"})
    assert example.split_text == question
    assert example.is_held_out == is_validation(question)


def test_math_trains_on_the_prompt_and_reference_of_the_benchmark(tmp_path: Path) -> None:
    rows = [{**ROWS["competition_math"], "problem": f"{n}+1?"} for n in range(100)]
    items = benchmarks.build("math", preset="table1").load(
        save_rows(tmp_path / "math.jsonl", rows), "validation"
    )
    trained = [example for row in rows for example in examples("competition_math", row)]
    held_out = dict(pair_of(e) for e in trained if e.is_held_out)
    assert {item.prompt: item.reference for item in items} == held_out
    assert held_out


def test_a_rewriting_of_a_validation_question_is_held_out() -> None:
    held_out = next(q for q in (f"{n}+1?" for n in range(1000)) if is_validation(q))
    for query in ("How much is it?", "What comes out?"):
        (example,) = examples(
            "metamathqa", {**ROWS["metamathqa"], "query": query, "original_question": held_out}
        )
        assert example.is_held_out


@pytest.mark.parametrize(("task_id", "held_out"), [(11, True), (511, True), (601, False)])
def test_mbpp_is_split_by_its_task_ids(task_id: int, held_out: bool) -> None:
    (example,) = examples("mbpp", {**ROWS["mbpp"], "task_id": task_id})
    assert example.is_held_out == held_out


def test_sharegpt_maps_its_speakers() -> None:
    speakers = ["system", "human", "function_call", "observation", "gpt"]
    said = [{"from": speaker, "value": speaker} for speaker in speakers]
    (example,) = examples("sharegpt", {"conversations": said})
    roles = ["system", "user", "assistant", "tool", "assistant"]
    assert [turn.role for turn in example.turns] == roles
    assert [part.text for part in example.own if part.is_learned] == ["function_call", "gpt"]
    with pytest.raises(RowError, match="message 1: expected 'from' one of"):
        examples("sharegpt", {"conversations": [{"from": "me", "value": "hi"}]})


@pytest.fixture(params=["jsonl", "json", "csv", "parquet"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    rows = [{"prompt": f"{n}, \n+1=", "response": f"{n + 1}"} for n in range(3)]
    path = tmp_path / f"rows.{request.param}"
    if request.param == "jsonl":
        save_rows(path, rows)
    elif request.param == "json":
        path.write_text(json.dumps(rows))
    elif request.param == "csv":
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, ["prompt", "response"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_every_kind_of_file_and_a_folder_of_them(source: Path) -> None:
    expected = [(f"{n}, \n+1=", f"{n + 1}") for n in range(3)]
    assert pairs(DataConfig(path=str(source))) == expected
    (source.parent / "notes.txt").write_text("not data")
    assert pairs(DataConfig(path=str(source.parent))) == expected


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.JSONL"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_byte_order_mark_and_gzip_change_nothing(
    tmp_path: Path, name: str, packed: bool
) -> None:
    text = "prompt,response\n1+1=,2\n" if name.endswith("csv") else json.dumps(PROMPTED)
    content = f"\ufeff{text}".encode()
    (tmp_path / f"{name}{'.gz' * packed}").write_bytes(
        gzip.compress(content) if packed else content
    )
    assert pairs(DataConfig(path=str(tmp_path))) == [("1+1=", "2")]
    (file,) = tmp_path.iterdir()
    assert pairs(DataConfig(path=str(file))) == [("1+1=", "2")]


@pytest.mark.parametrize("path", ["", " ", "a.jsonl,", ",a.jsonl", "a.jsonl,,b.jsonl", "a, ,b"])
def test_a_blank_path_is_refused(path: str) -> None:
    several = ", or several separated by commas" if "," in path else " or a name"
    with pytest.raises(ValidationError, match=f"expected a path{several}, got"):
        DataConfig(path=path)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"prompt,response\n1,2\n3\n", r"a\.csv, line 3: expected 2 fields, found 1"),
        ("a.csv", b"prompt,prompt\n1,2\n", r"a\.csv, line 1: expected each column once"),
        ("a.csv", b'prompt,response\n"1"x,2\n', r"a\.csv, line 2: expected CSV"),
        ("a.csv", b"prompt,response\n1,\n", r"a\.csv, line 2: .*'response', found ''"),
        ("a.csv", b"\xff\xfe", r"a\.csv: expected UTF-8"),
        ("a.parquet", b"no parquet", r"a\.parquet: expected a Parquet file"),
        ("a.jsonl", b'{"prompt": "\xff"}', r"a\.jsonl: expected UTF-8"),
    ],
)
def test_a_broken_file_is_named_with_its_line(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RowError, match=says):
        read_examples(DataConfig(path=str(tmp_path / name)))


def test_a_local_file_has_no_revision(tmp_path: Path) -> None:
    path = save_rows(tmp_path / "rows.jsonl", [ROWS["prompt_response"]])
    with pytest.raises(RowError, match="has no revision"):
        read_examples(DataConfig(path=str(path), revision="main"))


def test_a_hub_dataset_is_asked_for_by_subset_split_and_revision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[Any, ...]] = []

    def load_dataset(name: str, subset: str | None, **options: Any) -> datasets.Dataset:
        asked.append((name, subset, options))
        return datasets.Dataset.from_list([ROWS["gsm8k"], {"question": "?", "answer": "none"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    config = DataConfig.model_validate({"format": "gsm8k", "revision": "abc"})
    with pytest.raises(RowError, match=r"openai/gsm8k \(train\), row 2: .*####"):
        read_examples(config)
    assert asked == [("openai/gsm8k", "main", {"revision": "abc", "split": "train"})]


def test_a_name_that_nothing_answers_to_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RowError, match="no such local file, and the hub has no such dataset"):
        read_examples(DataConfig(path="nobody/no-such-data"))


def test_skipped_rows_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save_rows(tmp_path / "rows.jsonl", [{"prompt": "?"}, ROWS["prompt_response"]])
    _, counts = read_examples(DataConfig(path=str(path), on_bad_row="skip"))
    assert counts.bad_rows == 1
    assert "skipped 1 bad rows; the first: " in caplog.text
    assert "line 1" in caplog.text


def test_a_smaller_fraction_is_a_part_of_a_larger_one(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}+1=", "response": f"{n + 1}"} for n in range(40)]
    path = str(save_rows(tmp_path / "rows.jsonl", rows))
    whole = pairs(DataConfig(path=path))
    half, _ = read_examples(DataConfig(path=path, train_fraction=0.5))
    tenth, counts = read_examples(DataConfig(path=path, train_fraction=0.1))
    assert (len(half), len(tenth), counts.left_out) == (20, 4, 36)
    assert set(tenth) < set(half)
    assert [*map(pair_of, half)] == [p for p in whole if p in set(map(pair_of, half))]
    save_rows(tmp_path / "rows.jsonl", rows[::-1])
    assert set(read_examples(DataConfig(path=path, train_fraction=0.5))[0]) == set(half)


LEAK = "a train leaves the old station at noon and a bird flies along its side until dusk"


def test_examples_that_share_words_with_an_item_are_left_out(tmp_path: Path) -> None:
    def items(name: str, *texts: str) -> str:
        rows = [
            {"id": f"{name}{n}", "prompt": f"Please say: {t}", "reference": "7", "answer": "7"}
            for n, t in enumerate(texts)
        ]
        return str(save_rows(tmp_path / f"{name}.jsonl", rows))

    benchmark = BenchmarkConfig(
        name="exact_match",
        validation=items("validation", "one two three four five", "where is the cat now"),
        test=items("test", LEAK, "something else entirely here"),
    )
    rows = [
        {"prompt": "What is this?", "response": f"Listen! {LEAK.upper()}, said he."},
        {"prompt": "Please say: nothing", "response": "of this kind is in any item there"},
    ]
    path = str(save_rows(tmp_path / "train.jsonl", rows))
    kept, counts = read_examples(DataConfig(path=path, decontaminate=8), [benchmark])
    assert [pair_of(example)[0] for example in kept] == ["Please say: nothing"]
    assert counts.contaminated == 1
    _, untouched = read_examples(DataConfig(path=path), [benchmark])
    assert untouched.contaminated == 0


@pytest.fixture
def small_is_large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.setattr(data_module, "_CACHED_BYTES", 0)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache" / "gmt_sweep_tokens"


def test_tokens_are_kept_under_their_content(
    tmp_path: Path, tokenizer: Any, small_is_large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_rows(tmp_path / "rows.jsonl", [ROWS["prompt_response"]])
    config = DataConfig(path=str(path))
    first = load_training_data(config, tokenizer)
    moved = DataConfig(path=str(path), max_length=6)
    assert len(list(small_is_large.glob("*.pt"))) == 1
    with monkeypatch.context() as patched:
        patched.setattr(data_module, "read_examples", None)  # nothing is read a second time
        again = load_training_data(config, tokenizer)
    assert [*again.tokens] == [*first.tokens]
    assert [*again.spans] == [*first.spans]
    assert (again.lengths, again.counts) == (first.lengths, first.counts)
    assert load_training_data(moved, tokenizer).lengths == (6,)
    save_rows(path, [{"prompt": "2+2=", "response": "4"}])
    assert [*load_training_data(config, tokenizer).tokens] != [*first.tokens]
    assert len(list(small_is_large.iterdir())) == 3


def test_the_chat_template_of_the_tokenizer(tmp_path: Path, world: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(world / "model")
    path = save_rows(tmp_path / "rows.jsonl", [ROWS["sharegpt"]])
    config = DataConfig(path=str(path), format="sharegpt", template="chat")
    with pytest.raises(RowError, match="requires a tokenizer with a chat template"):
        load_training_data(config, tokenizer)
    tokenizer.chat_template = CHATML
    data = load_training_data(config, tokenizer)
    (tokens,), (((start, end),),) = data.tokens, data.spans
    assert tokenizer.decode(tokens[:start]) == "<s>user\nhi</s>\n<s>assistant\n"
    assert tokenizer.decode(tokens[start:end]) == "yo</s>\n"
    tokenizer.chat_template = "{{ messages | length }}"
    with pytest.raises(RowError, match="cannot be identified"):
        load_training_data(config, tokenizer)
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    with pytest.raises(RowError, match="rejects a conversation: no"):
        load_training_data(config, tokenizer)
