"""The training data of a run: formats of rows, and one source of rows or a mixture of several."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from evaluators.prompt_formats import PromptFormat
from sweeps.finetune.strict_model import LocalPath, StrictModel
from sweeps.storage.errors import nearest

TrainFormat = Literal[
    "prompt_response",
    "alpaca",
    "competition_math",
    "gsm8k",
    "magicoder_evol_instruct",
    "mbpp",
    "messages",
    "metamathqa",
    "self_instruct",
    "sharegpt",
    "tulu_v2",
]
HOMES: dict[str, dict[str, str]] = {
    "alpaca": {"path": "tatsu-lab/alpaca"},
    "competition_math": {"path": "DigitalLearningGmbH/MATH-lighteval"},
    "gsm8k": {"path": "openai/gsm8k", "subset": "main"},
    "magicoder_evol_instruct": {"path": "ise-uiuc/Magicoder-Evol-Instruct-110K"},
    "mbpp": {"path": "google-research-datasets/mbpp", "subset": "full"},
    "metamathqa": {"path": "meta-math/MetaMathQA"},
    "tulu_v2": {"path": "allenai/tulu-v2-sft-mixture"},
}
"""The formats with a default dataset on the Hub."""
CONVERSATIONS = ("messages", "sharegpt", "tulu_v2")
"""The formats whose rows are conversations."""
PROMPTS: dict[str, PromptFormat] = {
    **dict.fromkeys(("alpaca", "self_instruct"), "alpaca"),
    **dict.fromkeys(("competition_math", "metamathqa"), "metamath"),
    **dict.fromkeys(CONVERSATIONS, "tulu"),
    "magicoder_evol_instruct": "magicoder",
}
"""The prompt format of a training format; the others are the prompts of their benchmarks."""
COLUMNS = {
    "prompt_response": ("prompt", "response"),
    "alpaca": ("instruction", "output", "input"),
    "messages": ("messages", "system", "tools"),
    "sharegpt": ("conversations", "system", "tools"),
}
"""The fields that may have other names in a file, by format. Other formats are of one dataset."""


class SourceConfig(StrictModel):
    """Training rows in one format."""

    path: LocalPath
    """A file (.jsonl, .json, .csv, each also with .gz, or .parquet), several separated by commas,
    a folder of files, or a hub dataset; by default the format's dataset on the hub."""
    subset: str | None = None
    """The configuration of a hub dataset."""
    split: str = "train"
    """The split of a hub dataset."""
    revision: str | None = None
    """The commit, tag or branch of a hub dataset."""
    format: TrainFormat = "prompt_response"
    """The fields of a row, and the prompt made of them."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Columns for the fields of `prompt_response`, `alpaca`, `messages` and `sharegpt`, as
    `{prompt: data.question}`; a dot leads into an object."""
    part: Literal["all", "train"] = "all"
    """`train` leaves out the validation items of a benchmark on the same dataset."""
    template: Literal["own", "chat"] = "own"
    """`chat` uses the tokenizer's chat template instead of the format's own prompt."""
    conversation: Literal["whole", "per_turn"] = "whole"
    """One example per conversation, or one for each assistant message."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """Stop at a bad row with its file and line, or skip and count it."""

    @model_validator(mode="after")
    def _turns_are_of_a_conversation(self) -> Self:
        if self.conversation != "whole" and self.format not in CONVERSATIONS:
            raise ValueError(
                f"data.conversation: '{self.conversation}' requires one of the formats "
                f"{', '.join(CONVERSATIONS)}, got '{self.format}'"
            )
        return self

    @model_validator(mode="after")
    def _columns_are_of_the_format(self) -> Self:
        known = COLUMNS.get(self.format)
        if self.columns and known is None:
            raise ValueError(
                f"columns: format '{self.format}' has the columns of its dataset; expected none, "
                f"or one of the formats {', '.join(COLUMNS)}"
            )
        for name, column in self.columns.items():
            if known is not None and name not in known:
                raise ValueError(
                    f"columns: format '{self.format}' has no field '{name}' "
                    f"({nearest(name, list(known))})"
                )
            if not all(column.split(".")):
                raise ValueError(f"columns.{name}: expected a column, got '{column}'")
        return self

    @model_validator(mode="before")
    @classmethod
    def _at_home_on_the_hub(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("path") is not None:
            return values
        home = HOMES.get(str(values.get("format")), {})
        return {**home, **{name: value for name, value in values.items() if name != "path"}}


class MixedSource(SourceConfig):
    """A source of a mixture."""

    weight: float | None = Field(default=None, gt=0.0)
    """The source's share of the examples, relative to the others: for all sources or none. Without
    weights, an epoch has each example once."""


SourceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class DataConfig(SourceConfig):
    """The training rows: of one source, or of several. Keys of a source that stand beside
    `sources` are the defaults of all sources."""

    path: LocalPath = ""
    max_length: int = Field(default=256, ge=2)
    """Tokens of an example, prompt and response together; a longer one is cut."""
    train_fraction: float = Field(default=1.0, gt=0.0, le=1.0)
    """The share of the examples to train on, chosen by content."""
    decontaminate: int | None = Field(default=None, ge=3)
    """Leave out examples that share this many consecutive words with an item of the run's
    benchmarks, usually 13; null: keep all."""
    packing: bool = False
    """Pack the examples of an update into rows of up to `max_length` tokens instead of padding
    them; the results are the same."""
    sources: dict[SourceName, MixedSource] = Field(default_factory=dict)
    """Several sources by name, instead of `path`."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_sources(cls, values: Any) -> Any:
        sources = values.get("sources") if isinstance(values, dict) else None
        if not sources or not isinstance(sources, dict):
            return values
        if values.get("path"):
            raise ValueError("expected either a path or sources, got both")
        shared = {key: values[key] for key in values.keys() & _OF_A_SOURCE}
        others = {key: value for key, value in values.items() if key not in _OF_A_SOURCE}
        merged = {
            name: {**shared, **source} if isinstance(source, dict) else source
            for name, source in sources.items()
        }
        return {**others, "sources": merged}

    @model_validator(mode="after")
    def _has_rows(self) -> Self:
        if not self.path and not self.sources:
            raise ValueError("expected a path, or sources by name")
        unweighted = [name for name, source in self.sources.items() if source.weight is None]
        if 0 < len(unweighted) < len(self.sources):
            raise ValueError(
                f"sources: expected a weight for each or for none, got none for "
                f"{', '.join(sorted(unweighted))}"
            )
        return self

    def parts(self) -> dict[str, DataConfig]:
        """Each source alone, in the order of the names; the only one has the name ""."""
        if not self.sources:
            return {"": self}
        fields = SourceConfig.model_fields
        return {
            name: self.model_copy(
                update={"sources": {}, **{key: getattr(source, key) for key in fields}}
            )
            for name, source in sorted(self.sources.items())
        }

    def prompt_format(self) -> PromptFormat:
        """The prompt format of the rows; raw if sources differ in it."""
        forms: set[PromptFormat] = {
            "chat" if part.template == "chat" else PROMPTS.get(part.format, "raw")
            for part in self.parts().values()
        }
        return forms.pop() if len(forms) == 1 else "raw"

    def weights(self) -> list[float]:
        """The weights of the parts; [] without weights."""
        given = [source.weight for _, source in sorted(self.sources.items())]
        return [weight for weight in given if weight is not None]


_OF_A_SOURCE = {*SourceConfig.model_fields}
