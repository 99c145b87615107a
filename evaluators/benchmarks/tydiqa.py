"""TyDi QA, gold passage (Clark et al. 2020, arXiv 2003.05002): nine languages, one-shot F1.

A folder with the released `*-train.json` and `*-dev.json` (SQuAD's nesting; ids begin with the
language), or with JSONL files of rows {"id", "language", "question", "context", "answers"}.
Protocols: `table2` is open-instruct's (Wang et al. 2023, arXiv 2306.04751) with its localised
prompts and its draw of 100 questions per language, `table2_chat` its chat format, `full` the same
as `table2` on every question. A passage is cut to 512 tokens of the model's tokenizer; F1 is
SQuAD's, averaged over languages.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, final

from evaluators.answers import exact_match, f1
from evaluators.benchmark import ChatItem, Item, Split
from evaluators.benchmarks.generative import GenerativeBenchmark, Grade
from evaluators.errors import DataError, unknown_name
from evaluators.files import ending
from evaluators.protocol import Decoding, Protocol, prompt_text
from evaluators.rows import HubSplit, is_hub, read_rows
from evaluators.split import is_validation
from evaluators.text_model import TextModel

FIELDS = {"id": str, "question": str, "context": str, "answers": dict}
PASSAGE_TOKENS = 512
WORDS: Mapping[str, Mapping[str, str]] = json.loads(prompt_text("tydiqa.json"))
FULL = Protocol(
    version="tydiqa-goldp-1-shot-1",
    validation="train file: the questions whose hash is in the first 5 %, demonstrations apart; "
    "test, all: dev file",
    prompt=prompt_text("tydiqa.json"),
    shots=1,
    decoding=Decoding(50, ("\n",)),
    extraction=f"the first line; passages cut to {PASSAGE_TOKENS} tokens",
    equality="token F1, the best over the gold answers",
    metric="f1",
    aggregation="groups",
)
PROTOCOLS = {
    "table2": replace(FULL, version="tydiqa-open-instruct-100-1", subset=100),
    "table2_chat": replace(
        FULL,
        version="tydiqa-open-instruct-chat-100-1",
        prompt_format="tulu",
        decoding=Decoding(50),
        extraction=f"all that is said; passages cut to {PASSAGE_TOKENS} tokens",
        subset=100,
    ),
    "full": FULL,
}
_HUB = {
    "train": HubSplit("train", ("secondary_task",)),
    "dev": HubSplit("validation", ("secondary_task",)),
}


@final
class TyDiQA(GenerativeBenchmark):
    """F1 of the completion's first line; `exact_match` beside it."""

    name = "tydiqa"

    def load(self, path: Path, split: Split) -> list[Item]:
        """Validation: held-out questions of the train part. Test, all: the dev part."""
        train, dev = _by_language(path, "train"), _by_language(path, "dev")
        # open-instruct's draws: one generator for the questions, then for the demonstrations
        generator = random.Random(42)
        drawn = self.rules.subset
        for language, rows in dev.items():
            if drawn is not None and len(rows) > drawn:
                dev[language] = generator.sample(rows, drawn)
        items: list[Item] = []
        for language, rows in dev.items():
            if not train.get(language):
                raise DataError(
                    f"{path}: expected a demonstration in {language} in the train file, found none"
                )
            shot = generator.sample(train[language], 1)[0]
            asked = [
                row
                for row in train[language]
                if row["id"] != shot["id"] and is_validation(row["question"])
            ]
            items += [_item(row, shot) for row in (asked if split == "validation" else rows)]
        return items

    def prepare(self, lm: TextModel, items: Sequence[Item]) -> Sequence[Item]:
        """The items with their passages cut, where the model tells its tokenizer."""
        tokenizer = getattr(lm, "tokenizer", None)
        if tokenizer is None:
            return items
        cut = {
            passage: _shortened(tokenizer, passage)
            for passage in {passage for item in items for passage in item.passages}
        }
        return [replace(item, prompt=_with_passages(item, cut)) for item in items]

    def grade(self, items: Sequence[Item], texts: Sequence[str]) -> list[Grade]:
        """F1 in [0, 1], the best over the gold answers."""
        grades = []
        for item, text in zip(items, texts, strict=True):
            found = text.strip() or None
            best = max(f1(text, gold) for gold in item.answers) if found else 0.0
            same = max(exact_match(text, gold) for gold in item.answers) if found else 0.0
            grades.append(Grade(found, best, {"exact_match": same}))
        return grades


