"""Linear probes: optimal fit, correct scene descriptions, and a margin only for informative features."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools.probe import __main__ as probe
from data_tools.probe.__main__ import (
    PROG,
    STRENGTHS,
    ProbeConfig,
    ProbeResult,
    accuracy,
    baseline_scores,
    collect_scenes,
    probe_task,
    r2_score,
    ridge_predict,
    run,
    table,
)
from data_tools.probe.features import Encoders, object_patch, pool_patches
from data_tools.probe.scenes import ProbeScenes, Scene, left_to_right
from instructrl.cli.entry import compose
from instructrl.config.simulators import TabletopConfig
from instructrl.config.training import TrainConfig
from instructrl.errors import InputError
from instructrl.models.encoders.registry import encoder_shapes
from instructrl.models.weight_files import write_weights
from instructrl.sim.tabletop.colors import COLORS
from instructrl.sim.tabletop.things import SceneObject
from tests.fixtures import pairs as made_pairs

SMALL = ("encoder=m3ae_tiny", "encoder.dim=16", "encoder.depth=2", "encoder.heads=2", "encoder.patch_size=8",
         "sim.image_size=32", "sim.cameras=[front,wrist]", "sim.renderer=raycast", "sim.workers=1",
         "hardware=cpu", "hardware.local_devices=1")  # fmt: skip
SIM = TabletopConfig(cameras=["front", "wrist"], image_size=96, renderer="raycast", workers=1)


@pytest.mark.parametrize(("count", "width", "noise"), [(20, 5, 0.3), (12, 30, 0.1), (15, 15, 3.0)])
def test_the_fit_is_the_best_of_all_that_leave_one_out(count: int, width: int, noise: float) -> None:
    """Compare with explicit leave-one-out fits by the textbook formula, with a free mean."""
    rng = np.random.default_rng(0)
    x, other = rng.normal(3, 2, (count, width)), rng.normal(3, 2, (7, width))
    targets = x @ rng.normal(0, 1, (width, 2)) + noise * rng.normal(0, 10, (count, 2))
    scaled, scaled_other = ((part - x.mean(0)) / x.std(0) for part in (x, other))
    scale = np.linalg.eigvalsh(scaled @ scaled.T).mean()

    def fit(rows: np.ndarray, ys: np.ndarray, at: np.ndarray, strength: float) -> np.ndarray:
        middle, inner = ys.mean(0), rows - rows.mean(0)
        weights = np.linalg.solve(inner.T @ inner + strength * np.eye(len(inner.T)), inner.T @ (ys - middle))
        return (at - rows.mean(0)) @ weights + middle

    def left_out(strength: float) -> float:
        without = [np.delete(np.arange(count), one) for one in range(count)]
        predictions = [fit(scaled[o], targets[o], scaled[[i]], strength)[0] for i, o in enumerate(without)]
        return float(((np.array(predictions) - targets) ** 2).mean())

    best = min(STRENGTHS * scale, key=left_out)
    np.testing.assert_allclose(ridge_predict(x, targets, other), fit(scaled, targets, scaled_other, best), atol=1e-6)


@pytest.mark.parametrize("width", [10, 400])
def test_features_that_know_nothing_are_no_worse_than_none(width: int) -> None:
    rng = np.random.default_rng(1)
    x, targets = rng.normal(size=(300, width)), rng.normal(size=(300, 3))
    assert abs(r2_score(ridge_predict(x[:200], targets[:200], x[200:]), targets[200:])) < 0.1
    known = 3 * (width // 10)
    x[:, :known] += 5 * np.tile(targets, known // 3)  # now some are informative
    assert r2_score(ridge_predict(x[:200], targets[:200], x[200:]), targets[200:]) > 0.7
    x[:, 0] = 7.0  # and one is constant
    assert np.isfinite(ridge_predict(x[:200], targets[:200], x[200:])).all()


def test_labels_are_predicted() -> None:
    rng = np.random.default_rng(2)
    labels = rng.choice([3, 5, 9], 200)
    x = rng.normal(0, 0.1, (200, 6)) + np.eye(6)[np.searchsorted([3, 5, 9], labels)]
    assert accuracy(x[:150], labels[:150], x[150:], labels[150:]) > 0.95
    assert accuracy(x[:150], rng.permutation(labels[:150]), x[150:], labels[150:]) < 0.6


@pytest.mark.parametrize("task", ["reach_target", "push_button"])
def test_scenes_are_named_by_place_and_by_colour(task: str) -> None:
    world = ProbeScenes(SIM, task, 0)
    right = many = 0
    try:
        for number in range(12):
            scene = world.scene(number)
            if scene is None:
                continue
            again = world.scene(number)
            assert again is not None and np.array_equal(again.images, scene.images) and again.location == scene.location
            assert re.search(rf"\b{scene.color}\b", scene.instruction)
            assert not set(scene.location.split()) & set(COLORS), "the description does not contain the colour"
            many += 1
            column, row = (scene.pixel * 96).astype(int)
            around = scene.images[0, max(row - 6, 0) : row + 7, max(column - 6, 0) : column + 7].reshape(-1, 3) + 1.0
            shade = np.array(COLORS[scene.color])  # of a button, the base around the centre is painted
            right += np.abs(around / around.sum(1, keepdims=True) - shade / shade.sum()).sum(1).min() < 0.15
    finally:
        world.close()
    assert many >= 4 and right >= 0.7 * many, f"{right} of {many}"


def thing(body: str, across: float) -> SceneObject:
    return SceneObject(body, ("ball",), "red", np.zeros(3), np.array([across, 0.5]), 1.0, True)


def test_things_that_are_hardly_beside_each_other_are_not_called_left_and_right() -> None:
    assert left_to_right([thing("b", 0.6), thing("c", 0.7), thing("a", 0.2)]) == ["a", "b", "c"]
    assert left_to_right([thing("b", 0.6), thing("c", 0.63), thing("a", 0.2)]) is None


def test_the_same_scenes_come_from_any_number_of_processes() -> None:
    probe_config, config = ProbeConfig(scenes=8, test_scenes=2), compose("train", TrainConfig, ["head=spatial", *SMALL])
    few = collect_scenes(probe_config, config, "reach_target")
    config.sim.workers = 2
    for one, two in zip(few, collect_scenes(probe_config, config, "reach_target"), strict=True):
        assert (one.location, one.instruction) == (two.location, two.instruction) and np.array_equal(
            one.images, two.images
        )
    other = collect_scenes(ProbeConfig(scenes=8, test_scenes=2, scene_seed=1), config, "reach_target")
    assert not any(np.array_equal(one.images, two.images) for one in few for two in other)


def blank(color: str, *, pixel: tuple[float, float] = (0.5, 0.5), at: float = 0.0) -> Scene:
    images = np.zeros((2, 32, 32, 3), np.uint8)
    return Scene(images, f"reach the {color} ball", "the ball", color, np.array([at, -at, 0.8]), np.array(pixel))


def test_the_patch_in_which_the_thing_is() -> None:
    patches = np.arange(2 * 2 * 16).reshape(2, 2, 16, 1).astype(np.float32)
    found = object_patch(patches, [blank("red", pixel=(0.99, 0.3)), blank("red", pixel=(0.0, 1.0))])
    assert found.ravel().tolist() == [1 * 4 + 3, 32 + 3 * 4]  # right in the second row; left in the last
    assert pool_patches(patches, 2)[0].tolist() == [2.5, 4.5, 10.5, 12.5, 18.5, 20.5, 26.5, 28.5]
    assert pool_patches(patches, 3).shape == (2, 2 * 4), "the finest grid that divides the patches"


class Planted:
    """Stand-in for encoders with uninformative random features."""

    def features(self, scenes: list[Scene], *, seed: int, max_grid: int) -> dict[str, np.ndarray]:
        del max_grid
        numbers = np.random.default_rng((seed, 7))
        names = ("colour, pooled", "colour, its patch", "position, pooled", "position, patches")
        return {name: numbers.normal(size=(len(scenes), 12)) for name in names}


def test_a_margin_is_there_only_if_features_know_more() -> None:
    rng = np.random.default_rng(3)
    scenes = [blank(("red", "blue", "lime")[number % 3], at=rng.normal()) for number in range(300)]
    probe_config = ProbeConfig(scenes=200, test_scenes=100, seeds=3)
    nothing = probe_task(
        "reach_target", scenes, probe_config, Planted().features(scenes, seed=99, max_grid=8), Planted()
    )
    knowing = Planted().features(scenes, seed=99, max_grid=8)
    for number, scene in enumerate(scenes):
        knowing["colour, pooled"][number, ("red", "blue", "lime").index(scene.color)] += 6
        knowing["position, patches"][number, 0] += 9 * scene.position[0]
    rows = {row.what: row for row in probe_task("reach_target", scenes, probe_config, knowing, Planted())}
    assert [len(row.pretrained) for row in rows.values()] == [3] * 6
    assert all(abs(row.margin) < (3 if row.unit == "cm" else 0.12) for row in nothing if row.unit != "cm")
    assert rows["colour, pooled, accuracy"].margin > 0.5 and rows["position, patches, R2"].margin > 0.8
    assert rows["position, patches, cm"].margin > 0, "fewer centimetres are better"
    assert abs(rows["colour, its patch, accuracy"].margin) < 0.12
    assert baseline_scores(scenes)["accuracy"] == pytest.approx(1 / 3)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    config = compose("train", TrainConfig, list(SMALL)).encoder
    shapes = encoder_shapes(config, vocabulary_size=made_pairs.tokenizer().vocabulary_size)
    numbers = np.random.default_rng(5)
    arrays = {name: numbers.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    write_weights(path, arrays, kind="m3ae", source="random")
    return path


def test_features_are_of_the_weights_or_of_a_seed(weights: Path) -> None:
    config = compose("train", TrainConfig, ["head=spatial", *SMALL, f"encoder.weights={weights}"])
    encoders, rng = Encoders(config), np.random.default_rng(0)
    scenes = [blank("red")._replace(images=rng.integers(0, 255, (2, 32, 32, 3), np.uint8)) for _ in range(19)]
    ones = [encoders.features(scenes, seed=seed, max_grid=8) for seed in (None, 0, 1)]
    again = encoders.features(scenes[17:], seed=0, max_grid=8)  # the same seed, with other scenes in the batch
    shapes = {name: array.shape for name, array in ones[0].items()}
    assert shapes == {
        "colour, pooled": (19, 2 * 2 * 16 + 16),  # two layers of two cameras, and the instruction
        "colour, its patch": (19, 16),
        "position, pooled": (19, 2 * 2 * 16 + 16),
        "position, patches": (19, 2 * 16 * 16),
    }
    for name in shapes:
        assert [[np.array_equal(one[name], two[name]) for two in ones] for one in ones] == np.eye(
            3, dtype=bool
        ).tolist()
        np.testing.assert_allclose(again[name], ones[1][name][17:], atol=1e-5)


def test_the_command_prints_a_table_and_writes_it(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def few(probe_config: ProbeConfig, *_: Any) -> list[Scene]:
        rng = np.random.default_rng(0)
        return [
            blank(color, at=rng.normal())._replace(images=rng.integers(0, 255, (2, 32, 32, 3), np.uint8))
            for color in rng.choice(["red", "blue"], probe_config.scenes + probe_config.test_scenes)
        ]

    monkeypatch.setattr(probe, "collect_scenes", few)
    out = tmp_path / "folder" / "probe.json"
    run([*SMALL, f"encoder.weights={weights}", "tasks=[push_button]", "scenes=20", "test_scenes=10", f"out={out}"])
    printed = capsys.readouterr().out.splitlines()
    table = [line for line in printed if line.startswith("|")]
    assert table[0].startswith("| task | probe | pretrained | random weights | margin |") and len(table) == 2 + 6
    assert printed[-9:] == [*table, f"{out}: 6 rows"]
    kept = json.loads(out.read_text())
    assert (kept["command"], kept["probe"]["scenes"], kept["encoder"]["dim"]) == (PROG, 20, 16)
    assert re.fullmatch(r"[0-9a-f]{64}", kept["weights"])
    assert [row["what"] for row in kept["rows"]] == [line.split(" | ")[1] for line in table[2:]]
    assert all(len(row["pretrained"]) == len(row["random"]) == 3 for row in kept["rows"])


def test_the_table_says_who_is_better() -> None:
    lines = table([ProbeResult("push_button", "position, pooled, cm", "cm", [2.0, 4.0], [9.0, 11.0], 24.4, False)])
    assert lines.splitlines()[-1] == "| push_button | position, pooled, cm | 3.0 ± 1.0 | 10.0 ± 1.0 | +7.0 | 24.4 |"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["encoder.weights=null"], "encoder: found m3ae_tiny, which has no weights; allowed: one with weights"),
        (["encoder.weights=/nowhere"], "/nowhere: no encoder weights found"),
        (["tasks=[open_drawer]"], "tasks: found [open_drawer]; allowed: a list of "),
        (["scenes=3"], "scenes: found 3; allowed: an integer at least 10"),
        (["seeds=many"], "seeds: found many"),
        (["encodre=m3ae_tiny"], "encodre: no such setting"),
        (["head=regression"], "head: found head=regression; leave it out"),
        (["out=/proc/none/a.json"], "/proc/none/a.json: cannot be written"),
    ],
)
def test_bad_input_is_one_line(words: list[str], message: str, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "collect_scenes", lambda *_: pytest.fail("reported too late"))
    given = {word.partition("=")[0]: word for word in (*SMALL, f"encoder.weights={weights}", *words)}
    with pytest.raises(InputError, match=f"^{re.escape(message)}") as raised:
        run(list(given.values()))
    assert "\n" not in str(raised.value)


def test_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    run(["--help"])
    assert "python -m data_tools.probe" in capsys.readouterr().out
