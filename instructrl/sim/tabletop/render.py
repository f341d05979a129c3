"""Common interface of the two renderers."""

from typing import Protocol

import mujoco
import numpy as np

from instructrl.sim.tabletop.scene import GLASS_GROUP, HIDDEN_GROUP


class Renderer(Protocol):
    """Renders square images of one model."""

    def draw(self, data: mujoco.MjData, camera: int) -> np.ndarray:
        """Render an image, uint8 [H, W, 3]."""
        ...

    def depth(self, data: mujoco.MjData, camera: int) -> np.ndarray:
        """Render depths in metres along the optical axis, float32 [H, W], ignoring translucent geoms."""
        ...

    def close(self) -> None:
        """Release the renderer's resources."""
        ...


def make_renderer(name: str, model: mujoco.MjModel, size: int) -> Renderer:
    """Create the renderer "opengl" or "raycast" for images of `size` x `size` pixels."""
    if name == "opengl":
        from instructrl.sim.mujoco.opengl import OpenGL

        return OpenGL(model, size, hidden=(HIDDEN_GROUP,), glass=(GLASS_GROUP,))
    from instructrl.sim.tabletop.raycast import Raycaster

    return Raycaster(model, size)
