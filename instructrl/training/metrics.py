"""Metrics: JSON lines always, Weights & Biases where asked."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from instructrl.config import TrainConfig
from instructrl.errors import InputError, RunError
from instructrl.training.processes import is_first
from instructrl.training.run_directory import run_place, write_atomically

SPEED = "speed.jsonl"  # numbers of the machine; those of metrics.jsonl are the same in every start of a run


class Metrics:
    """Appends {"step", "epoch", "split", ...} to metrics.jsonl, what was measured to speed.jsonl, and both to W&B."""

    def __init__(self, run: Path, *, from_step: int, unfinished: bool = False, wandb_run: Any = None) -> None:
        """Keep the lines up to `from_step`: later ones are of steps that will be taken again.

        `unfinished`: so will be what is written at the end of an epoch, although all its steps were taken.
        """
        names = ("metrics.jsonl", SPEED)
        self.file, self.speed_file = (continued(run / name, from_step, unfinished=unfinished) for name in names)
        self.wandb_run = wandb_run

    def write(self, split: str, values: dict[str, Any], *, step: int, epoch: float) -> None:
        """One line of metrics.jsonl; numbers become plain floats."""
        self._write(self.file, split, values, step=step, epoch=epoch)

    def write_speed(self, values: dict[str, Any], *, step: int, epoch: float) -> None:
        """One line of speed.jsonl."""
        self._write(self.speed_file, "speed", values, step=step, epoch=epoch)

    def _write(self, file: TextIO, split: str, values: dict[str, Any], *, step: int, epoch: float) -> None:
        numbers = {key: float(value) for key, value in values.items()}
        try:
            file.write(json.dumps({"step": step, "epoch": epoch, "split": split, **numbers}) + "\n")
        except OSError as error:
            raise RunError(
                f"{file.name}: {error.strerror} at step {step}; make room and give the command again"
            ) from None
        if self.wandb_run is not None:
            self.wandb_run.log({"global_step": step, "epoch": epoch, **{f"{split}/{k}": v for k, v in numbers.items()}})

    def show(self, pictures: Mapping[str, Path], *, step: int) -> None:
        """Pictures by their names, to W&B; they are in the run already."""
        if self.wandb_run is not None and pictures:
            import wandb

            self.wandb_run.log({"global_step": step, **{k: wandb.Image(str(path)) for k, path in pictures.items()}})

    def close(self) -> None:
        """Flush and close."""
        self.file.close()
        self.speed_file.close()


def continued(path: Path, from_step: int, *, unfinished: bool) -> TextIO:
    """A file of lines, open behind the last one that is not of a later step, or of an end of this one to come."""

    def stays(line: dict[str, Any]) -> bool:
        again = unfinished and line["split"] not in ("step", "speed")
        return line["step"] < from_step or (line["step"] == from_step and not again)

    kept = [line for line in read_lines(path) if stays(line)]
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))
    return path.open("a", buffering=1)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a metrics file; none if there is no file. A torn last line is left out."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


class NoMetrics(Metrics):
    """What the processes besides the first one write."""

    def __init__(self) -> None:
        pass

    def write(self, split: str, values: dict[str, Any], *, step: int, epoch: float) -> None:
        """Nothing."""

    def write_speed(self, values: dict[str, Any], *, step: int, epoch: float) -> None:
        """Nothing."""

    def show(self, pictures: Mapping[str, Path], *, step: int) -> None:
        """Nothing."""


@contextmanager
def open_metrics(config: TrainConfig, run: Path, *, from_step: int, unfinished: bool = False) -> Iterator[Metrics]:
    """The metrics of a run (see `Metrics`), with a W&B run whose id follows from the run directory."""
    if not is_first():
        yield NoMetrics()
        return
    wandb_run = start_wandb(config, run) if config.wandb.mode != "off" else None
    metrics = Metrics(run, from_step=from_step, unfinished=unfinished, wandb_run=wandb_run)
    exit_code = 1
    try:
        yield metrics
        exit_code = 0
    finally:
        metrics.close()
        if wandb_run is not None:
            wandb_run.finish(exit_code)


def start_wandb(config: TrainConfig, run: Path) -> Any:
    """A W&B run; a failing log-in is an InputError."""
    import dataclasses

    import wandb

    kept = run_place(config)
    name = str(run.resolve() if isinstance(kept, Path) else kept)
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
