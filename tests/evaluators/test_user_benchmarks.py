"""Benchmarks of the user's own, from YAML and from Python, and rows from the hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluators.benchmark import Item
from evaluators.benchmarks import build
from evaluators.benchmarks.exact_match import PROTOCOL
from evaluators.benchmarks.final_answer import AnswerBenchmark
from evaluators.errors import DataError
from evaluators.evaluate import evaluate
from evaluators.protocol import Changes
from tests.evaluators.benchmark_rows import jsonl
from tests.evaluators.test_benchmarks import Oracle, Silent

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "benchmarks"
CHOICES = """
name: colours
version: colours-1
form: multiple_choice
prompt: "{question}"
choices: options
answer: "{right}"
"""
PROGRAMS = """
name: adders
version: adders-1
form: pass_at_k
prompt: "{head}"
reference: "{body}"
tests: checks
temperature: 0.8
samples: 4
k: 2
"""


def scores(benchmark, items) -> tuple[float, float]:
    found = [evaluate(lm, benchmark, items).score for lm in (Oracle(items), Silent())]
    return found[0], found[1]


def test_the_example_in_yaml():
    benchmark = build(str(EXAMPLES / "capitals.yaml"))
    data = EXAMPLES / "capitals.jsonl"
    items = benchmark.load(data, "all")
    assert (benchmark.name, benchmark.metric, benchmark.aggregation) == (
        "capitals",
        "accuracy",
        "groups",
    )
    assert items[0].prompt == "Q: What is the capital of Kenya?\nA:"
    assert scores(benchmark, items) == (1.0, 0.0)
    parts = [benchmark.load(data, split) for split in ("validation", "test")]
    assert parts[0] and sorted(item.id for part in parts for item in part) == sorted(
        item.id for item in items
    )
    priced = build(str(EXAMPLES / "capitals.yaml"), metric="bits_per_byte")
    assert evaluate(Oracle(items), priced, items).score == 0.0


def test_the_example_in_python(tmp_path):
    benchmark = build(str(EXAMPLES / "palindromes.py"))
    items = benchmark.load(jsonl(tmp_path / "rows.jsonl", [{"id": "a", "start": "Ana"}]), "test")
    assert scores(benchmark, items) == (1.0, 0.0)


def test_multiple_choice_in_yaml(tmp_path):
    (tmp_path / "colours.yaml").write_text(CHOICES)
    rows = [{"question": f"Sky {n}?", "options": [" red", " blue"], "right": 1} for n in range(3)]
    benchmark = build(str(tmp_path / "colours.yaml"))
    items = benchmark.load(jsonl(tmp_path / "rows.jsonl", rows), "test")
    assert items[0].reference == " blue"
    assert scores(benchmark, items) == (1.0, 0.0)
    rows[1]["right"] = 2
    with pytest.raises(
        DataError, match=r"rows\.jsonl:2: expected an answer from 0 to 1, found '2"
    ):
        benchmark.load(jsonl(tmp_path / "rows.jsonl", rows), "test")


def test_programs_in_yaml_are_sampled(tmp_path):
    (tmp_path / "adders.yaml").write_text(PROGRAMS)
    row = {"head": "def f(x):\n", "body": "    return x + 1\n", "checks": ["assert f(1) == 2"]}
    benchmark = build(str(tmp_path / "adders.yaml"), sandbox="rlimits")
    items = benchmark.load(jsonl(tmp_path / "rows.jsonl", [row]), "test")
    result = evaluate(Oracle(items), benchmark, items)
    assert (result.score, result.metric, len(result.records[0].samples)) == (1.0, "pass@2", 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("form: multiple_choice", "form: multiple_choise"), "Did you mean 'multiple_choice'"),
        (("answer:", "anwser:"), "Unknown key 'anwser'.*Did you mean 'answer'"),
        (("version: colours-1\n", ""), "expected the keys name, version, form, prompt, found"),
        (("choices: options", "choices: [a]"), "expected 'choices' as a text, found \\['a'\\]"),
        (("choices: options", "choices: optoins"), "a field 'optoins'.*is 'options' meant"),
        (('"{question}"', '"{qestion}"'), "a field 'qestion'.*is 'question' meant"),
        (("name:", "samples: 3\nname:"), "expected a temperature above 0 to draw 3"),
        (("name: colours", "name: [" ), "expected YAML"),
    ],
)  # fmt: skip
def test_mistakes_are_named(tmp_path, change, message):
    path = tmp_path / "colours.yaml"
    path.write_text(CHOICES.replace(*change))
    row = {"question": "Sky?", "options": [" red"], "right": 0}
    with pytest.raises(DataError, match=message):
        build(str(path)).load(jsonl(tmp_path / "rows.jsonl", [row]), "test")


def test_a_corpus_metric_is_kept_after_a_system_prompt(tmp_path):
    class Corpus(AnswerBenchmark):
        name, mean_of_items = "corpus", False

        def load(self, path, split):
            return []

        def corpus_metrics(self, records):
            return {self.metric: 0.25}

    items = [Item("a", "p", "r", answer="1"), Item("b", "q", "r", answer="2")]
    benchmark = build(Corpus("accuracy", PROTOCOL), changes=Changes(system_prompt="Be brief."))
    assert evaluate(Oracle(items), benchmark, items).score == 0.25


def test_files_that_define_no_benchmark(tmp_path):
    with pytest.raises(DataError, match="absent\\.py: expected a Python file"):
        build(str(tmp_path / "absent.py"))
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(DataError, match="a function benchmark"):
        build(str(tmp_path / "empty.py"))
    (tmp_path / "exit.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(DataError, match="expected a file that Python can run: SystemExit: 3"):
        build(str(tmp_path / "exit.py"))
    (tmp_path / "wrong.py").write_text("def benchmark(metric, sandbox):\n    return 3\n")
    with pytest.raises(DataError, match="found int"):
        build(str(tmp_path / "wrong.py"))
    with pytest.raises(ValueError, match="expected no preset"):
        build(str(EXAMPLES / "capitals.yaml"), preset="full")


def test_rows_come_from_the_hub_at_a_revision(monkeypatch):
    import datasets

    asked = []

    def load_dataset(name, configuration, *, split, revision):
        asked.append((name, configuration, split, revision))
        return [{"question": f"Is {configuration} {n}?", "answer": "#### 4"} for n in range(3)]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    items = build("gsm8k", preset="full").load("hub:openai/gsm8k@e53f048", "test")
    assert len(items) == 3
    assert asked == [("openai/gsm8k", "main", "test", "e53f048")]
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *a, **k: [{"problem": "p", "solutoin": "s"}]
    )
    with pytest.raises(DataError, match=r"hub:a/math@v1:1: .*is 'solutoin' meant"):
        build("math").load("hub:a/math@v1", "test")


def test_hub_sources_need_a_revision_and_say_what_failed(monkeypatch):
    import datasets

    def load_dataset(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match="revision included"):
        build("gsm8k").load("hub:openai/gsm8k", "test")
    with pytest.raises(DataError, match="split 'test' of 'main' cannot be loaded: no route"):
        build("gsm8k").load("hub:openai/gsm8k@main", "test")
    with pytest.raises(DataError, match="expected a folder"):
        build("bbh").load("hub:a/bbh@main", "test")
