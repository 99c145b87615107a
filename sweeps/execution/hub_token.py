"""The driver's token for gated models of the hub, for workers on other nodes."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Self, final

_VARIABLE = "HF_TOKEN"


@final
@dataclass(frozen=True)
class HubToken:
    """A token that no log shows, nor Ray's dashboard, as it does with a runtime environment."""

    value: str | None = field(repr=False)

    @classmethod
    def of_driver(cls) -> Self:
        """The token of this process's environment, if any."""
        return cls(os.environ.get(_VARIABLE))

    def use(self) -> None:
        """On a worker: the token of its node's environment, or else this one."""
        if self.value:
            os.environ.setdefault(_VARIABLE, self.value)
