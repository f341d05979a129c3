"""A stand-in for Trackio, which cannot be installed beside the pinned Pillow: what the suite uses of it.

Runs are kept in `PROJECTS`: by project and name, the lines that were logged.
"""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PROJECTS: dict[str, dict[str, list[dict[str, Any]]]] = {}
_current: list[tuple[str, str]] = []


class Image:
    """An image file, which is copied when it is logged."""

    def __init__(self, value: Path) -> None:
        self.size = len(value.read_bytes())


def init(
    project: str, name: str, *, group: str | None, space_id: str | None, config: dict, resume: str, embed: bool
) -> None:
    """Continue a run, or start it."""
    assert resume == "allow" and not embed and config and not _current
    PROJECTS.setdefault(project, {}).setdefault(name, [])
    _current.append((project, name))
    print("* Trackio project initialized")


def log(metrics: dict[str, Any], step: int) -> None:
    """Append a line to the current run."""
    project, name = _current[0]
    PROJECTS[project][name].append({**metrics, "step": step})


def finish() -> None:
    """End the current run."""
    _current.clear()


class Api:
    """The runs of the local database."""

    def runs(self, project: str) -> Iterator[Any]:
        """Iterate over the runs of a project.

        Raises:
            ValueError: there is no such project.
        """
        if project not in PROJECTS:
            raise ValueError(f"Project '{project}' does not exist")
        runs = PROJECTS[project]
        return iter([SimpleNamespace(name=name, delete=lambda name=name: runs.pop(name)) for name in runs])
