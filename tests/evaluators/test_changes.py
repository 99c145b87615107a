"""What a user changes in a protocol: it reaches the model, and the fingerprint."""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path

import pytest

from evaluators.benchmark import Sample, protocol_sha256
from evaluators.benchmarks import NAMES, SHIPPED, build, presets
from evaluators.benchmarks.generative import majority
from evaluators.evaluate import evaluate
from evaluators.protocol import Changes
from evaluators.text_model import Completion, LogLikelihood, TextModel
from tests.evaluators.benchmark_rows import ROWS, jsonl, mmlu
from tests.evaluators.harness_tasks import ARC
from tests.evaluators.test_benchmarks import Oracle

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "benchmarks"
SUMS = [
    {"id": f"s{n}", "prompt": f"{n}+1=", "reference": f" The answer is: {n + 1}",
     "answer": f"{n + 1}"}
    for n in range(20)
]  # fmt: skip


class Asked(TextModel):
    """Remembers what it was asked, and says the same every time; or each of `texts` in turn."""

    def __init__(self, *texts: str) -> None:
        self.prompts: list[str] = []
        self.options: dict = {}
        self._texts = texts or ("",)

    def generate(self, prompts, **options):
        self.prompts, self.options = list(prompts), options
        texts = [self._texts[n % len(self._texts)] for n in range(len(prompts))]
        return [Completion(text, 1, False) for text in texts]

    def loglikelihood(self, pairs):
        return [LogLikelihood(-1.0 * len(text), 1, False) for _, text in pairs]


def test_decoding_reaches_the_model_and_the_fingerprint(tmp_path):
    items = build("exact_match").load(jsonl(tmp_path / "sums.jsonl", SUMS), "all")
    prints = {protocol_sha256(build("exact_match"))}
    for changes in (
        Changes(max_new_tokens=7),
        Changes(temperature=0.5),
        Changes(temperature=0.5, top_p=0.9),
        Changes(temperature=0.5, samples=4),
    ):
        benchmark, lm = build("exact_match", changes=changes), Asked("The answer is: 1")
        benchmark.score(lm, items[:2])
        assert lm.options["max_new_tokens"] == (changes.max_new_tokens or 128)
        sampling = lm.options.get("sampling")
        assert (sampling and sampling.temperature) == changes.temperature
        assert (sampling and sampling.top_p) == (changes.temperature and (changes.top_p or 1.0))
        assert len(lm.prompts) == 2 * (changes.samples or 1)
        prints.add(protocol_sha256(benchmark))
    assert len(prints) == 5


@pytest.mark.parametrize("name", ["exact_match", str(EXAMPLES / "capitals.yaml"), "gsm8k"])
def test_demonstrations_are_validation_items(tmp_path, name):
    files = {"exact_match": jsonl(tmp_path / "test.jsonl", SUMS[10:])}
    held = jsonl(tmp_path / "held.jsonl", SUMS[:10])
    if name == "gsm8k":
        rows = [{"question": f"What is {n}?", "answer": f"#### {n}"} for n in range(200)]
        files["gsm8k"], held = jsonl(tmp_path / "t.jsonl", rows[:5]), jsonl(tmp_path / "h", rows)
    own = name.endswith(".yaml")
    data = files.get(name, EXAMPLES / "capitals.jsonl")
    changes = Changes(shots=1, system_prompt="Be brief.", shots_from=None if own else str(held))
    plain, benchmark = build(name), build(name, changes=changes)
    pool = plain.load(data if own else held, "validation")
    solved = {f"{item.prompt}{item.reference}\n\n" for item in pool}
    for before, item in zip(plain.load(data, "test"), benchmark.load(data, "test"), strict=True):
        assert item.prompt.startswith("Be brief.\n\n") and item.prompt.endswith(before.prompt)
        shown = item.prompt.removeprefix("Be brief.\n\n").removesuffix(before.prompt)
        assert shown in solved
        assert (item.id, item.reference, item.answer) == (
            before.id,
            before.reference,
            before.answer,
        )
    for item in benchmark.load(held if not own else data, "validation"):
        assert item.prompt.count(item.prompt.rpartition("\n\n")[2]) == 1  # never by itself
    other = build(name, changes=Changes(shots=1, fewshot_seed=1, shots_from=changes.shots_from))
    assert [i.prompt for i in other.load(data, "test")] != [
        i.prompt for i in plain.load(data, "test")
    ]
    assert len({protocol_sha256(each) for each in (plain, benchmark, other)}) == 3


