"""Conversations as they are published: each is read rightly, or refused by name and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from transformers import AutoTokenizer

from sweeps.finetune.data_config import DataConfig
from sweeps.finetune.example import Example, Part, Row, RowError
from sweeps.finetune.example_selection import read_examples
from sweeps.finetune.tokenized_data import load_training_data
from sweeps.finetune.training_sets import TRAINING_SETS
from tests.sweeps.finetune.tiny import pair_of, save_rows

PLAIN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}"
PLAIN += "{% if add_generation_prompt %}[assistant]{% endif %}"
WITH_TOOLS = (
    "{% for t in tools or [] %}(tool){{ t.function.name }};{% endfor %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}(call){{ c.function.name }} "
    "{{ c.function.arguments | tojson }}{% endfor %}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
ADD = {"name": "add", "description": "Add.", "parameters": {"type": "object", "properties": {}}}
CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "add", "arguments": '{"a": 1, "b": null}'},
}
USED: list[dict[str, Any]] = [
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "2"},
    {"role": "assistant", "content": "2."},
]
OLDER: list[dict[str, Any]] = [
    USED[0],
    {"role": "assistant", "content": None, "function_call": CALL["function"]},
    {"role": "function", "name": "add", "content": "2"},
    USED[3],
]
SHAREGPT = [
    {"from": "human", "value": "1+1?"},
    {
        "from": "function_call",
        "value": json.dumps({"name": "add", "arguments": {"a": 1, "b": None}}),
    },
    {"from": "observation", "value": "2"},
    {"from": "gpt", "value": "2."},
]
HEAD, ASKED = "(tool)add;", "[user]1+1?</s>[assistant]"
CALLED = Part('(call)add {"a": 1, "b": null}</s>', is_learned=True)
TOLD, ANSWER = Part("[tool]2</s>[assistant]"), Part("2.</s>", is_learned=True)


def examples(name: str, fields: dict[str, Any]) -> list[Example]:
    return list(TRAINING_SETS[name](Row("rows.jsonl, line 1", fields)))


def said(*contents: Any, **more: Any) -> dict[str, Any]:
    """A conversation of one user and one assistant, whose message has `more`."""
    first, last = contents
    answer = {"role": "assistant", "content": last, **more}
    return {"messages": [{"role": "user", "content": first}, answer]}


def tokenizer(world: Path, template: str) -> Any:
    found = AutoTokenizer.from_pretrained(world / "model")
    found.chat_template = template
    return found


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("messages", {"messages": USED, "tools": [{"type": "function", "function": ADD}]}),
        ("messages", {"messages": USED, "tools": json.dumps([ADD])}),
        ("messages", {"messages": OLDER, "functions": [ADD]}),
        ("tulu_v2", {"messages": USED, "tools": [json.dumps(ADD)]}),
        ("sharegpt", {"conversations": SHAREGPT, "tools": json.dumps([ADD])}),
    ],
)
def test_tools_and_calls_are_written_by_a_template_that_can(
    tmp_path: Path, world: Path, name: str, fields: dict[str, Any]
) -> None:
    path = str(save_rows(tmp_path / "rows.jsonl", [fields]))
    config = DataConfig.model_validate({"path": path, "format": name, "template": "chat"})
    found, counts = read_examples(config, tokenizer=tokenizer(world, WITH_TOOLS))
    assert [example.texts for example in found] == [
        ((Part(HEAD + ASKED), CALLED, TOLD, ANSWER),),
    ]
    assert counts.bad_rows == 0
    for template, says in [
        (PLAIN, "line 1: data.template: expected a chat template that writes the tools, found"),
        (None, "requires a tokenizer with a chat template"),
    ]:
        with pytest.raises(RowError, match=says):
            load_training_data(config, tokenizer(world, template or ""))
    with pytest.raises(RowError, match=r"line 1: expected data.template 'chat'.*'tools'"):
        read_examples(config.model_copy(update={"template": "own"}))


def test_calls_without_tools(tmp_path: Path, world: Path) -> None:
    path = str(save_rows(tmp_path / "rows.jsonl", [{"messages": USED}]))
    config = DataConfig(path=path, format="messages", template="chat", on_bad_row="stop")
    found, _ = read_examples(config, tokenizer=tokenizer(world, WITH_TOOLS))
    assert [example.texts for example in found] == [((Part(ASKED), CALLED, TOLD, ANSWER),)]
    with pytest.raises(RowError, match="expected a chat template that writes the tool calls"):
        read_examples(config, tokenizer=tokenizer(world, PLAIN))
    with pytest.raises(RowError, match="'chat', whose template can write 'tool_calls'"):
        read_examples(config.model_copy(update={"template": "own"}))


def test_reasoning_is_written_or_the_row_is_refused(tmp_path: Path, world: Path) -> None:
    row = said("1+1?", "2", reasoning_content="One and one.")
    path = str(save_rows(tmp_path / "rows.jsonl", [row]))
    config = DataConfig(path=path, format="messages", template="chat")
    with pytest.raises(RowError, match="writes 'reasoning_content', found one that does not"):
        read_examples(config, tokenizer=tokenizer(world, PLAIN))
    thinking = PLAIN.replace("{{ m.content }}", "{{ m.reasoning_content }}{{ m.content }}")
    (example,), _ = read_examples(config, tokenizer=tokenizer(world, thinking))
    assert example.texts == ((Part(ASKED), Part("One and one.2</s>", is_learned=True)),)


def test_null_fields_that_parquet_adds_are_absent(tmp_path: Path, world: Path) -> None:
    rows = datasets.Dataset.from_list([{"messages": USED, "tools": None}, said("hi", "yo")])
    rows.to_parquet(tmp_path / "rows.parquet")
    assert "tool_calls" in rows[1]["messages"][1]  # as a null
    path = str(tmp_path / "rows.parquet")
    config = DataConfig(path=path, format="messages", template="chat")
    found, _ = read_examples(config, tokenizer=tokenizer(world, WITH_TOOLS))
    assert len(found) == 2
    assert [sum(part.is_learned for part in each.texts[0]) for each in found] == [2, 1]
    assert found[1].turns[-1] == ("assistant", "yo", None, "", True)


def test_an_unweighted_answer_is_context_and_no_example() -> None:
    turns = [*said("hi", "yo", weight=0)["messages"], *said("bye", "ciao", weight=1)["messages"]]
    (example,) = examples("messages", {"messages": turns})
    assert example.own == (
        Part("<|user|>\nhi\n<|assistant|>\n"),
        Part("yo", ends=True),
        Part("\n<|user|>\nbye\n<|assistant|>\n"),
        Part("ciao", is_learned=True, ends=True),
    )
    spoken = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo", "loss": False}]
    with pytest.raises(RowError, match="'assistant' that is trained on, found none"):
        examples("sharegpt", {"conversations": spoken})


def test_parts_of_text_are_one_text() -> None:
    parts = [{"type": "text", "text": "y"}, {"type": "text", "text": "o", "image_url": None}]
    (example,) = examples("messages", said([{"type": "text", "text": "hi"}], parts))
    assert pair_of(example) == ("<|user|>\nhi\n<|assistant|>\n", "yo")


@pytest.mark.parametrize("speaker", ["gpt", "chatgpt", "bing", "bard", "assistant"])
def test_every_name_of_the_assistant(speaker: str) -> None:
    spoken = [{"from": "human", "value": "hi"}, {"from": speaker, "value": "yo"}]
    (example,) = examples("sharegpt", {"conversations": spoken})
    assert pair_of(example)[1] == "yo"


def test_the_developer_is_the_system_and_an_empty_one_says_nothing() -> None:
    for role in ("developer", "system"):
        turns = [{"role": role, "content": "Be short."}, *said("hi", "yo")["messages"]]
        (example,) = examples("messages", {"messages": turns})
        assert pair_of(example)[0].startswith("<|system|>\nBe short.\n<|user|>\n")
        (example,) = examples("messages", {"messages": [{**turns[0], "content": ""}, *turns[1:]]})
        assert pair_of(example)[0] == "<|user|>\nhi\n<|assistant|>\n"
    (example,) = examples("messages", {**said("hi", "yo"), "system": "Be short."})
    assert pair_of(example)[0].startswith("<|system|>\nBe short.\n<|user|>\n")
    with pytest.raises(RowError, match="message 1: expected one system prompt"):
        examples("messages", {"messages": turns, "system": "Be long."})


IMAGE = {"type": "image_url", "image_url": {"url": "data:..."}}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (said("hi", ""), "message 2: expected a non-empty string 'content', found ''"),
        (said(" ", "yo"), "message 1: expected a non-empty string 'content', found ' '"),
        (said("hi", None), "message 2: expected a non-empty string 'content', found None"),
        (said("hi", []), "message 2: expected a non-empty string 'content'"),
        (
            said([IMAGE], "yo"),
            "message 1: .*parts of type 'text', found a part of type 'image_url'",
        ),
        (said(["hi"], "yo"), "found a part of type 'str'"),
        (
            {**said("hi", "yo"), "images": ["x.png"]},
            "expected text only, found the field 'images'",
        ),
        (said("hi", "yo", weight=0.5), "message 2: expected weight.* 0 or 1, found 0.5"),
        (said("hi", "yo", tool_calls="add"), "message 2: expected JSON in 'tool_calls'"),
        (said("hi", "yo", tool_calls=[{"function": {}}]), "of functions with a 'name'"),
        (
            said("hi", "yo", tool_calls=[{"name": "add", "arguments": "1"}]),
            "'tool_calls' with an object 'arguments', found 1",
        ),
        ({**said("hi", "yo"), "tools": "add"}, "expected JSON in 'tools', found 'add'"),
        ({**said("hi", "yo"), "tools": {"name": "add"}}, "expected a list 'tools'"),
        ({**said("hi", "yo"), "tools": [{"type": "web"}]}, "'tools' of functions with a 'name'"),
        (
            {"messages": [{**USED[1], "role": "user"}]},
            "tool calls of the assistant only, found some with role 'user'",
        ),
    ],
)
def test_a_row_that_cannot_be_read_is_named_and_counted(
    tmp_path: Path, fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(RowError, match=f"rows.jsonl, line 1.*{says}"):
        examples("messages", fields)
    path = save_rows(tmp_path / "rows.jsonl", [said("hi", "yo"), fields])
    config = DataConfig(path=str(path), format="messages", on_bad_row="skip")
    found, counts = read_examples(config)
    assert (len(found), counts.bad_rows) == (1, 1)


def test_tulu_gets_through_its_empty_messages(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As the published mixture has them, with the shipped config's own settings."""
    from sweeps.config.load import load_config

    rows = [
        {"dataset": "flan_v2", "id": f"flan_v2_{number}", **said("hi", answer)}
        for number, answer in enumerate(["yo", "", "hello", " ", "hey"])
    ]
    path = save_rows(tmp_path / "tulu.jsonl", [*rows, {"messages": []}])
    shipped = load_config(root / "sweeps" / "configs" / "general_llama2_7b.yaml")
    data = shipped.domains["general"].data
    change = {"path": str(path), "decontaminate": None}
    found, counts = read_examples(data.model_copy(update=change))
    assert [pair_of(example)[1] for example in found] == ["yo", "hello", "hey"]
    assert (counts.examples, counts.bad_rows) == (3, 3)
    assert "skipped 3 bad rows; the first: " in caplog.text
    assert "tulu.jsonl, line 2, message 2: expected a non-empty string 'content'" in caplog.text
    assert "1 such as: " in caplog.text
    assert "line 6: expected a list of objects 'messages', found an empty list" in caplog.text
