"""One door to the two renderers."""

from typing import Protocol

import mujoco
import numpy as np


class Renderer(Protocol):
    """Draws square images of one model."""

    def draw(self, data: mujoco.MjData, camera: int) -> np.ndarray:
        """Image, uint8 [H, W, 3]."""
        ...

    def depth(self, data: mujoco.MjData, camera: int) -> np.ndarray:
        """Metres along the optical axis, float32 [H, W]; what is translucent is not seen."""
        ...

    def close(self) -> None:
        """Free what is held."""
        ...


def make_renderer(name: str, model: mujoco.MjModel, size: int) -> Renderer:
    """The renderer called "opengl" or "raycast" for images of `size` x `size` pixels."""
    if name == "opengl":
        from instructrl.sim.tabletop.opengl import OpenGL

        return OpenGL(model, size)
    from instructrl.sim.tabletop.raycast import Raycaster

    return Raycaster(model, size)
