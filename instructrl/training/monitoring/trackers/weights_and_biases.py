"""Weights & Biases."""

import dataclasses
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from instructrl.config.training import TrainConfig
from instructrl.errors import InputError
from instructrl.training.monitoring.trackers.base import Logged, Tracker, run_identity

if TYPE_CHECKING:
    from wandb import Run

FOLDER = "wandb"  # in the run directory


class WandbTracker(Tracker):
    """A W&B run, whose id is derived from the run directory.

    A run that continues on W&B's server gets new lines. One that is written to a file for a later upload is always
    written from its beginning: `wandb sync` of several files of one run depends on their order and on what the server
    already has. The files before it are then removed.
    """

    def __init__(self, config: TrainConfig, run: Path) -> None:
        """Start or resume the W&B run.

        Raises:
            InputError: W&B cannot be reached, or the login fails.
        """
        self._replaced = offline_runs(run)
        pending = [folder for folder in self._replaced if not list(folder.glob("*.synced"))]
        self.incomplete = config.wandb.mode == "offline" or bool(pending)
        self._run = start_wandb(config, run, resume=not self.incomplete)

    def log(self, logged: Logged) -> None:
        """Log to W&B; images are copied into its files."""
        from wandb import Image

        images = {name: Image(str(path)) for name, path in logged.images.items()}
        self._run.log({"global_step": logged.step, **logged.numbers, **images})

    def replay(self, logged: Iterable[Logged]) -> None:
        """Log to W&B, and remove the offline files that this one replaces."""
        super().replay(logged)
        for folder in self._replaced:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self, exit_code: int) -> None:
        """Finish the W&B run."""
        self._run.finish(exit_code)


def offline_runs(run: Path) -> list[Path]:
    """Folders in a run directory with what W&B has logged offline, in the order of their time."""
    return sorted(run.glob(f"{FOLDER}/offline-run-*"))


def start_wandb(config: TrainConfig, run: Path, *, resume: bool) -> "Run":
    """Start the W&B run; `resume`: or continue it, else one that is on the server is overwritten.

    Raises:
        InputError: W&B cannot be reached, or the login fails.
    """
    import wandb

    try:
        started = wandb.init(
            mode=config.wandb.mode,  # type: ignore[arg-type]
            project=config.wandb.project,
            entity=config.wandb.entity,
            group=config.wandb.group,
            id=run_identity(config, run),
            name=config.name,
            dir=str(run),
            resume="allow" if resume else None,
            job_type="train",
            config=dataclasses.asdict(config),
            settings=wandb.Settings(silent=True),
        )
        started.define_metric("*", step_metric="global_step")  # a resumed run counts its own steps from 0
        return started
    except wandb.Error as error:
        raise InputError(
            f"wandb.mode: found {config.wandb.mode}, but {error}; use wandb.mode=offline or run wandb login"
        ) from None
