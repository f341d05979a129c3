"""Settings of each kind of simulator. The simulators themselves are in sim/."""

import re
from dataclasses import dataclass
from typing import ClassVar

from instructrl.config.environment import (
    SIMULATOR_HELP,
    SIMULATORS,
    SimConfig,
    actions_field,
    state_field,
    workspace_field,
)
from instructrl.config.fields import choice_list, format_value, number, one_of, setting
from instructrl.config.kinds import kind_of
from instructrl.errors import InputError
from instructrl.tasks import TASKS
from instructrl.types import COLLISIONS, DENSE, GRIPPER_STATE, KEYFRAME
from instructrl.workspace import RLBENCH_WORKSPACE, Workspace

TABLETOP_CAMERAS = ("front", "left_shoulder", "right_shoulder", "wrist")
RLBENCH_CAMERAS = (*TABLETOP_CAMERAS, "overhead")
METAWORLD_CAMERAS = ("corner4", "corner", "topview", "corner2", "corner3", "behindGripper", "gripperPOV")
METAWORLD_GRIPPER = ("tip x (m)", "tip y (m)", "tip z (m)", "gripper opening", "time")
METAWORLD_OBJECTS = tuple(  # of Meta-World's own observation: zeros where a task has no second object
    f"{which} {value}"
    for which in ("object", "second object", "goal")
    for value in ("x (m)", "y (m)", "z (m)", *("quaternion x", "quaternion y", "quaternion z", "quaternion w"))
)[:-4]  # a goal is a position
TABLETOP_RENDERERS = ("auto", "opengl", "raycast")
RLBENCH_RENDERERS = ("rlbench_opengl", "rlbench_opengl3")  # CoppeliaSim's; auto: the latter, RLBench's own choice


@dataclass
class TabletopConfig(SimConfig):
    """The embedded simulator."""

    implementation: ClassVar[str] = "instructrl.sim.tabletop.env:Tabletop"
    locates_objects: ClassVar[bool] = True
    records_intermediate_frames: ClassVar[bool] = True

    name: str = setting("tabletop", help="label of the simulator")
    kind: str = kind_of(SIMULATORS, default="tabletop", help=SIMULATOR_HELP)
    cameras: list[str] = choice_list(*TABLETOP_CAMERAS[:3], choices=TABLETOP_CAMERAS, help="cameras")
    workspace: list[float] = workspace_field(RLBENCH_WORKSPACE)
    state: list[str] = state_field(*GRIPPER_STATE)
    actions: str = actions_field(KEYFRAME, DENSE)
    renderer: str = one_of(*TABLETOP_RENDERERS, default="auto", help="renderer; auto: the best one available")

    def check_task(self, key: str, name: str) -> None:
        """Raise InputError if the simulator has no task of this name, which is a value of the setting `key`."""
        if name not in TASKS:
            alternative = "" if key == "task.tasks" else ", or any name with a set in task.tasks"
            allowed = f"{', '.join(TASKS)}{alternative}, or a task of RLBench with sim=rlbench"
            raise InputError(f"{key}: found {format_value(name)}; allowed: {allowed}")
        TASKS.check(name)


@dataclass
class MetaWorldConfig(SimConfig):
    """Meta-World, which the user installs into an environment of its own."""

    implementation: ClassVar[str] = "instructrl.sim.metaworld.env:MetaWorld"
    environment: ClassVar[str] = ".venv-metaworld"
    known_state: ClassVar[tuple[str, ...]] = METAWORLD_GRIPPER + METAWORLD_OBJECTS
    records_intermediate_frames: ClassVar[bool] = True

    name: str = setting("metaworld", help="label of the simulator")
    kind: str = kind_of(SIMULATORS, default="metaworld", help=SIMULATOR_HELP)
    cameras: list[str] = choice_list(*METAWORLD_CAMERAS[:3], choices=METAWORLD_CAMERAS, help="cameras")
    workspace: list[float] = workspace_field(Workspace((-0.5, 0.35, -0.2), (0.5, 1.0, 0.46)))
    state: list[str] = state_field(*METAWORLD_GRIPPER)
    actions: str = actions_field(KEYFRAME, DENSE)
    renderer: str = one_of("auto", "egl", "osmesa", default="auto", help="renderer; auto: the first that works")

    def check_task(self, key: str, name: str) -> None:
        """Raise InputError if the simulator has no task of this name, which is a value of the setting `key`."""
        if not re.fullmatch("[a-z]+(-[a-z]+)*-v3", name):
            raise InputError(
                f"{key}: found {format_value(name)}; allowed: the name of a task of Meta-World, like drawer-open-v3"
            )


@dataclass
class RLBenchConfig(SimConfig):
    """RLBench on CoppeliaSim, which the user installs."""

    implementation: ClassVar[str] = "instructrl.sim.rlbench.env:RLBench"
    fragile: ClassVar[bool] = True
    usual_renderer: ClassVar[str] = RLBENCH_RENDERERS[1]

    name: str = setting("rlbench", help="label of the simulator")
    kind: str = kind_of(SIMULATORS, default="rlbench", help=SIMULATOR_HELP)
    cameras: list[str] = choice_list(*RLBENCH_CAMERAS[:3], choices=RLBENCH_CAMERAS, help="cameras")
    workspace: list[float] = workspace_field(RLBENCH_WORKSPACE)
    state: list[str] = state_field(*GRIPPER_STATE)
    actions: str = actions_field(KEYFRAME, COLLISIONS)
    renderer: str = one_of("auto", *RLBENCH_RENDERERS, default="auto", help="renderer; auto: RLBench's default")
    planner_attempts: int = number(10, low=1, high=1000, help="path planning attempts for each keyframe")

    def check_task(self, key: str, name: str) -> None:
        """Raise InputError if the simulator has no task of this name, which is a value of the setting `key`."""
        if not re.fullmatch("[a-z][a-z0-9_]*", name):
            raise InputError(
                f"{key}: found {format_value(name)}; allowed: the name of a task of RLBench, like close_jar"
            )
