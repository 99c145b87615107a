"""Half Fine-Tuning: which half, of which models, and what an optimizer then does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from gmt_core import GradientMasker, HalfFineTuning, build_method
from gmt_core.categories import read_categories

LLAMA = [f"self_attn.{m}_proj" for m in "qkvo"] + [f"mlp.{m}_proj" for m in ("gate", "up", "down")]
LLAMA_NORMS = ["input_layernorm", "post_attention_layernorm"]
# family: (prefix of a block, its modules, what has biases, what lies outside)
FAMILIES = {
    "llama": ("model.layers.{}", LLAMA + LLAMA_NORMS, False, ["model.embed_tokens", "model.norm"]),
    "mistral": ("model.layers.{}", LLAMA + LLAMA_NORMS, False, ["model.norm", "lm_head"]),
    "qwen2": ("model.layers.{}", LLAMA + LLAMA_NORMS, True, ["lm_head"]),
    "qwen3": (
        "model.layers.{}",
        [*LLAMA, *LLAMA_NORMS, "self_attn.q_norm", "self_attn.k_norm"],
        False,
        ["lm_head"],
    ),
    "gemma2": (
        "model.layers.{}",
        [*LLAMA, *LLAMA_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm"],
        False,
        ["model.embed_tokens", "model.norm"],
    ),
    "gpt2": (
        "transformer.h.{}",
        ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj", "ln_1", "ln_2"],
        True,
        ["transformer.wte", "transformer.wpe", "transformer.ln_f"],
    ),
    "gpt_neox": (
        "gpt_neox.layers.{}",
        [
            *("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h"),
            *("mlp.dense_4h_to_h", "input_layernorm", "post_attention_layernorm"),
        ],
        True,
        ["gpt_neox.embed_in", "gpt_neox.final_layer_norm", "embed_out"],
    ),
}


def names_of(family: str, blocks: int = 6) -> list[str]:
    prefix, modules, biased, outside = FAMILIES[family]
    inside = [f"{prefix.format(i)}.{m}" for i in range(blocks) for m in modules]
    kinds = ("weight", "bias") if biased else ("weight",)
    return [f"{m}.{kind}" for m in inside for kind in kinds] + [f"{m}.weight" for m in outside]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod."])
def test_half_of_each_category_of_each_block(family: str, wrapper: str) -> None:
    names = [wrapper + name for name in names_of(family)]
    frozen = HalfFineTuning(seed=1).frozen(names)
    read = read_categories(names)
    assert frozen <= set(read)  # embeddings, last norm and head are trained
    shares: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for block in {at.block for at in read.values()}:
        for category in ("attention", "ffn", "norm"):
            modules = {
                a.module for a in read.values() if (a.block, a.category) == (block, category)
            }
            held = {
                read[n].module
                for n in frozen
                if (read[n].block, read[n].category) == (block, category)
            }
            shares.setdefault((category, ""), []).append((len(held), len(modules)))
            for name, at in read.items():  # weight and bias go together
                if (at.block, at.category) == (block, category):
                    assert (name in frozen) == (at.module in held)
    for (category, _), counts in shares.items():
        if counts[0][1] == 3:
            assert category == "ffn" and sorted(counts) == [(1, 3)] * 3 + [(2, 3)] * 3
        else:
            assert all(2 * held == of for held, of in counts)


def test_unequal_matrices_balance_over_the_blocks() -> None:
    frozen = HalfFineTuning(seed=3).frozen(names_of("gpt2", blocks=12))
    assert sum("attn.c_attn.weight" in name for name in frozen) == 6


def test_the_seed_and_the_names_decide_alone() -> None:
    names = names_of("llama", blocks=7)
    first = HalfFineTuning(seed=5).frozen(names)
    assert HalfFineTuning(seed=5).frozen(list(reversed(names))) == first
    assert HalfFineTuning(seed=6).frozen(names) != first


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["0.weight", "0.bias"],
            r"parameters: expected some in transformer blocks.*found 0\.weight",
        ),
        (
            ["model.layers.0.mixer.in_proj.weight"],
            r"model\.layers\.0\.mixer\.in_proj\.weight: cannot",
        ),
        (["model.layers.0.mlp.experts.3.up_proj.weight"], "experts"),
        (["model.layers.0.self_attn.q_proj.lora_A.default.weight"], "lora_A"),
        (["model.decoder.layers.0.fc1.weight"], r"fc1.*Llama, Mistral, Qwen, Gemma"),
    ],
)
def test_unreadable_models_are_named(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HalfFineTuning().bind(names)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.ModuleDict({f"{m}_proj": nn.Linear(4, 4) for m in "qkvo"})
        self.mlp = nn.ModuleDict({f"{m}_proj": nn.Linear(4, 4) for m in ("gate", "up", "down")})
        self.input_layernorm, self.post_attention_layernorm = nn.LayerNorm(4), nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        for part in (*self.self_attn.values(), self.input_layernorm, *self.mlp.values()):
            x = x + torch.tanh(part(x))
        return self.post_attention_layernorm(x)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"layers": nn.Sequential(Block(), Block())})


def test_frozen_parameters_stay_and_the_others_move() -> None:
    net, method = model(), build_method("hft", seed=2)
    frozen = method.frozen([name for name, _ in net.named_parameters()])
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = AdamW(net.named_parameters(), lr=1e-2, weight_decay=0.0)
    GradientMasker(method).attach(optimizer)
    for step in range(3):
        net["layers"](torch.randn(5, 4, generator=torch.Generator().manual_seed(step))).pow(2).mul(
            torch.arange(4)
        ).sum().backward()
        if step == 1:  # a parameter without a gradient changes nobody's half
            net["layers"][0].mlp["up_proj"].weight.grad = None
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(before) - frozen


def test_names_are_asked_for() -> None:
    net = model()
    optimizer = AdamW(net.parameters())
    with pytest.raises(ValueError, match=r"method hft reads the names.*named_parameters\(\)"):
        GradientMasker(HalfFineTuning()).attach(optimizer)
    GradientMasker(HalfFineTuning()).attach(optimizer, net.named_parameters())
    with pytest.raises(ValueError, match="expected a name for each"):
        GradientMasker(HalfFineTuning()).attach(optimizer, model().named_parameters())


def test_ratio_of_the_factory() -> None:
    assert build_method("hft", 0.5, seed=4).seed == 4
    with pytest.raises(ValueError, match=r"freezes half of each block, expected 0\.5, found 0\.3"):
        build_method("hft", 0.3)


@pytest.mark.parametrize("family", FAMILIES)
def test_halved_embeddings_freeze_half_of_what_is_outside_and_no_norm(family: str) -> None:
    names = names_of(family)
    inside = set(read_categories(names))
    outside = {name for name in names if name not in inside and "norm" not in name}
    outside -= {"transformer.ln_f.weight"}
    counts = set()
    for seed in range(12):
        plain = HalfFineTuning(seed).frozen(names)
        frozen = HalfFineTuning(seed, halve_embeddings=True).frozen(names)
        assert frozen & inside == plain  # the blocks are as without
        assert frozen - inside <= outside
        counts.add(len(frozen - inside))
    half, odd = divmod(len(outside), 2)
    assert counts == ({half, half + 1} if odd else {half})
