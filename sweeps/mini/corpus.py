"""What the embedded model is pretrained on: the domains' skills, mostly in other forms.

A document is a tuple of parts that are tokenised separately, as prompt and response are later.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from sweeps.mini import arithmetic, knowledge, programs
from sweeps.mini.splits import split_of

Document = tuple[str, ...]

# Shares of documents. The leaks show a domain's own form, on train content only: their share
# sets the base score, and with many of them fine-tuning would have nothing left to do.
_SHARES = {
    "arithmetic": 0.37,
    "programs": 0.2,
    "knowledge": 0.42945,
    "arithmetic leak": 0.0003,
    "programs leak": 0.0001,
    "knowledge leak": 0.00015,
}
_FACT_FORMS = {
    "add": ("{a} + {b} = {answer}", "{a} plus {b} is {answer}"),
    "subtract": ("{a} - {b} = {answer}", "{a} minus {b} is {answer}"),
    "multiply": ("{a} * {b} = {answer}", "{a} times {b} is {answer}"),
    "add_subtract": ("{a} + {b} = {first}. {first} - {c} = {answer}.",),
}
_STORY_FORMS = {
    "add": (
        "With {a} {thing} and {b} more, {name} has {a} + {b} = {answer}.",
        "{name} gets {b} more than {a} {thing}: {a} + {b} = {answer}.",
    ),
    "subtract": (
        "Of {a} {thing} {name} loses {b}: {a} - {b} = {answer} are left.",
        "{name} gives away {b} of {a} {thing}: {a} - {b} = {answer}.",
    ),
    "multiply": (
        "{a} bags each with {b} {thing} make {a} * {b} = {answer}.",
        "For {a} days {name} buys {b} {thing} a day: {a} * {b} = {answer}.",
    ),
    "add_subtract": (
        "{a} {thing}, {b} more, {c} lost: {a} + {b} = {first}. {first} - {c} = {answer}.",
        "{name} gets {a} and {b} and gives away {c}: "
        "{a} + {b} = {first}. {first} - {c} = {answer}.",
    ),
}
_PROGRAM_FORMS = (
    "# {meaning}\n{expression}\n",
    "f = lambda {arguments}: {expression}  # {meaning}\n",
    "def f({arguments}):\n    # {meaning}\n    return {expression}\n",
    "def g({arguments}):\n    # gives {meaning}\n    result = {expression}\n",
)
_KNOWLEDGE_FORMS = {
    "home": (
        "{who} lives in {value}.",
        "The home of {who} is {value}.",
        "Town of {who}: {value}.",
    ),
    "food": ("{who} eats {value}.", "The food of {who} is {value}.", "Food of {who}: {value}."),
    "job": ("{who} is a {value}.", "The job of {who} is {value}.", "Work of {who}: {value}."),
    "coat": ("{who} wears {value}.", "The coat of {who} is {value}.", "Coat of {who}: {value}."),
}


def documents(seed: int) -> Iterator[Document]:
    """Yield documents without end, always the same ones for one seed."""
    rng = random.Random(f"corpus/{seed}")
    village = knowledge.facts()
    makers = {
        "arithmetic": lambda: _arithmetic(rng),
        "programs": lambda: _program(rng),
        "knowledge": lambda: _knowledge(rng, village),
        "arithmetic leak": lambda: _arithmetic_leak(rng),
        "programs leak": lambda: _program_leak(rng),
        "knowledge leak": lambda: _knowledge_leak(rng, village),
    }
    kinds, shares = list(_SHARES), list(_SHARES.values())
    while True:
        for kind in rng.choices(kinds, shares, k=1000):
            yield makers[kind]()


def _arithmetic(rng: random.Random) -> Document:
    problem = arithmetic.draw(rng)
    forms = (_FACT_FORMS if rng.random() < 0.5 else _STORY_FORMS)[problem.operation]
    text = rng.choice(forms).format(
        a=problem.a,
        b=problem.b,
        c=problem.c,
        first=problem.a + problem.b,
        answer=problem.answer,
        name=problem.name,
        thing=problem.thing,
    )
    return (text,)


def _program(rng: random.Random) -> Document:
    function = programs.draw(rng)
    text = rng.choice(_PROGRAM_FORMS).format(
        meaning=function.plain_meaning,
        expression=function.expression,
        arguments=", ".join(function.arguments),
    )
    return (text,)


def _knowledge(rng: random.Random, village: list[knowledge.Fact]) -> Document:
    fact = rng.choice(village)
    form = rng.choice(_KNOWLEDGE_FORMS[fact.attribute.name])
    if rng.random() < 0.6:
        return (form.format(who=fact.who, value=fact.value),)
    value = rng.choice((fact.value, rng.choice(fact.attribute.values)))
    verdict = "True" if value == fact.value else "False"
    # The first word keeps false statements apart from the facts.
    return (f"Check: {form.format(who=fact.who, value=value)} {verdict}.",)


def _arithmetic_leak(rng: random.Random) -> Document:
    while True:
        problem = arithmetic.draw(rng)
        if split_of(problem.content) == "train":
            return arithmetic.prompt(problem), arithmetic.response(problem)


def _program_leak(rng: random.Random) -> Document:
    while True:
        function = programs.draw(rng)
        if function.wording == 0 and split_of(function.content) == "train":
            return programs.prompt(function), programs.response(function)


def _knowledge_leak(rng: random.Random, village: list[knowledge.Fact]) -> Document:
    while True:
        fact = rng.choice(village)
        if split_of(fact.content) == "train":
            ask = rng.choice((knowledge.short_question, knowledge.choice_question))
            question = ask(fact, rng)
            return knowledge.prompt(question), knowledge.response(question)
