"""How a paper stands: each of its studies, which are sweeps of their own, and the whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

from sweeps.config import SweepConfig
from sweeps.display.status import SweepStatus, status
from sweeps.display.status_view import body
from sweeps.folder.drivers import Driver, living_drivers
from sweeps.folder.load import load_config
from sweeps.folder.place import StudyPlace, place_of
from sweeps.search.records import Records

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


def is_paper(config: SweepConfig) -> bool:
    """Whether what has this name is a paper that runs, or has studies on record."""
    place = place_of(config)
    if place.optuna_file().is_file():
        return False
    runs = any(driver.is_paper for driver in living_drivers(place.folder))
    return runs or any(_is_on_record(study) for study in _places(config).values())


def paper_status(config: SweepConfig) -> PaperStatus:
    """How the paper stands now."""
    folder, places = place_of(config).folder, _places(config)
    drivers = tuple(living_drivers(folder))
    begun = [place for place in places.values() if _is_on_record(place)]
    studies = tuple(status(Records(load_config(place.folder))) for place in begun)
    to_come = tuple(name for name, place in places.items() if place not in begun)
    page = folder / "paper" / "report.html"
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


def paper_view(found: PaperStatus, again: str) -> list[RenderableType]:
    """What is shown, from top to bottom; ``again``: what to type to go on."""
    lines: list[RenderableType] = [_headline(found)]
    for one in found.studies:
        lines += ["", *body(one)]
    if found.to_come:
        lines += ["", f"still to begin: {', '.join(found.to_come)}"]
    if found.report:
        lines += ["", f"report over all: {found.report}"]
    return [*lines, *([f"to go on: {again}"] if found.state == "stopped" else [])]


def _headline(found: PaperStatus) -> str:
    if found.drivers:
        return f"`paper` runs {found.name}, by {'; '.join(map(str, found.drivers))}."
    said = "is complete" if found.state == "complete" else "does not run"
    return f"The paper {found.name} {said}."


def _places(config: SweepConfig) -> dict[str, StudyPlace]:
    """Where the studies lie, or will, by name."""
    home = place_of(config).folder
    names = [f"{config.name}-{kind}" for kind in config.study.paper]
    return {name: StudyPlace(home.with_name(name)) for name in names}


def _is_on_record(place: StudyPlace) -> bool:
    return place.config_file().is_file() and place.optuna_file().is_file()
