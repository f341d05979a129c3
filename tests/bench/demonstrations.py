"""Demonstrations per minute on one core, with both renderers, and where the time goes.

python tests/bench/demonstrations.py [TASK...]     reach_target, push_button and pick_and_lift: about two minutes

Times `demonstrate` in this process, with one thread. `drawing` is the share of it that draws the images of four
cameras; `ray caster/OpenGL` compares demonstrations per minute. Both are ratios of processor time.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", LP_NUM_THREADS="1")

import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from instructrl.sim import EpisodeStart, rendering
from instructrl.sim.tabletop.env import Tabletop
from instructrl.sim.tabletop.scene import CAMERAS
from tests.fixtures.rounds import alternate, processor, ratio

TASKS, SIZES = ("reach_target", "push_button", "pick_and_lift"), (128, 256)
GOALS = {"reach_target": 900, "pick_and_lift": 300}  # demonstrations a minute with OpenGL, 256 pixels


def demonstrating(env: Tabletop) -> Callable[[], object]:
    """A function that shows the next episode."""
    seeds = count()

    def demonstrate() -> object:
        seed = next(seeds)
        return env.demonstrate(EpisodeStart(seed % env.variations, seed))

    return demonstrate


def images_of_an_episode(env: Tabletop) -> float:
    """The mean number of times that a demonstration draws all cameras."""
    starts = [EpisodeStart(seed % env.variations, seed) for seed in range(20)]
    return float(np.mean([len(env.demonstrate(start)[0].images) for start in starts]))


def measure(task: str, renderers: list[str]) -> None:
    """Print the lines of a task."""
    with ExitStack() as stack:
        envs = {
            (renderer, size): stack.enter_context(
                closing(Tabletop(task, cameras=CAMERAS, image_size=size, renderer=renderer))
            )
            for size in SIZES
            for renderer in renderers
        }
        frames = {key: images_of_an_episode(env) for key, env in envs.items()}
        works: dict[str, Callable[[], object]] = {f"show {key}": demonstrating(env) for key, env in envs.items()}
        found = alternate(works | {f"draw {key}": env.observe for key, env in envs.items()})
    whole = {key: processor(found[f"show {key}"]) for key in envs}
    for (renderer, size), took in whole.items():
        drawn = processor(found[f"draw {(renderer, size)}"])
        row = f"{task:<14}{renderer:<10}{size:>7}{1e3 * np.median(drawn) / len(CAMERAS):>10.2f}"
        print(f"{row}{60 / np.median(took):>11.0f}{ratio(frames[renderer, size] * drawn, took):>27}", flush=True)
    for size in SIZES if "opengl" in renderers else ():
        print(f"{task}: ray caster/OpenGL at {size} pixels: {ratio(whole['opengl', size], whole['raycast', size])}")
    if "opengl" in renderers and task in GOALS:
        goal = np.array(GOALS[task])
        print(f"{task}: OpenGL at 256 pixels: {ratio(60 / whole['opengl', 256], goal)} x the goal of {goal} a minute")


def main() -> None:
    """Print a table and the ratios of each task."""
    renderers = ["raycast"] + ["opengl"] * (rendering.opengl_backend() is not None)
    print(f"{'task':<14}{'renderer':<10}{'pixels':>7}{'ms/image':>10}{'demos/min':>11}{'drawing':>27}")
    for task in sys.argv[1:] or TASKS:
        measure(task, renderers)


if __name__ == "__main__":
    main()
