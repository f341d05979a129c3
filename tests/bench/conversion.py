"""Conversion of stored demonstrations in one process and in two.

python tests/bench/conversion.py [EPISODES]     100 episodes of 150 frames, 4 cameras of 128 pixels: about two minutes

Alternates the whole command with workers=1 and workers=2 and prints the ratio of their times, with the processor time
per image that is kept. Two processes are at best twice as fast, on two cores that do nothing else.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fixtures import stored
from tests.paths import ROOT

KEYFRAMES, BETWEEN, SIZE, ROUNDS = 6, 25, 128, 5


def write(task: Path, episodes: int) -> int:
    """Write demonstrations with images of the keyframes alone, and return the number of images."""
    images, shades = 0, np.linspace(0, 255, SIZE).astype(np.uint8)
    for number in range(episodes):
        folder = task / "all_variations" / "episodes" / f"episode{number}"
        folder.mkdir(parents=True)
        moved: dict[str, Any] = stored.motion(number, keyframes=KEYFRAMES, between=BETWEEN)
        demo = stored.DEMO(_observations=stored.frames(moved, recorded=(SIZE, SIZE)), random_seed=None)
        stored.dump(folder / "low_dim_obs.pkl", demo)
        stored.dump(folder / "variation_number.pkl", 0)
        stored.dump(folder / "variation_descriptions.pkl", ["close the jar"])
        rng = np.random.default_rng(number)
        for camera in stored.CAMERAS:
            (folder / f"{camera}_rgb").mkdir()
            for frame in [0, *moved["keyframes"].tolist()]:
                pixels = shades[:, None, None] // rng.integers(1, 4, 3) + rng.integers(0, 9, (SIZE, SIZE, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{camera}_rgb" / f"{frame}.png")
                images += 1
    return images


def measure(task: Path, out: Path, workers: int) -> tuple[float, float]:
    """Seconds of a conversion, and of the processors for it."""
    words = ["kind=rlbench", f"src={task}", f"out={out}", f"cameras=[{','.join(stored.CAMERAS)}]", "overwrite=true"]
    before, begin = os.times(), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "data_tools.convert", *words, f"workers={workers}"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - begin, used


def main() -> None:
    """Print the ratio and its spread."""
    episodes = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(KeyboardInterrupt):
        task, out = Path(folder) / "close_jar", Path(folder) / "data"
        images = write(task, episodes)
        rounds = [[measure(task, out, workers) for workers in (1, 2)] for _ in range(ROUNDS + 1)][1:]
        for column, name in ((0, "one process"), (1, "two processes")):
            times, processor = (sorted(row[column][part] for row in rounds)[ROUNDS // 2] for part in (0, 1))
            each = 1e3 * processor / images
            print(f"{name}: {times:.2f} s, {processor:.2f} s of the processors, {each:.2f} ms per image kept")
        ratios = sorted(row[0][0] / row[1][0] for row in rounds)
        print(f"two are {ratios[ROUNDS // 2]:.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
