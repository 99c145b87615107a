"""The method of a run, and the settings that belong to one method only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from sweeps.finetune.strict_model import LocalPath, StrictModel

Ratio = Annotated[float, Field(ge=0.0, lt=1.0)]


class DropConfig(StrictModel):
    """One-off Drop: a finished SFT run with a part of its changes reset to the base model."""

    tuned: LocalPath
    """The model folder of an SFT run of the same base model."""
    rule: Literal["trivial", "random", "salient"] = "trivial"
    """Which changes are reset: the smallest (`trivial`), random ones, or the largest (`salient`).
    """
    rate: Ratio
    """The share of the changes that are reset."""
    seed: int = 0
    """The seed of random drops."""
    rescale: bool = False
    """Divide the kept changes by 1 - rate; random drops are then DARE (arXiv 2311.03099)."""


class AdapterConfig(StrictModel):
    """LoRA (arXiv 2106.09685): two narrow trained matrices beside each frozen linear layer."""

    rank: Annotated[int, Field(ge=1)] = 16
    """The width of the two matrices."""
    alpha: Annotated[float, Field(gt=0.0)] = 32.0
    """Their product is scaled by alpha / rank."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Names of linear layers, such as `[q_proj, v_proj]`; null: all except the output layer."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead (arXiv 2312.03732)."""
    dropout: Ratio = 0.0
    """The dropout probability of the adapter's input."""


class HalfConfig(StrictModel):
    """What half fine-tuning (arXiv 2404.18466) does outside the blocks."""

    embeddings: Literal["trained", "halved"] = "trained"
    """Train embeddings and head, or freeze half of them, such as one of the two."""


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
    """How gradients are masked."""

    name: Literal["gmt", "sft", "random", "hft", "shira", "lora", "drop"] = "gmt"
    """`gmt` keeps the largest elements, `random` random ones; `shira` holds one random mask
    throughout (arXiv 2406.13175); `sft` trains every weight, `hft` half of each block, `lora`
    adapters; `drop` trains nothing."""
    mask_ratio: Ratio = 0.0
    """The fraction of gradient elements set to zero, of `gmt`, `random` and `shira`; 0 is SFT."""
    scope: Scope = "tensor"
    """`gmt` ranks elements within each tensor, or over all tensors."""
    drop: DropConfig | None = None
    """Options of `drop`: One-off Drop of a finished SFT run."""
    lora: AdapterConfig | None = None
    """Options of `lora`."""
    hft: HalfConfig = HalfConfig()
    """Options of `hft`."""

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
