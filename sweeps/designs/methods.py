"""Methods side by side, drops of one SFT model, and methods on less data."""

from __future__ import annotations

from typing import final

from sweeps.designs.design import Design, Plan
from sweeps.designs.point import DROPS, DesignPoint
from sweeps.report.data import TrialRow
from sweeps.report.settings import SFT, Rows, Setting, scored_at


def dropped(rows: Rows, rules: tuple[str, ...], rates: tuple[float, ...]) -> list[DesignPoint]:
    """Each finished SFT replicate with parts of its update dropped at each rate."""
    return [
        DesignPoint(
            rule, rate, row.accumulation_interval, row.learning_rate, row.seed, "replicate"
        )
        for row in scored_at(rows, SFT, "replicate")
        for rule in rules
        for rate in rates
    ]


@final
class MethodsDesign(Design):
    """The paper's Tables 1 and 2: all methods on the same data, seeds and budget."""

    def __init__(self, plan: Plan, mask_ratio: float) -> None:
        super().__init__(plan)
        self.mask_ratio = mask_ratio

    def settings(self) -> list[Setting]:
        """What is trained; Random Mask has GMT's mask ratio."""
        masked = [Setting("random", self.mask_ratio), Setting("gmt", self.mask_ratio)]
        return [SFT, Setting("hft", 0.0), *masked]

    def further(self, rows: Rows) -> list[DesignPoint]:
        """The base model once, and One-off Drop of each SFT model at GMT's mask ratio."""
        interval, rate = self.plan.combinations[0]
        base = DesignPoint("pretrained", 0.0, interval, rate, self.plan.seed, "replicate")
        return [base, *dropped(rows, ("drop_trivial",), (self.mask_ratio,))]

    def keeps_model(self, row: TrialRow, rows: Rows) -> bool:
        """Every replicate is tested."""
        return row.stage == "replicate"

    def tested(self, rows: Rows) -> list[TrialRow]:
        """Every replicate of every method."""
        return [r for r in rows if r.state == "finished" and r.stage == "replicate"]


@final
class DropDesign(Design):
    """The paper's Figure 3: what of an SFT update can be dropped, without training again."""

    def __init__(self, plan: Plan, rates: tuple[float, ...]) -> None:
        super().__init__(plan)
        self.rates = tuple(sorted(rates))

    def settings(self) -> list[Setting]:
        """SFT alone is trained."""
        return [SFT]

    def further(self, rows: Rows) -> list[DesignPoint]:
        """The smallest, random and the largest parts of each update, dropped at each rate."""
        return dropped(rows, DROPS, self.rates)

    def keeps_model(self, row: TrialRow, rows: Rows) -> bool:
        """The SFT models, from which all others follow."""
        return row.stage == "replicate" and row.method == "sft"

    def tested(self, rows: Rows) -> list[TrialRow]:
        """None: nothing is chosen here, so validation items say it all."""
        return []


@final
class DataDesign(Design):
    """The methods on shares of the training rows, at the same number of examples seen."""

    arms = ("method", "train_fraction")

    def __init__(self, plan: Plan, mask_ratio: float, fractions: tuple[float, ...]) -> None:
        super().__init__(plan)
        self.mask_ratio, self.fractions = mask_ratio, tuple(sorted(fractions))

    def settings(self) -> list[Setting]:
        """Every trained method on every share."""
        ratios = {"sft": 0.0, "hft": 0.0, "random": self.mask_ratio, "gmt": self.mask_ratio}
        return [Setting(m, ratios[m], share) for share in self.fractions for m in ratios]

    def keeps_model(self, row: TrialRow, rows: Rows) -> bool:
        """None is used again."""
        return False

    def tested(self, rows: Rows) -> list[TrialRow]:
        """None: nothing is chosen here."""
        return []