def test_demonstrations_of_a_program_are_no_part_of_it(tmp_path):
    rows = [
        {"id": f"p{n}", "prompt": f"def f{n}():\n", "reference": f"    return {n}\n",
         "tests": [f"assert f{n}() == {n}"], "entry_point": f"f{n}"}
        for n in range(4)
    ]  # fmt: skip
    data = jsonl(tmp_path / "programs.jsonl", rows)
    changes = Changes(shots=2, system_prompt="No words.", shots_from=str(data))
    benchmark = build("pass_at_1", sandbox="rlimits", changes=changes)
    items = benchmark.load(data, "test")
    assert evaluate(Oracle(items), benchmark, items).score == 1.0


def test_mmlu_takes_as_many_shots_as_are_asked_for(tmp_path):
    data = mmlu(tmp_path)
    few = build("mmlu", changes=Changes(shots=2))
    assert {item.prompt.count("Answer:") for item in few.load(data, "test")} == {3}
    with pytest.raises(ValueError, match="expected 9 questions in the dev file"):
        build("mmlu", changes=Changes(shots=9)).load(data, "test")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "text"])
def test_changed_decoding_reads_the_same_items(tmp_path, name):
    """Rules are compared by what they say: those of a changed protocol are another object."""
    for preset in presets(name) or (None,):
        made = "mbpp_plus" if (name, preset) == ("mbpp", "table1") else name
        (tmp_path / str(preset)).mkdir()
        data = ROWS[made](tmp_path / str(preset))
        plain = build(name, preset=preset, metric="bits_per_byte")
        if plain.protocol()["rules"]["decoding"]["max_new_tokens"]:
            changes = Changes(max_new_tokens=7)
            changed = build(name, preset=preset, metric="bits_per_byte", changes=changes)
            assert changed.load(data, "all") == plain.load(data, "all")


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("gsm8k", {"temperature": -1}, "temperature: expected a number at least 0, found -1"),
        ("gsm8k", {"top_p": 1.5}, "top_p: expected a number from 0 to 1, found 1.5"),
        ("gsm8k", {"top_p": 0}, "top_p: expected a number above 0"),
        ("gsm8k", {"samples": 4}, "expected a temperature above 0 to draw 4 samples"),
        ("gsm8k", {"temperature": float("inf")}, "temperature: expected a number at least 0"),
        ("gsm8k", {"top_p": 0.9}, "top_p 0.9: expected a temperature above 0, or top_p 1"),
        ("gsm8k", {"shots_from": "x.jsonl"}, "shots_from: requires shots"),
        ("gsm8k", {"fewshot_seed": 3}, "fewshot_seed: requires shots"),
        ("mmlu", {"temperature": 1}, "expected a benchmark that generates text"),
        ("bbh", {"shots": 5}, "has 3 demonstrations of its own; expected no shots"),
        ("arc_easy", {"max_new_tokens": 5}, "compares likelihoods and generates no text"),
    ],
)
def test_what_cannot_be_changed_is_a_sentence(name, changes, said):
    with pytest.raises(ValueError, match=said):
        build(name, changes=Changes(**changes))


def test_demonstrations_need_validation_items(tmp_path):
    data = jsonl(tmp_path / "sums.jsonl", SUMS)
    with pytest.raises(ValueError, match="expected their file as shots_from"):
        build("exact_match", changes=Changes(shots=1)).load(data, "test")
    with pytest.raises(ValueError, match=r"expected 20 validation items besides 's0'.*found 19"):
        build("exact_match", changes=Changes(shots=20)).load(data, "validation")


