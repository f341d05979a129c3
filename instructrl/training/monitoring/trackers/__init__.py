"""Programs that show a run's metrics: Weights & Biases, TensorBoard, Trackio."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path

from instructrl.config.training import TrainConfig
from instructrl.errors import InputError
from instructrl.training.monitoring.trackers.base import Tracker
from instructrl.training.monitoring.trackers.tensorboard import TensorBoardTracker
from instructrl.training.monitoring.trackers.trackio import TrackioTracker
from instructrl.training.monitoring.trackers.weights_and_biases import WandbTracker

TRACKERS: dict[str, Callable[[TrainConfig, Path], Tracker]] = {
    "wandb.mode": WandbTracker,
    "tensorboard.enabled": TensorBoardTracker,
    "trackio.enabled": TrackioTracker,
}  # by the setting that asks for it, which begins with the name of the package


def chosen_trackers(config: TrainConfig) -> list[str]:
    """The settings that ask for a tracker."""
    return [key for key in TRACKERS if attrgetter(key)(config) not in (False, "off")]


def check_trackers(config: TrainConfig) -> None:
    """Raise InputError if the package of a chosen tracker is not installed."""
    for key in chosen_trackers(config):
        package = key.partition(".")[0]
        if find_spec(package) is None:
            raise InputError(f"{key}: {package} is not installed; run pip install {package}, or leave the setting out")


@contextmanager
def open_trackers(config: TrainConfig, run: Path) -> Iterator[list[Tracker]]:
    """Start the chosen trackers; at the end they get the exit code of the training.

    Raises:
        InputError: one of them cannot start.
    """
    trackers: list[Tracker] = []
    exit_code = 1
    try:
        for key in chosen_trackers(config):
            trackers.append(TRACKERS[key](config, run))
        yield trackers
        exit_code = 0
    finally:
        for tracker in trackers:
            tracker.close(exit_code)
