"""One conformance suite over all benchmarks, on small generated files."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from evaluators.benchmark import Benchmark, Item, protocol_sha256
from evaluators.benchmarks import NAMES, build
from evaluators.benchmarks import gsm8k as gsm8k_module
from evaluators.benchmarks import mbpp as mbpp_module
from evaluators.benchmarks.program import program
from evaluators.errors import DataError
from evaluators.evaluate import evaluate, select
from evaluators.language_model import Completion, LanguageModel, LogLikelihood
from evaluators.split import is_validation

RUNS_CODE = ("pass_at_1", "mbpp")
CHOOSES = ("multiple_choice", "mmlu")
SPLITS = ("validation", "test")


class Oracle:
    """Answers with the reference, and finds nothing but the right text likely."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._references = {item.prompt: item.reference for item in items}
        self._right = {
            item.prompt: item.choices[int(item.answer)] for item in items if item.choices
        }

    def generate(self, prompts, *, max_new_tokens, stops=()) -> list[Completion]:
        return [Completion(self._references[prompt], 1, False) for prompt in prompts]

    def loglikelihood(self, pairs) -> list[LogLikelihood]:
        good = [text in (self._references[p], self._right.get(p)) for p, text in pairs]
        return [LogLikelihood(0.0 if each else -9.0, 1, each) for each in good]


class Silent:
    """Says nothing, and finds every text impossible."""

    def generate(self, prompts, *, max_new_tokens, stops=()) -> list[Completion]:
        return [Completion("", 1, False) for _ in prompts]

    def loglikelihood(self, pairs) -> list[LogLikelihood]:
        return [LogLikelihood(-9.0, 1, False) for _ in pairs]


