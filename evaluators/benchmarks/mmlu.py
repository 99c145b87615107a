"""MMLU (Hendrycks et al. 2021, arXiv 2009.03300): 57 subjects, four choices.

A folder of csv files, one per subject and part: `*_dev.csv` is the validation split, `*_test.csv`
the test split. Rows: question, four choices, answer (0-3 under a header row, or A-D without one,
as first released). Protocols: a plain zero-shot one; `table2` open-instruct's, zero-shot (Wang et
al. 2023, arXiv 2306.04751), `table2_chat` its chat format; `full` the released code's with five
demonstrations from the subject's dev file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from evaluators.benchmark import ChatItem, Item, Split
from evaluators.benchmarks.choice import ChoiceBenchmark
from evaluators.errors import DataError, NoRowsError
from evaluators.files import BrokenFile, csv_lines, files_named
from evaluators.protocol import Protocol
from evaluators.rows import HubSplit, is_hub, read_rows

LETTERS = "ABCD"
CHOICES = tuple(f" {letter}" for letter in LETTERS)
COLUMNS = "6 columns: question, four choices, answer (0-3 or A-D)"
PART = {"validation": "dev", "test": "test", "all": "test"}
HUB_FIELDS = {"question": str, "subject": str, "choices": list, "answer": int}
PLAIN = Protocol(
    version="mmlu-zero-shot-1",
    validation="the dev files",
    prompt="The following are multiple choice questions (with answers) about {subject}.\n\n",
    extraction="the choice with the highest summed log-likelihood",
)
# The released code writes two spaces before the subject, and leaves questions as they are.
_RELEASED = PLAIN.prompt.replace(" {subject}", "  {subject}")
PROTOCOLS = {
    "plain": PLAIN,
    "table2": replace(PLAIN, version="mmlu-open-instruct-1", prompt=_RELEASED),
    "table2_chat": replace(
        PLAIN,
        version="mmlu-open-instruct-chat-1",
        prompt=_RELEASED,
        prompt_format="tulu",
        opening="The answer is:",
    ),
    "full": replace(
        PLAIN,
        version="mmlu-5-shot-1",
        validation="the dev files, each question after the subject's other ones",
        prompt=_RELEASED,
        shots=5,
    ),
}


@dataclass(frozen=True)
class _Question:
    """A row: where it stands in its subject, its text, four choices, the right one's index."""

    subject: str
    number: int
    text: str
    choices: tuple[str, ...]
    answer: int


@final
class MMLU(ChoiceBenchmark):
    """Accuracy over " A" to " D"; bits per byte are those of the right choice's text."""

    name = "mmlu"

    def load(self, path: Path, split: Split) -> list[Item]:
        """The rows of every subject's file of the part, anywhere below `path`."""
        demonstrations: dict[str, list[_Question]] = {}
        if self.rules.shots:
            for question in _questions(path, "dev"):
                demonstrations.setdefault(question.subject, []).append(question)
        items = []
        for question in _questions(path, PART[split]):
            known = demonstrations.get(question.subject, [])
            shots = [each for each in known if each != question][: self.rules.shots]
            if len(known) < self.rules.shots:
                raise DataError(
                    f"{path}: expected {self.rules.shots} questions in the dev file of "
                    f"{question.subject!r}, found {len(known) or 'none'}"
                )
            items.append(self._item(question, shots))
        return items

    def _item(self, question: _Question, shots: Sequence[_Question]) -> Item:
        subject = question.subject.replace("_", " ")
        strip = self.rules.prompt == PLAIN.prompt
        examples = "".join(f"{_asked(shot)}{CHOICES[shot.answer]}\n\n" for shot in shots)
        return Item(
            id=f"mmlu/{question.subject}/{question.number}",
            prompt=self.rules.prompt.format(subject=subject) + examples + _asked(question, strip),
            reference=f" {question.choices[question.answer]}",
            choices=CHOICES,
            answer=str(question.answer),
            group=question.subject,
            chat=ChatItem(opening=self.rules.opening),
        )


def _asked(question: _Question, strip: bool = False) -> str:
    text = question.text.strip() if strip else question.text
    lettered = zip(LETTERS, question.choices, strict=True)
    return "\n".join([text, *(f"{letter}. {choice}" for letter, choice in lettered), "Answer:"])


def _questions(path: Path, part: str) -> Iterator[_Question]:
    """The questions of `part` ("dev" or "test"), subject by subject."""
    if is_hub(path):
        yield from _hub_questions(path, part)
        return
    suffix = f"_{part}.csv"
    files = files_named(Path(path), f"**/*{suffix}")
    if not files:
        raise DataError(f"{path}: expected a folder with files *{suffix}, found none")
    for file in files:
        yield from _subject(file, file.name.removesuffix(".gz").removesuffix(suffix))


def _hub_questions(source: Path, part: str) -> Iterator[_Question]:
    counts: dict[str, int] = {}
    for line, row in read_rows(source, HUB_FIELDS, HubSplit(part, ("all",))):
        subject, answer = row["subject"], row["answer"]
        if len(row["choices"]) != 4 or not 0 <= answer < 4:
            raise DataError.at(source, line, "four choices, answer 0-3", repr(row["choices"])[:60])
        number = counts.get(subject, 0)
        counts[subject] = number + 1
        yield _Question(subject, number, row["question"], tuple(row["choices"]), answer)


def _subject(path: Path, subject: str) -> list[_Question]:
    """The questions of a file. The csv module keeps "None" and "N/A", which are real choices."""
    questions: list[_Question] = []
    try:
        for number, (line, row) in enumerate(csv_lines(path)):
            if number or row[-1] != "answer":
                questions.append(_question(path, line, subject, len(questions), row))
    except BrokenFile as error:
        raise DataError.at(path, error.line, COLUMNS, error.found) from error
    if not questions:
        raise NoRowsError(f"{path}: expected at least one row, {COLUMNS}, found none")
    return questions


def _question(path: Path, line: int, subject: str, number: int, row: list[str]) -> _Question:
    if len(row) != 6:
        raise DataError.at(path, line, COLUMNS, f"{len(row)} columns")
    text, *choices, answer = row
    known = "0123" if answer.isdigit() else LETTERS
    index = known.find(answer) if len(answer) == 1 else -1
    if index < 0:
        raise DataError.at(path, line, "an answer 0-3 or A-D", repr(answer))
    return _Question(subject, number, text, tuple(choices), index)
