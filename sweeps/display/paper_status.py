"""How a paper stands: each of its studies, which are sweeps of their own, and the whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

from sweeps.config import SweepConfig
from sweeps.display.status import SweepStatus, status
from sweeps.display.status_view import body, way_on
from sweeps.folder.drivers import Driver, living_drivers
from sweeps.folder.load import load_config
from sweeps.folder.paper_place import report_folder, study_name, study_place
from sweeps.folder.place import place_of
from sweeps.folder.stored import refresh
from sweeps.search.records import Records
from sweeps.settings.study_config import Kind

if TYPE_CHECKING:
    from rich.console import RenderableType


@final
@dataclass(frozen=True)
class PaperStatus:
    """A paper. `studies` have begun, those that `to_come` names have not."""

    name: str
    folder: str
    state: Literal["running", "complete", "stopped"]
    drivers: tuple[Driver, ...]
    studies: tuple[SweepStatus, ...]
    to_come: tuple[str, ...]
    report: str | None


def paper_status(config: SweepConfig) -> PaperStatus:
    """How the paper stands now."""
    folder, page = place_of(config).folder, report_folder(config) / "report.html"
    for place in (place_of(config), *(study_place(config, kind) for kind in config.study.paper)):
        refresh(place)
    drivers = tuple(living_drivers(folder))
    begun = [kind for kind in config.study.paper if _is_on_record(config, kind)]
    places = [study_place(config, kind).folder for kind in begun]
    studies = tuple(status(Records(load_config(place))) for place in places)
    to_come = tuple(study_name(config, k) for k in config.study.paper if k not in begun)
    is_over = not to_come and page.is_file() and {one.state for one in studies} == {"complete"}
    return PaperStatus(
        name=config.name,
        folder=str(folder),
        state="running" if drivers else "complete" if is_over else "stopped",
        drivers=drivers,
        studies=studies,
        to_come=to_come,
        report=str(page) if page.is_file() else None,
    )


def paper_view(found: PaperStatus) -> list[RenderableType]:
    """What is shown, from top to bottom."""
    lines: list[RenderableType] = [_headline(found)]
    for one in found.studies:
        lines += ["", *body(one)]
    if found.to_come:
        lines += ["", f"still to begin: {', '.join(found.to_come)}"]
    if found.report:
        lines += ["", f"report over all: {found.report}"]
    return [*lines, *([way_on(found.folder)] if found.state == "stopped" else [])]


def _headline(found: PaperStatus) -> str:
    if found.drivers:
        return f"`paper` runs {found.name}, by {'; '.join(map(str, found.drivers))}."
    said = "is complete" if found.state == "complete" else "does not run"
    return f"The paper {found.name} {said}."


def _is_on_record(config: SweepConfig, kind: Kind) -> bool:
    place = study_place(config, kind)
    return place.config_file().is_file() and place.begun_file().is_file()
