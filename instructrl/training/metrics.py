"""Metrics: JSON lines always, Weights & Biases where asked."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from instructrl.config import TrainConfig
from instructrl.errors import InputError, RunError
from instructrl.training.run_directory import run_place, write_atomically


class Metrics:
    """Appends {"step", "epoch", "split", ...} to metrics.jsonl and hands the same to W&B."""

    def __init__(self, run: Path, *, from_step: int, wandb_run: Any = None) -> None:
        """Keep the lines up to `from_step`: later ones are of steps that will be taken again."""
        path = run / "metrics.jsonl"
        kept = [line for line in read_lines(path) if line["step"] <= from_step]
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))
        self.file = path.open("a", buffering=1)
        self.wandb_run = wandb_run

    def write(self, split: str, values: dict[str, Any], *, step: int, epoch: float) -> None:
        """One line; numbers become plain floats."""
        numbers = {key: float(value) for key, value in values.items()}
        try:
            self.file.write(json.dumps({"step": step, "epoch": epoch, "split": split, **numbers}) + "\n")
        except OSError as error:
            raise RunError(
                f"{self.file.name}: {error.strerror} at step {step}; make room and give the command again"
            ) from None
        if self.wandb_run is not None:
            self.wandb_run.log({"global_step": step, "epoch": epoch, **{f"{split}/{k}": v for k, v in numbers.items()}})

    def close(self) -> None:
        """Flush and close."""
        self.file.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a metrics file; none if there is no file. A torn last line is left out."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


@contextmanager
def open_metrics(config: TrainConfig, run: Path, *, from_step: int) -> Iterator[Metrics]:
    """The metrics of a run, with a W&B run whose id follows from the run directory."""
    wandb_run = start_wandb(config, run) if config.wandb.mode != "off" else None
    metrics = Metrics(run, from_step=from_step, wandb_run=wandb_run)
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
