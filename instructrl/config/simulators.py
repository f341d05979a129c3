"""Settings of each kind of simulator. The simulators themselves are in sim/."""

import re
from dataclasses import dataclass
from typing import ClassVar

from instructrl.config.environment import CAMERAS, RENDERERS, RLBENCH_RENDERERS, SimConfig
from instructrl.config.fields import choice_list, format_value, number, one_of
from instructrl.errors import InputError
from instructrl.tasks import TASKS


@dataclass
class TabletopConfig(SimConfig):
    """The embedded simulator."""

    implementation: ClassVar[str] = "instructrl.sim.tabletop.env:Tabletop"
    locates_objects: ClassVar[bool] = True

    cameras: list[str] = choice_list("front", "left_shoulder", "right_shoulder", choices=CAMERAS[:-1], help="cameras")
    renderer: str = one_of(*RENDERERS, default="auto", help="renderer; auto: the best one available")

    def check_task(self, key: str, name: str) -> None:
        """Raise InputError if the simulator has no task of this name, which is a value of the setting `key`."""
        if name not in TASKS:
            alternative = "" if key == "task.tasks" else ", or any name with a set in task.tasks"
            allowed = f"{', '.join(TASKS)}{alternative}, or a task of RLBench with sim=rlbench"
            raise InputError(f"{key}: found {format_value(name)}; allowed: {allowed}")
        TASKS.check(name)


@dataclass
class RLBenchConfig(SimConfig):
    """RLBench on CoppeliaSim, which the user installs."""

    implementation: ClassVar[str] = "instructrl.sim.rlbench.env:RLBench"
    fragile: ClassVar[bool] = True

    cameras: list[str] = choice_list("front", "left_shoulder", "right_shoulder", choices=CAMERAS, help="cameras")
    renderer: str = one_of("auto", *RLBENCH_RENDERERS, default="auto", help="renderer; auto: RLBench's default")
    planner_attempts: int = number(10, low=1, high=1000, help="path planning attempts for each keyframe")

    def check_task(self, key: str, name: str) -> None:
        """Raise InputError if the simulator has no task of this name, which is a value of the setting `key`."""
        if not re.fullmatch("[a-z][a-z0-9_]*", name):
            raise InputError(
                f"{key}: found {format_value(name)}; allowed: the name of a task of RLBench, like close_jar"
            )
