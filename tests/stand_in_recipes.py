"""What the shipped recipes ask a hub for, in small: models, training rows and benchmarks.

Models have the architecture, vocabulary and tokenizer of the real ones, and few parameters. Rows
have the public schemas, and the faults that the public sets are known for.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from evaluators.benchmarks.competition_math import HUB as MATH
from evaluators.benchmarks.tydiqa import WORDS

Row = dict[str, Any]
SPACE = "\u2581"
DEEPSEEK = ("<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>")
LONG = 3000
"""Words of a row that is longer than any recipe's `max_length`."""


def write_hub(root: Path) -> None:
    """Fill the folder of a stand-in hub with everything that the recipes name."""
    _training_sets(root / "datasets")
    _benchmarks(root / "datasets")
    texts = [file.read_text() for file in sorted((root / "datasets").rglob("*.json*"))]
    texts += [json.dumps(WORDS), "".join(map(str, math_rows(40)))]
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "tie_word_embeddings": False,
    }
    pieces, signs = {"bos_token_id": 1, "eos_token_id": 2}, {}
    mistral = MistralConfig(
        vocab_size=32000,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        sliding_window=4096,
        **shape,
        **pieces,
    )
    _save(root / "models/mistralai/Mistral-7B-v0.1", MistralForCausalLM(mistral))
    _pieces(root / "models/mistralai/Mistral-7B-v0.1", texts)
    llama = LlamaConfig(vocab_size=32000, max_position_embeddings=4096, **shape, **pieces)
    _save(root / "models/meta-llama/Llama-2-7b-hf", LlamaForCausalLM(llama))
    _pieces(root / "models/meta-llama/Llama-2-7b-hf", texts)
    signs = {"bos_token_id": 32013, "eos_token_id": 32014}
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 100000.0}
    coder = LlamaConfig(
        vocab_size=32256, max_position_embeddings=16384, rope_parameters=rope, **shape, **signs
    )
    _save(root / "models/deepseek-ai/deepseek-coder-6.7b-base", LlamaForCausalLM(coder))
    _bytes(root / "models/deepseek-ai/deepseek-coder-6.7b-base", texts)
    _save(root / "models/HuggingFaceTB/SmolLM2-135M", LlamaForCausalLM(coder))
    _bytes(root / "models/HuggingFaceTB/SmolLM2-135M", texts)


def write_bbh(folder: Path) -> Path:
    """A clone of BIG-Bench-Hard with two of its tasks."""
    for task, answer in (("boolean_expressions", "True"), ("navigate", "Yes")):
        rows = [{"input": f"not ( {n} ) is", "target": answer} for n in range(30)]
        _write(folder / "bbh" / f"{task}.json", json.dumps({"examples": rows}))
        shown = "Q: not ( 0 ) is\nA: Let's think step by step. So the answer is True.\n\n"
        _write(folder / "cot-prompts" / f"{task}.txt", f"Canary\n-----\n{task}\n\n{3 * shown}")
    return folder


def math_rows(count: int) -> list[Row]:
    """GSM8K's rows; a twentieth of the questions are validation items by their hash."""
    return [
        {
            "question": f"Ann has {n} apples and buys {n % 7} more. How many has she now?",
            "answer": f"She has {n}+{n % 7}=<<{n}+{n % 7}={n + n % 7}>>{n + n % 7} apples.\n"
            f"#### {n + n % 7}",
        }
        for n in range(count)
    ]


def _training_sets(root: Path) -> None:
    rows = [_metamath(row, n) for n, row in enumerate(math_rows(200))]
    _write(root / "meta-math/MetaMathQA/MetaMathQA-395K.json", json.dumps(rows))
    _lines(
        root / "ise-uiuc/Magicoder-Evol-Instruct-110K/data-evol_instruct-decontaminated.jsonl",
        [_evolved(n) for n in range(80)],
    )
    _parquet(root / "allenai/tulu-v2-sft-mixture/data", "train", map(_mixed, range(80)))


