"""The used parts of rlbench and pyrep; the only file that imports them, lazily.

It distinguishes the original from PerAct's fork, whose planner takes one more number (whether to ignore collisions),
and reports the installed versions.
"""

import importlib
import importlib.metadata
import inspect
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from instructrl.config.simulators import RLBENCH_CAMERAS
from instructrl.errors import InputError
from instructrl.sim.rendering import RLBENCH_RENDERERS
from instructrl.sim.rlbench.check import INSTALL, coppeliasim_version
from instructrl.sim.rlbench.motions import clipping
from instructrl.sim.rlbench.placements import Placements

_OBSERVATION_FIELDS = ("gripper_open", "gripper_pose", "gripper_joint_positions", "joint_velocities")  # that we read
_launched = False


class Library:
    """The used parts of rlbench and pyrep."""

    def __init__(self) -> None:
        """Import them.

        Raises:
            InputError: they cannot be imported, or their interface is not one that this suite knows.
        """
        try:
            self._parts = _imported()
        except Exception as error:  # a missing library, or one that is too new for RLBench
            found = f"{type(error).__name__}: {error}"
            raise InputError(
                f"sim=rlbench: it cannot be imported ({found}); {INSTALL} installs compatible versions"
            ) from None
        self.placements = Placements(self._parts.WaypointError)
        planning = self._parts.EndEffectorPoseViaPlanning
        self.takes_collisions = "ignore_collisions" in inspect.signature(planning.action).parameters
        self._world_frame = world_frame(planning)
        self.clips_targets = False  # move targets onto the boundary of the workspace

    def observation_config(self, cameras: Sequence[str], *, image_size: int, renderer: str) -> Any:
        """A new observation config (RLBench's default object is shared): RGB of these cameras, and the fields we read.

        Raises:
            InputError: an unknown renderer.
        """
        if renderer not in RLBENCH_RENDERERS:
            raise InputError(f"sim.renderer: found {renderer!r}, expected one of {', '.join(RLBENCH_RENDERERS)}")
        mode = getattr(self._parts.RenderMode, renderer.rpartition("_")[2].upper())
        views = {}
        for name in RLBENCH_CAMERAS:
            view = self._parts.CameraConfig(image_size=(image_size, image_size), render_mode=mode)
            view.set_all(False)
            view.rgb = name in cameras
            views[f"{name}_camera"] = view
        config = self._parts.ObservationConfig(**views)
        config.set_all_low_dim(False)
        for field in (*_OBSERVATION_FIELDS, *["record_ignore_collisions"] * self.takes_collisions):
            setattr(config, field, True)
        return config

    def launch(self, task: str, config: Any) -> tuple[Any, Any]:
        """Start CoppeliaSim with one task; returns RLBench's environment and task environment."""
        global _launched
        task_type = self.task_class(task)
        if _launched:
            raise RuntimeError("CoppeliaSim runs once per process: start another process for another environment")
        _launched = True
        parts = self._parts
        planning = clipping(parts.EndEffectorPoseViaPlanning, lambda: self.clips_targets)
        arm = planning(absolute_mode=True, frame=self._world_frame)
        environment = parts.Environment(
            parts.MoveArmThenGripper(arm, parts.Discrete()), obs_config=config, headless=True
        )
        cwd = Path.cwd()
        try:
            environment.launch()
        finally:
            os.chdir(cwd)  # PyRep changes it in between, and a launch that fails leaves it changed
        return environment, environment.get_task(self.placements.counting(task_type))

    def task_class(self, name: str) -> Any:
        """RLBench's class of a task that is installed."""
        module = importlib.import_module(f"rlbench.tasks.{name}")
        return getattr(module, "".join(word[:1].upper() + word[1:] for word in name.split("_")))

    def live_demos(self, task: Any) -> list[Any]:
        """One demonstration by RLBench's expert in the next scene that it draws, without retries."""
        options = {"max_attempts": 1} if "max_attempts" in inspect.signature(task.get_demos).parameters else {}
        return task.get_demos(1, live_demos=True, **options)

    def versions(self) -> dict[str, str]:
        """Versions of RLBench and its dependencies."""
        return {
            "version": version(self._parts.rlbench),
            "variant": "peract" if self.takes_collisions else "original",
            "commit": commit("rlbench"),
            "pyrep": version(self._parts.pyrep),
            "coppeliasim": coppeliasim_version(Path(os.environ["COPPELIASIM_ROOT"])),
        }

    def opengl(self) -> str:
        """OpenGL renderer of the display according to glxinfo (mesa-utils), else "unknown"."""
        program = shutil.which("glxinfo")
        output = run([program, "-B"]) if program else ""
        renderers = [line.partition(":")[2].strip() for line in output.splitlines() if "OpenGL renderer" in line]
        return renderers[0] if renderers else "unknown"


def _imported() -> SimpleNamespace:
    import pyrep
    import rlbench
    from pyrep.const import RenderMode
    from rlbench.action_modes.action_mode import MoveArmThenGripper
    from rlbench.action_modes.arm_action_modes import EndEffectorPoseViaPlanning
    from rlbench.action_modes.gripper_action_modes import Discrete
    from rlbench.backend.exceptions import WaypointError
    from rlbench.environment import Environment
    from rlbench.observation_config import CameraConfig, ObservationConfig

    return SimpleNamespace(
        pyrep=pyrep,
        rlbench=rlbench,
        RenderMode=RenderMode,
        MoveArmThenGripper=MoveArmThenGripper,
        EndEffectorPoseViaPlanning=EndEffectorPoseViaPlanning,
        Discrete=Discrete,
        WaypointError=WaypointError,
        Environment=Environment,
        CameraConfig=CameraConfig,
        ObservationConfig=ObservationConfig,
    )


def world_frame(planning: Any) -> Any:
    """The value of `frame` with which a class of planned motions reads poses in the world's frame.

    RLBench takes an enum since 2024-04-30 and reads every other value, "world" too, as the gripper's frame without an
    error; earlier versions and PerAct's fork take the string. The default tells which one is installed.

    Raises:
        InputError: it takes neither.
    """
    parameter = inspect.signature(planning).parameters.get("frame")
    default = parameter.default if parameter else None
    if isinstance(default, Enum) and "WORLD" in type(default).__members__:
        return type(default)["WORLD"]
    if default == "world":
        return default
    found = f"the default {default!r}" if parameter and default is not parameter.empty else "no default"
    raise InputError(
        f"sim=rlbench: {planning.__name__}: found {found} of its frame, expected RelativeFrame.WORLD (RLBench) or "
        f"'world' (PerAct's fork); {INSTALL} installs a version that has one of them"
    )


def version(module: Any) -> str:
    """A library's version by its `__version__`, else by its installed metadata."""
    try:
        return str(getattr(module, "__version__", None) or importlib.metadata.version(module.__name__))
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def commit(name: str) -> str:
    """The commit from which pip installed a package, or that of an editable checkout; else "unknown"."""
    try:
        record = json.loads(importlib.metadata.distribution(name).read_text("direct_url.json") or "{}")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return "unknown"
    if "vcs_info" in record:
        return record["vcs_info"].get("commit_id", "unknown")
    folder = record.get("url", "").removeprefix("file://")
    git = shutil.which("git")
    return (run([git, "-C", folder, "rev-parse", "HEAD"]).strip() if git and folder else "") or "unknown"


def run(command: list[str]) -> str:
    """The output of a command; empty if it fails or times out."""
    try:
        result = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=20,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return result.stdout
