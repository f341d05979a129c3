"""python -m data_tools.probe encoder=m3ae_tiny: linear probes of an encoder's frozen features and of random weights.

Ridge regressions are fitted in closed form to the features of scenes and evaluated on other scenes:

colour, from the pooled features   of an object that the text names by its location ("the ball at the left")
colour, from its patch             the same, from the features of the patch that contains the object
position, pooled and patches       of the object in the instruction ("reach the red ball"): R2 and centimetres

Settings are those of train.py (encoder, sim, hardware ...) and these: tasks=[reach_target,push_button] scenes=1500
test_scenes=500 seeds=3 seed=0 out=FILE.json. `seeds` is the number of random encoders and of train/test splits.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.probe.scenes import TASKS, ProbeScenes, Scene
from instructrl import __version__
from instructrl.cli.args import parse_settings
from instructrl.cli.entry import compose
from instructrl.cli.progress import ProgressBar, stopwatch
from instructrl.config.fields import choice_list, number, setting
from instructrl.config.training import TrainConfig
from instructrl.errors import InputError, RunError, report_user_errors
from instructrl.models.weight_files import read_checksum, weights_path
from instructrl.sim.rendering import available_renderer
from instructrl.sim.vector.pool import WorkerFailure, Workers, worker_count
from instructrl.storage.atomic import write_atomically
from instructrl.storage.writable import check_writable_file
from instructrl.training.memory_limit import check_memory_limit
from instructrl.training.preflight import check_inputs

PROG = "python -m data_tools.probe"
OUT_HINT = "choose another out="

MAX_GRID = 8  # patches along an image's side; finer grids are averaged

PROBE_KEYS = ("tasks", "scenes", "test_scenes", "seeds", "scene_seed", "out")


@dataclass
class ProbeConfig:
    """Settings of the probe itself; all others are those of TrainConfig."""

    tasks: list[str] = choice_list("reach_target", "push_button", choices=TASKS, help="tasks to probe")
    scenes: int = number(1500, low=10, high=100_000, help="scenes to fit the probes to")
    test_scenes: int = number(500, low=10, high=100_000, help="scenes to evaluate the probes on")
    seeds: int = number(3, low=1, high=100, help="number of random encoders and of train/test splits")
    scene_seed: int = number(0, low=0, high=1000, help="random seed of the scenes")
    out: str | None = setting(None, help="JSON file to write; null: none")


@dataclass(frozen=True)
class ProbeResult:
    """Result of one probe, with a value per seed. The field names are those of the JSON file."""

    task: str
    what: str
    unit: str
    pretrained: list[float]
    random: list[float]
    nothing: float  # the best constant prediction
    more_is_better: bool = True

    @property
    def margin(self) -> float:
        """Mean advantage of the pretrained features over random ones."""
        gap = float(np.mean(self.pretrained) - np.mean(self.random))
        return gap if self.more_is_better else -gap


def probe(probe_config: ProbeConfig, config: TrainConfig) -> list[ProbeResult]:
    """Probe all tasks.

    Raises:
        InputError: the encoder has no weights, or the settings do not fit.
    """
    check(probe_config, config)
    from data_tools.probe.features import Encoders

    encoders = Encoders(config)
    rows = []
    for task in probe_config.tasks:
        print(f"starting the simulators of {task}", flush=True)
        scenes = collect_scenes(probe_config, config, task)
        with stopwatch(f"features of {config.encoder.name} in {task}"):
            pretrained = encoders.features(scenes, seed=None, max_grid=MAX_GRID)
        with stopwatch(f"probes and random weights in {task}"):
            rows += probe_task(task, scenes, probe_config, pretrained, encoders)
    return rows


def check(probe_config: ProbeConfig, config: TrainConfig) -> None:
    """Raise InputError for settings that would otherwise fail only after the computation."""
    if config.encoder.weights is None:
        raise InputError(
            f"encoder: found {config.encoder.name}, which has no weights; allowed: one with weights in a file, such as "
            "encoder=m3ae_tiny, or encoder.weights=FILE"
        )
    if not config.sim.locates_objects:
        raise InputError(f"sim: found {config.sim.name}; allowed: tabletop, whose scenes give the positions of objects")
    check_inputs(config)
    if probe_config.out is not None:
        check_writable_file(Path(probe_config.out).expanduser(), hint=OUT_HINT)


def probe_task(
    task: str, scenes: list[Scene], probe_config: ProbeConfig, pretrained: Any, encoders: Any
) -> list[ProbeResult]:
    """Probe one task."""
    values: dict[str, dict[str, list[float]]] = {"pretrained": {}, "random": {}}
    for seed in range(probe_config.seeds):
        order = np.random.default_rng((probe_config.scene_seed, seed)).permutation(len(scenes))
        parts = order[: probe_config.scenes], order[probe_config.scenes :]
        random = encoders.features(scenes, seed=seed, max_grid=MAX_GRID)
        for kind, features in (("pretrained", pretrained), ("random", random)):
            for name, value in scores(features, scenes, *parts).items():
                values[kind].setdefault(name, []).append(value)
    nothing = baseline_scores(scenes)
    return [
        ProbeResult(task, name, unit, values["pretrained"][name], values["random"][name], nothing[unit], unit != "cm")
        for name in values["random"]
        for unit in [name.rpartition(", ")[2]]
    ]


def scores(
    features: dict[str, np.ndarray], scenes: list[Scene], train: np.ndarray, test: np.ndarray
) -> dict[str, float]:
    """Score every probe on one set of features and one train/test split of the scenes."""
    colors = np.unique([scene.color for scene in scenes], return_inverse=True)[1]
    positions = np.stack([scene.position for scene in scenes])
    found = {}
    for name in ("colour, pooled", "colour, its patch"):
        x = features[name]
        found[f"{name}, accuracy"] = accuracy(x[train], colors[train], x[test], colors[test])
    for name in ("position, pooled", "position, patches"):
        x = features[name]
        predictions = ridge_predict(x[train], positions[train], x[test])
        found[f"{name}, R2"] = r2_score(predictions, positions[test])
        found[f"{name}, cm"] = float(100 * np.linalg.norm(predictions - positions[test], axis=1).mean())
    return found


def baseline_scores(scenes: list[Scene]) -> dict[str, float]:
    """Scores of the most frequent colour and the mean position."""
    counts = np.unique([scene.color for scene in scenes], return_counts=True)[1]
    positions = np.stack([scene.position for scene in scenes])
    away = float(100 * np.linalg.norm(positions - positions.mean(axis=0), axis=1).mean())
    return {"accuracy": float(counts.max() / counts.sum()), "R2": 0.0, "cm": away}


def collect_scenes(probe_config: ProbeConfig, config: TrainConfig, task: str) -> list[Scene]:
    """Collect the first usable scenes of the seed, in order."""
    config.sim.renderer = available_renderer(config.sim.renderer)
    wanted, found = probe_config.scenes + probe_config.test_scenes, list[Scene]()
    recipe = partial(ProbeScenes, config.sim, task, probe_config.scene_seed)
    with (
        Workers(recipe, worker_count(config.sim.workers), timeout=config.sim.timeout) as workers,
        ProgressBar(description=f"{task} scenes", total=wanted, unit="scenes") as bar,
    ):
        for scene in in_order(workers, lambda: len(found) < wanted):
            if scene is not None and len(found) < wanted:
                found.append(scene)
                bar.update()
    return found


def in_order(workers: Workers, more_needed: Any) -> Iterator[Scene | None]:
    """Yield scenes in order of their numbers while `more_needed()` is true."""

    def numbers() -> Iterator[tuple[int]]:
        number = 0
        while more_needed():
            yield (number,)
            number += 1

    results, next_index = dict[int, Any](), 0
    for index, result in workers.map("scene", numbers()):
        if isinstance(result, WorkerFailure):
            raise RunError(f"scene {index}: {result.reason}")
        results[index] = result
        while next_index in results:
            yield results.pop(next_index)
            next_index += 1


def table(rows: list[ProbeResult]) -> str:
    """Format the results as a Markdown table."""
    lines = [
        "| task | probe | pretrained | random weights | margin | constant prediction |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        digits = 1 if row.unit == "cm" else 3
        means = (
            f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}" for values in (row.pretrained, row.random)
        )
        lines.append(
            f"| {row.task} | {row.what} | {' | '.join(means)} | {row.margin:+.{digits}f} | {row.nothing:.{digits}f} |"
        )
    return "\n".join(lines)


def run(argv: list[str]) -> None:
    """Run the command line.

    Raises:
        InputError: a word is invalid.
    """
    if {"-h", "--help"} & set(argv):
        print((__doc__ or "").strip())
        return
    head_overrides = [word for word in argv if word.partition("=")[0].partition(".")[0] == "head"]
    if head_overrides:
        raise InputError(f"head: found {head_overrides[0]}; leave it out: all features are probed, whatever the head")
    own_words = [word for word in argv if word.partition("=")[0] in PROBE_KEYS]
    probe_config = parse_settings(own_words, ProbeConfig, prog=PROG)
    config = compose("train", TrainConfig, ["head=spatial", *(word for word in argv if word not in own_words)])
    check_memory_limit()
    rows = probe(probe_config, config)
    print(table(rows))
    if probe_config.out is not None:
        write(Path(probe_config.out).expanduser(), probe_config, config, rows)


def write(path: Path, probe_config: ProbeConfig, config: TrainConfig, rows: list[ProbeResult]) -> None:
    """Write the results and the settings to a JSON file.

    Raises:
        InputError: the file cannot be written.
    """
    weights = weights_path(config.encoder)
    content = {
        "command": PROG,
        "suite": __version__,
        "probe": asdict(probe_config),
        "encoder": asdict(config.encoder),
        "weights": weights and read_checksum(weights, kind=config.encoder.kind),
        "sim": asdict(config.sim),
        "rows": [asdict(row) | {"margin": row.margin} for row in rows],
    }
    write_atomically(path, json.dumps(content, indent=1) + "\n", hint=OUT_HINT)
    print(f"{path}: {len(rows)} rows")


def main() -> None:
    """Run the command."""
    with report_user_errors():
        run(sys.argv[1:])


if __name__ == "__main__":
    main()

STRENGTHS = 10.0 ** np.arange(-6, 4)  # as shares of the features' mean square


def ridge_predict(train: np.ndarray, targets: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Ridge predictions [M D] for test features [M F], fitted on features [N F] and targets [N D]."""
    mean, scale = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    scale[scale < 1e-6 * max(scale.max(), 1e-12)] = np.inf  # constant features are ignored
    train_x, test_x = ((part - mean) / scale for part in (train, test))
    target_mean = targets.mean(axis=0)
    values, vectors = np.linalg.eigh(train_x @ train_x.T)
    values = np.maximum(values, 0)
    rotated = vectors.T @ (targets - target_mean)
    best_error, best_dual = np.inf, np.zeros_like(rotated)
    for strength in STRENGTHS * max(values.mean(), 1e-12):
        inverse = 1 / (values + strength)
        dual = vectors @ (inverse[:, None] * rotated)
        # Leave-one-out residuals. The degree of freedom of the mean is not the features'.
        residuals = dual / ((vectors**2) @ inverse - 1 / (len(train_x) * strength))[:, None]
        if (error := float((residuals**2).mean())) < best_error:
            best_error, best_dual = error, dual
    return test_x @ (train_x.T @ best_dual) + target_mean


def accuracy(train: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray) -> float:
    """Test accuracy of one-versus-all ridge regression on integer labels."""
    classes, numbers = np.unique(labels, return_inverse=True)
    predictions = classes[ridge_predict(train, np.eye(len(classes))[numbers], test).argmax(axis=1)]
    return float((predictions == truth).mean())


def r2_score(predictions: np.ndarray, truth: np.ndarray) -> float:
    """R2 over all columns jointly."""
    return float(1 - ((predictions - truth) ** 2).sum() / ((truth - truth.mean(axis=0)) ** 2).sum())
