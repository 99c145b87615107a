"""Every value of a user's YAML and rows is checked, and read where it lies."""

from __future__ import annotations

import pytest

from evaluators.benchmark import Benchmark
from evaluators.benchmarks import build, runs_code
from evaluators.benchmarks.exact_match import PROTOCOL, ExactMatch
from evaluators.errors import DataError
from evaluators.evaluate import evaluate
from evaluators.sandbox import Sandbox
from tests.evaluators.benchmark_rows import jsonl
from tests.evaluators.test_benchmarks import Oracle
from tests.evaluators.test_user_benchmarks import CHOICES, PROGRAMS, scores

ANSWERS = """
name: sums
version: sums-1
form: exact_match
prompt: "{question}"
answer: "{answer}"
"""
ARC = """
name: arc
version: arc-1
form: multiple_choice
prompt: "Question: {question}\\nAnswer:"
choices: choices.text
labels: choices.label
delimiter: " "
answer: "{answerKey}"
id: "{id}"
"""


@pytest.mark.parametrize(
    ("yaml", "more", "message"),
    [
        (ANSWERS, "samples: 4\nk: 4\ntemperature: 1", "'k' belongs to pass_at_k, not to exact_ma"),
        (ANSWERS.replace('answer: "{answer}"', ""), "", "expected 'answer' with a text, found no"),
        (ANSWERS, "max_new_tokens: 0", "max_new_tokens: expected at least 1, found 0"),
        (ANSWERS, "temperature: -1", r"temperature: expected 0 or more, found -1\.0"),
        (ANSWERS, "temperature: .nan", "temperature: expected 0 or more, found nan"),
        (ANSWERS, "top_p: 0", r"top_p: expected above 0, up to 1, found 0\.0"),
        (ANSWERS, "top_p: 0.5", "top_p 0.5: expected a temperature above 0, or top_p 1"),
        (ANSWERS, "stops: x", "expected 'stops' as a list of texts, found 'x'"),
        (ANSWERS, "validation: null", "expected 'validation' as a number, found None"),
        (ANSWERS, "robust: true\nrobust: false", "each key once, found 'robust' 2 times"),
        (ANSWERS.replace("{question}", "{ question }"), "", "prompt: expected a field of the row"),
        (ANSWERS.replace("{answer}", "answer"), "", "answer: expected a field .* found 'answer'"),
        (ANSWERS, "validation: 1.0", r"validation: expected between 0 and 1, found 1\.0"),
        (ANSWERS, "choices: c", "'choices' belongs to multiple_choice"),
        (ANSWERS, "timeout: 3", "'timeout' belongs to pass_at_k"),
        (ANSWERS.replace('"{question}"', '""'), "", "expected 'prompt' with a text, found none"),
        (CHOICES, "max_new_tokens: 8", "belongs to exact_match and pass_at_k, not to multiple_ch"),
        (CHOICES, "extraction: robust", "'extraction' belongs to exact_match"),
        (PROGRAMS, "timeout: 0", r"timeout: expected 0\.1 to 3600 seconds, found 0"),
        (PROGRAMS, "timeout: true", "expected 'timeout' as a number, found True"),
        (PROGRAMS, "memory_mb: 1", "memory_mb: expected 64 to 1048576 MiB, found 1"),
        (PROGRAMS, "packages: numpy", "expected 'packages' as a list of texts, found 'numpy'"),
        (PROGRAMS, "packages: [nmupy]", "packages that are installed here, found 'nmupy'"),
        (PROGRAMS, "k: 5", "expected 1 <= k <= samples, found k=5, samples=4"),
    ],
)  # fmt: skip
def test_every_value_of_the_yaml_is_checked(tmp_path, yaml, more, message):
    path = tmp_path / "own.yaml"
    lines = [line for line in yaml.splitlines() if not more.startswith(f"{line.split(':')[0]}:")]
    path.write_text("\n".join([*lines, more, ""]))
    with pytest.raises(ValueError, match=message):
        build(str(path), sandbox="rlimits" if yaml == PROGRAMS else None)