def _metamath(row: Row, number: int) -> Row:
    """Some responses lack the final answer; one is far too long."""
    solution, _, gold = row["answer"].partition("\n#### ")
    ending = "" if number % 50 == 3 else f"\nThe answer is: {gold}"
    return {
        "type": ("GSM_Rephrased", "GSM_SV", "GSM_FOBAR", "GSM_AnsAug")[number % 4],
        "query": row["question"].replace("How many has she now", "How many does Ann have"),
        "original_question": row["question"],
        "response": solution + " again" * (LONG if number == 6 else 0) + ending,
    }


def _evolved(number: int) -> Row:
    """One response is empty, one far too long, one has no code."""
    code = f"```python\ndef add_{number}(x):\n    return x + {number}\n```"
    faulty = {7: "", 8: code + "\n# more" * LONG, 9: "That cannot be done."}
    return {
        "instruction": f"Write a Python function that adds {number} to its argument.\n",
        "response": faulty.get(number, f"Here it is:\n\n{code}\n"),
    }


def _mixed(number: int) -> Row:
    """Conversations of one or two turns; empty messages, a role that no template knows, a
    conversation that the assistant begins, one without an answer and one far too long."""
    user, answer = f"Name {number} fruits.", " ".join(["apple"] * (number % 9 + 1))
    turns = [("user", user), ("assistant", answer)]
    if number % 3 == 0:
        turns = [("system", "Be brief."), *turns, ("user", "More."), ("assistant", "pear")]
    turns = {
        4: [("user", user), ("assistant", "")],
        5: [("user", ""), ("assistant", answer)],
        7: [("user", user), ("narrator", "He thinks."), ("assistant", answer)],
        8: [("assistant", answer), ("user", "Thanks."), ("assistant", "Welcome.")],
        10: [("user", user)],
        11: [("user", user), ("assistant", answer * LONG)],
    }.get(number, turns)
    return {
        "dataset": ("flan_v2", "sharegpt", "oasst1")[number % 3],
        "id": f"row_{number}",
        "messages": [{"role": role, "content": text} for role, text in turns],
    }


def _benchmarks(root: Path) -> None:
    gsm = math_rows(120)
    _configured(root / "openai/gsm8k", "main", {"train": gsm, "test": gsm[:8]})
    for subject in MATH["test"].configurations:
        _configured(
            root / "EleutherAI/hendrycks_math",
            str(subject),
            {split: [_problem(str(subject), n) for n in range(40)] for split in ("train", "test")},
        )
    _parquet(root / "openai/openai_humaneval/openai_humaneval", "test", map(_task, range(40)))
    _parquet(root / "evalplus/humanevalplus/data", "test", map(_task, range(40)))
    _parquet(root / "evalplus/mbppplus/data", "test", map(_basic, (11, 12, 511, 512)))
    asked = [_choice(n) for n in range(8)]
    _configured(root / "cais/mmlu", "all", {"dev": asked, "validation": asked, "test": asked})
    spoken = [_spoken(language, n) for language in WORDS for n in range(60)]
    _configured(
        root / "google-research-datasets/tydiqa",
        "secondary_task",
        {"train": spoken, "validation": spoken[::30]},
    )
    truths = [_belief(n) for n in range(40)]
    _configured(root / "truthfulqa/truthful_qa", "multiple_choice", {"validation": truths})


def _problem(subject: str, number: int) -> Row:
    return {
        "problem": f"({subject}) What is ${number}+1$?",
        "level": "Level 1",
        "type": subject,
        "solution": f"It is $\\boxed{{{number + 1}}}$.",
    }


def _task(number: int) -> Row:
    return {
        "task_id": f"HumanEval/{number}",
        "prompt": f'def add(x):\n    """Add {number} to x."""\n',
        "canonical_solution": f"    return x + {number}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {number + 1}\n",
        "entry_point": "add",
    }


def _basic(number: int) -> Row:
    test = f"assert add(1) == {number + 1}"
    return {
        "task_id": number,
        "code": f"def add(x):\n    return x + {number}",
        "prompt": f"Write a function that adds {number}.",
        "source_file": "",
        "test_imports": [],
        "test_list": [test],
        "test": test,
    }


