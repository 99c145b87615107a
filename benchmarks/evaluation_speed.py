"""The engine against lm-eval's HFLM: same model, prompts, machine and run.

    python benchmarks/evaluation_speed.py DATA --out benchmarks/records/DATE_evaluation_cpu
    python benchmarks/evaluation_speed.py DATA --out FOLDER --model MODEL --hflm 1,4 --rounds 1

DATA holds gsm8k/test.jsonl and mmlu/{dev,test}/*.csv as released. The model is a Llama of 10 M
random parameters with a vocabulary of 32,000, or MODEL, in float32. They take turns; the ratio of
medians is reported, of HFLM at its best batch size, of seconds by the clock and of CPU seconds,
which other work on the machine disturbs less. With one round per engine, peak memory, which takes
a fresh process for each, is not measured.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from resident_memory import peak_growth
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from evaluators.language_model import LanguageModel

STOPS = ["Question:", "</s>", "<|im_end|>"]
SUBJECTS = ("anatomy", "astronomy", "virology")


def build_tokenizer(data: Path) -> PreTrainedTokenizerFast:
    """32,000 byte-level tokens, trained on the benchmarks' own text."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    files = [data / "gsm8k/test.jsonl", *sorted((data / "mmlu").rglob("*.csv"))]
    trainer = trainers.BpeTrainer(
        vocab_size=32000,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator((file.read_text() for file in files), trainer)
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def build_model() -> LlamaForCausalLM:
    """10.4 M parameters, of which 8.2 M embed the vocabulary."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        initializer_range=0.1,
    )
    return LlamaForCausalLM(config).eval()


def gsm8k(data: Path, count: int) -> list[str]:
    """Prompts of eight shots, which all share, and a question."""
    rows = [json.loads(line) for line in (data / "gsm8k/test.jsonl").read_text().splitlines()]
    shots = "".join(f"Question: {r['question']}\nAnswer: {r['answer']}\n\n" for r in rows[:8])
    return [f"{shots}Question: {row['question']}\nAnswer:" for row in rows[8 : 8 + count]]


def mmlu(data: Path, count: int) -> list[tuple[str, str]]:
    """(prompt of five shots and a question, choice), `count` questions of each subject."""

    def shown(row: list[str], answer: str) -> str:
        lines = [f"{letter}. {text}" for letter, text in zip("ABCD", row[1:5], strict=True)]
        return "\n".join([row[0].strip(), *lines, f"Answer:{answer}"])

    pairs = []
    for subject in SUBJECTS:
        dev, test = (
            list(csv.reader((data / f"mmlu/{part}/{subject}_{part}.csv").open(newline="")))[1:]
            for part in ("dev", "test")
        )
        intro = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
        shots = "".join(shown(row, f" {'ABCD'[int(row[5])]}") + "\n\n" for row in dev)
        for row in test[:count]:
            pairs += [(f"{intro}{shots}{shown(row, '')}", f" {letter}") for letter in "ABCD"]
    return pairs


def subject(options: argparse.Namespace) -> tuple[Any, Any]:
    """The model and its tokenizer."""
    if options.model is None:
        return build_model(), build_tokenizer(options.data)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    return AutoModelForCausalLM.from_pretrained(options.model, dtype="float32").eval(), tokenizer


def engines(options: argparse.Namespace) -> dict[str, dict[str, Callable[[], list[Any]]]]:
    """By task and engine, what answers all requests."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = subject(options)
    prompts, pairs = gsm8k(options.data, options.items), mmlu(options.data, options.items)
    ours = LanguageModel(model, tokenizer, batch_tokens=10**6, batch_size=options.batch_size)
    settings = {"until": STOPS, "max_gen_toks": options.tokens, "do_sample": False}
    generate = [
        Instance("generate_until", {}, (prompt, dict(settings)), index)
        for index, prompt in enumerate(prompts)
    ]
    score = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    found: dict[str, dict[str, Callable[[], list[Any]]]] = {
        "gsm8k 8-shot": {
            "engine": lambda: [
                each.text
                for each in ours.generate(prompts, max_new_tokens=options.tokens, stops=STOPS)
            ],
        },
        "mmlu 5-shot": {
            "engine": lambda: [(each.nats, each.is_greedy) for each in ours.loglikelihood(pairs)],
        },
    }
    for size in options.hflm or [options.batch_size]:
        theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size)
        works = (partial(theirs.generate_until, generate), partial(theirs.loglikelihood, score))
        for task, work in zip(found, works, strict=True):
            found[task][f"hflm {size}"] = partial(work, disable_tqdm=True)
    return {task: each for task, each in found.items() if task.startswith(options.task)}