def jsonl(path: Path, rows: Sequence[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def exact_match(folder: Path) -> Path:
    return jsonl(
        folder / "data.jsonl",
        [
            {"id": f"m{n}", "prompt": f"Question: {n} + 1?\nAnswer:", "answer": f"{n + 1}.0",
             "reference": f" {n} + 1 = {n + 1}. The answer is: {n + 1}"}
            for n in range(8)
        ],
    )  # fmt: skip


def pass_at_1(folder: Path) -> Path:
    return jsonl(
        folder / "data.jsonl",
        [
            {"id": f"c{n}", "prompt": f"def f(x):\n    # add {n}\n", "entry_point": "f",
             "reference": f"    return x + {n}\n", "tests": [f"assert f(1) == {n + 1}"]}
            for n in range(6)
        ],
    )  # fmt: skip


def multiple_choice(folder: Path) -> Path:
    return jsonl(
        folder / "data.jsonl",
        [
            {"id": f"q{n}", "prompt": f"Question {n}:", "choices": [" no", " yes", " \u2028"],
             "answer": 1 + n % 2}
            for n in range(8)
        ],
    )  # fmt: skip


def short_answer(folder: Path) -> Path:
    return jsonl(
        folder / "data.jsonl",
        [{"id": f"s{n}", "prompt": f"Where is {n}?", "reference": f" town {n}"} for n in range(8)],
    )


def gsm8k(folder: Path) -> Path:
    return jsonl(
        folder / "data.jsonl",
        [
            {"question": f"What is {n} + 1000?",
             "answer": f"It is {n}+1000=<<{n}+1000={n + 1000}>>{n + 1000}.\n#### {n + 1000:,}"}
            for n in range(200)
        ],
    )  # fmt: skip


def mbpp(folder: Path) -> Path:
    return jsonl(
        folder / "data.jsonl",
        [
            {"task_id": n, "text": f"Write a function to add {n}.", "challenge_test_list": [],
             "code": f"def add(x):\r\n\treturn x + {n}\r\nclass Box: pass",
             "test_list": [f"assert add(1) == {n + 1}", "assert box is not None"],
             "test_setup_code": "box = Box()"}
            for n in (10, 11, 12, 510, 511, 600, 601)
        ],
    )  # fmt: skip


def mmlu(folder: Path) -> Path:
    for part, rows in (("dev", 2), ("test", 5)):
        (folder / part).mkdir()
        for subject in ("anatomy", "high_school_physics"):
            with (folder / part / f"{subject}_{part}.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                if subject == "anatomy":
                    writer.writerow(["question", "a", "b", "c", "d", "answer"])
                for n in range(rows):
                    answer = n % 4 if subject == "anatomy" else "ABCD"[n % 4]
                    writer.writerow([f"Which,\n{n}?", "None", "N/A", "", str(n), answer])
    return folder


def make(name: str, metric: str | None = None) -> Benchmark:
    needs = name in RUNS_CODE and metric is None
    return build(name, metric=metric, sandbox="rlimits" if needs else None)


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture
def data(name, tmp_path) -> Path:
    return globals()[name.removesuffix("_metamath")](tmp_path)


def test_the_perfect_model_scores_one(name, data):
    benchmark = make(name)
    for split in SPLITS:
        items = benchmark.load(data, split)
        result = evaluate(Oracle(items), benchmark, items)
        assert result.score == 1.0
        assert (result.name, result.metric, result.n) == (name, benchmark.metric, len(items))
        assert result.metrics["extraction_failures"] == 0.0
        assert result.metrics[benchmark.metric] == 1.0
        assert result.sandbox_level == ("rlimits" if name in RUNS_CODE else None)
        assert [record.id for record in result.records] == [item.id for item in items]


def test_the_silent_model_scores_zero(name, data):
    benchmark = make(name)
    items = benchmark.load(data, "test")
    result = evaluate(Silent(), benchmark, items)
    if name not in CHOOSES:  # all choices tied: the first is taken
        assert result.score == 0.0
        assert result.metrics["extraction_failures"] == 1.0
    assert result.metrics["bits_per_byte"] > 0


def test_bits_per_byte_generates_nothing(name, data):
    benchmark = make(name, "bits_per_byte")
    items = benchmark.load(data, "test")
    silent = Silent()
    silent.generate = None
    result = evaluate(silent, benchmark, items)
    assert result.score == -result.metrics["bits_per_byte"] < 0
    assert result.sandbox_level is None
    assert evaluate(Oracle(items), benchmark, items).score == 0.0


def test_items_are_well_formed(name, data):
    benchmark = make(name)
    items = {split: benchmark.load(data, split) for split in SPLITS}
    for part in items.values():
        assert part and len({item.id for item in part}) == len(part)
        assert all(item.prompt and item.reference for item in part)
    assert benchmark.load(data, "test") == items["test"]


def test_protocols_differ_and_are_json(name):
    prints = {protocol_sha256(make(other)) for other in NAMES}
    assert len(prints) == len(NAMES)
    assert protocol_sha256(make(name)) != protocol_sha256(make(name, "bits_per_byte"))
    assert json.loads(json.dumps(make(name).protocol()))["benchmark"] == name


def test_an_empty_share_gives_no_records(name):
    assert make(name).score(Silent(), []) == []


def test_a_real_model_runs_through(name, data, model, tokenizer):
    benchmark = make(name)
    items = select(benchmark.load(data, "test"), 3)
    result = evaluate(LanguageModel(model, tokenizer), benchmark, items)
    assert result.n == 3
    assert 0.0 <= result.score <= 1.0
    assert result.metrics["bits_per_byte"] > 0


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("exact_match", "{bad", ":2: expected an object with 'id', 'prompt'.*invalid JSON"),
        ("exact_match", '{"id": "a"}', ":2: expected .*'answer', found 'id'"),
        ("exact_match", "[1]", ":2: expected an object .*found list"),
        ("short_answer", '{"id": 3, "prompt": "", "reference": ""}', ":2: expected 'id' as str"),
        ("multiple_choice", '{"id":"a","prompt":"p","choices":["x"],"answer":1}', "from 0 to 0"),
        ("multiple_choice", '{"id":"a","prompt":"p","choices":["x"],"answer":true}', "as int"),
        ("multiple_choice", '{"id":"a","prompt":"p","choices":[],"answer":0}', "non-empty list"),
        ("gsm8k", '{"question": "q", "answer": "18"}', ":2: expected 'answer' with '#### N'"),
        ("mbpp", '{"task_id": 11}', ":2: expected .*'test_list'.*found 'task_id'"),
    ],
)
def test_bad_rows_are_named_by_file_and_line(tmp_path, name, row, message):
    path = tmp_path / "data.jsonl"
    path.write_text(f"\n{row}\n")
    with pytest.raises(
        DataError, match=rf"data\.jsonl{message}" if message[0] == ":" else message
    ):
        make(name).load(path, "test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q,a,b,c,d,0\nq,a,b,c,d\n", r"x_test\.csv:2: expected 6 columns.*found 5 columns"),
        ("q,a,b,c,d,7\n", r":1: expected an answer 0-3 or A-D, found '7'"),
        ("q,a,b,c,d,\n", "found ''"),
        ('"q', r":1: .*invalid csv"),
    ],
)
def test_bad_csv_rows_are_named_by_file_and_line(tmp_path, text, message):
    (tmp_path / "x_test.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        make("mmlu").load(tmp_path, "test")


def test_missing_data_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.jsonl: cannot be read: No such file"):
        make("gsm8k").load(tmp_path / "absent.jsonl", "test")
    with pytest.raises(DataError, match=r"files \*_dev\.csv, found none"):
        make("mmlu").load(tmp_path, "validation")


def test_misspelt_names_get_the_nearest_one():
    with pytest.raises(ValueError, match="Did you mean 'gsm8k'"):
        build("gsm9k")
    with pytest.raises(ValueError, match="Did you mean 'accuracy'"):
        build("gsm8k", metric="acuracy")
    with pytest.raises(ValueError, match="runs no generated code"):
        build("gsm8k", sandbox="rlimits")


def test_gsm8k_validation_is_the_held_out_part_of_the_questions(tmp_path):
    path = gsm8k(tmp_path)
    items = build("gsm8k").load(path, "validation")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    held = [
        gsm8k_module.prompt_and_reference(row) for row in rows if is_validation(row["question"])
    ]
    assert [(item.prompt, item.reference) for item in items] == held
    assert held[0][1].count("<<") == 0
    assert items[0].reference.endswith(f"\nThe answer is: {items[0].answer}")
    assert "step by step" in build("gsm8k_metamath").load(path, "test")[0].prompt


def test_mbpp_splits_by_task_id_and_runs_the_setup_after_the_code(tmp_path):
    path = mbpp(tmp_path)
    ids = {split: [i.id for i in make("mbpp").load(path, split)] for split in SPLITS}
    assert ids == {
        "validation": ["mbpp/511", "mbpp/600"],
        "test": ["mbpp/11", "mbpp/12", "mbpp/510"],
    }
    item = make("mbpp").load(path, "test")[0]
    row = json.loads(path.read_text().splitlines()[1])
    assert mbpp_module.prompt_and_reference(row) == (item.prompt, item.reference)
    assert "\r" not in program(item, item.reference)


def test_mmlu_keeps_choices_that_look_like_missing_values(tmp_path):
    items = make("mmlu").load(mmlu(tmp_path), "test")
    assert items[0].reference == " None"
    assert "A. None\nB. N/A\nC. \nD. 0\nAnswer:" in items[0].prompt
    assert "about high school physics." in items[-1].prompt
    assert [item.answer for item in items[:5]] == [item.answer for item in items[5:]]


def test_selection_is_stable_and_nested():
    items = [Item(f"i{n}", "p", "r") for n in range(50)]
    ten = select(items, 10)
    assert len(ten) == 10
    assert {i.id for i in select(items[::-1], 10)} == {i.id for i in ten}
    assert {i.id for i in ten} < {i.id for i in select(items, 20)}
    assert select(items, None) == select(items, 99) == items
    with pytest.raises(ValueError, match="at least 1"):
        select(items, 0)


def test_the_import_is_light():
    code = (
        "import sys, evaluators.benchmarks, evaluators.evaluate\n"
        "heavy = {'transformers', 'datasets', 'pandas', 'ray', 'mlflow', 'optuna', 'gmt_core'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
