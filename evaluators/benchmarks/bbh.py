"""BIG-Bench Hard (Suzgun et al. 2022, arXiv 2210.09261): 27 tasks, three-shot chain of thought.

A clone of the released repository, or a folder like it: `*.json` (in `bbh/` or at the top), one
per task, with "examples" of {"input", "target"}; `cot-prompts/*.txt`, one per task, with the
demonstrations. Protocols: `table2` is open-instruct's (arXiv 2306.04751), 40 items per task,
`table2_chat` its chat format; `full` has every item and compares signs too, where open-instruct
drops punctuation, which is all that the answers of dyck_languages hold. Scores are averaged over
tasks.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import final

from evaluators.answers import bbh_line, same_words
from evaluators.benchmark import ChatItem, Item, Split
from evaluators.benchmarks.final_answer import ROBUST, AnswerBenchmark
from evaluators.benchmarks.generative import Grade
from evaluators.errors import DataError
from evaluators.files import files_named, read_text
from evaluators.protocol import Decoding, Protocol
from evaluators.rows import HubSplit, is_hub, read_rows
from evaluators.split import is_validation

FIELDS = {"input": str, "target": str}
HELD_OUT = 0.2
FULL = Protocol(
    version="bbh-cot-3-shot-1",
    validation="the inputs whose hash is in the first 20 %; test: the others; all: every input",
    prompt="{demonstrations}\n\nQ: {input}\nA:",
    shots=3,
    decoding=Decoding(512, ("\n\nQ:",)),
    extraction="bbh_line",
    equality="words",
    aggregation="groups",
)
_TABLE2 = replace(
    FULL,
    version="bbh-open-instruct-40-1",
    decoding=Decoding(512),
    extraction="bbh_sentence",
    equality="bare_text",
    subset=40,
)
PROTOCOLS = {
    "table2": _TABLE2,
    "table2_chat": replace(
        _TABLE2,
        version="bbh-open-instruct-chat-40-1",
        prompt="{demonstrations}\n\nQ: {input}",
        prompt_format="tulu",
        opening="A:",
    ),
    "full": FULL,
}


@final
class BBH(AnswerBenchmark):
    """Exact match of the answer after "So the answer is", averaged over tasks."""

    name = "bbh"

    def load(self, path: Path, split: Split) -> list[Item]:
        """Validation: a fifth of the items by hash. Test: the others. All: every item."""
        if is_hub(path):
            raise DataError(
                f"{path}: bbh is read from a clone of the released repository, whose "
                "demonstrations the hub's copies lack; expected a folder"
            )
        folder = Path(path) / "bbh" if (Path(path) / "bbh").is_dir() else Path(path)
        files = files_named(folder, "*.json")
        if not files:
            raise DataError(f"{folder}: expected a folder with a file *.json per task, found none")
        items: list[Item] = []
        # open-instruct draws in the order in which its file system lists the tasks: sorted here.
        generator = random.Random(42)
        for file in files:
            task = self._task(file, _demonstrations(Path(path), _name(file)))
            drawn = self.rules.subset
            if split != "validation" and drawn is not None and len(task) > drawn:
                task = generator.sample(task, drawn)
            items += [item for item, held in task if split == "all" or held == (split != "test")]
        return items

    def grade(self, items: Sequence[Item], texts: Sequence[str]) -> list[Grade]:
        """1 for the target, else 0; beside it what `full` would say."""
        answers = [bbh_line(text) for text in texts]
        return [
            replace(
                grade,
                scores={ROBUST: float(answer is not None and same_words(answer, item.answer))},
            )
            for grade, answer, item in zip(
                super().grade(items, texts), answers, items, strict=True
            )
        ]

    def _task(self, file: Path, demonstrations: str) -> list[tuple[Item, bool]]:
        """The items of a file, each with whether it is a validation item."""
        prompt = self.rules.prompt.replace("{demonstrations}", demonstrations)
        return [
            (
                Item(
                    id=f"bbh/{_name(file)}/{number}",
                    prompt=prompt.replace("{input}", row["input"]),
                    reference=f" So the answer is {row['target']}.",
                    answer=row["target"],
                    group=_name(file),
                    chat=ChatItem(opening=self.rules.opening),
                ),
                is_validation(row["input"], HELD_OUT),
            )
            for number, row in read_rows(file, FIELDS, HubSplit("test"))
        ]


def _name(file: Path) -> str:
    return file.name.partition(".json")[0]


def _demonstrations(folder: Path, task: str) -> str:
    """The task's demonstrations, without the warning above its line of dashes."""
    path = folder / "cot-prompts" / f"{task}.txt"
    packed = path.with_name(f"{path.name}.gz")
    path = packed if packed.exists() and not path.exists() else path
    _, line, text = read_text(path).partition("-----\n")
    if not line:
        raise DataError(
            f"{path}: expected demonstrations after a line '-----', found no such line"
        )
    return text.strip()
