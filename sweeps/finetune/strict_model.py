"""The base of all configurations: strict models, and validated path types."""

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
    """Frozen; rejects unknown keys, NaN, infinity, and booleans given as numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _can_be_worked_with(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[str(info.field_name)].annotation
        for part in value if isinstance(value, list | tuple) else (value,):
            if isinstance(part, bool) and not takes_bool(annotation):
                raise ValueError(f"expected no boolean (true, false, yes, no), got {part}")
            if isinstance(part, int) and abs(part) >= 2**63:
                raise ValueError(
                    f"expected a number below 2^63, got one with {part.bit_length()} bits"
                )
            if isinstance(part, str) and not _is_writable(part):
                raise ValueError(f"expected text that a file can hold, got {part!r}")
        return value


def takes_bool(annotation: Any) -> bool:
    """Whether a key of this type may be true or false."""
    choices = get_args(annotation)
    given = (annotation, *choices)
    return bool in given or Any in given or any(isinstance(each, bool) for each in choices)


def _is_writable(text: str) -> bool:
    """Whether it is valid UTF-8 without NUL, which paths cannot contain."""
    return "\0" not in text and text == text.encode(errors="replace").decode()


def split_paths(paths: str) -> list[str]:
    """The paths in a comma-separated list."""
    return [part.strip() for part in paths.split(",") if part.strip()]


MOST_NAME_BYTES = 255
"""The longest name of a file or folder on common file systems."""


def _possible_paths(paths: str) -> str:
    """Check that files can have these names (comma separated), and that ``~`` can be expanded."""
    for part in map(str.strip, paths.split(",")):
        if not part:
            several = ", or several separated by commas" if "," in paths else " or a name"
            raise ValueError(f"expected a path{several}, got {paths!r}")
        if any(len(name.encode()) > MOST_NAME_BYTES for name in Path(part).parts):
            raise ValueError(f"expected names of at most {MOST_NAME_BYTES} bytes")
        expanded(part)
    return paths


def expanded(path: str | Path) -> Path:
    """The path with its ``~`` expanded.

    Raises:
        ValueError: this machine has no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(
            f"unknown home folder in '{path}': expected a user of this machine "
            "after '~', or an absolute path"
        ) from None


LocalPath = Annotated[str, AfterValidator(_possible_paths)]
"""A path, a hub name or a name in the embedded world, or several separated by commas. Blank ones
are rejected, because they would mean the current folder."""
