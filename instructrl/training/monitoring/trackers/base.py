"""The interface of trackers, which show the metrics of a run."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from instructrl.config.training import TrainConfig
from instructrl.training.run_dir import run_path


class Logged(NamedTuple):
    """Metrics, and images by name, of one step of a run.

    Attributes:
        values: by name, with the split before it: "train/loss".
        images: files in the run directory.
    """

    step: int
    epoch: float | None
    values: Mapping[str, float]
    images: Mapping[str, Path]

    @property
    def numbers(self) -> dict[str, float]:
        """The values, and the epoch if there is one."""
        return {**self.values, **({} if self.epoch is None else {"epoch": self.epoch})}


class Tracker(ABC):
    """A program outside of the run directory that shows metrics, such as Weights & Biases.

    Attributes:
        incomplete: True if it does not hold what the run has logged so far, which it is then given by `replay`.
    """

    incomplete: bool

    @abstractmethod
    def log(self, logged: Logged) -> None:
        """Show metrics and images."""

    @abstractmethod
    def close(self, exit_code: int) -> None:
        """Write what is not written yet. `exit_code`: of the training, 0 if it has ended as it should."""

    def replay(self, logged: Iterable[Logged]) -> None:
        """Show what the run has logged so far, from its beginning."""
        for one in logged:
            self.log(one)


def run_identity(config: TrainConfig, run: Path) -> str:
    """A name for a run directory, wherever the run is called so: 16 hexadecimal digits."""
    path = run_path(config)
    name = str(run.resolve() if isinstance(path, Path) else path)
    return hashlib.sha256(name.encode()).hexdigest()[:16]
