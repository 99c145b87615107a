"""Small hand-written data sets in the schemas of the released ones, by benchmark name."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path


def jsonl(path: Path, rows: Sequence[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def exact_match(folder: Path) -> Path:
    return jsonl(
        folder / "data.jsonl",
        [
            {"id": f"m{n}", "prompt": f"Question: {n} + 1?\nAnswer:", "answer": f"{n + 1}.0",
             "reference": f" {n} + 1 = {n + 1}. The answer is: {n + 1}"}
            for n in range(8)
        ],
    )  # fmt: skip


def pass_at_1(folder: Path) -> Path:
    return jsonl(
        folder / "data.jsonl",
        [
            {"id": f"c{n}", "prompt": f"def f(x):\n    # add {n}\n", "entry_point": "f",
             "reference": f"    return x + {n}\n", "tests": [f"assert f(1) == {n + 1}"]}
            for n in range(6)
        ],
    )  # fmt: skip


def multiple_choice(folder: Path) -> Path:
    return jsonl(
        folder / "data.jsonl",
        [
            {"id": f"q{n}", "prompt": f"Question {n}:", "choices": [" no", " yes", " \u2028"],
             "answer": 1 + n % 2}
            for n in range(8)
        ],
    )  # fmt: skip


def short_answer(folder: Path) -> Path:
    return jsonl(
        folder / "data.jsonl",
        [{"id": f"s{n}", "prompt": f"Where is {n}?", "reference": f" town {n}"} for n in range(8)],
    )


def text(folder: Path) -> Path:
    path = folder / "data.txt"
    path.write_text("".join(f"Line {n} of a small story.\n" * 40 for n in range(30)))
    return path


def gsm8k(folder: Path) -> Path:
    return jsonl(
        folder / "data.jsonl",
        [
            {"question": f"What is {n} + 1000?",
             "answer": f"It is {n}+1000=<<{n}+1000={n + 1000}>>{n + 1000}.\n#### {n + 1000:,}"}
            for n in range(210)
        ],
    )  # fmt: skip


def math(folder: Path) -> Path:
    return jsonl(
        folder / "data.jsonl",
        [
            {"problem": f"Halve ${n}$.", "level": "Level 1", "type": "Algebra",
             "solution": rf"It is $\boxed{{\frac{{{n}}}{{2}}}}.$"}
            for n in range(101, 221)
        ],
    )  # fmt: skip


def humaneval(folder: Path) -> Path:
    rows = []
    for n in range(12):
        rows.append(
            {
                "task_id": f"HumanEval/{n}",
                "prompt": f'\n\ndef add(x: int) -> int:\n    """ Add {n}. """\n',
                "canonical_solution": f"    return x + {n}\n",
                "test": f"\n\ndef check(candidate):\n    assert candidate(1) == {n + 1}\n",
                "entry_point": "add",
            }
        )
    return jsonl(folder / "data.jsonl", rows)


_ASSERTION = """import numpy as np

def is_floats(x):
    return isinstance(x, float) or isinstance(x, np.ndarray)

def assertion(out, exp, atol):
    if atol == 0 and is_floats(exp):
        atol = 1e-6
    if out != exp and atol != 0:
        assert np.allclose(out, exp, rtol=1e-07, atol=atol)
    else:
        assert out == exp
