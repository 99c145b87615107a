"""General: questions about an invented village, split by the fact asked about."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from itertools import product

from sweeps.mini.splits import WORDS, Row

_VILLAGE_SEED = 1
_PEOPLE = 72
_WORDS = WORDS["knowledge"]


@dataclass(frozen=True)
class Attribute:
    """Something that holds of everybody: its values and how it is asked.

    {who} is the person, {value} one of `values`, {other} another one.
    """

    name: str
    values: list[str]
    questions: list[str]
    either: str
    check: str


ATTRIBUTES = tuple(Attribute(**each) for each in _WORDS["attributes"])


@dataclass(frozen=True)
class Fact:
    """`who` has this value of this attribute."""

    who: str
    attribute: Attribute
    value: str

    @property
    def content(self) -> str:
        """What the splits are disjoint by."""
        return f"general {self.who} {self.attribute.name}"


@dataclass(frozen=True)
class Question:
    """A question, its answer and, where it offers some, the choices."""

    fact: Fact
    text: str
    answer: str
    choices: tuple[str, ...] = ()

    @property
    def content(self) -> str:
        """What the splits are disjoint by."""
        return self.fact.content

    @property
    def prompt(self) -> str:
        """The question as the model sees it."""
        return f"Question: {self.text}\nAnswer:"

    @property
    def response(self) -> str:
        """The answer as the model gives it."""
        return f" {self.answer}"


@cache
def facts() -> tuple[Fact, ...]:
    """Return every fact of the village, always the same ones."""
    rng = random.Random(_VILLAGE_SEED)
    people = rng.sample(
        [first + second for first, second in product(_WORDS["first"], _WORDS["second"])], _PEOPLE
    )
    return tuple(
        Fact(who, attribute, rng.choice(attribute.values))
        for who in sorted(people)
        for attribute in ATTRIBUTES
    )


def short_question(fact: Fact, rng: random.Random) -> Question:
    """Ask for the value in free words."""
    text = rng.choice(fact.attribute.questions).format(who=fact.who)
    return Question(fact, text, fact.value)


def choice_question(fact: Fact, rng: random.Random) -> Question:
    """Ask with choices: one of four values, one of two, or yes and no."""
    attribute = fact.attribute
    others = [value for value in attribute.values if value != fact.value]
    (form,) = rng.choices(("which", "either", "check"), (3, 2, 1))
    if form == "which":
        choices = [fact.value, *rng.sample(others, 3)]
        rng.shuffle(choices)
        return Question(fact, short_question(fact, rng).text, fact.value, tuple(choices))
    other = rng.choice(others)
    if form == "either":
        pair = [fact.value, other]
        rng.shuffle(pair)
        text = attribute.either.format(who=fact.who, value=pair[0], other=pair[1])
        return Question(fact, text, fact.value, tuple(pair))
    shown = rng.choice((fact.value, other))
    text = attribute.check.format(who=fact.who, value=shown)
    return Question(fact, text, "yes" if shown == fact.value else "no", ("yes", "no"))


def draw_short(rng: random.Random) -> Question:
    """Draw one question without choices, of any split."""
    return short_question(rng.choice(facts()), rng)


def draw_choice(rng: random.Random) -> Question:
    """Draw one question with choices, of any split."""
    return choice_question(rng.choice(facts()), rng)


def draw(rng: random.Random) -> Question:
    """Draw one question of either form and any split."""
    return rng.choice((draw_short, draw_choice))(rng)


def options(question: Question, _: random.Random) -> Row:
    """Return the fields {choices, answer (an index)} of a multiple-choice row."""
    choices = [f" {choice}" for choice in question.choices]
    return {"choices": choices, "answer": question.choices.index(question.answer)}


def reference(question: Question, _: random.Random) -> Row:
    """Return the field {reference} of a short-answer row."""
    return {"reference": question.response}
