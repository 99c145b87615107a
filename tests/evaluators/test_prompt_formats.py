"""Benchmarks asked in a prompt format: the text, its tokens, and where an answer ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from evaluators.benchmark import Item, items_sha256, protocol_sha256
from evaluators.benchmarks import build
from evaluators.evaluate import evaluate
from evaluators.language_model import LanguageModel
from evaluators.prefixes import shared_prefixes
from evaluators.prompt_formats import PROMPT_FORMATS, written
from evaluators.protocol import Changes
from evaluators.text_model import Completion, LogLikelihood, TextModel
from tests.evaluators.benchmark_rows import ROWS, jsonl
from tests.evaluators.conftest import build_model
from tests.evaluators.tokenizer_families import FAMILIES, Family

BY_NAME = {family.name: family for family in FAMILIES}
TURNS = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
BOS_FIRST = "{{ bos_token }}" + TURNS
TALK = [
    {"role": "system", "content": "Be {}."},
    {"role": "user", "content": "1?"},
    {"role": "assistant", "content": "one"},
    {"role": "user", "content": "2?"},
]
WRITTEN = {
    "tulu": "<|system|>\nBe {}.\n<|user|>\n1?\n<|assistant|>\none</s>\n"
    "<|user|>\n2?\n<|assistant|>\n",
    "chatml": "<|im_start|>system\nBe {}.<|im_end|>\n<|im_start|>user\n1?<|im_end|>\n"
    "<|im_start|>assistant\none<|im_end|>\n<|im_start|>user\n2?<|im_end|>\n<|im_start|>assistant\n",
    "chat": "<|system|>Be {}.<|end|>\n<|user|>1?<|end|>\n<|assistant|>one<|end|>\n"
    "<|user|>2?<|end|>\n<|assistant|>\n",
}


class Heard(TextModel):
    """Remembers what it is asked."""

    def __init__(self, tokenizer: Any, says: str = "") -> None:
        self.tokenizer, self.says = tokenizer, says
        self.prompts: list[str] = []
        self.stops: tuple[str, ...] = ()
        self.pairs: list[tuple[str, str]] = []

    def generate(self, prompts, *, stops=(), **_):
        self.prompts, self.stops = list(prompts), tuple(stops)
        return [Completion(self.says, 1, False) for _ in prompts]

    def loglikelihood(self, pairs):
        self.pairs = list(pairs)
        return [LogLikelihood(-1.0 * len(text), 1, False) for _, text in pairs]


def chatty(folder: Path, family: Family, template: str = TURNS) -> Any:
    tokenizer = family.load(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture
def llama(tmp_path: Path) -> Any:
    return chatty(tmp_path / "llama-2", BY_NAME["llama-2"])


@pytest.mark.parametrize("name", WRITTEN)
def test_a_conversation_is_written_as_the_format_says(llama: Any, name: str) -> None:
    assert written(name, llama, TALK) == WRITTEN[name]
    begun = [*TALK[:2], {"role": "assistant", "content": "on"}]
    assert written(name, llama, begun) == WRITTEN[name].partition("one")[0] + "on"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize("template", [TURNS, BOS_FIRST], ids=["plain", "bos_first"])
def test_bos_stands_once_before_a_prompt(tmp_path: Path, family: Family, template: str) -> None:
    """As often as `tokenizer(text)` puts it there, and not again where the template has it."""
    tokenizer = chatty(tmp_path, family, template if family.bos else TURNS)
    codec = LanguageModel(build_model(tokenizer), tokenizer).codec
    for name in PROMPT_FORMATS[1:]:
        ids = codec.prompt(written(name, tokenizer, TALK[1:2]))
        once = bool(family.added) or (name == "chat" and template == BOS_FIRST)
        if family.bos and family.bos != "<|im_start|>":
            assert ids.count(tokenizer.bos_token_id) == once
            assert (ids[0] == tokenizer.bos_token_id) == once


def test_every_benchmark_is_asked_in_every_format(tmp_path: Path, llama: Any) -> None:
    """The question stands in the prompt, the choices follow it, and the data are the same."""
    for name, make in ROWS.items():
        data = make(tmp_path / name) if (tmp_path / name).mkdir() is None else tmp_path
        plain = build(name, metric="bits_per_byte")
        items = plain.load(data, "all")
        prints = {protocol_sha256(plain)}
        for form in PROMPT_FORMATS[1:]:
            changes = Changes(prompt_format=form)
            benchmark, lm = build(name, metric="bits_per_byte", changes=changes), Heard(llama)
            asked = benchmark.load(data, "all")
            assert items_sha256(asked) == items_sha256(items)
            records = benchmark.score(lm, asked)
            prints.add(protocol_sha256(benchmark))
            raw = plain.score(Heard(llama), items)
            differs = [
                a.prompt_sha256 != b.prompt_sha256 for a, b in zip(records, raw, strict=True)
            ]
            assert all(differs) == any(differs) == (name != "text")
        assert len(prints) == (1 if name == "text" else len(PROMPT_FORMATS))


def test_likelihoods_are_those_of_the_template_s_own_tokens(tmp_path: Path) -> None:
    """By a plain forward: the choice stands right after the assistant's header."""
    tokenizer = chatty(tmp_path, BY_NAME["smollm-2"])
    lm = LanguageModel(build_model(tokenizer, context=512).eval(), tokenizer)
    row = {"id": "a", "prompt": "Which?\nAnswer:", "choices": [" red", " blue"], "answer": 1}
    rows = [{**row, "id": f"q{n}", "prompt": f"Which {n}?\nAnswer:"} for n in range(5)]
    data = jsonl(tmp_path / "rows.jsonl", rows)
    changes = Changes(prompt_format="chat", system_prompt="Be brief.")
    benchmark = build("multiple_choice", changes=changes)
    items = benchmark.load(data, "all")
    records = benchmark.score(lm, items)
    for item, record in zip(items, records, strict=True):
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": item.prompt},
        ]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        head = tokenizer(text).input_ids
        nats = []
        for choice in ("red", "blue"):
            tail = tokenizer(choice, add_special_tokens=False).input_ids
            with torch.no_grad():
                logits = lm.model(torch.tensor([[*head, *tail]])).logits[0].log_softmax(-1)
            places = range(len(head) - 1, len(head) + len(tail) - 1)
            nats.append(sum(float(logits[at, id]) for at, id in zip(places, tail, strict=True)))
        assert record.extracted == str(nats.index(max(nats)))
        assert -record.reference_nats == pytest.approx(nats[1], abs=1e-4)


