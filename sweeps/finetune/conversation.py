"""Conversations, with or without tools: what a row says is read, or the row is refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeps.finetune.chat_template import REASONING
from sweeps.finetune.example import Example, Part, Row, Text, Turn

_UNREAD = (
    *("image", "images", "video", "videos", "audio", "audios"),
    *("chat_template_kwargs", "train_detail"),
)
"""Fields of a row or a message that change what is learned, and cannot be read."""
_WEIGHTS = ("weight", "train", "training", "loss")
_TEXT_PARTS = ("text", "input_text", "output_text")


@dataclass(frozen=True)
class Keys:
    """What a format calls the list of messages, the speaker, the text; the roles by speaker."""

    messages: str
    speaker: str
    text: str
    roles: Mapping[str, str]


def read_conversation(row: Row, keys: Keys) -> Iterator[Example]:
    """One example, up to the last assistant turn that is trained on.

    Its own text is the Tulu template. `system` may stand beside the messages. Raises RowError.
    """
    _check_readable(row)
    tools = (*_tools(row, "tools"), *_tools(row, "functions"))
    system = row.text("system", default="")
    turns = [Turn("system", system)] if system else []
    for number, message in enumerate(row.objects(keys.messages), start=1):
        inner = Row(f"{row.place}, message {number}", message)
        turn = _turn(inner, keys)
        if turn.role == "system" and system:
            inner.fail("one system prompt", "this one and the field 'system'")
        if turn.text.strip() or turn.role != "system":  # an empty system prompt says nothing
            turns.append(turn)
    while turns and not turns[-1].is_learned:
        turns.pop()
    if not turns:
        row.fail("a message with role 'assistant' that is trained on", "none")
    only_chat = "tools" if tools else next((t.only_chat for t in turns if t.only_chat), "")
    own = _in_tulu_format(turns)
    yield Example(own, own[0].text, turns=tuple(turns), tools=tools, only_chat=only_chat)


def _in_tulu_format(turns: Sequence[Turn]) -> Text:
    """open-instruct's template: EOS ends each answer and is learned, the newline after it is not.

    https://github.com/allenai/open-instruct, `tulu` in open_instruct/dataset_transformation.py.
    """
    parts: list[Part] = []
    context = ""
    for turn in turns:
        context += f"<|{turn.role}|>\n"
        if turn.role == "assistant":
            parts += [Part(context), Part(turn.text, turn.is_learned, ends=True)]
            context = "\n"
        else:
            context += f"{turn.text}\n"
    return tuple(parts)


def _turn(message: Row, keys: Keys) -> Turn:
    _check_readable(message)
    speaker = message.text(keys.speaker)
    if speaker not in keys.roles:
        message.fail(f"'{keys.speaker}' one of {', '.join(keys.roles)}", repr(speaker))
    role = keys.roles[speaker]
    given = _calls(message)
    calls = given or (_written_calls(message, keys.text) if speaker == "function_call" else [])
    if calls and role != "assistant":
        message.fail("tool calls of the assistant only", f"some with {keys.speaker} {speaker!r}")
    text = _text(message, keys.text, may_be_empty=bool(given) or role in ("system", "tool"))
    content = None if calls and not (given and text) else text
    chat: dict[str, Any] = {"role": role, "content": content}
    if calls:
        chat["tool_calls"] = calls
    for name in ("tool_call_id", "name") if role == "tool" else REASONING:
        if message.fields.get(name):
            chat[name] = message.text(name)
    only_chat = next((name for name in REASONING if name in chat), "tool_calls" if given else "")
    is_learned = _is_trained(message) and role == "assistant"
    return Turn(role, text, chat if len(chat) > 2 else None, only_chat, is_learned)


def _check_readable(row: Row) -> None:
    for name in _UNREAD:
        if row.fields.get(name):
            row.fail("text only", f"the field '{name}'")


def _is_trained(message: Row) -> bool:
    """Whether an assistant's message is learned: `weight: 0` says no, as in OpenAI's format."""
    values = [message.fields[name] for name in _WEIGHTS if message.fields.get(name) is not None]
    for value in values:
        if value not in (0, 1):
            message.fail(f"{', '.join(_WEIGHTS)} 0 or 1", f"{value!r:.60}")
    return all(values)


def _text(message: Row, name: str, *, may_be_empty: bool) -> str:
    """The text, whose parts (`[{"type": "text", "text": ...}]`) are put together as they are."""
    value = message.fields.get(name)
    if isinstance(value, list):
        value = "".join(_part(message, part) for part in value)
    if may_be_empty and value in (None, ""):
        return ""
    return Row(message.place, {**message.fields, name: value}).text(name)


def _part(message: Row, part: Any) -> str:
    kind = part.get("type", "text") if isinstance(part, dict) else type(part).__name__
    if kind not in _TEXT_PARTS or not isinstance(part.get("text"), str):
        message.fail("content parts of type 'text'", f"a part of type {kind!r}")
    return str(part["text"])


def _tools(row: Row, name: str) -> list[dict[str, Any]]:
    """The functions in field `name`, a list or its JSON, each as {"type", "function"}."""
    tools = [_parsed(row, name, tool) for tool in _list(row, name)]
    for tool in tools:
        _function(row, name, tool)
    return [t if "function" in t else {"type": "function", "function": t} for t in tools]


def _calls(message: Row) -> list[dict[str, Any]]:
    """The calls of a message, also where it has one in the older field `function_call`."""
    older = message.fields.get("function_call")
    calls = [_call(message, "tool_calls", call) for call in _list(message, "tool_calls")]
    return calls + ([_call(message, "function_call", older)] if older else [])


def _written_calls(message: Row, name: str) -> list[dict[str, Any]]:
    """The calls that a text holds as JSON: one, or a list of them; none where it is no JSON."""
    try:
        value = json.loads(message.text(name))
    except json.JSONDecodeError:
        return []
    return [_call(message, name, call) for call in (value if isinstance(value, list) else [value])]


def _call(message: Row, name: str, value: Any) -> dict[str, Any]:
    """{"type", "function": {"name", "arguments"}}, arguments as an object, as templates expect."""
    call = _parsed(message, name, value)
    function = _function(message, name, call)
    arguments = _parsed(message, name, function.get("arguments") or {})
    if not isinstance(arguments, dict):
        message.fail(f"'{name}' with an object 'arguments'", f"{arguments!r:.60}")
    kept = {"id": call["id"]} if call.get("id") else {}
    called = {"name": function["name"], "arguments": arguments}
    return {**kept, "type": "function", "function": called}


def _function(row: Row, name: str, value: Any) -> Mapping[str, Any]:
    function = value.get("function", value) if isinstance(value, dict) else value
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        row.fail(f"'{name}' of functions with a 'name'", f"{value!r:.60}")
    return function


def _list(row: Row, name: str) -> list[Any]:
    value = _parsed(row, name, row.fields.get(name) or [])
    if not isinstance(value, list):
        row.fail(f"a list '{name}'", f"{value!r:.60}")
    return value


def _parsed(row: Row, name: str, value: Any) -> Any:
    """`value`, read as JSON where it is a text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        row.fail(f"JSON in '{name}'", f"{value!r:.60}")