def _item(row: Mapping[str, Any], shot: Mapping[str, Any]) -> Item:
    words = WORDS[row["language"]]
    answers = tuple(row["answers"]["text"])
    prompt = (
        f"{words['instruction']}\n\n{_asked(words, shot)} {shot['answers']['text'][0]}\n\n"
        f"{_asked(words, row)}"
    )
    return Item(
        id=row["id"],
        prompt=prompt,
        reference=f" {answers[0]}",
        answer=answers[0],
        answers=answers,
        group=row["language"],
        # Questions on one passage stand or fall together.
        cluster=hashlib.sha256(row["context"].encode()).hexdigest()[:16],
        passages=(shot["context"], row["context"]),
        chat=ChatItem(prompt.removesuffix(words["answer"]), words["answer"]),
    )


def _asked(words: Mapping[str, str], row: Mapping[str, Any]) -> str:
    return (
        f"{words['passage']} {row['context']}\n{words['question']} {row['question']}\n"
        f"{words['answer']}"
    )


def _shortened(tokenizer: Any, passage: str) -> str:
    ids = tokenizer.encode(passage, add_special_tokens=False, verbose=False)
    if len(ids) <= PASSAGE_TOKENS:
        return passage
    return str(tokenizer.decode(ids[:PASSAGE_TOKENS], skip_special_tokens=True))


def _with_passages(item: Item, cut: Mapping[str, str]) -> str:
    """The prompt with the demonstration's passage, the first, and its own, the last, cut."""
    shown, own = item.passages
    prompt = item.prompt.replace(shown, cut[shown], 1)
    head, _, tail = prompt.rpartition(own)
    return f"{head}{cut[own]}{tail}"


def _by_language(source: Path, part: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of a part ("train", "dev") by language, languages sorted, rows in order."""
    found: dict[str, list[dict[str, Any]]] = {}
    for place, line, row in _rows(source, part):
        language = row.get("language", row["id"].partition("-")[0])
        texts = row["answers"].get("text")
        if language not in WORDS:
            raise DataError(f"{place}:{line}: {unknown_name('language', language, tuple(WORDS))}")
        if not texts or not all(isinstance(text, str) for text in texts):
            found_here = repr(row["answers"])[:60]
            raise DataError.at(place, line, "'answers' with a list 'text' of strings", found_here)
        found.setdefault(language, []).append({**row, "language": language})
    return dict(sorted(found.items()))


def _rows(source: Path, part: str) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    """(file, row number, row) of a part, SQuAD's nesting undone."""
    if is_hub(source):
        for line, row in read_rows(source, FIELDS, _HUB[part]):
            yield source, line, row
        return
    files = sorted(file for file in Path(source).glob("*.json*") if part in file.name)
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise DataError(f"{source}: expected one file *{part}*.json or .jsonl, found {names}")
    if ending(files[0]) == ".json":
        for line, article in read_rows(files[0], {"paragraphs": list}, _HUB[part], field="data"):
            for row in _questions(files[0], line, article):
                yield files[0], line, row
    else:
        for line, row in read_rows(files[0], FIELDS, _HUB[part]):
            yield files[0], line, row


def _questions(path: Path, line: int, article: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    try:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                yield {
                    "id": asked["id"],
                    "question": asked["question"],
                    "context": paragraph["context"],
                    "answers": {"text": [answer["text"] for answer in asked["answers"]]},
                }
    except (KeyError, TypeError) as error:
        expected = "'paragraphs' of {context, qas: [{id, question, answers: [{text}]}]}"
        raise DataError.at(path, line, expected, f"{type(error).__name__}: {error}") from error
