"""Tasks of the Language Model Evaluation Harness as benchmarks: `lm_eval:TASK`.

TASK is a task, group or tag of lm-eval, or the YAML file of a task. Prompts, demonstrations,
filters and metrics are the harness's own; the model in memory answers, and documents are shared
over the ranks as the items of any benchmark. Needs the optional extra `eval`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from evaluators.benchmark import Benchmark, Item, ItemRecord, Split
from evaluators.benchmarks.generative import cost_record
from evaluators.harness_guards import explained, undisturbed
from evaluators.language_model import LanguageModel
from evaluators.lm_eval_backend import (
    HELD_OUT,
    Document,
    aggregation_of,
    apply_filters,
    documents,
    fingerprint,
    harness_model,
    open_tasks,
    own_validation,
    probe,
)
from evaluators.prompt_formats import turn_ends
from evaluators.protocol import HARNESS, Changes
from evaluators.text_model import Completion, LogLikelihood, TextModel

BITS_PER_BYTE = "bits_per_byte"
_SPLITS = f"the documents whose hash is in the first {HELD_OUT:.0%}; test: the others"


@final
class HarnessTasks(Benchmark):
    """The documents of one task, or of all tasks of a group or tag.

    The primary metric is the first for which higher is better, else bits per byte; where that is
    asked for, nothing is generated.
    """

    def __init__(self, name: str, metric: str | None, changes: Changes) -> None:
        """Raises ValueError: lm-eval, the task, what it needs, or the metric is not there."""
        task = name.removeprefix(HARNESS)
        self.name = HARNESS + (Path(task).stem if task.endswith((".yaml", ".yml")) else task)
        self._changes, self._form = changes, changes.prompt_format or "raw"
        self._written_for: Any = None
        self._tasks, self.aggregation = open_tasks(task, changes)
        self._metrics = probe(self._tasks)
        self._documents: dict[str, Document] = {}
        self._splits: set[Split] = set()
        better = [*filter(self._rises, self._metrics), BITS_PER_BYTE]
        self.metric = metric or better[0]
        if self.metric not in better:
            raise ValueError(
                f"{name}: expected a metric for which higher is better, one of "
                f"{', '.join(better)}; found {self.metric!r}"
            )
        self._only_priced = metric == BITS_PER_BYTE
        self.mean_of_items = self.metric == BITS_PER_BYTE or self._is_mean(self.metric)

    def load(self, path: Path, split: Split) -> list[Item]:
        """The documents of `split`; `path` is not read, since a task knows where its data are."""
        self._splits.add(split)
        self._written_for = None
        return [_item(each) for each in self._opened(split)]

    def score(self, lm: TextModel, items: Sequence[Item]) -> list[ItemRecord]:
        """One record per item, in order; the items are those that `load` returned."""
        if not isinstance(lm, LanguageModel):
            raise ValueError(f"{self.name}: expected a model in memory, found {type(lm).__name__}")
        if self._form != "raw":
            self._write(lm.tokenizer)
        asked = [self._documents[item.id] for item in items]
        items = [_item(each) for each in asked]
        priced = [each.priced for each in asked if each.priced is not None]
        harness = harness_model(lm, turn_ends(self._form, lm.tokenizer))
        if self._only_priced:
            _answered(harness, priced)
            return [
                cost_record(item, _cost(each)) for item, each in zip(items, asked, strict=True)
            ]
        # One call for right answers and choices: equal texts are then scored once.
        completions = _answered(harness, [*priced, *(r for each in asked for r in each.requests)])
        with explained(self.name.removeprefix(HARNESS)), undisturbed():
            apply_filters(asked)
            return [
                self._record(item, each, completions)
                for item, each in zip(items, asked, strict=True)
            ]

    def corpus_metrics(self, records: Sequence[ItemRecord]) -> dict[str, float]:
        """What the harness reports: each task's metrics, averaged as its group says."""
        found = {}
        for name in self._metrics:
            parts = []
            for task in self._tasks:
                values = [
                    record.parts[name]
                    for record in records
                    if record.group == task.config.task and name in record.parts
                ]
                weight = len(values) if self.aggregation == "items" else min(1, len(values))
                value = float(aggregation_of(task, name)(values)) if values else 0.0
                parts.append((weight, value))
            total = sum(weight for weight, _ in parts)
            if total:
                found[name] = math.fsum(weight * value for weight, value in parts) / total
        return found

    def protocol(self) -> dict[str, object]:
        """Everything but model and data that a score depends on."""
        from importlib.metadata import version

        names = {
            task.config.task: task.config.validation_split if own_validation(task) else _SPLITS
            for task in self._tasks
        }
        return {
            "benchmark": self.name,
            "metric": self.metric,
            "lm_eval": version("lm-eval"),
            "validation": names,
            "tasks": {task.config.task: fingerprint(task) for task in self._tasks},
            "changes": self._changes.rules(),
        }

    def _opened(self, split: Split, tokenizer: Any = None) -> list[Document]:
        """The documents of `split`, in the prompt format where there is a tokenizer."""
        found = [
            each
            for task in self._tasks
            for each in documents(task, split, self._changes, tokenizer=tokenizer)
        ]
        self._documents.update((each.place, each) for each in found)
        return found

    def _write(self, tokenizer: Any) -> None:
        """Put all documents into the prompt format of this tokenizer, once."""
        if self._written_for is not tokenizer:
            self._written_for = tokenizer
            for split in self._splits:
                self._opened(split, tokenizer)

    def _record(
        self, item: Item, document: Document, completions: dict[int, list[Completion]]
    ) -> ItemRecord:
        values = document.values()
        made = [c for each in document.requests for c in completions.get(id(each), ())]
        output, extracted = _said(document, made)
        return cost_record(
            item,
            _cost(document),
            output=output,
            extracted=extracted,
            score=None if self.metric == BITS_PER_BYTE else self._score(document, values),
            tokens=sum(each.tokens for each in made),
            truncated=any(each.truncated for each in made),
            parts=values,
        )

    def _score(self, document: Document, values: Mapping[str, Any]) -> float:
        """The primary metric of a document; of a corpus of it alone where it is no number."""
        value = values.get(self.metric, 0.0)
        if not isinstance(value, int | float):
            value = aggregation_of(document.task, self.metric)([value])
        return float(value)

    def _rises(self, metric: str) -> bool:
        name = metric.partition("/")[0]
        return all(task.higher_is_better().get(name, True) for task in self._tasks)

    def _is_mean(self, metric: str) -> bool:
        from lm_eval.api.metrics import mean

        return all(aggregation_of(task, metric) is mean for task in self._tasks)


