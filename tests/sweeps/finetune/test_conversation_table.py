"""Rows of public schemas, the text that each becomes, and which of its tokens are learned."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import datasets
import pytest
from pydantic import ValidationError

from sweeps.finetune.example import Example, Row, RowError
from sweeps.finetune.finetune_config import DataConfig
from sweeps.finetune.run_identity import run_identity
from sweeps.finetune.tokenized_data import TrainingData, load_training_data
from sweeps.finetune.training_sets import TRAINING_SETS
from tests.evaluators.tokenizer_families import Family
from tests.sweeps.finetune.tiny import config, save_rows

# (G and E) stand for the marks of what is generated, which only some templates have.
TULU = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' }}{% if m.role == 'assistant' %}"
    "(G){{ m.content + eos_token }}(E){% else %}{{ m.content }}{% endif %}"
    "{{ '' if loop.last and m.role == 'assistant' else '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "(G){{ m.content + '<|im_end|>\n' }}(E){% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NAMED = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nI am Bo.<|im_end|>\n' }}"
    "{% endif %}" + CHATML
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}{{ '[' + m.role + ']' }}"
    "{% if m.role == 'assistant' %}(G){{ m.content | trim + '<|im_end|>' }}(E)"
    "{% else %}{{ m.content | trim + '<|im_end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)
STRICT = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}(G){{ ' ' + m.content + eos_token }}(E){% endif %}{% endfor %}"
)
THINKING = CHATML.replace(
    "(G){{ m.content +",
    "(G){{ (m.content if loop.last else m.content.split('</think>')[-1]) +",
)
CALLING = (
    "{% for t in tools or [] %}{{ '(tool)' + t.function.name + '\n' }}{% endfor %}"
    + CHATML.replace(
        "(G){{ m.content +",
        "(G){{ (m.reasoning_content or '') + (m.content or '') }}{% for c in m.tool_calls or [] %}"
        "{{ '(call)' + c.function.name + (c.function.arguments | tojson) }}{% endfor %}{{",
    )
)
EOS_LAST = CHATML + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
NO_TOOLS = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'tool' %}")
NO_THOUGHT = CHATML.replace("(G){{ m.content", "(G){{ m.content.split('</think>')[-1]")
PLAIN_TEXT = "{% for m in messages %}{{ '### ' + m.role + ': ' + m.content + '\n' }}{% endfor %}"
HALF_MARKED = CHATML.replace("'<|im_end|>\n' }}(E)", "'' }}(E){{ '<|im_end|>\n' }}")
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
ADD = {"name": "add", "description": "Add.", "parameters": {"type": "object", "properties": {}}}


def said(*contents: str, **more: Any) -> list[dict[str, Any]]:
    """User and assistant in turn; the last message has `more`."""
    messages = [at(("user", "assistant")[n % 2], text) for n, text in enumerate(contents)]
    return [*messages[:-1], {**messages[-1], **more}]


def spoken(*pairs: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"from": speaker, "value": text} for speaker, text in pairs]


def at(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


class Case(NamedTuple):
    """A row, its format and template, and the texts: what is learned stands in « and »."""

    name: str
    format: str
    row: dict[str, Any]
    texts: list[str]
    template: str = ""
    options: Mapping[str, Any] = MappingProxyType({})


HI = "<s><|user|>\nhi\n<|assistant|>\n«yo</s>»"
BYE = "\n<|user|>\nbye\n<|assistant|>\n«ciao</s>»"
TWO = said("hi", "yo", "bye", "ciao")
ML_HI = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n«yo<|im_end|>\n»"
ML_BYE = "<|im_start|>user\nbye<|im_end|>\n<|im_start|>assistant\n«ciao<|im_end|>\n»"
PER_TURN = {"conversation": "per_turn"}
CASES = [
    Case("OpenAI", "messages", {"messages": said("hi", "yo")}, [HI]),
    Case("two answers", "messages", {"messages": TWO}, [HI + BYE]),
    Case("Tulu V2", "tulu_v2", {"dataset": "flan", "id": "f_1", "messages": TWO}, [HI + BYE]),
    Case(
        "UltraChat 200k",
        "messages",
        {"prompt": "hi", "prompt_id": "f0", "messages": TWO},
        [HI + BYE],
    ),
    Case(
        "system",
        "messages",
        {"messages": [at("system", "Be short."), *TWO]},
        ["<s><|system|>\nBe short.\n" + HI[3:] + BYE],
    ),
    Case(
        "developer",
        "messages",
        {"messages": [at("developer", "Be short."), *said("hi", "yo")]},
        ["<s><|system|>\nBe short.\n" + HI[3:]],
    ),
    Case("empty system", "messages", {"messages": [at("system", ""), *TWO]}, [HI + BYE]),
    Case(
        "system beside it",
        "messages",
        {"system": "Be short.", "messages": said("hi", "yo")},
        ["<s><|system|>\nBe short.\n" + HI[3:]],
    ),
    Case(
        "text parts",
        "messages",
        {"messages": [*said("hi"), at("assistant", [{"type": "text", "text": "yo"}])]},
        [HI],
    ),
    Case("unanswered end", "messages", {"messages": [*TWO, at("user", "eh?")]}, [HI + BYE]),
    Case(
        "assistant first",
        "messages",
        {"messages": [at("assistant", "hello"), *said("hi", "yo")]},
        ["<s><|assistant|>\n«hello</s>»\n" + HI[3:]],
    ),
    Case(
        "user twice",
        "messages",
        {"messages": [at("user", "oh"), *said("hi", "yo")]},
        ["<s><|user|>\noh\n" + HI[3:]],
    ),
    Case(
        "assistant twice",
        "messages",
        {"messages": [*said("hi", "yo"), at("assistant", "more")]},
        [HI + "\n<|assistant|>\n«more</s>»"],
    ),
    Case(
        "OpenAI weight 0",
        "messages",
        {"messages": said("hi", "yo", weight=0) + said("bye", "ciao", weight=1)},
        [re.sub("[«»]", "", HI) + BYE],
    ),
    Case(
        "last answer of weight 0",
        "messages",
        {"messages": said("hi", "yo") + said("bye", "ciao", weight=0)},
        [HI],
    ),
    Case(
        "think block in a text",
        "messages",
        {"messages": said("hi", "<think>\nhm\n</think>\n\nyo")},
        ["<s><|user|>\nhi\n<|assistant|>\n«<think>\nhm\n</think>\n\nyo</s>»"],
    ),
    Case(
        "kept white space",
        "messages",
        {"messages": said(" hi\n", " yo\n")},
        ["<s><|user|>\n hi\n\n<|assistant|>\n« yo\n</s>»"],
    ),
    Case(
        "ShareGPT",
        "sharegpt",
        {"id": "a_0", "conversations": spoken(("human", "hi"), ("gpt", "yo"))},
        [HI],
    ),
    Case(
        "ShareGPT with other names",
        "sharegpt",
        {"conversations": spoken(("system", "S"), ("user", "hi"), ("chatgpt", "yo"))},
        ["<s><|system|>\nS\n" + HI[3:]],
    ),
    Case(
        "ShareGPT without loss",
        "sharegpt",
        {
            "conversations": [
                {"from": "human", "value": "hi"},
                {"from": "gpt", "value": "yo", "loss": False},
                *spoken(("human", "bye"), ("gpt", "ciao")),
            ]
        },
        [re.sub("[«»]", "", HI) + BYE],
    ),
    Case(
        "ShareGPT observation",
        "sharegpt",
        {"conversations": spoken(("human", "1+1"), ("observation", "2"), ("gpt", "2."))},
        ["<s><|user|>\n1+1\n<|tool|>\n2\n<|assistant|>\n«2.</s>»"],
    ),
    Case(
        "answers apart",
        "messages",
        {"messages": TWO},
        [HI, re.sub("[«»]", "", HI) + BYE],
        options=PER_TURN,
    ),
    Case("cut in a question", "messages", {"messages": TWO}, [HI], options={"max_length": 40}),
    Case(
        "cut in an answer",
        "messages",
        {"messages": TWO},
        [HI + BYE.replace("ciao</s>", "ci")],
        options={"max_length": 60},
    ),
    Case("Tulu's template", "messages", {"messages": TWO}, [HI[3:] + BYE], TULU),
    Case("ChatML", "messages", {"messages": TWO}, [ML_HI + ML_BYE], CHATML),
    Case(
        "ChatML of ShareGPT",
        "sharegpt",
        {"conversations": spoken(("human", "hi"), ("gpt", "yo"))},
        [ML_HI],
        CHATML,
    ),
    Case(
        "ChatML with a default system prompt",
        "messages",
        {"messages": TWO},
        ["<|im_start|>system\nI am Bo.<|im_end|>\n" + ML_HI + ML_BYE],
        NAMED,
    ),
    Case(
        "ChatML weight 0",
        "messages",
        {"messages": said("hi", "yo", weight=0) + said("bye", "ciao")},
        [re.sub("[«»]", "", ML_HI) + ML_BYE],
        CHATML,
    ),
    Case(
        "ChatML apart",
        "messages",
        {"messages": TWO},
        [ML_HI, re.sub("[«»]", "", ML_HI) + ML_BYE],
        CHATML,
        PER_TURN,
    ),
    Case("only content is marked", "messages", {"messages": TWO}, [ML_HI + ML_BYE], HALF_MARKED),
    Case(
        "BOS of the template, trimmed",
        "messages",
        {"messages": said(" hi ", "yo ", "bye", "ciao")},
        [
            "<s>[user]hi<|im_end|>[assistant]«yo<|im_end|>»[user]bye<|im_end|>[assistant]"
            "«ciao<|im_end|>»"
        ],
        LLAMA,
    ),
    Case(
        "strict order",
        "messages",
        {"messages": TWO},
        ["<s>[INST] hi [/INST]« yo</s>»[INST] bye [/INST]« ciao</s>»"],
        STRICT,
    ),
    Case(
        "strict order with an unanswered end",
        "messages",
        {"messages": [*TWO, at("user", "eh?"), at("user", "ah?")]},
        ["<s>[INST] hi [/INST]« yo</s>»[INST] bye [/INST]« ciao</s>»"],
        STRICT,
    ),
    Case(
        "EOS after the last message only",
        "messages",
        {"messages": TWO},
        [(ML_HI + ML_BYE)[:-1] + "</s>»"],
        EOS_LAST.replace("(G)", "").replace("(E)", ""),
    ),
    Case(
        "think blocks of the last answer only",
        "messages",
        {"messages": said("hi", "<think>a</think>yo", "bye", "<think>b</think>ciao")},
        [
            ML_HI.replace("yo", "<think>a</think>yo"),
            re.sub("[«»]", "", ML_HI) + ML_BYE.replace("ciao", "<think>b</think>ciao"),
        ],
        THINKING,
    ),
    Case(
        "tools and calls",
        "messages",
        {
            "tools": [{"type": "function", "function": ADD}],
            "messages": [
                at("user", "hi"),
                at("assistant", None, tool_calls=[CALL]),
                at("tool", "1", tool_call_id="1"),
                at("assistant", "yo"),
            ],
        },
        [
            "(tool)add\n"
            + ML_HI.replace("yo", '(call)add{"a": 1}')
            + "<|im_start|>tool\n1<|im_end|>\n<|im_start|>assistant\n«yo<|im_end|>\n»"
        ],
        CALLING,
    ),
    Case(
        "reasoning",
        "messages",
        {"messages": said("hi", "yo", reasoning_content="hm ")},
        [ML_HI.replace("yo", "hm yo")],
        CALLING,
    ),
]


SAME_AS_MARKED = [
    case
    for case in CASES
    if "(G)" in case.template and len(case.texts) == 1 and "weight" not in str(case.row)
    if case.template != HALF_MARKED
]
REFUSED: list[tuple[str, list[dict[str, Any]], str]] = [
    (CHATML, [at("assistant", "hello"), *TWO], "empty conversation"),
    (STRICT, [at("user", "oh"), *TWO], "roles must alternate"),
    (STRICT, [at("system", "S"), *TWO], "roles must alternate"),
    (
        PLAIN_TEXT,
        TWO,
        r"special token of this tokenizer, found '.*yo\\n', so an answer could never",
    ),
    (NO_TOOLS, [*said("hi"), at("tool", "1"), at("assistant", "yo")], "of role 'tool', found one"),
    (CHATML, said("hi", "yo", reasoning_content="hm"), "writes 'reasoning_content', found one"),
    (NO_THOUGHT, said("hi", "<think>a</think>yo"), "writes 'content', found one"),
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Bytes, BOS and EOS, and ChatML's tokens beside them."""
    family = Family("chat", "PreTrainedTokenizerFast", "<s>", "</s>", ("<s>",))
    found = family.load(tmp_path_factory.mktemp("tokenizer"))
    found.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return found


