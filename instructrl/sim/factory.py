"""Creates environments from simulator settings."""

from typing import TYPE_CHECKING

from instructrl.errors import InputError
from instructrl.sim.env import Env
from instructrl.sim.rendering import available_renderer, rlbench_renderer

if TYPE_CHECKING:
    from instructrl.config.environment import SimConfig


def make_env(cfg: "SimConfig", task: str) -> Env:
    """Create the environment of one task; simulators are imported lazily, RLBench only once per process.

    Raises:
        InputError: an unknown simulator, task or camera, or a renderer that does not work on this machine.
    """
    cameras, size = tuple(cfg.cameras), cfg.image_size
    if cfg.kind == "tabletop":
        from instructrl.sim.tabletop.env import Tabletop

        return Tabletop(task, cameras=cameras, image_size=size, renderer=available_renderer(cfg.renderer))
    if cfg.kind == "rlbench":
        from instructrl.sim.rlbench.env import RLBench

        renderer, attempts = rlbench_renderer(cfg.renderer), cfg.planner_attempts
        return RLBench(task, cameras=cameras, image_size=size, renderer=renderer, planner_attempts=attempts)
    raise InputError(f"sim.kind: found {cfg.kind!r}, expected tabletop or rlbench")
