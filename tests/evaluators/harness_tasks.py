"""The harness's own tasks on documents of ours: only the place of the data is another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NUMBERS = ["one", "two", "three", "four"]
ARC = [
    {
        "id": f"q{n}",
        "question": f"Which is {n % 4} plus one?",
        "choices": {"text": NUMBERS, "label": ["A", "B", "C", "D"]},
        "answerKey": "ABCD"[n % 4],
    }
    for n in range(7)
]
SENTENCES = [
    "Ann took the bat and hit the ball",
    "The dog saw the cat",
    "Tom ate it all",
    "A man ran to the old house",
]
DOCUMENTS: dict[str, list[dict[str, Any]]] = {
    "mmlu": [
        {
            "question": f" What is {n} plus one? ",
            "choices": NUMBERS[n % 2 :] + NUMBERS[: n % 2],
            "answer": n % 4,
        }
        for n in range(7)
    ],
    "truthfulqa": [
        {
            "question": f"Is {n} a number?",
            "mc2_targets": {
                "choices": ["Yes", "Yes, it is.", f"No, {n} is not", "I have no comment"],
                "labels": [1, 1, 0, 0],
            },
        }
        for n in range(5)
    ],
    "gsm8k": [
        {"question": f"Ann has {n} pens and buys {n + 2}. Sum?", "answer": f"#### {2 * n + 2}"}
        for n in range(6)
    ],
    "bbh": [{"input": f"not ( True ) and {n % 2 == 0} is", "target": "False"} for n in range(6)],
    "arc": ARC,
    "winogrande": [
        {"sentence": f"{one} and _ was glad.", "option1": "Ann", "option2": "Tom", "answer": "1"}
        for one in SENTENCES
    ],
    "lambada": [{"text": text} for text in SENTENCES],
    "wikitext": [{"page": f" = {text} = \n \n {text} , and more " * 9} for text in SENTENCES],
    "triviaqa": [
        {"question": f"Who is {n}", "answer": {"aliases": ["Ann", "Tom"]}} for n in range(5)
    ],
    "hellaswag": [
        {
            "ctx_a": f"{one}.",
            "ctx_b": "then",
            "activity_label": "Sport",
            "endings": [f"{end} left." for end in NUMBERS],
            "label": "2",
        }
        for one in SENTENCES
    ],
    "cola": [{"sentence": text, "label": n % 2, "idx": n} for n, text in enumerate(SENTENCES * 3)],
}
_SHORT = {"generation_kwargs": {"until": ["Q:", "##", "\n\n"], "max_gen_toks": 24}}
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "mmlu": ("mmlu/default/mmlu_anatomy.yaml", {"fewshot_split": "test", "num_fewshot": 2}),
    "truthfulqa": ("truthfulqa/truthfulqa_mc2.yaml", {"validation_split": "test"}),
    "gsm8k": ("gsm8k/gsm8k-cot.yaml", _SHORT),
    "bbh": ("bbh/cot_fewshot/boolean_expressions.yaml", _SHORT),
    "arc": ("arc/arc_easy.yaml", {"num_fewshot": 2, "training_split": "test"}),
    "winogrande": ("winogrande/default.yaml", {"validation_split": "test"}),
    "lambada": ("lambada/lambada_openai.yaml", {}),
    "wikitext": ("wikitext/wikitext.yaml", {}),
    "triviaqa": ("triviaqa/default.yaml", {"validation_split": "test"}),
    "hellaswag": ("hellaswag/hellaswag.yaml", {"validation_split": "test"}),
    "cola": ("glue/cola/default.yaml", {"validation_split": "test"}),
}


def write_task(name: str, folder: Path, **changes: Any) -> Path:
    """The YAML file of the harness's task `name`, its documents beside it."""
    import lm_eval.tasks

    file, own = TASKS[name]
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in DOCUMENTS[name]))
    config = {
        "include": str(Path(lm_eval.tasks.__file__).parent / file),
        "task": f"ours_{name}",
        "tag": None,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "training_split": None,
        "validation_split": None,
        "test_split": None if own.get("validation_split") == "test" else "test",
        **own,
        **changes,
    }
    path = folder / f"ours_{name}.yaml"
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in config.items()))
    return path