def _item(document: Document) -> Item:
    first, priced = document.requests[0], document.priced
    rolling = first.request_type == "loglikelihood_rolling"
    return Item(
        id=document.place,
        prompt="" if rolling else first.args[0],
        reference="" if priced is None else priced.args[-1],
        answer="" if priced is None or rolling else priced.args[-1].strip(),
        group=document.task.config.task,
    )


def _answered(harness: Any, requests: Sequence[Any]) -> dict[int, list[Completion]]:
    """Answer all requests, kind by kind, and return the completions of each that generates."""
    completions: dict[int, list[Completion]] = {}
    for each in requests:
        each.resps, each.filtered_resps = [], {}
    for kind in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
        same = [r for r in requests if r.request_type == kind for _ in range(r.repeats)]
        if kind == "generate_until":
            answers = harness.complete(same)
        else:
            answers = getattr(harness, kind)(same, disable_tqdm=True)
        for request, answer in zip(same, answers, strict=True):
            if isinstance(answer, Completion):
                completions.setdefault(id(request), []).append(answer)
            request.resps.append(answer.text if isinstance(answer, Completion) else answer)
    return completions


def _cost(document: Document) -> LogLikelihood:
    """The log-likelihood of the right answer; its number of tokens is not known."""
    if document.priced is None:
        return LogLikelihood(0.0, 0, True)
    found = document.priced.resps[0]
    return LogLikelihood(found if isinstance(found, float) else found[0], 0, False)


def _said(document: Document, made: Sequence[Completion]) -> tuple[str, str]:
    """The text of the answer, and what the first filter made of it; of choices the likeliest."""
    if made:
        filtered = next(iter(document.requests[0].filtered_resps.values()))
        return made[0].text, str(filtered)
    if document.task.OUTPUT_TYPE != "multiple_choice":
        return "", ""
    place = max(range(len(document.requests)), key=lambda i: document.requests[i].resps[0][0])
    return document.requests[place].args[-1], str(place)