def test_an_answer_ends_with_its_turn(tmp_path: Path, llama: Any) -> None:
    """At the template's special token, which is no end of sequence and no text."""
    benchmark = build("exact_match", changes=Changes(prompt_format="chat"))
    items = [Item("a", "1+1=", " 2", answer="2")]
    heard = Heard(llama)
    benchmark.score(heard, items)
    assert heard.stops[-1] == "<|end|>"
    lm = LanguageModel(build_model(llama, context=512).eval(), llama)
    end = llama.convert_tokens_to_ids("<|end|>")
    assert lm.codec.end_token("<|end|>") == end and lm.codec.text([end]) == ""
    lm.model.lm_head.weight.data[:] = 0
    lm.model.lm_head.weight.data[end] = 1
    bias = torch.nn.Linear(lm.model.lm_head.in_features, lm.model.lm_head.out_features)
    bias.weight.data[:] = 0
    bias.bias.data[:] = 0
    bias.bias.data[end] = 9
    lm.model.lm_head = bias
    (record,) = benchmark.score(lm, items)
    assert (record.output, record.tokens, record.truncated) == ("", 1, False)
    (alone,) = build("exact_match").score(lm, items)
    assert alone.truncated and alone.tokens == 128


def test_demonstrations_are_turns_or_text(tmp_path: Path, llama: Any) -> None:
    rows = [
        {"id": f"s{n}", "prompt": f"{n}+1=", "reference": f" It is {n + 1}", "answer": f"{n + 1}"}
        for n in range(3)
    ]
    data = jsonl(tmp_path / "sums.jsonl", rows)
    prompts = {}
    for way in ("turns", "text"):
        changes = Changes(
            prompt_format="tulu",
            shots=2,
            fewshot_as=way,
            shots_from=str(data),
            system_prompt="Go.",
        )
        benchmark, lm = build("exact_match", changes=changes), Heard(llama)
        evaluate(lm, benchmark, benchmark.load(data, "all")[:1])
        (prompts[way],) = lm.prompts
    first, second = (
        ("1", "2")
        if "1+1=\n<|assistant|>\nIt is 2</s>\n<|user|>\n2+" in (prompts["turns"])
        else ("2", "1")
    )
    shown = [(f"{n}+1=", f"It is {int(n) + 1}") for n in (first, second)]
    turns = "".join(f"<|user|>\n{q}\n<|assistant|>\n{a}</s>\n" for q, a in shown)
    text = "".join(f"{q} {a}\n\n" for q, a in shown)
    system, ask = "<|system|>\nGo.\n", "0+1=\n<|assistant|>\n"
    assert prompts["turns"] == f"{system}{turns}<|user|>\n{ask}"
    assert prompts["text"] == f"{system}<|user|>\n{text}{ask}"


