"""The operational log of a sweep: ``driver.log`` in its folder, written by the driver.

It holds what the terminal tells in a line at most: each lost worker group, each retry with its
cause, failed trials, and the warnings of Ray Train and Ray Tune.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import final

from sweeps.config.study_identity import git_commit
from sweeps.storage.study_paths import save_links, ways_to
from sweeps.storage.trial_files import last_lines

LOG = logging.getLogger("sweeps.driver")
LEVELS = {
    "sweeps": logging.INFO,
    "ray.train": logging.WARNING,
    "ray.tune": logging.WARNING,
    # It misses Tune's own result files, which our trials do not write.
    "ray.tune.analysis": logging.ERROR,
}
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
TROUBLE = ("WARNING", "ERROR", "CRITICAL")
_TAIL_BYTES = 65536


@final
class _LogFile(logging.FileHandler):
    """Drops records on a full disk, which must not end the sweep or print tracebacks."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Drop the record."""

    def close(self) -> None:
        """Close the file; what could not be written is dropped here, too."""
        with suppress(OSError):
            super().close()


@contextmanager
def driver_log(file: Path, name: str) -> Iterator[None]:
    """While the block runs, append to ``file`` what this process logs about the sweep ``name``.

    Ray's loggers write there instead of to the terminal. Errors that leave the block are logged.
    """
    handler = _LogFile(file, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter(FORMAT))
    before = {each: _redirect(each, level, handler) for each, level in LEVELS.items()}
    try:
        LOG.info("sweep %s starts, code %s", name, git_commit())
        yield
        LOG.info("sweep %s ends", name)
    except KeyboardInterrupt:
        LOG.info("sweep %s was stopped", name)
        raise
    except BaseException as error:
        LOG.error("sweep %s failed: %s: %s", name, type(error).__name__, error)
        raise
    finally:
        for each, (level, propagates) in before.items():
            logger = logging.getLogger(each)
            logger.removeHandler(handler)
            logger.level, logger.propagate = level, propagates
        handler.close()


def _redirect(name: str, level: int, handler: logging.Handler) -> tuple[int, bool]:
    """Send a logger's records to ``handler``; returns its level and whether it propagated."""
    logger = logging.getLogger(name)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)
    if name.startswith("ray."):  # the handler of the logger "ray" prints on the terminal
        logger.propagate = False
    return before


def publish_links(study: Path, links: Mapping[str, str]) -> None:
    """Keep the tracker's links of a study, in its folder and in the log."""
    save_links(study, links)
    for label, way in ways_to(links, study.parent).items():
        LOG.info("%s: %s: %s", study.name, label, way)


def latest_trouble(file: Path) -> str:
    """The last warning or error of a driver's log, its time first; empty without one."""
    for line in reversed(last_lines(file, _TAIL_BYTES)):
        parts = line.decode(errors="replace").split(" ", 3)  # date, time, level, rest; see FORMAT
        if len(parts) == 4 and parts[2] in TROUBLE:
            return f"{parts[0]} {parts[1].partition(',')[0]}  {parts[3]}"
    return ""