"""


def humaneval_plus(folder: Path) -> Path:
    path = humaneval(folder)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for n, row in enumerate(rows):
        row["test"] = (
            f"{_ASSERTION}\ndef check(candidate):\n    inputs = [[1.5], [2]]\n"
            f"    results = [{n + 1.5 + 1e-9}, {n + 2}]\n"
            "    for inp, exp in zip(inputs, results):\n"
            "        assertion(candidate(*inp), exp, 0)\n"
        )
    return jsonl(path, rows)


def mbpp(folder: Path) -> Path:
    return jsonl(
        folder / "data.jsonl",
        [
            {"task_id": n, "text": f"Write a function to add {n}.", "challenge_test_list": [],
             "code": f"def add(x):\r\n\treturn x + {n}\r\nclass Box: pass",
             "test_list": [f"assert add(1) == {n + 1}", "assert box is not None"],
             "test_setup_code": "box = Box()"}
            for n in (10, 11, 12, 510, 511, 600, 601)
        ],
    )  # fmt: skip


def mbpp_plus(folder: Path) -> Path:
    return jsonl(
        folder / "data.jsonl",
        [
            {"task_id": n, "prompt": f"Write a function to add {n} to a number.",
             "code": f"\ndef add(x):\n  return x + {n}\n", "test_imports": ["import math"],
             "test_list": [f"assert add(1) == {n + 1}", f"assert add(math.inf) > {n}"],
             "test": f"{_ASSERTION}\nassertion(add(1), {n + 1}, 0)\n"}
            for n in (2, 11, 12, 511, 600, 601)
        ],
    )  # fmt: skip


def mmlu(folder: Path) -> Path:
    for part, rows in (("dev", 6), ("test", 5)):
        (folder / part).mkdir()
        for subject in ("anatomy", "high_school_physics"):
            with (folder / part / f"{subject}_{part}.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                if subject == "anatomy":
                    writer.writerow(["question", "a", "b", "c", "d", "answer"])
                for n in range(rows):
                    answer = n % 4 if subject == "anatomy" else "ABCD"[n % 4]
                    question = f"Which {part},\n{n} of {subject}?"
                    writer.writerow([question, "None", "N/A", "", str(n), answer])
    return folder


def bbh(folder: Path) -> Path:
    targets = {"boolean_expressions": "True", "dyck_languages": "] ) }", "navigate": "No"}
    (folder / "cot-prompts").mkdir()
    for task, target in targets.items():
        rows = [{"input": f"Puzzle {n} of {task}?", "target": target} for n in range(50)]
        (folder / f"{task}.json").write_text(json.dumps({"canary": "...", "examples": rows}))
        demonstrations = f"Solve.\n\nQ: Puzzle?\nA: Let's think. So the answer is {target}.\n"
        prompt = f"A warning.\n-----\n{demonstrations}"
        (folder / "cot-prompts" / f"{task}.txt").write_text(prompt)
    return folder


def tydiqa(folder: Path) -> Path:
    """The released nesting for dev, flat rows for train; two questions on each passage."""
    train, articles = [], []
    for language in ("english", "telugu"):
        for n in range(60):
            context = f"{language} passage {n // 2}: the town of {n} lies by a river. " * 2
            asked = {"id": f"{language}-{n}", "question": f"Where is {language} {n}?"}
            answers = {"text": [f"by river {n}", f"river {n}"], "answer_start": [3, 6]}
            row = {**asked, "context": context, "answers": answers}
            shown = {"id": f"{language}-t{n}", "question": f"Which river, {language} {n}?"}
            train.append({**row, **shown, "language": language})
            nested = [{"text": answer, "answer_start": 1} for answer in answers["text"]]
            paragraph = {"context": context, "qas": [{**asked, "answers": nested}]}
            articles.append({"title": "t", "paragraphs": [paragraph]})
    jsonl(folder / "tydiqa-goldp-v1.1-train.jsonl", train)
    (folder / "tydiqa-goldp-v1.1-dev.json").write_text(json.dumps({"data": articles}))
    return folder


def truthfulqa_mc2(folder: Path) -> Path:
    rows = []
    for n in range(12):
        best, also, false = f"It is {n}.", f"Surely {n}.", f"It is {n + 1}."
        rows.append(
            {
                "question": f"What is the number {n}?",
                "mc1_targets": {"choices": [best, false], "labels": [1, 0]},
                "mc2_targets": {"choices": [best, also, false], "labels": [1, 1, 0]},
            }
        )
    # The form of the released file: answers as keys.
    for name in ("mc1_targets", "mc2_targets"):
        targets = rows[0][name]
        rows[0][name] = dict(zip(targets["choices"], targets["labels"], strict=True))
    return jsonl(folder / "data.jsonl", rows)


ROWS: dict[str, Callable[[Path], Path]] = {
    make.__name__: make
    for make in (
        *(exact_match, pass_at_1, multiple_choice, short_answer, text, gsm8k, math, humaneval),
        *(humaneval_plus, mbpp, mbpp_plus, mmlu, bbh, tydiqa, truthfulqa_mc2),
    )
}
