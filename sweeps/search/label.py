"""What a domain's score is called: light, for commands that only look."""

from __future__ import annotations

from sweeps.config import SweepConfig
from sweeps.report.data import ScoreLabel


def label_of(config: SweepConfig, domain: str) -> ScoreLabel:
    """What a domain's score is called and how it is shown."""
    return ScoreLabel.of([(b.name, b.metric) for b in config.domains[domain].benchmarks])
