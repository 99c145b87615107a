"""Several processes: sharded gradients are masked, stepped and measured as whole ones are.

The checks and the shardings are in `ranks.py`: methods x dtypes x DDP, FSDP2 with uneven shards,
FSDP2 by columns, tensor parallelism, FSDP2 x TP and HSDP.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gmt_core.ranks import run


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_every_sharding(ranks: int, tmp_path: Path) -> None:
    found = run(ranks, tmp_path)
    failed = {name: error for name, error in found.items() if error}
    assert not failed, f"{list(failed)}\n" + "\n".join(failed.values())
    assert len(found) > 12
