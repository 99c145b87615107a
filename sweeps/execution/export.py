"""Export the best trial of a study: a single run's YAML and a Hugging Face model folder."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import yaml

from sweeps.config.search_space import Point
from sweeps.config.study_identity import git_commit
from sweeps.config.sweep_config import SweepConfig, paths_for, resolve_paths
from sweeps.config.trial_keys import shown
from sweeps.execution.test_scoring import TestScores
from sweeps.finetune.data_config import DataConfig
from sweeps.finetune.divergence import DivergedError, check_model_folder
from sweeps.finetune.finetune_config import ModelConfig
from sweeps.finetune.row_sources import is_on_hub
from sweeps.report.arms import Interval, winner
from sweeps.report.trial_row import COUNT, SCORE, STANDARD_ERROR, ScoreLabel, TrialRow
from sweeps.search.design import DesignPoint
from sweeps.search.trial_records import Records, best_row, label_of
from sweeps.storage.command_line import PROGRAM
from sweeps.storage.errors import UserError
from sweeps.storage.remote_sync import copy_folder

NORMAL_95 = 1.959964


@final
@dataclass(frozen=True)
class Exported:
    """One domain's export: `config` of a single run; `model` is None if its weights are gone."""

    config: Path
    model: Path | None


def export(config: SweepConfig, folder: Path) -> dict[str, Exported]:
    """Write ``FOLDER/DOMAIN/run.yaml`` and ``FOLDER/DOMAIN/model`` for each domain.

    A search exports its best trial. A sensitivity study exports the best masked ratio, trained
    on the first fresh seed, so that the model is not the luckiest of several seeds.

    Raises:
        UserError: nothing has finished, a target exists already, or weights are not finite.
    """
    found = {}
    for domain, rows in Records(config).begun().items():
        if (row := chosen(config, rows)) is None:
            raise UserError(f"domain '{domain}': no finished trial to export yet")
        if (folder / domain).exists():
            raise UserError(f"{folder / domain} already exists: give another folder, or remove it")
        found[domain] = row
    try:
        return {
            domain: _export(config, domain, row, folder / domain) for domain, row in found.items()
        }
    except OSError as error:
        said = (
            f"cannot be written ({error.strerror or error}); give a folder that you can write to"
        )
        raise UserError(f"{folder}: {said}") from error


def _export(config: SweepConfig, domain: str, row: TrialRow, folder: Path) -> Exported:
    folder.mkdir(parents=True)
    run = folder / "run.yaml"
    run.write_text(run_yaml(config, domain, row), encoding="utf-8")
    place = paths_for(resolve_paths(config))
    if not copy_folder(place, place.model(domain, row.key), folder / "model"):
        return Exported(run, None)
    try:
        check_model_folder(folder / "model")
    except DivergedError as error:
        shutil.rmtree(folder)
        raise UserError(
            f"domain '{domain}': trial {row.number} was not exported because it diverged: {error}"
        ) from None
    scores = TestScores.read(place.study(domain))
    roles = [role for role, key in scores.keys.items() if key == row.key]
    entries = scores.entries[roles[0]] if roles else {}
    card = model_card(config, domain, row, entries)
    (folder / "model" / "README.md").write_text(card, encoding="utf-8")
    return Exported(run, folder / "model")


def chosen(config: SweepConfig, rows: tuple[TrialRow, ...]) -> TrialRow | None:
    """The trial to export, chosen on validation items."""
    if config.study.kind != "sensitivity":
        return best_row(rows)
    ratio = winner(config.study.ratios, rows, config.training.method)
    fresh = [
        row
        for row in rows
        if row.stage == "fresh" and row.mask_ratio == ratio and row.state == "finished"
    ]
    return min(fresh, key=lambda row: row.seed, default=None)


