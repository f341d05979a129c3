"""Demonstrations per minute on one core, for each task and renderer, and where the time goes.

Times a loop of `demonstrate` in this process, with one thread; best of a few rounds, since machines are shared.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", LP_NUM_THREADS="1")

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from instructrl.sim import EpisodeStart, rendering
from instructrl.sim.tabletop.env import Tabletop
from instructrl.sim.tabletop.scene import CAMERAS
from instructrl.tasks import TASKS

ROUNDS, EPISODES = 3, 20
GOALS = {"reach_target": 900, "pick_and_lift": 300}  # with OpenGL, four cameras, 256x256


def seconds(env: Tabletop) -> float:
    """Of one demonstration, the best round's mean."""
    rounds = []
    for number in range(ROUNDS):
        began = time.perf_counter()
        for seed in range(EPISODES):
            env.demonstrate(EpisodeStart(seed % env.variations, 1000 * number + seed))
        rounds.append((time.perf_counter() - began) / EPISODES)
    return min(rounds)


def milliseconds_per_image(env: Tabletop) -> float:
    """Of drawing one image, averaged over the cameras."""
    env.reset(EpisodeStart(0, 0))
    rounds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(10):
            env.observe()
        rounds.append((time.perf_counter() - began) / 10 / len(CAMERAS))
    return 1e3 * min(rounds)


def main() -> None:
    print(f"{'task':<14}{'renderer':<10}{'pixels':>7}{'ms/image':>10}{'demos/min':>11}{'drawing':>9}")
    rates: dict[tuple[str, str, int], float] = {}
    renderers = ["raycast"] + ["opengl"] * (rendering.opengl_backend() is not None)
    for task in TASKS:
        for renderer in renderers:
            for size in (128, 256):
                env = Tabletop(task, cameras=CAMERAS, image_size=size, renderer=renderer)
                image, whole = milliseconds_per_image(env), seconds(env)
                frames = len(env.demonstrate(EpisodeStart(0, 0))[0].images)
                env.close()
                rates[task, renderer, size] = 60 / whole
                share = image * 1e-3 * len(CAMERAS) * frames / whole
                print(f"{task:<14}{renderer:<10}{size:>7}{image:>10.2f}{60 / whole:>11.0f}{share:>9.0%}")
    for task, goal in GOALS.items():
        if "opengl" in renderers:
            found = rates[task, "opengl", 256]
            print(
                f"{task}: {found:.0f} a minute per core with OpenGL at 4 x 256x256, "
                f"{found / goal:.1f} x the goal of {goal}"
            )
    for task in TASKS:
        for size in (128, 256) if "opengl" in renderers else ():
            ratio = rates[task, "raycast", size] / rates[task, "opengl", size]
            print(f"{task}: ray caster / OpenGL at {size}x{size}: {ratio:.2f}")


if __name__ == "__main__":
    main()
