"""The Hugging Face hub: which paths may be hub names, what is read of a model there, its token."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Self, final

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_TOKEN = "HF_TOKEN"
_FILE_ENDINGS = (".json", ".jsonl", ".csv", ".parquet", ".safetensors", ".bin", ".txt", ".gz")


class HubError(ValueError):
    """A name that the hub does not have; the message says what was found instead."""


class HubUnreachableError(HubError):
    """The hub does not answer, and the cache does not hold what was asked for."""


def may_be_name(path: str) -> bool:
    """Whether `path` looks like a hub name (`owner/name` or `name`) and not like a file."""
    return _NAME.fullmatch(path) is not None and not path.lower().endswith(_FILE_ENDINGS)


def resolve(path: str, root: Path) -> str:
    """`path` made absolute from `root`; unchanged if it does not exist and may be a hub name."""
    place = (root / Path(path).expanduser()).resolve()
    return str(place) if place.exists() or not may_be_name(path) else path


def config_file(name: str, revision: str | None) -> Path:
    """A model's config.json, cached or downloaded; HubError if the hub has none.

    HubUnreachableError if it may exist, but the hub cannot be asked. Gated repositories use the
    token in the environment (HF_TOKEN) or from `hf auth login`.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    failure = HubError
    try:
        return Path(hf_hub_download(name, "config.json", revision=revision))
    except GatedRepoError:
        reason = "the model is gated: request access, and set HF_TOKEN"
    except RevisionNotFoundError:
        reason = f"the model has no revision '{revision}'"
    except RepositoryNotFoundError:
        reason = "the hub has no model of that name (or it is private: set HF_TOKEN)"
    except LocalEntryNotFoundError:
        failure = HubUnreachableError
        at = "" if revision is None else f" at revision '{revision}'"
        reason = f"the hub cannot be reached and no copy of the model{at} is cached here"
    except EntryNotFoundError:
        reason = "the model on the hub has no config.json"
    except HFValidationError:
        reason = "this is not a valid hub name"
    raise failure(f"there is no such folder, and {reason}{similar_path(Path(name), Path.is_dir)}")


def cache_folder() -> Path:
    """Where downloads of the hub are kept on this machine."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


@cache
def tensor_shapes(name: str, revision: str | None) -> dict[str, list[int]]:
    """The shapes of a model's weights, from the headers of its safetensors files; no download.

    Empty if it has no such files, or the hub does not answer.
    """
    from huggingface_hub import get_safetensors_metadata

    try:
        found = get_safetensors_metadata(name, revision=revision)
    except Exception:  # connection errors are those of an HTTP library that it does not promise
        return {}
    files = found.files_metadata.values()
    return {name: each.shape for file in files for name, each in file.tensors.items()}


def similar_path(path: Path, wanted: Callable[[Path], bool]) -> str:
    """A suggestion: a wanted file or folder beside `path` with a similar name; else empty."""
    try:
        beside = [entry.name for entry in path.parent.iterdir() if wanted(entry)]
    except OSError:
        return ""
    near = get_close_matches(path.name, beside, n=1, cutoff=0.65)
    return f"; did you mean '{path.with_name(near[0])}'?" if near else ""


@final
@dataclass(frozen=True)
class HubToken:
    """A token that no log shows, nor Ray's dashboard, as it does with a runtime environment."""

    value: str | None = field(repr=False)

    @classmethod
    def of_driver(cls) -> Self:
        """The token of this process's environment, if any."""
        return cls(os.environ.get(_TOKEN))

    def use(self) -> None:
        """On a worker: the token of its node's environment, or else this one."""
        if self.value:
            os.environ.setdefault(_TOKEN, self.value)
