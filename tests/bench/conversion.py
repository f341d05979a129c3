"""Conversion of stored demonstrations in one process and in two.

python tests/bench/conversion.py [EPISODES]     100 episodes of 150 frames, 4 cameras of 128 pixels: about two minutes

Alternates the whole command with workers=1 and workers=2 and prints the ratio of their times, with the processor time
per image that is kept. What two processes can gain is what two commands of one process each gain at the same time: on
two cores that share caches and memory less than 2.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
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


def measure(task: Path, outs: Sequence[Path], workers: int) -> tuple[float, float]:
    """Seconds of a conversion into each of these folders, all at the same time, and of the processors for them."""
    words = ["kind=rlbench", f"src={task}", f"cameras=[{','.join(stored.CAMERAS)}]", "overwrite=true"]
    command = [sys.executable, "-m", "data_tools.convert", *words, f"workers={workers}"]
    before, begin = os.times(), time.perf_counter()
    processes = [subprocess.Popen([*command, f"out={out}"], cwd=ROOT, stdout=subprocess.DEVNULL) for out in outs]
    if sum(process.wait() for process in processes):
        sys.exit("a conversion failed")
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - begin, used


def main() -> None:
    """Print the ratios and their spread."""
    episodes = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(KeyboardInterrupt):
        task, outs = Path(folder) / "close_jar", [Path(folder) / name for name in ("data", "more")]
        images = write(task, episodes)
        ways = {"one process": (outs[:1], 1), "two processes": (outs[:1], 2), "two commands": (outs, 1)}
        rounds = [[measure(task, *way) for way in ways.values()] for _ in range(ROUNDS + 1)][1:]
        for column, (name, (into, _)) in enumerate(ways.items()):
            times, processor = (sorted(row[column][part] for row in rounds)[ROUNDS // 2] for part in (0, 1))
            each = 1e3 * processor / images / len(into)
            print(f"{name}: {times:.2f} s, {processor:.2f} s of the processors, {each:.2f} ms per image kept")
        for name, column, work in (("two processes are", 1, 1), ("two commands at once are", 2, 2)):
            ratios = sorted(work * row[0][0] / row[column][0] for row in rounds)
            print(f"{name} {ratios[ROUNDS // 2]:.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