def with_marks(template: str) -> str:
    """As templates have it, with control of white space and a word about it in a comment."""
    template = "{#- marked by {% generation %} -#}\n" + template
    return template.replace("(G)", " {%- generation %}\n").replace("(E)", "{% endgeneration -%} ")


def without_marks(template: str) -> str:
    return template.replace("(G)", "").replace("(E)", "")


def load(path: Path, tokenizer: Any, case: Case, template: str) -> TrainingData:
    tokenizer.chat_template = template or None
    values = {"path": str(path), "format": case.format, "max_length": 256, **case.options}
    values["template"] = "chat" if template else "own"
    return load_training_data(DataConfig.model_validate(values), tokenizer)


def shown(tokenizer: Any, data: TrainingData) -> list[str]:
    """The texts of the examples, with what is learned in « and »."""
    texts = []
    for ids, spans in zip(data.tokens, data.spans, strict=True):
        pieces = [tokenizer.decode([token]) for token in ids]
        for start, end in reversed(spans):
            pieces[start:end] = ["«", *pieces[start:end], "»"]
        texts.append("".join(pieces))
    return texts


def read(case: Case) -> Iterator[Example]:
    return TRAINING_SETS[case.format](Row("", case.row))


def expected(tokenizer: Any, text: str) -> tuple[list[int], list[int]]:
    """The ids of a text, tokenised as a whole, and the mask that « and » stand for."""
    plain = re.sub("[«»]", "", text)
    learned = re.sub("«(.*?)»", lambda found: "\0" * len(found[1]), text, flags=re.DOTALL)
    read = tokenizer(plain, add_special_tokens=False, return_offsets_mapping=True)
    return read.input_ids, [int(learned[start] == "\0") for start, _ in read.offset_mapping]


