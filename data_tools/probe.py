"""python -m data_tools.probe encoder=m3ae_tiny: what an encoder's frozen features know, beside those of random weights.

Linear functions are fitted in closed form to the features of scenes and judged on other scenes:

colour, from the pooled features   of a thing that the sentence names by its place ("the ball at the left")
colour, from its patch             the same, from the features of the patch in which the thing is
position, pooled and patches       of the thing that the instruction asks for ("reach the red ball"): R2 and centimetres

Settings are those of train.py (encoder, sim, hardware ...) and these: tasks=[reach_target,push_button] scenes=1500
test_scenes=500 seeds=3 seed=0 out=FILE.json. `seeds` are random encoders and divisions of the scenes.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_tools.parser import settings
from data_tools.probe_scenes import TASKS, ProbeScenes, Scene
from data_tools.ridge import accuracy, explained, predicted
from instructrl import __version__
from instructrl.command import compose
from instructrl.config import TrainConfig
from instructrl.errors import InputError, RunError, one_line_errors
from instructrl.models.weights import read_checksum, weights_path
from instructrl.schema import number, words
from instructrl.sim.graphics import available_renderer
from instructrl.sim.workers import WorkerFailure, Workers, worker_count

PROG = "python -m data_tools.probe"
FINEST = 8  # patches along a picture's side; finer ones are averaged
OURS = ("tasks", "scenes", "test_scenes", "seeds", "scene_seed", "out")


@dataclass
class ProbeConfig:
    """What the probe does; the rest of its settings are TrainConfig's."""

    tasks: list[str] = words("reach_target", "push_button", choices=TASKS)
    scenes: int = number(1500, low=10, high=100_000)  # to which is fitted
    test_scenes: int = number(500, low=10, high=100_000)  # on which is judged
    seeds: int = number(3, low=1, high=100)
    scene_seed: int = number(0, low=0, high=1000)  # other seeds are other scenes
    out: str | None = None  # a JSON file


@dataclass(frozen=True)
class Row:
    """One probe: its values for each seed."""

    task: str
    what: str
    unit: str
    pretrained: list[float]
    random: list[float]
    nothing: float  # the best answer without looking
    more_is_better: bool = True

    @property
    def margin(self) -> float:
        """By how much the pretrained features are better in the mean."""
        gap = float(np.mean(self.pretrained) - np.mean(self.random))
        return gap if self.more_is_better else -gap


def probe(asked: ProbeConfig, config: TrainConfig) -> list[Row]:
    """All rows, of all tasks.

    Raises:
        InputError: the encoder has no weights, or the settings do not fit.
    """
    check(asked, config)
    from data_tools.probe_features import Encoders

    encoders = Encoders(config)
    rows = []
    for task in asked.tasks:
        scenes = made(asked, config, task)
        known = {"pretrained": encoders.features(scenes, seed=None, finest=FINEST)}
        rows += judged(task, scenes, asked, known["pretrained"], encoders)
    return rows


def check(asked: ProbeConfig, config: TrainConfig) -> None:
    """Raise InputError for what would only be found after the work."""
    if config.encoder.weights is None:
        raise InputError(
            f"encoder: found {config.encoder.name}, which has no weights; allowed: one with weights in a file, such as "
            "encoder=m3ae_tiny, or encoder.weights=FILE"
        )
    if config.sim.kind != "tabletop":
        raise InputError(f"sim: found {config.sim.name}; allowed: tabletop, whose scenes say where things are")
    if asked.out is not None:
        with writable(Path(asked.out).expanduser()) as folder:
            folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def writable(path: Path) -> Iterator[Path]:
    """Around what writes a file, whose folder this is.

    Raises:
        InputError: it cannot be written.
    """
    try:
        yield path.parent
    except OSError as error:
        raise InputError(f"out: {path} cannot be written ({error.strerror}); choose another file") from None


def judged(task: str, scenes: list[Scene], asked: ProbeConfig, pretrained: Any, encoders: Any) -> list[Row]:
    """The rows of a task."""
    values: dict[str, dict[str, list[float]]] = {"pretrained": {}, "random": {}}
    for seed in range(asked.seeds):
        order = np.random.default_rng((asked.scene_seed, seed)).permutation(len(scenes))
        parts = order[: asked.scenes], order[asked.scenes :]
        random = encoders.features(scenes, seed=seed, finest=FINEST)
        for whose, features in (("pretrained", pretrained), ("random", random)):
            for name, value in scores(features, scenes, *parts).items():
                values[whose].setdefault(name, []).append(value)
    nothing = blind(scenes)
    return [
        Row(task, name, unit, values["pretrained"][name], values["random"][name], nothing[unit], unit != "cm")
        for name in values["random"]
        for unit in [name.rpartition(", ")[2]]
    ]


