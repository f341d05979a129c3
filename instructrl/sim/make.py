"""From a simulator's settings to an environment."""

from typing import TYPE_CHECKING

from instructrl.errors import InputError
from instructrl.sim.env import Env
from instructrl.sim.graphics import available_renderer

if TYPE_CHECKING:
    from instructrl.config import SimConfig


def make_env(cfg: "SimConfig", task: str) -> Env:
    """An environment for one task; simulators are imported only when asked for.

    Raises:
        InputError: an unknown simulator, task or camera, or a renderer that does not work here.
    """
    if cfg.kind != "tabletop":
        raise InputError(f"sim.kind: found {cfg.kind!r}, expected tabletop")
    from instructrl.sim.tabletop.env import Tabletop

    return Tabletop(
        task, cameras=tuple(cfg.cameras), image_size=cfg.image_size, renderer=available_renderer(cfg.renderer)
    )
