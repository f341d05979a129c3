"""A fake RLBench installation based on the stand-in, and a policy that solves its tasks from images."""

import _ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from instructrl.config.simulators import RLBenchConfig
from instructrl.types import Observation

SOURCES = Path(__file__).resolve().parent / "fake_rlbench"
CAMERAS = ["front", "left_shoulder", "right_shoulder"]
COLORS = ((220, 30, 30), (30, 200, 40))
DOWN = (0.0, 1.0, 0.0, 0.0)
GENERATOR = """
import importlib, json, pickle, random, sys
from pathlib import Path
import numpy as np
from rlbench.action_modes.action_mode import MoveArmThenGripper
from rlbench.action_modes.arm_action_modes import EndEffectorPoseViaPlanning
from rlbench.action_modes.gripper_action_modes import Discrete
from rlbench.environment import Environment

folder, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
np.random.seed(20_000)  # no seed of a test
random.seed(20_000)
environment = Environment(MoveArmThenGripper(EndEffectorPoseViaPlanning(), Discrete()), headless=True)
environment.launch()
kind = getattr(importlib.import_module(f"rlbench.tasks.{name}"), name.title().replace("_", ""))
task, places = environment.get_task(kind), []
for number in range(count):
    variation = number % task.variation_count()
    task.set_variation(variation)
    descriptions, _ = task.reset()
    [demo] = task.get_demos(1, live_demos=True)
    places.append(task._task.places[0].tolist())
    for seen in demo._observations:
        for key in [key for key in vars(seen) if key.endswith("_rgb")]:
            setattr(seen, key, None)
    episode = folder / "all_variations" / "episodes" / f"episode{number}"
    episode.mkdir(parents=True)
    found = {"low_dim_obs": demo, "variation_number": variation, "variation_descriptions": descriptions}
    for part, value in found.items():
        (episode / f"{part}.pkl").write_bytes(pickle.dumps(value))
print(json.dumps(places))
"""


class StandIn:
    """The installation; `patch.setenv` affects processes that start later, faults affect all."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch):
        self.patch, self.root, self.log_file = patch, folder / "CoppeliaSim", folder / "calls"
        self.packages = folder / "packages"
        copy_packages(self.packages, "original")
        header = self.root / "programming" / "include" / "simConst.h"
        header.parent.mkdir(parents=True)
        header.write_text("#define SIM_PROGRAM_VERSION_NB 40100\n")
        (self.root / "libcoppeliaSim.so").symlink_to(_ctypes.__file__)  # any library that can be loaded
        self.log_file.touch()
        self.fault_file = folder / "faults"
        self.fault_file.touch()
        for name in ("COPPELIASIM_ROOT", "LD_LIBRARY_PATH", "QT_QPA_PLATFORM_PLUGIN_PATH"):
            patch.setenv(name, str(self.root))
        patch.setenv("FAKE_RLBENCH_LOG", str(self.log_file))
        patch.setenv("FAKE_RLBENCH_FAULTS", str(self.fault_file))
        self.tasks = self.packages / "rlbench" / "tasks"

    def install(self, variant: str) -> None:
        """Install RLBench or PerAct's fork ("peract") in place of the other."""
        shutil.rmtree(self.packages)
        copy_packages(self.packages, variant)

    def faults(self, *texts: str) -> None:
        """Inject faults `call@variation=kind*times` from now on, see `fake_rlbench/faults.py`."""
        self.log_file.write_text("")
        self.fault_file.write_text("\n".join(texts))

    def add_tasks(self, *names: str) -> None:
        """Add tasks with one point to visit and two variations."""
        for name in names:
            kind = name.title().replace("_", "")
            text = f"from rlbench.backend.task import Task\n\n\nclass {kind}(Task):\n    variations = 2\n"
            if not (SOURCES / "rlbench" / "tasks" / f"{name}.py").exists():
                (self.tasks / f"{name}.py").write_text(text)

    def remove_task(self, name: str) -> None:
        (self.tasks / f"{name}.py").unlink()

    def calls(self, text: str) -> int:
        """Number of times that this call was made, over all processes."""
        return sum(line.split(" ", 1)[1] == text for line in self.log_file.read_text().splitlines())

    def store(self, folder: Path, task: str, count: int) -> list[list[float]]:
        """Store demonstrations as RLBench's dataset generator does; gives the place of the first point of each."""
        command = [sys.executable, "-c", GENERATOR, str(folder / task), task, str(count)]
        paths = os.pathsep.join([str(self.packages), str(SOURCES / "elsewhere")])
        made = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=120, check=True
        )
        return json.loads(made.stdout.splitlines()[-1])

    def processes(self) -> int:
        """Number of processes that have started CoppeliaSim."""
        return self.calls("launch -1")


