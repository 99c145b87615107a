"""What ends a turn in training stops generation: in scoring, and of the saved model elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from evaluators.language_model import LanguageModel
from evaluators.prompt_formats import turn_ends
from sweeps.finetune.data_config import DataConfig
from sweeps.finetune.example import RowError
from sweeps.finetune.finetune_config import ModelConfig
from sweeps.finetune.loop import finetune
from sweeps.finetune.model import add_stop_tokens, load_tokenizer
from sweeps.finetune.tokenized_data import load_training_data
from tests.sweeps.finetune.tiny import (
    ABSENT_TEST,
    MemoryReporter,
    config,
    evaluate_folder,
    save_model,
    save_rows,
)

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ADDED = ("<|im_start|>", "<|im_end|>")
SUMS = [(n, n * n % 7) for n in range(10)]


def asked(a: int, b: int) -> dict[str, str]:
    return {"role": "user", "content": f"{a}+{b}?"}


def answered(a: int, b: int) -> dict[str, str]:
    return {"role": "assistant", "content": f"The answer is: {a + b}"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model whose EOS is </s>, with ChatML's template but not its tokens."""
    folder = save_model(tmp_path_factory.mktemp("chat") / "model", context=128)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    return folder


def test_ten_conversations_are_learned_to_their_end(base: Path, tmp_path: Path) -> None:
    """Ten, each with two answers: loss near zero, score 1, and generation that stops."""
    tokenizer = load_tokenizer(ModelConfig(path=str(base), added_tokens=ADDED))
    pairs = list(zip(SUMS, [*SUMS[5:], *SUMS[:5]], strict=True))
    talks = [[asked(*one), answered(*one), asked(*two), answered(*two)] for one, two in pairs]
    prompts = [
        tokenizer.apply_chat_template(talk[:end], tokenize=False, add_generation_prompt=True)
        for end in (1, 3)
        for talk in talks
    ]
    replies = [talk[end]["content"] for end in (1, 3) for talk in talks]
    items = [
        {"id": str(n), "prompt": prompt, "reference": reply, "answer": reply.split()[-1]}
        for n, (prompt, reply) in enumerate(zip(prompts, replies, strict=True))
    ]
    benchmark = {
        "name": "exact_match",
        "validation": str(save_rows(tmp_path / "validation.jsonl", items)),
        "test": ABSENT_TEST,
        "prompt_format": "raw",  # the prompts hold the template
    }
    rows = save_rows(tmp_path / "train.jsonl", [{"messages": talk} for talk in talks])
    settings = config(
        base.parent,
        model={"path": str(base), "add_bos": False, "added_tokens": ADDED},
        data={"path": str(rows), "format": "messages", "template": "chat", "max_length": 128},
        method={"name": "sft"},
        batch={"mini_batch": 10},
        accumulation_interval=1,
        examples=10 * 400,
        learning_rate=0.01,
        evaluation={"checks": 1, "benchmarks": [benchmark]},
    )
    reporter = MemoryReporter()
    result = finetune(settings, tmp_path / "run", reporter)
    assert reporter.losses()[-1] < 0.01
    assert result.score == 1.0
    assert result.model_folder is not None
    again = evaluate_folder(
        result.model_folder, settings.evaluation.benchmarks, "validation", add_bos=False
    )
    assert again["exact_match"].score == 1.0
    model: Any = AutoModelForCausalLM.from_pretrained(result.model_folder)
    tokenizer = AutoTokenizer.from_pretrained(result.model_folder)
    completions = LanguageModel(model, tokenizer, add_bos=False).generate(
        prompts, max_new_tokens=40
    )
    assert [(each.text, each.truncated) for each in completions] == [(r, False) for r in replies]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for prompt, reply in zip(prompts, replies, strict=True):
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
        new = model.generate(ids, max_new_tokens=40, do_sample=False)[0, ids.shape[1] :]
        assert new.tolist() == [*tokenizer(reply, add_special_tokens=False).input_ids, end]


PLAIN = "{% for m in messages %}{{ m.content }}</s>\n{% endfor %}"


@pytest.mark.parametrize(
    ("template", "scored", "learned"),
    [
        (CHATML, "<|im_end|>", "<|im_end|>"),
        (PLAIN, "</s>", "</s>"),
        (CHATML.replace("{% endif", "{% else %}{{ eos_token }}{% endif"), "<|im_end|>", "</s>"),
        (CHATML.replace("<|im_end|>", "<|end|>"), "<|end|>", ""),
    ],
)
def test_scoring_and_training_find_the_end_of_a_turn(
    base: Path, tmp_path: Path, template: str, scored: str, learned: str
) -> None:
    """Scoring also stops at EOS, and at a text that no token stands for."""
    tokenizer = load_tokenizer(ModelConfig(path=str(base), added_tokens=ADDED))
    tokenizer.chat_template = template
    assert turn_ends("chat", tokenizer) == (scored,)
    rows = save_rows(tmp_path / "rows.jsonl", [{"messages": [asked(1, 1), answered(1, 1)]}])
    data = DataConfig(path=str(rows), format="messages", template="chat")
    if learned:
        ends = load_training_data(data, tokenizer).ends
        assert tokenizer.convert_ids_to_tokens(ends) == [learned]
    else:
        with pytest.raises(RowError, match="so an answer could never end"):
            load_training_data(data, tokenizer)


def test_a_missing_chat_template_is_a_mistake_of_the_data(world: Path, tmp_path: Path) -> None:
    """Not of the benchmark, which only follows the rows."""
    path = str(world / "train.jsonl")
    with pytest.raises(RowError, match=r"data\.template: 'chat' requires a tokenizer with a chat"):
        finetune(
            config(world, data={"path": path, "template": "chat", "max_length": 32}),
            tmp_path / "run",
            MemoryReporter(),
        )


@pytest.mark.parametrize(
    ("declared", "ends", "expected"),
    [
        (2, (2,), 2),
        (2, (69,), [2, 69]),
        ([3, 2], (2, 69), [3, 2, 69]),
        ([3, 2], (2,), [3, 2]),
        (None, (69,), [69]),
    ],
)
def test_stop_tokens_are_added_to_those_of_the_model(
    base: Path, declared: Any, ends: tuple[int, ...], expected: Any
) -> None:
    model = LlamaForCausalLM.from_pretrained(base)
    model.generation_config.eos_token_id = declared
    add_stop_tokens(model, ends)
    assert model.generation_config.eos_token_id == expected


def test_the_ends_are_cached_with_the_tokens(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.finetune.tokenized_data._CACHED_BYTES", 0)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    tokenizer = load_tokenizer(ModelConfig(path=str(base), added_tokens=ADDED))
    rows = save_rows(tmp_path / "rows.jsonl", [{"messages": [asked(1, 1), answered(1, 1)]}])
    for template, end in (("chat", "<|im_end|>"), ("own", "</s>")) * 2:
        data = DataConfig.model_validate(
            {"path": str(rows), "format": "messages", "template": template}
        )
        found = load_training_data(data, tokenizer)
        assert tokenizer.convert_ids_to_tokens(found.ends) == [end]
