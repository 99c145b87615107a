"""What every configuration is made of: strict models, and paths that files can have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    ValidationInfo,
    field_validator,
)


class StrictModel(BaseModel):
    """Frozen, refuses unknown keys, and never takes NaN, infinity or true for a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _can_be_worked_with(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[str(info.field_name)].annotation
        for part in value if isinstance(value, list | tuple) else (value,):
            if isinstance(part, bool) and not _takes_bool(annotation):
                raise ValueError(f"expected no truth value (true, false, yes, no), got {part}")
            if isinstance(part, int) and abs(part) >= 2**63:
                raise ValueError(
                    f"expected a number below 2^63, got one of {part.bit_length()} bits"
                )
            if isinstance(part, str) and not _is_writable(part):
                raise ValueError(f"expected text that a file can hold, got {part!r}")
        return value


def _takes_bool(annotation: Any) -> bool:
    choices = get_args(annotation)
    return bool in (annotation, *choices) or any(isinstance(each, bool) for each in choices)


def _is_writable(text: str) -> bool:
    """Whether it is UTF-8 without NUL, which no path may hold."""
    return "\0" not in text and text == text.encode(errors="replace").decode()


def split_paths(paths: str) -> list[str]:
    """The paths of a comma separated list."""
    return [part.strip() for part in paths.split(",") if part.strip()]


def _no_blank(path: str) -> str:
    if not path.strip():
        raise ValueError(f"expected a path or a name, got {path!r}")
    return path


def _none_blank(paths: str) -> str:
    if len(split_paths(paths)) <= paths.count(","):
        raise ValueError(f"expected a path, or several with one comma between, got {paths!r}")
    return paths


MOST_NAME_BYTES = 255
"""Of a file's or folder's name, on every usual file system."""


def possible_path(paths: str) -> str:
    """``paths`` (comma separated) as they are, if files can have such names, and every ``~`` in
    them can be expanded here.

    Raises:
        ValueError: naming the one that cannot.
    """
    for part in paths.split(","):
        if any(len(name.encode()) > MOST_NAME_BYTES for name in Path(part.strip()).parts):
            raise ValueError(f"expected names of {MOST_NAME_BYTES} bytes at most")
        expanded(part.strip())
    return paths


def expanded(path: str | Path) -> Path:
    """A path with its ``~`` opened.

    Raises:
        ValueError: this machine knows no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(
            f"the home folder in '{path}' is not known here: expected a user of this machine "
            "after '~', or an absolute path"
        ) from None


LocalPath = Annotated[str, AfterValidator(_no_blank), AfterValidator(possible_path)]
"""A path, or a name of the hub or of the embedded world. A blank one is refused: it would stand
for the current folder."""

LocalPaths = Annotated[str, AfterValidator(_none_blank), AfterValidator(possible_path)]
"""As `LocalPath`, or several, comma separated."""
