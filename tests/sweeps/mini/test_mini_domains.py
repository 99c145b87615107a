from __future__ import annotations

import random
from typing import get_args

import pytest

from sweeps.mini import arithmetic, knowledge, programs
from sweeps.mini.splits import Split, collect, split_of
from sweeps.mini.world import items, train

EVALUATIONS = ("math", "code", "general_choice", "general_short")
TRAINING = ("math", "code", "general")


@pytest.mark.parametrize("name", EVALUATIONS)
def test_items_are_a_function_of_split_count_and_seed(name: str) -> None:
    assert items(name, "test", 20, 3) == items(name, "test", 20, 3)
    assert items(name, "test", 20, 3) != items(name, "test", 20, 4)
    assert items(name, "test", 20, 3)[:10] == items(name, "test", 10, 3)


@pytest.mark.parametrize("name", TRAINING)
def test_training_rows_are_a_function_of_count_and_seed(name: str) -> None:
    assert train(name, 50, 3) == train(name, 50, 3)
    assert train(name, 50, 3) != train(name, 50, 4)
    assert all(set(row) == {"prompt", "response"} for row in train(name, 50, 3))


@pytest.mark.parametrize("name", EVALUATIONS)
def test_prompts_of_the_splits_are_disjoint(name: str) -> None:
    domain = name.split("_")[0]
    training = {row["prompt"] for row in train(domain)}
    validation = {row["prompt"] for row in items(name, "validation", 128)}
    test = {row["prompt"] for row in items(name, "test", 200)}
    assert not training & validation
    assert not training & test
    assert not validation & test


def test_every_content_is_in_one_split() -> None:
    rng = random.Random(0)
    contents = {
        split: {problem.content for problem in collect(arithmetic.draw, split, 100, 0)}
        for split in get_args(Split)
    }
    assert not contents["train"] & contents["validation"]
    assert not contents["train"] & contents["test"]
    assert not contents["validation"] & contents["test"]
    assert {split_of(arithmetic.draw(rng).content) for _ in range(200)} == set(get_args(Split))


def test_ids_are_distinct() -> None:
    for name in EVALUATIONS:
        ids = [row["id"] for row in items(name, "test", 200)]
        assert len(set(ids)) == 200


def test_too_many_items_is_an_error_with_both_numbers() -> None:
    few = programs.KINDS[:7]  # without constants, so there are at most seven prompts
    with pytest.raises(ValueError, match=r"asked for 50 different test items.*has [0-7]\b"):
        collect(
            lambda rng: programs.Function(rng.choice(few), "f", ("a", "b"), 2, 3, 0), "test", 50, 0
        )


def test_math_references_state_the_computed_answer() -> None:
    for row in items("math", "test", 200):
        steps, answer = str(row["reference"]).split(" The answer is: ")
        assert answer == row["answer"]
        for equation in steps.strip().rstrip(".").split(". "):
            left, right = equation.split(" = ")
            assert eval(left) == int(right)
        assert str(steps).rstrip(".").endswith(f"= {answer}")
        assert 0 <= int(answer) <= 25


def test_code_references_pass_their_own_tests() -> None:
    for split in ("validation", "test"):
        for row in items("code", split, 100):
            names: dict[str, object] = {}
            exec(f"{row['prompt']}{row['reference']}", names)
            assert callable(names[str(row["entry_point"])])
            tests = row["tests"]
            assert isinstance(tests, list)
            assert len(tests) == programs.TESTS
            for test in tests:
                exec(test, names)


def test_code_tests_refuse_every_other_function_of_the_same_signature() -> None:
    rng = random.Random(0)
    for kind in programs.KINDS:
        arguments = ("a", "b") if kind.takes == "nn" else ("s" if kind.takes == "s" else "a",)
        function = programs.Function(kind, "solve", arguments, 3, 5, 0)
        tests = programs.hidden_tests(function, rng)
        for other in programs.KINDS:
            if other.takes != kind.takes or other is kind:
                continue
            wrong = programs.Function(other, "solve", arguments, 3, 5, 0)
            names: dict[str, object] = {}
            exec(wrong.prompt + wrong.response, names)
            with pytest.raises(AssertionError):
                exec("\n".join(tests), names)


def test_choices_hold_the_right_answer_once_and_agree_with_the_village() -> None:
    village = {(fact.who, fact.value) for fact in knowledge.facts()}
    for row in items("general_choice", "test", 200):
        choices, index = row["choices"], row["answer"]
        assert isinstance(choices, list)
        assert isinstance(index, int)
        assert len(set(choices)) == len(choices) in (2, 4)
        answer = choices[index].strip()
        words = str(row["prompt"]).replace("?", "").split()
        who = next(word for word in words if any(word == person for person, _ in village))
        if answer in ("yes", "no"):
            asked = any((who, word) in village for word in words)
            assert asked == (answer == "yes")
        else:
            assert (who, answer) in village


def test_right_choices_are_spread_over_positions() -> None:
    rows = [row for row in items("general_choice", "test", 200)]
    for row_index in range(4):
        assert sum(row["answer"] == row_index for row in rows) >= 15


def test_facts_do_not_change() -> None:
    assert knowledge.facts() == knowledge.facts()
    assert len({fact.content for fact in knowledge.facts()}) == len(knowledge.facts()) == 288
