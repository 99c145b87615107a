"""LoRA through peft: adapters are added to a model in place, and merged when it is saved."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from sweeps.finetune.finetune_config import ModelConfig
from sweeps.finetune.method_options import AdapterConfig, MethodConfig
from sweeps.finetune.model_facts import ModelError, build_empty
from sweeps.storage.errors import nearest

_NAME: Final = "default"  # of the adapter, within the names of its tensors


def check_method(method: MethodConfig, model: ModelConfig) -> None:
    """Raise ModelError if the method cannot train this model or needs a missing package.

    The model is built without weights, which takes no memory.
    """
    if method.lora is None:
        return
    if find_spec("peft") is None:
        raise ModelError(
            "method.name: 'lora' requires peft, which is not installed; install it "
            "(pip install 'peft>=0.21'), or choose another method"
        )
    if model.added_tokens:
        raise ModelError(
            "model.added_tokens: method 'lora' freezes the embeddings, so new tokens would not be "
            "trained; expected none, or another method"
        )
    if method.lora.targets:
        empty = build_empty(model)
        _check_targets(method.lora.targets, _linear_layers(empty), empty.get_output_embeddings())


def add_adapter(model: Any, config: AdapterConfig, seed: int) -> None:
    """Freeze a model on the CPU and add adapters, drawn from `seed`, to its linear layers.

    The model keeps its class; adapters are float32 at least. Raises ModelError for a target that
    it does not have.
    """
    import peft

    linear = _linear_layers(model)
    _check_targets(config.targets or (), linear, model.get_output_embeddings())
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=model.config.name_or_path,
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # any number
        target_modules="all-linear" if config.targets is None else list(config.targets),
        use_rslora=config.rslora,
        lora_dropout=config.dropout,
        # GPT-2's layers hold their matrices transposed; a model has one kind of layer.
        fan_in_fan_out=not isinstance(next(iter(linear.values()), None), nn.Linear),
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        peft.inject_adapter_in_model(settings, model)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype == torch.bfloat16:
            parameter.data = parameter.data.float()  # as in peft: an update is below bf16's steps


def _linear_layers(model: Any) -> dict[str, nn.Module]:
    from transformers.pytorch_utils import Conv1D

    kinds = (nn.Linear, Conv1D)
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, kinds)}


def _check_targets(
    targets: tuple[str, ...], linear: Mapping[str, nn.Module], output: nn.Module
) -> None:
    """Check that each target names linear layers; the output layer may share its weight."""
    for target in targets:
        found = [layer for name, layer in linear.items() if f".{name}".endswith(f".{target}")]
        if output in found:
            raise ModelError(
                f"method.lora.targets: '{target}' is the output layer, which may share its weight "
                "with the input embedding; expected layers of the blocks"
            )
        if not found:
            names = {name.rpartition(".")[2] for name, layer in linear.items() if layer != output}
            raise ModelError(
                f"method.lora.targets: no linear layer '{target}' ({nearest(target, [*names])})"
            )


def merged_state(model: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `state`, all of the model's, under the names and with the values of the base
    architecture: each adapter's product is added to its weight."""
    own = {name: tensor for name, tensor in state.items() if not _is_part(name)}
    merged = {name.replace(".base_layer.", "."): tensor for name, tensor in own.items()}
    for name, layer in model.named_modules():
        if f"{name}.lora_A.{_NAME}.weight" in state:
            first, second = (state[f"{name}.lora_{part}.{_NAME}.weight"] for part in "AB")
            change = layer.scaling[_NAME] * (second @ first)
            weight = merged[f"{name}.weight"]
            change = change.T if layer.fan_in_fan_out else change
            merged[f"{name}.weight"] = (weight + change).to(weight.dtype)
    return merged


def save_adapter(model: Any, folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write the adapter within `state` as a folder that peft loads; nothing without one."""
    parts = {name: tensor for name, tensor in state.items() if _is_part(name)}
    if not parts:
        return
    from safetensors.torch import save_file

    model.peft_config[_NAME].save_pretrained(folder)
    named = {f"base_model.model.{n.replace(f'.{_NAME}.', '.')}": t for n, t in parts.items()}
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _is_part(name: str) -> bool:
    return ".lora_" in name
