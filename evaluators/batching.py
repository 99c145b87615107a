"""Grouping sequences of different lengths into left-padded batches that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor

from evaluators.errors import EvaluationError

# What the CPU's allocator says; CUDA and Python have exceptions of their own.
_CPU_SAYS = "DefaultCPUAllocator"


def plan_batches(lengths: Sequence[int], fits: Callable[[int, int], bool]) -> list[list[int]]:
    """Indices of `lengths`, longest first, in groups; `fits(rows, longest)` says what fits.

    Longest first wastes little padding and runs out of memory at once or never. A sequence that
    does not even fit alone gets a group of its own.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    groups: list[list[int]] = []
    for index in order:
        if groups and fits(len(groups[-1]) + 1, lengths[groups[-1][0]]):
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def left_pad(
    rows: Sequence[Sequence[int]], device: torch.device, shared: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, attention mask and positions, int64 [rows, longest], padded on the left with id 0.

    Before each row stand `shared` cached tokens: padding, those, and the row, in the mask
    [rows, shared + longest].
    """
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    positions = (mask.cumsum(dim=1) - 1).clamp_(min=0) + shared
    mask = torch.nn.functional.pad(mask, (0, shared), value=1)
    return ids.to(device), mask.to(device), positions.to(device)


@final
class TokenBudget:
    """How many padded tokens a batch may hold; halved whenever memory runs out.

    `tokens` only ever shrinks, so that each later batch profits from what an earlier one found.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def run(
        self,
        lengths: Sequence[int],
        fits: Callable[[int, int], bool],
        work: Callable[[list[int]], None],
        *,
        adapt: bool = True,
    ) -> None:
        """Call `work` on groups of indices of `lengths` until every index was worked on once.

        A group whose work ran out of memory is planned again within half of its tokens; with
        `adapt` false, or with a single sequence that is too long, the error is raised.
        """

        def both(rows: int, longest: int) -> bool:
            return rows * longest <= self.tokens and fits(rows, longest)

        waiting = plan_batches(lengths, both)
        while waiting:
            group = waiting.pop(0)
            if _fits_memory(work, group, adapt and len(group) > 1):
                continue
            self.tokens = max(1, len(group) * lengths[group[0]] // 2)
            rest = [index for each in (group, *waiting) for index in each]
            planned = plan_batches([lengths[index] for index in rest], both)
            waiting = [[rest[place] for place in each] for each in planned]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that a smaller batch might have worked."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _CPU_SAYS in str(error)


def _fits_memory(work: Callable[[list[int]], None], group: list[int], may_fail: bool) -> bool:
    """Whether `work(group)` was done; False where it ran out of memory and may."""
    try:
        work(group)
        return True
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if not may_fail:
            raise EvaluationError(
                f"Memory ran out with a batch of {len(group)}: free memory on the device, shorten "
                f"prompts or the token limit, or use a smaller batch_tokens ({error})"
            ) from error
    # Outside of the handler: the exception's frames hold the tensors of the failed batch.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False