def scores(
    features: dict[str, np.ndarray], scenes: list[Scene], train: np.ndarray, test: np.ndarray
) -> dict[str, float]:
    """Every probe's value for one kind of features and one division of the scenes."""
    colors = np.unique([scene.color for scene in scenes], return_inverse=True)[1]
    places = np.stack([scene.position for scene in scenes])
    found = {}
    for name in ("colour, pooled", "colour, its patch"):
        x = features[name]
        found[f"{name}, accuracy"] = accuracy(x[train], colors[train], x[test], colors[test])
    for name in ("position, pooled", "position, patches"):
        x = features[name]
        said = predicted(x[train], places[train], x[test])
        found[f"{name}, R2"] = explained(said, places[test])
        found[f"{name}, cm"] = float(100 * np.linalg.norm(said - places[test], axis=1).mean())
    return found


def blind(scenes: list[Scene]) -> dict[str, float]:
    """What the most frequent colour and the mean position would score."""
    counts = np.unique([scene.color for scene in scenes], return_counts=True)[1]
    places = np.stack([scene.position for scene in scenes])
    away = float(100 * np.linalg.norm(places - places.mean(axis=0), axis=1).mean())
    return {"accuracy": float(counts.max() / counts.sum()), "R2": 0.0, "cm": away}


def made(asked: ProbeConfig, config: TrainConfig, task: str) -> list[Scene]:
    """The first scenes of the seed that are of use, in order."""
    config.sim.renderer = available_renderer(config.sim.renderer)
    wanted, found = asked.scenes + asked.test_scenes, list[Scene]()
    recipe = partial(ProbeScenes, config.sim, task, asked.scene_seed)
    with (
        Workers(recipe, worker_count(config.sim.workers), timeout=config.sim.timeout) as workers,
        tqdm(desc=f"{task} scenes", total=wanted, unit=" scenes", disable=None) as bar,
    ):
        for scene in in_order(workers, lambda: len(found) < wanted):
            if scene is not None and len(found) < wanted:
                found.append(scene)
                bar.update()
    return found


def in_order(workers: Workers, goes_on: Any) -> Iterator[Scene | None]:
    """Scenes by their numbers, as long as it is said to go on."""

    def counted() -> Iterator[tuple[int]]:
        place = 0
        while goes_on():
            yield (place,)
            place += 1

    results, turn = dict[int, Any](), 0
    for index, result in workers.map("scene", counted()):
        if isinstance(result, WorkerFailure):
            raise RunError(f"scene {index}: {result.reason}")
        results[index] = result
        while turn in results:
            yield results.pop(turn)
            turn += 1


def table(rows: list[Row]) -> str:
    """The rows for people."""
    lines = ["| task | probe | pretrained | random weights | margin | without looking |", "|---|---|---|---|---|---|"]
    for row in rows:
        digits = 1 if row.unit == "cm" else 3
        means = (
            f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}" for values in (row.pretrained, row.random)
        )
        lines.append(
            f"| {row.task} | {row.what} | {' | '.join(means)} | {row.margin:+.{digits}f} | {row.nothing:.{digits}f} |"
        )
    return "\n".join(lines)


def run(given: list[str]) -> None:
    """Do what the words of a command line ask for.

    Raises:
        InputError: one of them is wrong.
    """
    if {"-h", "--help"} & set(given):
        print((__doc__ or "").strip())
        return
    heads = [word for word in given if word.partition("=")[0].partition(".")[0] == "head"]
    if heads:
        raise InputError(f"head: found {heads[0]}; leave it out: all features are probed, whatever the head")
    own = [word for word in given if word.partition("=")[0] in OURS]
    asked = settings(own, ProbeConfig, prog=PROG)
    config = compose("train", TrainConfig, ["head=spatial", *(word for word in given if word not in own)])
    rows = probe(asked, config)
    print(table(rows))
    if asked.out is not None:
        write(Path(asked.out).expanduser(), asked, config, rows)


def write(path: Path, asked: ProbeConfig, config: TrainConfig, rows: list[Row]) -> None:
    """Keep the values and what they were measured with.

    Raises:
        InputError: the file cannot be written.
    """
    weights = weights_path(config.encoder)
    content = {
        "command": PROG,
        "suite": __version__,
        "probe": asdict(asked),
        "encoder": asdict(config.encoder),
        "weights": weights and read_checksum(weights, kind=config.encoder.kind),
        "sim": asdict(config.sim),
        "rows": [asdict(row) | {"margin": row.margin} for row in rows],
    }
    with writable(path):
        temporary = path.with_name(f"{path.name}.tmp")
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        temporary.replace(path)
    print(f"{path}: {len(rows)} rows")


def main() -> None:
    """Run the command."""
    with one_line_errors():
        run(sys.argv[1:])


if __name__ == "__main__":
    main()