def timed(work: Callable[[], list[Any]]) -> tuple[tuple[float, float], list[Any]]:
    """Seconds by the clock and CPU seconds, and the answers."""
    clock, cpu = time.perf_counter(), time.process_time()
    answers = work()
    return (time.perf_counter() - clock, time.process_time() - cpu), answers


def same(first: list[Any], second: list[Any]) -> float | int:
    """How many texts are equal, or the largest difference of log-likelihoods in nats."""
    if isinstance(first[0], str):
        return [a == b for a, b in zip(first, second, strict=True)].count(True)
    assert [a[1] for a in first] == [b[1] for b in second]
    return float(max(abs(a[0] - b[0]) for a, b in zip(first, second, strict=True)))


def peak(options: argparse.Namespace) -> None:
    """Print the growth of the peak of resident memory, in MiB, while one engine works once."""
    task, engine = options.peak
    work = engines(options)[task][engine]
    print(peak_growth(work))


def _sizes(text: str) -> list[int]:
    return [int(size) for size in text.split(",")]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--items", type=int, default=16, help="prompts, and questions a subject")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path, help="a model folder; default: a random Llama")
    parser.add_argument("--hflm", type=_sizes, help="HFLM's batch sizes, as 1,4,8,16")
    parser.add_argument("--task", default="", help="gsm8k or mmlu; default: both")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        peak(options)
        return
    found: dict[str, Any] = {}
    for task, works in engines(options).items():
        rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
        answers: dict[str, list[Any]] = {}
        for _ in range(options.rounds):
            for name, work in works.items():
                spent, answered = timed(work)
                rounds[name].append(spent)
                answers.setdefault(name, answered)
                print(task, name, *spent, flush=True)
        items = options.items if "gsm8k" in task else options.items * len(SUBJECTS)
        result: dict[str, Any] = {"items": items, "loadavg": os.getloadavg()}
        for place, unit in enumerate(("seconds", "cpu_seconds")):
            median = {n: statistics.median(r[place] for r in each) for n, each in rounds.items()}
            best = min(each for name, each in median.items() if name != "engine")
            result[unit] = {name: [r[place] for r in each] for name, each in rounds.items()}
            result[f"{unit}_ratio"] = best / median["engine"]
            result[f"items_per_{unit[:-1]}"] = {n: items / each for n, each in median.items()}
        result["same"] = {
            name: same(each, answers["engine"])
            for name, each in answers.items()
            if name != "engine"
        }
        for name in rounds if options.rounds > 1 else ():
            command = [sys.executable, *sys.argv, "--peak", task, name]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            result.setdefault("peak_growth_mib", {})[name] = float(said.split()[-1])
        found[task] = result
        print(task, json.dumps(result), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    names = ("items", "tokens", "batch_size", "rounds", "threads")
    settings = {name: getattr(options, name) for name in names}
    settings["model"] = None if options.model is None else options.model.name
    record = {"python": platform.python_version(), "torch": torch.__version__, **settings, **found}
    file = "_".join(["speed", *([options.task] if options.task else [])])
    (options.out / f"{file}_{options.threads}_threads.json").write_text(
        json.dumps(record, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