def copy_packages(folder: Path, variant: str) -> None:
    """Copy the stand-ins of PyRep and of RLBench, or of PerAct's fork ("peract")."""
    for name in ("pyrep", "rlbench"):
        shutil.copytree(SOURCES / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("faults.py", "world.py"):
        shutil.copy(SOURCES / name, folder)
    if variant == "peract":
        shutil.copytree(SOURCES / variant, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))


@contextmanager
def installed(folder: Path) -> Iterator[StandIn]:
    """Put the stand-in on the path of worker processes, with a display that accepts connections."""
    with pytest.MonkeyPatch.context() as patch, display() as name:
        patch.setattr(sys, "path", [str(folder / "packages"), *sys.path, str(SOURCES / "elsewhere")])
        patch.setenv("DISPLAY", name)
        yield StandIn(folder, patch)
    assert not {"rlbench", "pyrep"} & set(sys.modules), "imported outside the simulator's process"


@contextmanager
def display() -> Iterator[str]:
    """A display that accepts connections."""
    with socket.socket() as server:
        for number in range(40 + os.getpid() % 1000, 3000):
            try:
                server.bind(("127.0.0.1", 6000 + number))
                break
            except OSError:
                continue
        server.listen(100)
        yield f"127.0.0.1:{number}.0"


def settings(**changes: object) -> RLBenchConfig:
    """Simulator settings for tests."""
    given = {
        "cameras": CAMERAS,
        "image_size": 64,
        "renderer": "rlbench_opengl3",
        "workers": 2,
        "timeout": 60.0,
        "planner_attempts": 3,
    }
    return RLBenchConfig(name="rlbench", kind="rlbench", **{**given, **changes})  # type: ignore[arg-type]


def place_of(color: tuple[int, int, int], seen: Observation) -> np.ndarray:
    """Position [3] of the disc of a colour, metres: the point closest to the cameras' rays."""
    normals, sums = np.zeros((3, 3)), np.zeros(3)
    for image, intrinsics, extrinsics in zip(seen.images, seen.intrinsics, seen.extrinsics, strict=True):
        rows, columns = np.nonzero((image == color).all(axis=-1))
        if len(rows):
            middle = np.array([columns.mean() + 0.5, rows.mean() + 0.5, 1.0])
            sight = extrinsics[:3, :3] @ np.linalg.solve(intrinsics.astype(float), middle)
            across = np.eye(3) - np.outer(sight, sight) / (sight @ sight)
            normals, sums = normals + across, sums + across @ extrinsics[:3, 3]
    return np.linalg.solve(normals, sums)


class Seer:
    """Moves to the red disc with gripper `grips[0]`, then to the green one with `grips[1]`."""

    def __init__(self, *grips: float, params: object = None):
        self.grips, self.params = grips, params or {}
        self.taken: dict[int, int] = {}

    def start_episode(self, slot: int, instruction: str) -> None:
        self.taken[slot] = 0

    def act(self, observations: dict[int, Observation]) -> dict[int, np.ndarray]:
        return {slot: self.answer(slot, seen) for slot, seen in observations.items()}

    def answer(self, slot: int, seen: Observation) -> np.ndarray:
        step = min(self.taken[slot], len(self.grips) - 1)
        self.taken[slot] += 1
        return np.array([*place_of(COLORS[step], seen), *DOWN, self.grips[step]])