@pytest.mark.parametrize(
    ("yaml", "row", "message"),
    [
        (ANSWERS, {"question": None, "answer": "1"}, "'question' as a text or a number, found nu"),
        (ANSWERS, {"question": "q", "answer": ["1", "2"]},
            r"'answer' as .* a list, \['1', '2'\]; its first entry is answer\.0"),
        (ANSWERS, {"question": " ", "answer": 1}, "a text for '{question}', found ' '"),
        (ANSWERS, {"question": "q", "answer": ""}, "a text for '{answer}', found ''"),
        (ANSWERS, {"question": "q", "answer": float("nan")}, "a number, found nan"),
        (ANSWERS, {"question": {"stem": "q"}, "answer": 1}, r"several fields: question\.stem"),
        (CHOICES, {"question": "q", "options": ["a", "a"], "right": 0}, "'a' more than once"),
        (CHOICES, {"question": "q", "options": ["a", ""], "right": 0}, "at least one character"),
        (CHOICES, {"question": "q", "options": ["a"], "right": 0}, "least two choices, found 1"),
        (CHOICES, {"question": "q", "options": ["a", "b"], "right": "C"}, "0 to 1, found 'C'"),
        (CHOICES, {"question": "q", "options": {"text": ["a"], "label": [1]}, "right": 0},
            r"several fields: options\.text, options\.label"),
        (CHOICES, {"question": "q", "options": [], "right": 0}, "non-empty list"),
        (PROGRAMS, {"head": "h", "body": "b", "checks": [""]}, "test 1 in 'checks'.*no sta"),
        (PROGRAMS, {"head": "h", "body": "b", "checks": ["assert 1", "# x"]}, "test 2 in"),
        (PROGRAMS, {"head": "h", "body": "b", "checks": "assert f(1 =="}, "as Python, found"),
        (PROGRAMS, {"head": "h", "body": "b", "checks": None}, "list of strings, found nu"),
        (ARC, {"id": "a", "question": "q", "answerKey": "E",
               "choices": {"text": ["x", "y"], "label": ["A", "B"]}}, "one of 2 'choices.label'"),
        (ARC, {"id": "a", "question": "q", "answerKey": "A",
               "choices": {"text": ["x", "y"], "label": ["A", "A"]}}, "one of 2 'choices.label'"),
    ],
)  # fmt: skip
def test_every_value_of_a_row_is_checked(tmp_path, yaml, row, message):
    (tmp_path / "own.yaml").write_text(yaml)
    data = jsonl(tmp_path / "rows.jsonl", [row])
    benchmark = build(str(tmp_path / "own.yaml"), sandbox="rlimits" if yaml == PROGRAMS else None)
    with pytest.raises(DataError, match=rf"rows\.jsonl:1: expected .*{message}"):
        benchmark.load(data, "test")


def test_built_in_formats_check_answers_choices_and_tests_as_well(tmp_path):
    rows = {
        "exact_match": {"id": "a", "prompt": "p", "reference": "r", "answer": " "},
        "short_answer": {"id": "a", "prompt": "p", "reference": " "},
        "gsm8k": {"question": "q", "answer": "so 5 #### "},
        "math": {"problem": "q", "solution": r"\boxed{}", "level": "1", "type": "t"},
        "multiple_choice": {"id": "a", "prompt": "p", "choices": ["x", "x"], "answer": 0},
        "pass_at_1": {"id": "a", "prompt": "p", "reference": "r", "tests": ["  "],
                      "entry_point": "f"},
    }  # fmt: skip
    for name, row in rows.items():
        benchmark = build(name, sandbox="rlimits" if runs_code(name) else None)
        with pytest.raises(DataError, match=r"rows\.jsonl:1: expected"):
            benchmark.load(jsonl(tmp_path / "rows.jsonl", [row]), "test")


def test_an_id_that_comes_twice_is_named_at_once(tmp_path):
    (tmp_path / "own.yaml").write_text(ARC)
    row = {"id": "a", "question": "q", "answerKey": "1",
           "choices": {"text": ["x", "y"], "label": ["1", "2"]}}  # fmt: skip
    data = jsonl(tmp_path / "rows.jsonl", [row, row])
    with pytest.raises(DataError, match=r"rows\.jsonl:2: expected an id .*'a' again"):
        build(str(tmp_path / "own.yaml")).load(data, "test")


def test_the_hub_s_layout_of_arc(tmp_path):
    (tmp_path / "arc.yaml").write_text(ARC)
    rows = [
        {"id": f"q{n}", "question": f"Which {n}?", "answerKey": key,
         "choices": {"text": ["ice", "rain", "snow"], "label": list(labels)}}
        for n, (key, labels) in enumerate([("B", "ABC"), ("3", "123"), ("A", "ABC")])
    ]  # fmt: skip
    benchmark = build(str(tmp_path / "arc.yaml"))
    items = benchmark.load(jsonl(tmp_path / "rows.jsonl", rows), "test")
    assert [item.reference for item in items] == [" rain", " snow", " ice"]
    assert items[0].choices == (" ice", " rain", " snow")
    assert scores(benchmark, items) == (1.0, 0.0)


