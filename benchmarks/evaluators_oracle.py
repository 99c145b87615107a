"""A model that knows every answer and one that is silent, on the released data of all benchmarks.

    python benchmarks/evaluators_oracle.py DATA --out benchmarks/records/DATE_evaluators_oracle

DATA holds the released files in one folder per benchmark: gsm8k/test.jsonl, math/test.jsonl,
humaneval/HumanEval.jsonl, humanevalplus/HumanEvalPlus-OriginFmt.jsonl.gz, mbpp/mbpp.jsonl,
mbppplus/MbppPlus-OriginFmt.jsonl, mmlu/, bbh/, truthfulqa/mc_task.jsonl, xquad/xquad.en.json,
which stands in for TyDi QA where `tydiqa/` holds no train and dev file. Programs run in a sandbox.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluators.benchmark import Benchmark, BenchmarkResult, Item, items_sha256
from evaluators.benchmarks import build, presets
from evaluators.evaluate import evaluate
from evaluators.protocol import Changes
from evaluators.stops import cut_at_stop
from evaluators.text_model import Completion, LogLikelihood, TextModel

FILES = {
    "gsm8k": "gsm8k/test.jsonl",
    "math": "math/test.jsonl",
    "humaneval": "humaneval/HumanEval.jsonl",
    "humaneval_plus": "humanevalplus/HumanEvalPlus-OriginFmt.jsonl.gz",
    "mbpp": "mbpp/mbpp.jsonl",
    "mbpp_plus": "mbppplus/MbppPlus-OriginFmt.jsonl",
    "mmlu": "mmlu",
    "bbh": "bbh",
    "tydiqa": "tydiqa",
    "truthfulqa_mc2": "truthfulqa/mc_task.jsonl",
}
RUN_CODE = ("humaneval", "humaneval_plus", "mbpp", "mbpp_plus")


class Oracle(TextModel):
    """Completes with the reference, cut at stops as any text is; true choices alone are likely.

    Questions are known by their place: some are asked twice, with different gold answers.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items

    def generate(
        self, prompts: Sequence[str], *, max_new_tokens: int, stops: Sequence[str] = (), **_: Any
    ) -> list[Completion]:
        """The items' references, one for each prompt."""
        draws = len(prompts) // max(1, len(self._items))
        texts = [cut_at_stop(item.reference, stops) for item in self._items for _ in range(draws)]
        return [Completion(text, len(text), False) for text in texts]

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[LogLikelihood]:
        """0 for references and true choices, minus infinity for the others."""
        if len(pairs) == len(self._items):
            return [LogLikelihood(0.0, 1, True) for _ in pairs]
        right = []
        for item in self._items:
            true = _true_choices(item)
            right += [True, *(choice in true for choice in item.choices)]
        return [LogLikelihood(0.0 if each else -math.inf, 1, each) for each in right]


class Silent(TextModel):
    """Says nothing and holds every text to be impossible."""

    def generate(
        self, prompts: Sequence[str], *, max_new_tokens: int, stops: Sequence[str] = (), **_: Any
    ) -> list[Completion]:
        """Nothing, for each prompt."""
        return [Completion("", 0, False) for _ in prompts]

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[LogLikelihood]:
        """Minus infinity for each pair."""
        return [LogLikelihood(-math.inf, 1, False) for _ in pairs]


def _true_choices(item: Item) -> frozenset[str]:
    if item.labels:
        pairs = zip(item.choices, item.labels, strict=True)
        return frozenset(text for text, label in pairs if label)
    return frozenset({item.choices[int(item.answer)]} if item.choices else ())


def _tydiqa(folder: Path, xquad: Path) -> None:
    """XQuAD's English questions in TyDi QA's shape: a tenth for training, the rest for dev."""
    files = {
        part: (folder / f"{part}.jsonl").open("w", encoding="utf-8") for part in ("train", "dev")
    }
    number = 0
    for article in json.loads(xquad.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                number += 1
                row = {
                    "id": asked["id"],
                    "language": "english",
                    "question": asked["question"],
                    "context": paragraph["context"],
                    "answers": {"text": [answer["text"] for answer in asked["answers"]]},
                }
                file = files["train" if number % 10 == 0 else "dev"]
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    for file in files.values():
        file.close()


def _path(name: str, preset: str, data: Path, scratch: Path) -> Path:
    if name == "tydiqa" and not list((data / "tydiqa").glob("*train*")):
        folder = scratch / "tydiqa"
        if not folder.exists():
            folder.mkdir()
            _tydiqa(folder, data / "xquad" / "xquad.en.json")
        return folder
    # Table 1 takes MBPP's tasks from the file of MBPP+.
    return data / FILES["mbpp_plus" if name == "mbpp" and preset == "table1" else name]


def _row(
    name: str, preset: str, result: BenchmarkResult, items: Sequence[Item], who: str
) -> dict[str, Any]:
    wrong = [record.id for record in result.records if record.score != (who == "oracle")]
    return {
        "benchmark": name,
        "preset": preset,
        "model": who,
        "metric": result.metric,
        "score": result.score,
        "low": result.low,
        "high": result.high,
        "right": sum(record.score == 1.0 for record in result.records),
        "n": result.n,
        "exceptions": " ".join(wrong[:12]) + (" ..." if len(wrong) > 12 else ""),
        "robust": result.metrics.get("accuracy_robust", ""),
        "sandbox": result.sandbox_level or "",
        "protocol_sha256": result.protocol_sha256[:12],
        "items_sha256": items_sha256(items)[:12],
    }


def _measure(benchmark: Benchmark, items: Sequence[Item], oracle: bool) -> BenchmarkResult:
    return evaluate(Oracle(items) if oracle else Silent(), benchmark, items)


def main() -> None:
    """Score both models on every benchmark and preset; write the table and the records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--benchmarks", default=",".join(FILES))
    parser.add_argument("--sandbox", default=None)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in given.benchmarks.split(","):
            for preset in presets(name):
                sandbox = given.sandbox if name in RUN_CODE else None
                benchmark = build(name, preset=preset, sandbox=sandbox)
                items = benchmark.load(_path(name, preset, given.data, Path(scratch)), "all")
                if benchmark.metric == "pass@10":
                    # The same text 20 times would only run the same programs 20 times.
                    fewer = Changes(samples=10)
                    benchmark = build(name, preset=preset, sandbox=sandbox, changes=fewer)
                for who in ("oracle", "silent"):
                    start = time.perf_counter()
                    result = _measure(benchmark, items, who == "oracle")
                    rows.append(_row(name, preset, result, items, who))
                    seconds = time.perf_counter() - start
                    right, exceptions = rows[-1]["right"], rows[-1]["exceptions"]
                    print(
                        f"{name:15} {preset:7} {who:7} {result.score:.4f} {right}/{result.n} "
                        f"{exceptions} ({seconds:.1f} s)",
                        flush=True,
                    )
    with (given.out / "scores.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"python {platform.python_version()}, {len(rows)} rows in {given.out / 'scores.csv'}")


if __name__ == "__main__":
    main()
