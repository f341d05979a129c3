"""Metrics: JSON lines, and Weights & Biases if configured."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from instructrl.config.training import TrainConfig
from instructrl.errors import InputError
from instructrl.storage.json_lines import LineFile
from instructrl.training.distributed.multihost import is_leader
from instructrl.training.monitoring.metric_files import METRICS_FILE, SPEED_FILE, Line, read_lines
from instructrl.training.run_dir import run_path

if TYPE_CHECKING:
    from wandb import Run


class Metrics:
    """Append {"step", "epoch", "split", ...} to metrics.jsonl, throughput to speed.jsonl, and both to W&B."""

    def __init__(self, run: Path, *, from_step: int, unfinished: bool = False, wandb_run: "Run | None" = None) -> None:
        """Open the files; lines after `from_step` are dropped, since those steps will be repeated.

        `unfinished`: the lines written at the end of the epoch at `from_step` will be repeated as well.

        Raises:
            InputError: one of the files is damaged; neither has changed then.
        """

        def is_final(line: Line) -> bool:
            repeated = unfinished and line["split"] not in ("step", "speed")
            return line["step"] < from_step or (line["step"] == from_step and not repeated)

        paths = [run / name for name in (METRICS_FILE, SPEED_FILE)]
        remaining = [[line for line in read_lines(path) if is_final(line)] for path in paths]  # before any is rewritten
        self._stack = ExitStack()
        self._file, self._speed_file = (
            self._stack.enter_context(LineFile(path, lines)) for path, lines in zip(paths, remaining, strict=True)
        )
        self.wandb_run = wandb_run

    def write(self, split: str, values: Mapping[str, float], *, step: int, epoch: float) -> None:
        """Write a line to metrics.jsonl; numbers become plain floats."""
        self._write(self._file, split, values, step=step, epoch=epoch)

    def write_speed(self, values: Mapping[str, float], *, step: int, epoch: float) -> None:
        """Write a line to speed.jsonl."""
        self._write(self._speed_file, "speed", values, step=step, epoch=epoch)

    def _write(self, file: LineFile, split: str, values: Mapping[str, float], *, step: int, epoch: float) -> None:
        numbers = {key: float(value) for key, value in values.items()}
        file.append({"step": step, "epoch": epoch, "split": split, **numbers})
        if self.wandb_run is not None:
            self.wandb_run.log({"global_step": step, "epoch": epoch, **{f"{split}/{k}": v for k, v in numbers.items()}})

    def log_images(self, images: Mapping[str, Path], *, step: int) -> None:
        """Log image files by name to W&B; they are already in the run directory."""
        if self.wandb_run is not None and images:
            import wandb

            self.wandb_run.log({"global_step": step, **{k: wandb.Image(str(path)) for k, path in images.items()}})

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, trace)


class NoMetrics(Metrics):
    """Metrics of processes other than the leader: nothing is written."""

    def __init__(self) -> None:
        pass

    def write(self, split: str, values: Mapping[str, float], *, step: int, epoch: float) -> None:
        """Do nothing."""

    def write_speed(self, values: Mapping[str, float], *, step: int, epoch: float) -> None:
        """Do nothing."""

    def log_images(self, images: Mapping[str, Path], *, step: int) -> None:
        """Do nothing."""


@contextmanager
def open_metrics(config: TrainConfig, run: Path, *, from_step: int, unfinished: bool = False) -> Iterator[Metrics]:
    """Open a run's `Metrics`, with a W&B run whose id is derived from the run directory."""
    if not is_leader():
        yield NoMetrics()
        return
    wandb_run = start_wandb(config, run) if config.wandb.mode != "off" else None
    metrics = Metrics(run, from_step=from_step, unfinished=unfinished, wandb_run=wandb_run)
    exit_code = 1
    try:
        with metrics:
            yield metrics
        exit_code = 0
    finally:
        if wandb_run is not None:
            wandb_run.finish(exit_code)


def start_wandb(config: TrainConfig, run: Path) -> "Run":
    """Start or resume the W&B run.

    Raises:
        InputError: W&B cannot be reached, or the login fails.
    """
    import dataclasses

    import wandb

    path = run_path(config)
    name = str(run.resolve() if isinstance(path, Path) else path)
    identity = hashlib.sha256(name.encode()).hexdigest()[:16]
    try:
        started = wandb.init(
            mode=config.wandb.mode,  # type: ignore[arg-type]
            project=config.wandb.project,
            entity=config.wandb.entity,
            group=config.wandb.group,
            id=identity,
            name=config.name,
            dir=str(run),
            resume="allow",
            job_type="train",
            config=dataclasses.asdict(config),
            settings=wandb.Settings(silent=True),
        )
        started.define_metric("*", step_metric="global_step")  # a resumed offline run counts its own steps from 0
        return started
    except wandb.Error as error:
        raise InputError(
            f"wandb.mode: found {config.wandb.mode}, but {error}; use wandb.mode=offline or run wandb login"
        ) from None