def given(data: TrainingData, number: int) -> tuple[list[int], list[int]]:
    """The ids and the mask of an example."""
    ids, spans = list(data.tokens[number]), data.spans[number]
    return ids, [int(any(start <= i < end for start, end in spans)) for i in range(len(ids))]


@pytest.mark.parametrize(
    ("case", "template"),
    [
        *(pytest.param(c, without_marks(c.template), id=c.name) for c in CASES),
        *(
            pytest.param(c, with_marks(c.template), id=f"{c.name}, marked")
            for c in CASES
            if "(G)" in c.template
        ),
    ],
)
def test_what_a_row_becomes(tmp_path: Path, tokenizer: Any, case: Case, template: str) -> None:
    path = save_rows(tmp_path / "rows.jsonl", [case.row])
    data = load(path, tokenizer, case, template)
    assert shown(tokenizer, data) == case.texts
    for number, text in enumerate(case.texts):
        assert given(data, number) == expected(tokenizer, text)
    ends = set(re.findall(r"(<[^<>]*>)\n?»", "".join(case.texts)))
    assert {tokenizer.decode([token]) for token in data.ends} == ends


@pytest.mark.parametrize("case", SAME_AS_MARKED, ids=lambda case: case.name)
def test_it_is_what_transformers_marks(tmp_path: Path, tokenizer: Any, case: Case) -> None:
    """Its own mask of what is generated, where a template has marks."""
    path = save_rows(tmp_path / "rows.jsonl", [case.row])
    data = load(path, tokenizer, case, without_marks(case.template))
    messages = [turn.message() for turn in next(read(case)).turns]
    found = tokenizer.apply_chat_template(
        messages,
        tools=case.row.get("tools"),
        chat_template=with_marks(case.template),
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    assert given(data, 0) == (found["input_ids"], found["assistant_masks"])


def test_open_instructs_template_begins_with_what_the_tokenizer_puts_there(
    tmp_path: Path, tokenizer: Any
) -> None:
    path = save_rows(tmp_path / "rows.jsonl", [{"messages": TWO}])
    case = Case("", "tulu_v2", {}, [])
    own, chat = load(path, tokenizer, case, ""), load(path, tokenizer, case, with_marks(TULU))
    assert own.tokens[0] == (tokenizer.bos_token_id, *chat.tokens[0])


@pytest.mark.parametrize(("template", "messages", "says"), REFUSED)
def test_what_a_template_cannot_write_is_refused(
    tmp_path: Path, tokenizer: Any, template: str, messages: list[dict[str, Any]], says: str
) -> None:
    path = save_rows(tmp_path / "rows.jsonl", [{"messages": messages}])
    with pytest.raises(RowError, match=f"rows.jsonl, line 1: data.template: .*{says}"):
        load(path, tokenizer, Case("", "messages", {}, []), without_marks(template))


def test_a_conversation_that_becomes_several_is_reported(
    tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (case,) = (case for case in CASES if case.name.startswith("think blocks of"))
    path = save_rows(tmp_path / "rows.jsonl", [case.row, {"messages": said("hi", "yo")}])
    data = load(path, tokenizer, case, without_marks(THINKING))
    assert (len(data), data.counts.examples) == (3, 3)
    assert "1 conversations became an example for each answer: the chat template" in caplog.text


def test_only_conversations_have_turns(world: Path) -> None:
    with pytest.raises(ValidationError, match="'per_turn' requires one of the formats messages, "):
        DataConfig(path="rows.jsonl", format="gsm8k", conversation="per_turn")
    data = {"path": "rows.jsonl", "format": "messages", **PER_TURN}
    apart = run_identity(config(world, data=data))
    whole = run_identity(config(world, data={**data, "conversation": "whole"}))
    assert [tree["data"]["conversation"] for tree in (apart, whole)] == ["per_turn", "whole"]
    assert "conversation" not in run_identity(config(world))["data"]


def test_nested_parquet_is_read_alike(tmp_path: Path, tokenizer: Any) -> None:
    """Arrow gives each message the keys of all, as nulls."""
    names = ("OpenAI", "system", "OpenAI weight 0", "unanswered end")
    cases = [case for case in CASES if case.name in names]
    datasets.Dataset.from_list([case.row for case in cases]).to_parquet(tmp_path / "rows.parquet")
    data = load(tmp_path / "rows.parquet", tokenizer, cases[0], "")
    assert shown(tokenizer, data) == [text for case in cases for text in case.texts]


def test_a_conversation_is_left_out_as_a_whole(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"messages": said(f"{n}?", f"{n}", f"{n}+1?", f"{n + 1}")} for n in range(40)]
    path = save_rows(tmp_path / "rows.jsonl", rows)
    for options, size in (({}, 1), (PER_TURN, 2)):
        case = Case("", "messages", {}, [], options={"train_fraction": 0.5, **options})
        half = load(path, tokenizer, case, "")
        assert (len(half), half.counts.left_out) == (20 * size, 20 * size)
        case = Case("", "messages", {}, [], options={"part": "train", **options})
        part = load(path, tokenizer, case, "")
        assert 0 < part.counts.held_out == 40 * size - len(part)
        assert len(part) % size == 0
