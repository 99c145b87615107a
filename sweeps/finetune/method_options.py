"""The method of a run, and the settings that belong to one method only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from sweeps.finetune.strict_model import LocalPath, StrictModel

Ratio = Annotated[float, Field(ge=0.0, lt=1.0)]


class DropConfig(StrictModel):
    """One-off Drop of `tuned`, the model folder of a finished SFT run of the same base model.

    `rate` is the share of its changes that are reset to the base value: the smallest (trivial),
    the largest (salient) or random ones. With `rescale`, the changes that are kept are divided by
    1 - rate: random drops are then DARE (arXiv 2311.03099).
    """

    tuned: LocalPath
    rule: Literal["trivial", "random", "salient"] = "trivial"
    rate: Ratio
    seed: int = 0
    rescale: bool = False


class AdapterConfig(StrictModel):
    """LoRA (arXiv 2106.09685): two narrow trained matrices beside each frozen linear layer.

    `targets`: names of linear layers, such as q_proj; None: all except the output layer. Their
    product is scaled by alpha / rank, with `rslora` by alpha / sqrt(rank) (arXiv 2312.03732).
    """

    rank: Annotated[int, Field(ge=1)] = 16
    alpha: Annotated[float, Field(gt=0.0)] = 32.0
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    rslora: bool = False
    dropout: Ratio = 0.0


class HalfConfig(StrictModel):
    """What half fine-tuning (arXiv 2404.18466) does outside the blocks: train embeddings and head,
    or freeze half of them, such as one of the two."""

    embeddings: Literal["trained", "halved"] = "trained"


WITHOUT_RATIO: Final[Mapping[str, str]] = {
    "sft": "masks nothing",
    "hft": "freezes half of each block",
    "lora": "masks nothing",
    "drop": "trains nothing",
}


Scope = Literal["tensor", "global"]


def check_scope(method: str, scope: Scope) -> None:
    """Raise ValueError if the method has no such scope: the others rank nothing."""
    if scope != "tensor" and method != "gmt":
        raise ValueError(f"scope '{scope}' is an option of method 'gmt', got method '{method}'")


class MethodConfig(StrictModel):
    """How gradients are masked; `mask_ratio` is the fraction of elements zeroed.

    `scope`, for `gmt` only: elements are ranked within each tensor, or over all. `shira` holds one
    random mask throughout (arXiv 2406.13175). `hft` freezes half of each block (see HalfConfig)
    and `lora` the base model (see AdapterConfig); both have no ratio. `drop` trains nothing (see
    DropConfig).
    """

    name: Literal["gmt", "sft", "random", "hft", "shira", "lora", "drop"] = "gmt"
    mask_ratio: Ratio = 0.0
    scope: Scope = "tensor"
    drop: DropConfig | None = None
    lora: AdapterConfig | None = None
    hft: HalfConfig = HalfConfig()

    @model_validator(mode="before")
    @classmethod
    def _lora_has_defaults(cls, values: Any) -> Any:
        is_lora = isinstance(values, dict) and values.get("name") == "lora"
        return {**values, "lora": {}} if is_lora and values.get("lora") is None else values

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if self.name in WITHOUT_RATIO and self.mask_ratio > 0:
            raise ValueError(
                f"method.name '{self.name}' {WITHOUT_RATIO[self.name]}, expected "
                f"mask_ratio 0, got {self.mask_ratio:g}"
            )
        check_scope(self.name, self.scope)
        for part, given in {"drop": self.drop, "lora": self.lora}.items():
            if (self.name == part) != (given is not None):
                found = "none" if given is None else "one"
                raise ValueError(
                    f"method.{part} is required by method.name '{part}', and only there; got "
                    f"{found} with '{self.name}'"
                )
        if self.name != "hft" and self.hft != HalfConfig():
            raise ValueError(f"method.hft: expected only with method.name 'hft', got {self.name}")
        return self