def test_several_samples_give_their_mean_and_a_vote(tmp_path):
    items = build("exact_match").load(jsonl(tmp_path / "sums.jsonl", SUMS), "all")[:1]
    said = [f"The answer is: {n}" for n in (1, 2, 1, 3, 9)]
    benchmark = build("exact_match", changes=Changes(temperature=1.0, samples=5))
    result = evaluate(Asked(*said), benchmark, items)
    assert (result.metric, result.score) == ("accuracy", 0.4)
    assert (result.metrics["maj@5"], result.metrics["pass@5"]) == (1.0, 1.0)
    two = build("exact_match", changes=Changes(temperature=1.0, samples=5, k=2))
    metrics = evaluate(Asked(*said), two, items).metrics
    assert metrics["pass@2"] == pytest.approx(1 - 3 / 10)
    assert metrics["maj@2"] == 1.0  # of 1 and 2, and of 1 and 3, the first


def test_a_vote_is_that_of_plain_counting():
    draw = random.Random(0)
    for _ in range(200):
        samples = [
            Sample("", draw.choice([None, "a", "b", "c"]), 0.0, 1, False)
            for _ in range(draw.randint(1, 9))
        ]
        samples = [Sample("", s.extracted, float(s.extracted == "a"), 1, False) for s in samples]
        k = draw.randint(1, len(samples))
        votes = []
        for start in range(0, len(samples) // k * k, k):
            given = [s.extracted for s in samples[start : start + k] if s.extracted is not None]
            counts = Counter(given)
            top = [answer for answer in given if counts[answer] == max(counts.values())]
            votes.append(float(bool(top) and top[0] == "a"))
        assert majority(samples, k) == pytest.approx(sum(votes) / len(votes))


def test_long_choices_are_normalised(tmp_path):
    rows = [{"id": "q", "prompt": "?", "choices": [" a", " aaaaaaaaaaaa"], "answer": 1}]
    data = jsonl(tmp_path / "choices.jsonl", rows)

    class Halves(Asked):
        def loglikelihood(self, pairs):
            return [LogLikelihood(-math.sqrt(len(text)), 1, False) for _, text in pairs]

    plain = build("multiple_choice")
    items = plain.load(data, "all")
    result = evaluate(Halves(), plain, items)
    assert (result.score, result.metrics["accuracy_norm"]) == (0.0, 1.0)
    normalised = build("multiple_choice", metric="accuracy_norm")
    assert evaluate(Halves(), normalised, items).score == 1.0
    assert protocol_sha256(plain) != protocol_sha256(normalised)


SHIPPED_ROWS = {
    "arc_easy": ARC,
    "arc_challenge": ARC,
    "mmlu_pro": [
        {"question_id": n, "question": f"{n}?", "options": ["one", "two", "three"],
         "answer": "B", "answer_index": 1, "category": f"c{n % 2}"}
        for n in range(6)
    ],
    "math_500": [
        {"problem": f"What is {n}/2?", "solution": f"It is $\\boxed{{{n}/2}}$.",
         "answer": f"\\frac{{{n}}}{{2}}", "unique_id": f"test/{n}.json"}
        for n in range(1, 30)
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_benchmarks_know_right_from_wrong(tmp_path, name):
    data = jsonl(tmp_path / "rows.jsonl", SHIPPED_ROWS[name])
    benchmark = build(name)
    items = benchmark.load(data, "all")
    assert benchmark.name == name and len(items) == len(SHIPPED_ROWS[name])
    assert evaluate(Oracle(items), benchmark, items).score == 1.0
    assert evaluate(Asked("No."), benchmark, items).score < 1.0
    held = {item.id for item in benchmark.load(data, "validation")}
    if not benchmark.splits_are_files:
        test = {item.id for item in benchmark.load(data, "test")}
        assert held and test and not held & test