def run_yaml(config: SweepConfig, domain: str, row: TrialRow) -> str:
    """The trial as a configuration for `finetune`, with the paths of the sweep."""
    point: Point = {**DesignPoint.of(row).params(), **row.others}
    is_drawn = config.space_of(domain).method is not None
    if not row.stage and not is_drawn:  # the method comes from the sweep
        del point["method"]
    tree: dict[str, Any] = config.trial(domain, point).model_dump(mode="json", exclude_none=True)
    if config.data_root is not None:
        tree["data_root"] = config.data_root
    tree["folder"] = f"runs/{config.name}-{domain}"
    head = f"# {config.name}, {domain}: trial {row.number}, {row.key}. {PROGRAM} finetune\n"
    return head + yaml.safe_dump(tree, sort_keys=False)


def model_card(
    config: SweepConfig, domain: str, row: TrialRow, entries: Mapping[str, float]
) -> str:
    """A Hugging Face model card: data, method, scores with intervals, commit.

    Its metadata name base model and data set if they are on the hub, which refuses other names.
    """
    parts, label = config.domains[domain], label_of(config, domain)
    examples = row.others.get("examples") or parts.examples or config.training.examples
    sources = list(parts.data.parts().values())
    base: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    base["tags"] = ["gmt"]
    if is_on_hub(config.model.path):
        base["base_model"] = config.model.path
    if on_hub := [source.path for source in sources if is_on_hub(source.path)]:
        base["datasets"] = on_hub
    ratio = f"mask ratio {row.mask_ratio:g}"
    methods = {
        "hft": "Half Fine-Tuning (HFT)",
        "gmt": f"Gradient-Mask Tuning (arXiv 2406.15330), {ratio}",
        "random": f"random masking, {ratio}",
        "lora": "LoRA (arXiv 2106.09685), merged; the adapter is in `adapter`",
        "shira": f"SHiRA, a random mask held throughout (arXiv 2406.13175), {ratio}",
    }
    method = "ordinary fine-tuning (SFT)" if row.is_sft() else methods[row.method]
    own = row.scores[0] if row.scores else row.score  # this model's, not its point's mean
    lines = [
        "---",
        yaml.safe_dump(base, sort_keys=False).rstrip(),
        "---",
        f"# {config.name}: {domain}",
        "",
        f"- Base model: {_at_revision(config.model)}, trained as {config.model.dtype}",
        f"- Training data: {', '.join(map(_at_revision, sources))}, {examples} examples seen",
        f"- Method: {method}, accumulation interval {row.accumulation_interval}, learning rate "
        f"{row.learning_rate:.3g}, "
        + "".join(f"{name} {shown(value)}, " for name, value in row.others.items())
        + f"seed {row.seed}",
        f"- Code: commit {git_commit()}",
        "",
        "| scored on | score | 95 % interval | items |",
        "|---|---|---|---|",
        f"| validation, {label.text} | {label.number(own)} | | |",
        *_test_lines(label, entries),
        "",
        "The configuration was selected on validation items; the test items were read once, "
        "afterwards. The interval is over items: it does not cover other seeds. The licenses of "
        "the base model and of the training data apply.",
        "",
    ]
    return "\n".join(lines)


def _at_revision(source: ModelConfig | DataConfig) -> str:
    at = "" if source.revision is None else f" at revision `{source.revision}`"
    return f"`{source.path}`{at}"


def _test_lines(label: ScoreLabel, entries: Mapping[str, float]) -> list[str]:
    lines = []
    for name in sorted({key.rpartition("/")[0] for key in entries}):
        score = entries[f"{name}/{SCORE}"]
        reach = NORMAL_95 * entries.get(f"{name}/{STANDARD_ERROR}", math.nan)
        ends = Interval(score, label.within(score - reach), label.within(score + reach))
        span = label.interval(ends)
        count = entries[f"{name}/{COUNT}"]
        lines.append(f"| test items of {name} | {label.number(score)} | {span} | {count:.0f} |")
    return lines
