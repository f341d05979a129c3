"""Common interface of the two renderers, and a view from any side."""

from dataclasses import dataclass
from typing import Protocol

import mujoco
import numpy as np

from instructrl.sim.tabletop.scene import GLASS_GROUP, HIDDEN_GROUP

MIDDLE = np.array([0.2, 0.0, 1.0])  # of the workspace, metres, world frame


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


@dataclass(frozen=True)
class View:
    """A camera that looks at the middle of the workspace, by its place on a sphere around that."""

    azimuth: float  # degrees about the vertical, 0 where x grows, away from the arm's base
    elevation: float  # degrees above the horizon, above -90 and below 90
    distance: float  # metres

    def pose(self) -> tuple[np.ndarray, np.ndarray]:
        """The camera's position [3] in metres, and its axes right, up and backward as columns of a matrix, flat [9]."""
        around, up = np.radians(self.azimuth), np.radians(self.elevation)
        backward = np.array([np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up)])
        right = np.array([-np.sin(around), np.cos(around), 0.0])
        axes = np.stack([right, np.cross(backward, right), backward], axis=1)
        return MIDDLE + self.distance * backward, axes.ravel()
