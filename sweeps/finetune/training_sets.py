"""The training sets by name: how a row becomes examples.

Where a benchmark is on the same set, prompt and response are the benchmark's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from evaluators.answers import MARKER
from evaluators.benchmarks import gsm8k, mbpp
from evaluators.latex import last_boxed
from evaluators.prompt_formats import MAGICODER, alpaca
from sweeps.finetune.conversation import Keys, read_conversation
from sweeps.finetune.example import Example, Row, pair

Read = Callable[[Row], Iterator[Example]]
"""Turns one row into its examples, or raises RowError."""

_MBPP_TRAIN = range(601, 975)
"""The `task_id` of MBPP's training rows; all others are evaluated on."""

_MESSAGES = Keys(
    "messages",
    "role",
    "content",
    {
        **{role: role for role in ("system", "user", "assistant", "tool")},
        **{"developer": "system", "function": "tool"},
    },
)
_SHAREGPT = Keys(
    "conversations",
    "from",
    "value",
    {
        **{"system": "system", "human": "user", "user": "user"},
        **dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "assistant"), "assistant"),
        **{"function_call": "assistant", "observation": "tool", "tool": "tool"},
    },
)


def _prompt_response(row: Row) -> Iterator[Example]:
    """Rows {prompt, response}, used as they are."""
    prompt = row.text("prompt")
    yield pair(prompt, row.text("response"), prompt)


def _alpaca(row: Row) -> Iterator[Example]:
    """Alpaca (Taori et al. 2023): {instruction, input (may be empty), output}."""
    yield _in_alpaca_template(row.text("instruction"), row)


def _self_instruct(row: Row) -> Iterator[Example]:
    """Self-Instruct (Wang et al. 2023): {instruction, instances: [{input, output}]}."""
    instruction = row.text("instruction")
    for number, instance in enumerate(row.objects("instances"), start=1):
        yield _in_alpaca_template(instruction, Row(f"{row.place}, instance {number}", instance))


def _in_alpaca_template(instruction: str, row: Row) -> Example:
    given = row.text("input", default="")
    prompt = alpaca(instruction, given)
    asked = f"{instruction}\n{given}"
    return pair(prompt, row.text("output"), asked, asked=asked.strip())


def _competition_math(row: Row) -> Iterator[Example]:
    """MATH (Hendrycks et al. 2021): {problem, solution}; ends in "The answer is:"."""
    problem, solution = row.text("problem"), row.text("solution")
    gold = last_boxed(solution)
    if gold is None:
        row.fail("a 'solution' with a closed \\boxed{answer}", repr(solution)[-40:])
    response = f" {solution.strip()}\n{MARKER} {gold}"
    yield pair(gsm8k.metamath_prompt(problem), response, problem, asked=problem)


def _gsm8k(row: Row) -> Iterator[Example]:
    """GSM8K (Cobbe et al. 2021): {question, answer}.

    The benchmark validates on training rows whose raw question hashes so; `part: train` leaves
    out exactly these.
    """
    question, answer = row.text("question"), row.text("answer")
    if "####" not in answer:
        row.fail("an 'answer' with '#### N'", repr(answer)[-40:])
    prompt, response = gsm8k.prompt_and_reference({"question": question, "answer": answer})
    yield pair(prompt, response, question, asked=question)


def _metamathqa(row: Row) -> Iterator[Example]:
    """MetaMathQA (Yu et al. 2023, arXiv 2309.12284): {query, response}, in MetaMath's own prompt.

    A query rewrites a GSM8K or MATH training problem, `original_question`. That one decides the
    split, so that no rewriting of a validation question is trained on.
    """
    query, response = row.text("query"), row.text("response")
    original = row.text("original_question", default=query)
    prompt = gsm8k.metamath_prompt(query)
    yield pair(prompt, f" {response.strip()}", original, asked=query)


def _magicoder(row: Row) -> Iterator[Example]:
    """Magicoder-Evol-Instruct-110K (Wei et al. 2023, arXiv 2312.02120), in Magicoder's prompt."""
    instruction, response = row.text("instruction"), row.text("response")
    prompt = MAGICODER.replace("{}", instruction)
    yield pair(prompt, response, instruction, asked=instruction)


def _mbpp(row: Row) -> Iterator[Example]:
    """MBPP (Austin et al. 2021): {text, code, test_list}, split by `task_id`."""
    text, code, tests = row.text("text"), row.text("code"), row.fields.get("test_list")
    if not isinstance(tests, list) or not tests or not all(isinstance(t, str) for t in tests):
        row.fail("a non-empty list of strings 'test_list'", f"{tests!r:.60}")
    prompt, response = mbpp.prompt_and_reference({"text": text, "code": code, "test_list": tests})
    number = row.fields.get("task_id")
    part = None if number is None else "train" if number in _MBPP_TRAIN else "evaluation"
    yield pair(prompt, response, text, part, asked=f"{text}\n{tests[0]}")


# 270 conversations of the Tulu V2 mixture (Ivison et al. 2023, arXiv 2311.10702) hold an empty
# message (open-instruct issue 161). Each is a bad row as a whole, as in open-instruct's filter: an
# empty answer would teach to say nothing, and what follows an empty message answers nothing.
TRAINING_SETS: dict[str, Read] = {
    "prompt_response": _prompt_response,
    "alpaca": _alpaca,
    "competition_math": _competition_math,
    "gsm8k": _gsm8k,
    "magicoder_evol_instruct": _magicoder,
    "mbpp": _mbpp,
    "messages": partial(read_conversation, keys=_MESSAGES),
    "metamathqa": _metamathqa,
    "self_instruct": _self_instruct,
    "sharegpt": partial(read_conversation, keys=_SHAREGPT),
    "tulu_v2": partial(read_conversation, keys=_MESSAGES),
}
