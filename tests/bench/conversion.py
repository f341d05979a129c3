"""Conversion of stored demonstrations in one process and in two.

python tests/bench/conversion.py [EPISODES]     100 episodes of 150 frames, 4 cameras of 128 pixels: about two minutes

Compares the whole command with workers=1 and workers=2 by wall time, with the processor time per image that is kept.
What two processes can gain is what two commands of one process each gain at the same time: on two cores that share
caches and memory less than 2.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fixtures import stored
from tests.fixtures.rounds import alternate, processor, ratio, wall
from tests.paths import ROOT

KEYFRAMES, BETWEEN, SIZE = 6, 25, 128


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


def convert(task: Path, outs: Sequence[Path], workers: int) -> None:
    """Convert into each of these folders, all at the same time.

    Raises:
        SystemExit: a command failed.
    """
    words = ["kind=rlbench", f"src={task}", f"cameras=[{','.join(stored.CAMERAS)}]", "overwrite=true"]
    command = [sys.executable, "-m", "data_tools.convert", *words, f"workers={workers}"]
    processes = [subprocess.Popen([*command, f"out={out}"], cwd=ROOT, stdout=subprocess.DEVNULL) for out in outs]
    if sum(process.wait() for process in processes):
        sys.exit("a conversion failed")


def main() -> None:
    """Print the ratios and their spread."""
    episodes = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory() as folder:
        task, outs = Path(folder) / "close_jar", [Path(folder) / name for name in ("data", "more")]
        images = write(task, episodes)
        ways = {"one process": (outs[:1], 1), "two processes": (outs[:1], 2), "two commands": (outs, 1)}
        found = alternate({name: partial(convert, task, *way) for name, way in ways.items()})
    for name, (into, _) in ways.items():
        times, busy = (float(np.median(column(found[name]))) for column in (wall, processor))
        each = 1e3 * busy / images / len(into)
        print(f"{name}: {times:.2f} s, {busy:.2f} s of the processors, {each:.2f} ms per image kept")
    for name, label, work in (("two processes", "are", 1), ("two commands", "at once are", 2)):
        print(f"{name} {label} {ratio(work * wall(found['one process']), wall(found[name]))} times as fast")


if __name__ == "__main__":
    main()