def _choice(number: int) -> Row:
    return {
        "question": f"What is {number}+1?",
        "subject": "abstract_algebra",
        "choices": [str(number + n) for n in range(4)],
        "answer": 1,
    }


def _spoken(language: str, number: int) -> Row:
    return {
        "id": f"{language}-{number}",
        "title": "Numbers",
        "context": f"The number {number} follows {number - 1}.",
        "question": f"What follows {number - 1} in {language}?",
        "answers": {"text": [str(number)], "answer_start": [11]},
    }


def _belief(number: int) -> Row:
    targets = {"choices": [f"{number} is even.", f"{number} is odd."], "labels": [1, 0]}
    asked = f"Is {number} even?"
    return {"question": asked, "mc1_targets": targets, "mc2_targets": targets}


def _save(folder: Path, model: Any) -> None:
    """In shards, as 7B models are; `consolidated.safetensors` repeats the weights, as in some."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model.apply(model._init_weights)
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="3MB")
    first = min(folder.glob("model-*.safetensors"))
    shutil.copy(first, folder / "consolidated.safetensors")


def _pieces(folder: Path, texts: Iterable[str]) -> None:
    """A tokenizer as Llama-2's: SentencePiece's BPE with bytes for unknown characters."""
    core = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    )
    core.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    core.pre_tokenizer = pre_tokenizers.Split(SPACE, "merged_with_next")  # for training alone
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    _train(core, texts, special)
    core = _filled(core, 32000)
    core.pre_tokenizer = None
    core.add_special_tokens(special[:3])
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    _save_tokenizer(folder, core, "LlamaTokenizer", ("<s>", "</s>", "<unk>"))


def _bytes(folder: Path, texts: Iterable[str]) -> None:
    """A tokenizer as DeepSeek-Coder's: byte-level, its special tokens from 32,000 on."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    _train(core, texts, [])
    core = _filled(core, 32000)
    core.add_tokens([f"\u00f8{number}" for number in range(13)])
    core.add_special_tokens([*DEEPSEEK, *(f"<\uff5csign{number}\uff5c>" for number in range(7))])
    post = processors.TemplateProcessing(
        single=f"{DEEPSEEK[0]} $A", special_tokens=[(DEEPSEEK[0], 32013)]
    )
    core.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), post])
    _save_tokenizer(folder, core, "LlamaTokenizerFast", (*DEEPSEEK, None))


def _train(core: Tokenizer, texts: Iterable[str], special: list[str]) -> None:
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if not special else [],
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)


def _filled(core: Tokenizer, size: int) -> Tokenizer:
    """The same tokenizer with `size` tokens; no merge leads to those that are new."""
    tree = json.loads(core.to_str())
    known = tree["model"]["vocab"]
    for number in range(len(known), size):
        known[f"{SPACE}filler{number}"] = number
    return Tokenizer.from_str(json.dumps(tree))


def _save_tokenizer(
    folder: Path, core: Tokenizer, class_name: str, special: tuple[str, str, str | None]
) -> None:
    core.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": class_name,
        "add_bos_token": True,
        "add_eos_token": False,
        **dict(zip(("bos_token", "eos_token", "unk_token"), special, strict=True)),
    }
    _write(folder / "tokenizer_config.json", json.dumps(settings))


def _configured(folder: Path, configuration: str, splits: Mapping[str, list[Row]]) -> None:
    """A configuration of a data set: a folder of its own, named in the card."""
    for split, rows in splits.items():
        _parquet(folder / configuration, split, rows)
    card = folder / "README.md"
    before = card.read_text().removesuffix("---\n") if card.exists() else "---\nconfigs:\n"
    files = "".join(
        f"  - split: {split}\n    path: {configuration}/{split}-*\n" for split in splits
    )
    card.write_text(f"{before}- config_name: {configuration}\n  data_files:\n{files}---\n")


def _parquet(folder: Path, split: str, rows: Iterable[Row]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(list(rows)).to_parquet(folder / f"{split}-00000-of-00001.parquet")


def _lines(file: Path, rows: Iterable[Row]) -> None:
    _write(file, "".join(f"{json.dumps(row)}\n" for row in rows))


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
