"""Half Fine-Tuning, category level: one of the paper's comparators (arXiv 2404.18466)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from gmt_core.categories import read_categories, read_embeddings
from gmt_core.checks import checked_seed
from gmt_core.local_gradient import LocalGradient
from gmt_core.method import Method
from gmt_core.rules import KeepAll, Rule


@final
@dataclass(frozen=True)
class KeepNone(Rule):
    """Nothing of this gradient."""

    def keeps(self, chunk: Tensor, start: int) -> Tensor:
        """Keep no element."""
        return torch.zeros_like(chunk, dtype=torch.bool)


@final
class HalfFineTuning(Method):
    """Half Fine-Tuning (arXiv 2404.18466): trains half of each block, the same half throughout.

    That is 2 of 4 attention matrices, half of the FFN matrices (of three: two in half of the
    blocks, one in the others) and 1 of 2 norms. Embeddings, last norm and head are trained. The
    frozen gradients are zeroed: with AdamW their moments stay 0, and only weight decay moves the
    weights; mode "update" keeps them where they are. Needs the parameters' names.
    """

    needs_names = True

    def __init__(self, seed: int = 0, *, halve_embeddings: bool = False) -> None:
        """Choose the halves; they depend only on the seed and the parameters' names.

        Args:
            seed: of the draw.
            halve_embeddings: also freeze half of embeddings and head; of one tied matrix, all or
                nothing.

        Raises:
            ValueError: a seed that is no whole number.
        """
        self.name = "hft"
        self.halve_embeddings = halve_embeddings
        self.mask_ratio = 0.5
        self.seed: int = checked_seed(seed)
        self._frozen: frozenset[str] | None = None  # once bound

    def bind(self, names: Sequence[str]) -> HalfFineTuning:
        """Choose the halves of a model.

        Raises:
            ValueError: a name that is not of a known block layout.
        """
        bound = HalfFineTuning(self.seed, halve_embeddings=self.halve_embeddings)
        bound._frozen = self.frozen(names)
        return bound

    def rules(self, gradients: Sequence[LocalGradient], update: int) -> list[Rule]:
        """Zero the frozen half. Without `bind`, the gradients are taken for the whole model's."""
        frozen = self._frozen
        if frozen is None:
            frozen = self.frozen([g.name for g in gradients]) if gradients else frozenset()
        return [KeepNone() if g.name in frozen and g.checked() else KeepAll() for g in gradients]

    def frozen(self, names: Sequence[str]) -> frozenset[str]:
        """The names of the parameters that stay as they are.

        Raises:
            ValueError: a name that is not of a known block layout.
        """
        read = read_categories(names)
        modules: dict[tuple[str, str], set[str]] = {}  # of one category in one block
        for at in read.values():
            modules.setdefault((at.category, at.block), set()).add(at.module)
        alike: dict[tuple[str, tuple[str, ...]], list[str]] = {}  # blocks with equal modules
        for (category, block), inside in sorted(modules.items()):
            alike.setdefault((category, tuple(sorted(inside))), []).append(block)
        draw = random.Random(f"half fine-tuning {self.seed}")
        chosen = {
            (block, module)
            for (_, inside), blocks in alike.items()
            for block, half in _halves(blocks, inside, draw).items()
            for module in half
        }
        outside = read_embeddings(names) if self.halve_embeddings else {}
        half = _halves([""], sorted(set(outside.values())), draw)[""]
        inside = {name for name, at in read.items() if (at.block, at.module) in chosen}
        return frozenset(inside | {name for name, module in outside.items() if module in half})


def _halves(
    blocks: Sequence[str], modules: Sequence[str], draw: random.Random
) -> dict[str, frozenset[str]]:
    """A half of the modules for each block.

    Blocks are paired at random, and what one freezes the other trains, so that over each pair
    exactly half is frozen, also of an odd number of modules or of modules of unequal size.
    """
    order = draw.sample(blocks, len(blocks))
    found: dict[str, frozenset[str]] = {}
    for first in range(0, len(order), 2):
        size = (len(modules) + draw.randrange(2)) // 2
        half = frozenset(draw.sample(modules, size))
        found[order[first]] = half
        if first + 1 < len(order):
            found[order[first + 1]] = frozenset(modules) - half
    return found
