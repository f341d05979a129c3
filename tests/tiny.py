"""A run small enough for tests: few real demonstrations, small images, a small agent."""

from pathlib import Path
from typing import Any

from instructrl.command import compose
from instructrl.config import SimConfig, TrainConfig
from instructrl.data.format import Header
from instructrl.data.writer import Writer
from instructrl.interruption import handle_signals
from instructrl.sim import EpisodeStart, make_env

OVERRIDES = (
    "experiment=quickstart",
    "task.episodes=12",
    "task.val_episodes=4",
    "sim.image_size=32",
    "sim.cameras=[front,left_shoulder]",
    "sim.renderer=raycast",
    "encoder.dim=16",
    "encoder.depth=1",
    "policy.dim=16",
    "policy.heads=2",
    "head.dim=16",
    "training.epochs=4",
    "training.batch_size=5",
    "hardware.local_devices=1",
    "data.dir={data}",
    "output_dir={out}",
)


def overrides(folder: Path, *more: str) -> list[str]:
    """Command-line settings of a tiny run with data and outputs in a folder."""
    paths = {"data": folder / "data", "out": folder / "outputs"}
    return [entry.format(**paths) for entry in OVERRIDES] + list(more)


def config(folder: Path, *more: str) -> TrainConfig:
    """The resolved configuration of a tiny run."""
    return compose("train", TrainConfig, overrides(folder, *more))


def trained(folder: Path, data: dict[str, list[Path]], *more: str, rollout: Any = None) -> Path:
    """Train a tiny run to its end; returns its directory."""
    from instructrl.training.loop import train
    from instructrl.training.run_directory import open_run

    settings = config(folder, *more)
    run = open_run(settings)
    with handle_signals():
        train(settings, run, data=data, rollout=rollout)
    return run


def demonstrations(folder: Path, *, task: str = "pick_and_lift", seed: int = 0) -> dict[str, list[Path]]:
    """Collect a task's splits train (12 episodes) and val (4); returns their files."""
    sim = SimConfig(cameras=["front", "left_shoulder"], image_size=32, renderer="raycast")
    env = make_env(sim, task)
    files = {}
    for split, count, first in (("train", 12, seed), ("val", 4, seed + 1000)):
        path = folder / f"{split}.hdf5"
        files[split] = [path]
        header = Header(task, split, tuple(sim.cameras), sim.image_size, env.provenance())
        with Writer(path, header) as writer:
            for index in range(count):
                writer.add(env.demonstrate(EpisodeStart(index % env.variations, first + index))[0])
    env.close()
    return files