def test_fields_are_found_by_their_paths(tmp_path):
    (tmp_path / "own.yaml").write_text(ANSWERS.replace('"{answer}"', '"{answers.0.text}"'))
    rows = [{"question": "q {x} {}", "answers": [{"text": 7}], "answers.1": 0}]
    benchmark = build(str(tmp_path / "own.yaml"))
    (item,) = benchmark.load(jsonl(tmp_path / "rows.jsonl", rows), "test")
    assert (item.prompt, item.answer) == ("q {x} {}", "7")


def test_letters_are_answers(tmp_path):
    (tmp_path / "own.yaml").write_text(CHOICES)
    rows = [{"question": "q", "options": ["a", "b", "c"], "right": "C"}]
    benchmark = build(str(tmp_path / "own.yaml"))
    assert benchmark.load(jsonl(tmp_path / "rows.jsonl", rows), "test")[0].reference == "c"


def test_programs_have_their_limits_and_say_why_they_fail(tmp_path):
    limits = "timeout: 1\nmemory_mb: 256\npackages: [yaml]\n"
    (tmp_path / "own.yaml").write_text(PROGRAMS + limits)
    row = {"head": "def f(xs):\n", "body": "    xs.sort()\n",
           "checks": ["import yaml", "a = [2, 1]\nf(a)\nassert a == [1, 2]"]}  # fmt: skip
    data = jsonl(tmp_path / "rows.jsonl", [row, {**row, "body": "    pass\n"}])
    benchmark = build(str(tmp_path / "own.yaml"), sandbox="rlimits")
    assert benchmark.protocol()["limits"] == {
        "timeout": 1.0, "memory_mb": 256, "inside": True, "packages": ("yaml",)
    }  # fmt: skip
    items = benchmark.load(data, "test")
    right, wrong = (evaluate(Oracle([item]), benchmark, [item]).records[0] for item in items)
    assert (right.score, right.reason) == (1.0, "")
    assert wrong.reason == "AssertionError in 'assert a == [1, 2]'"
    assert [sample.reason for sample in wrong.samples] == [wrong.reason] * 4


def test_only_programs_take_a_sandbox(tmp_path):
    (tmp_path / "own.yaml").write_text(ANSWERS)
    (tmp_path / "programs.yaml").write_text(PROGRAMS)
    assert runs_code(str(tmp_path / "programs.yaml"))
    assert not runs_code(str(tmp_path / "own.yaml"))
    with pytest.raises(ValueError, match=r"own\.yaml runs no generated code; expected no sandbox"):
        build(str(tmp_path / "own.yaml"), sandbox=Sandbox(timeout=3))


def test_python_gives_a_benchmark_or_a_function_that_makes_one():
    own = ExactMatch("accuracy", PROTOCOL)
    assert build(own) is own
    made = build(
        lambda metric, sandbox: ExactMatch(metric or "accuracy", PROTOCOL), metric="bits_per_byte"
    )
    assert isinstance(made, Benchmark)
    assert made.metric == "bits_per_byte"
    with pytest.raises(ValueError, match="has no preset; expected none, found 'full'"):
        build(own, preset="full")
    with pytest.raises(ValueError, match="expected metric and sandbox of the object"):
        build(own, metric="bits_per_byte")

    def broken(metric: str | None, sandbox: str | None) -> Benchmark:
        raise KeyError("rows")

    with pytest.raises(DataError, match=r"broken: benchmark\(\) failed: KeyError: 'rows'"):
        build(broken)
    with pytest.raises(DataError, match="expected a function benchmark"):
        build(3)  # type: ignore[arg-type]


def test_python_files_with_mistakes_say_so(tmp_path):
    for text, message in (
        ("def benchmark(:\n", "expected a file that Python can run: SyntaxError"),
        ("import absent_package\n", "ModuleNotFoundError: No module named 'absent_package'"),
        ("def benchmark(metric): ...\n", r"benchmark\(\) failed: TypeError"),
    ):
        (tmp_path / "own.py").write_text(text)
        with pytest.raises(DataError, match=rf"own\.py: .*{message}"):
            build(str(tmp_path / "own.py"))
