"""MMLU (Hendrycks et al. 2021, arXiv 2009.03300): 57 subjects, zero-shot.

A folder of csv files, one per subject and part: `*_dev.csv` is the validation split, `*_test.csv`
the test split. Rows: question, four choices, answer (0-3 under a header row, or A-D without one,
as first released).
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import final

from evaluators.benchmark import Item, Split
from evaluators.benchmarks.choice import ChoiceBenchmark
from evaluators.errors import DataError
from evaluators.rows import read_text

LETTERS = "ABCD"
CHOICES = tuple(f" {letter}" for letter in LETTERS)
COLUMNS = "6 columns: question, four choices, answer (0-3 or A-D)"
SUFFIX = {"validation": "_dev.csv", "test": "_test.csv"}


@final
class MMLU(ChoiceBenchmark):
    """Accuracy over " A" to " D"; bits per byte are those of the right choice's text."""

    name = "mmlu"
    version = "mmlu-zero-shot-1"

    def load(self, path: Path, split: Split) -> list[Item]:
        """The rows of every subject's file of `split`, anywhere below `path`."""
        files = sorted(path.rglob(f"*{SUFFIX[split]}"), key=lambda file: file.name)
        if not files:
            raise DataError(f"{path}: expected a folder with files *{SUFFIX[split]}, found none")
        return [
            item for file in files for item in _subject(file, file.name[: -len(SUFFIX[split])])
        ]


def _subject(path: Path, subject: str) -> list[Item]:
    """The items of one file. The csv module keeps "None" and "N/A", which are real choices."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    items: list[Item] = []
    try:
        for number, row in enumerate(reader):
            if number == 0 and row and row[-1] == "answer":
                continue
            items.append(_item(path, reader.line_num, f"{subject}/{len(items)}", row))
    except csv.Error as error:
        raise DataError.at(path, reader.line_num, COLUMNS, f"invalid csv ({error})") from error
    return items


def _item(path: Path, line: int, name: str, row: list[str]) -> Item:
    if len(row) != 6:
        raise DataError.at(path, line, COLUMNS, f"{len(row)} columns")
    question, *texts, answer = row
    known = "0123" if answer.isdigit() else LETTERS
    index = known.find(answer) if len(answer) == 1 else -1
    if index < 0:
        raise DataError.at(path, line, "an answer 0-3 or A-D", repr(answer))
    subject = name.partition("/")[0].replace("_", " ")
    lettered = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=True))
    prompt = (
        f"The following are multiple choice questions (with answers) about {subject}.\n\n"
        f"{question.strip()}\n{lettered}\nAnswer:"
    )
    return Item(f"mmlu/{name}", prompt, f" {texts[index]}", CHOICES, answer=str(index))
