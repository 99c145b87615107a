"""The formats of training rows: each turns one row into prompts and the responses to learn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from evaluators.benchmarks.gsm8k import prompt_and_reference as _gsm8k
from evaluators.benchmarks.mbpp import prompt_and_reference as _mbpp
from sweeps.finetune.rows import Row

_ALPACA_HEAD = (
    "Below is an instruction that describes a task{more}. "
    "Write a response that appropriately completes the request.\n\n"
)
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Example:
    """A prompt, the response whose tokens are learned, and the text that decides its split.

    `split_text` is what the benchmark on the same file hashes, so both agree on a row's part.
    """

    prompt: str
    response: str
    split_text: str


def prompt_response(row: Row) -> Iterator[Example]:
    """{prompt, response}, used as they are."""
    prompt = row.text("prompt")
    yield Example(prompt, row.text("response"), prompt)


def gsm8k(row: Row) -> Iterator[Example]:
    """{question, answer} of GSM8K, with the prompt and the response of the benchmark."""
    question, answer = row.text("question"), row.text("answer")
    if "####" not in answer:
        row.fail("an 'answer' with '#### N'", repr(answer)[-40:])
    prompt, response = _gsm8k({"question": question, "answer": answer})
    yield Example(prompt, response, question)


def mbpp(row: Row) -> Iterator[Example]:
    """{text, code, test_list} of MBPP, with the prompt and the response of the benchmark."""
    text, code, tests = row.text("text"), row.text("code"), row.fields.get("test_list")
    if not isinstance(tests, list) or not tests or not all(isinstance(t, str) for t in tests):
        row.fail("a non-empty list of strings 'test_list'", f"{tests!r:.60}")
    prompt, response = _mbpp({"text": text, "code": code, "test_list": tests})
    yield Example(prompt, response, text)


def alpaca(row: Row) -> Iterator[Example]:
    """{instruction, input (may be empty), output} in the Alpaca template."""
    instruction = row.text("instruction")
    yield _alpaca(instruction, row.text("input", default=""), row.text("output"))


def self_instruct(row: Row) -> Iterator[Example]:
    """{instruction, instances: [{input, output}]}: an Alpaca example for each instance."""
    instruction = row.text("instruction")
    for number, instance in enumerate(row.objects("instances"), start=1):
        inner = Row(f"{row.place}, instance {number}", instance)
        yield _alpaca(instruction, inner.text("input", default=""), inner.text("output"))


def messages(row: Row) -> Iterator[Example]:
    """{messages: [{role, content}]}: an example for each assistant turn, given all before it."""
    before, turns = "", 0
    for number, message in enumerate(row.objects("messages"), start=1):
        inner = Row(f"{row.place}, message {number}", message)
        role, content = inner.text("role"), inner.text("content")
        if role not in _ROLES:
            inner.fail(f"role one of {', '.join(_ROLES)}", repr(role))
        before += f"<|{role}|>\n"
        if role == "assistant":
            turns += 1
            yield Example(before, content, before)
        before += f"{content}\n"
    if not turns:
        row.fail("a message with role 'assistant'", "none")


def _alpaca(instruction: str, given: str, output: str) -> Example:
    head = _ALPACA_HEAD.format(more=", paired with an input that provides further context")
    middle = f"### Instruction:\n{instruction}\n\n### Input:\n{given}\n\n"
    if not given:
        head = _ALPACA_HEAD.format(more="")
        middle = f"### Instruction:\n{instruction}\n\n"
    return Example(f"{head}{middle}### Response:\n", output, f"{instruction}\n{given}")


def reader(name: str) -> Callable[[Row], Iterator[Example]]:
    """The format called `name`, one of `config.TrainFormat`."""
    known = (prompt_response, gsm8k, mbpp, alpaca, self_instruct, messages)
    return {known_format.__name__: known_format for known_format in known}[name]