def test_prompts_in_a_format_share_their_beginning_exactly(tmp_path: Path) -> None:
    tokenizer = chatty(tmp_path, BY_NAME["smollm-2"])
    model = build_model(tokenizer, context=1024).eval()
    rows = [
        {"id": f"s{n}", "prompt": f"{n}+1=", "reference": f" {n + 1}", "answer": f"{n + 1}"}
        for n in range(5)
    ]
    data = jsonl(tmp_path / "sums.jsonl", rows)
    changes = Changes(prompt_format="chat", system_prompt="Be brief. " * 20, max_new_tokens=8)
    benchmark = build("exact_match", changes=changes)
    items = benchmark.load(data, "all")
    together = LanguageModel(model, tokenizer)
    prompts = Heard(tokenizer)
    benchmark.score(prompts, items)
    (cluster,) = shared_prefixes([together.codec.prompt(each) for each in prompts.prompts])
    assert cluster.shared > 200
    alone = [evaluate(LanguageModel(model, tokenizer), benchmark, [i]).records[0] for i in items]
    for one, other in zip(evaluate(together, benchmark, items).records, alone, strict=True):
        assert one.output == other.output
        assert one.reference_nats == pytest.approx(other.reference_nats, rel=1e-5)


SIX = ("gsm8k", "mmlu", "bbh", "tydiqa", "truthfulqa_mc2", "humaneval")


@pytest.mark.parametrize("name", SIX)
def test_table2_chat_is_open_instruct_s_chat_format(tmp_path: Path, llama: Any, name: str) -> None:
    """Its scripts: the question without the answer's prefix, the header, then the prefix."""
    data = ROWS[name](tmp_path)
    plain = build(name, preset="table2", metric="bits_per_byte")
    chat = build(name, preset="table2_chat", metric="bits_per_byte")
    lm = Heard(llama)
    items = plain.load(data, "all")
    chat.score(lm, chat.load(data, "all"))
    for item, (prompt, reference) in zip(items, lm.pairs, strict=True):
        raw = item.prompt
        last = raw.rpartition("\n")[2]
        question, prefix = {
            "gsm8k": (raw.removesuffix("\nAnswer:"), "Answer:"),
            "mmlu": (raw, "The answer is:"),
            "bbh": (raw.removesuffix("\nA:"), "A:"),
            "tydiqa": (raw.removesuffix(last), last),
            "truthfulqa_mc2": (raw.removesuffix("\nA:"), "A:"),
            "humaneval": (
                f"Complete the following python function.\n\n\n{raw}",
                f"Here is the completed function:\n\n\n{raw}",
            ),
        }[name]
        assert prompt == f"<|user|>\n{question}\n<|assistant|>\n{prefix}"
        assert reference == item.reference
    assert not {"\n", "\n\nQ:"} & set(chat.protocol()["rules"]["decoding"]["stops"])


def test_programs_in_a_format_are_run_with_their_head(tmp_path: Path, llama: Any) -> None:
    data = ROWS["humaneval"](tmp_path)
    for preset, form in (("full", "chat"), ("table1", "magicoder"), ("table2_chat", None)):
        changes = Changes(prompt_format=form, temperature=0.0, samples=1, k=1, top_p=1.0)
        benchmark = build("humaneval", preset=preset, sandbox="rlimits", changes=changes)
        items = benchmark.load(data, "all")[:1]
        result = evaluate(
            Heard(llama, f"{items[0].reference}\n```\nThat is it."), benchmark, items
        )
        assert result.score == 1.0, result.records[0].reason


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (
            "gsm8k",
            {"prompt_format": "tullu"},
            "Unknown prompt_format 'tullu'.*Did you mean 'tulu'",
        ),
        ("gsm8k", {"fewshot_as": "turns"}, "fewshot_as: requires shots"),
        (
            "exact_match",
            {"fewshot_as": "text", "shots": 1},
            "fewshot_as: requires a prompt_format",
        ),
    ],
)
def test_mistakes_are_sentences(name: str, options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build(name, changes=Changes(**options))


def test_a_chat_preset_and_a_missing_or_narrow_template_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gsm8k: the preset uses the prompt format tulu"):
        build("gsm8k", preset="table2_chat", changes=Changes(prompt_format="raw"))
    tokenizer = BY_NAME["gpt-2"].load(tmp_path)
    changes = Changes(prompt_format="chat", system_prompt="Be brief.")
    benchmark = build("exact_match", changes=changes)
    items = [Item("a", "1+1=", " 2", answer="2")]
    with pytest.raises(ValueError, match="'chat' requires a tokenizer with a chat template"):
        benchmark.score(Heard(tokenizer), items)
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    with pytest.raises(ValueError, match="the chat template rejects a prompt: no system role"):
        benchmark.score(Heard(tokenizer), items)
