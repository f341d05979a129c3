"""Meta-World's cameras: their images and matrices.

Some are mounted upside down. Their images are turned by half a turn, and their matrices with them.
"""

from collections.abc import Sequence

import mujoco
import numpy as np

from instructrl.sim.mujoco.cameras import extrinsics, intrinsics
from instructrl.sim.mujoco.opengl import OpenGL

COLLISION_GROUP = 4  # of geoms that Meta-World does not draw


class Views:
    """Some of the cameras of a scene."""

    def __init__(self, model: mujoco.MjModel, names: Sequence[str], size: int):
        """Choose the cameras; images are squares of `size` pixels."""
        self._cameras = [model.camera(name).id for name in names]
        self._intrinsics = np.stack([intrinsics(model, camera, size) for camera in self._cameras])
        model.vis.quality.offsamples = 0  # software drivers are common
        self._renderer = OpenGL(model, size, hidden=(COLLISION_GROUP,))

    def images(self, data: mujoco.MjData) -> np.ndarray:
        """The images, uint8 [K, H, W, 3]."""
        images = [self._renderer.draw(data, camera) for camera in self._cameras]
        turned = [image[::-1, ::-1] if upside_down(data, camera) else image for image, camera in self._with(images)]
        return np.stack(turned)

    def matrices(self, data: mujoco.MjData) -> tuple[np.ndarray, np.ndarray]:
        """Intrinsics float32 [K 3 3], and extrinsics float32 [K 4 4] in metres."""
        poses = [extrinsics(data, camera) for camera in self._cameras]
        half_turn = np.diag([-1, -1, 1, 1]).astype(np.float32)
        turned = [pose @ half_turn if upside_down(data, camera) else pose for pose, camera in self._with(poses)]
        return self._intrinsics, np.stack(turned)

    def close(self) -> None:
        """Release the renderer."""
        self._renderer.close()

    def _with(self, values: list[np.ndarray]) -> list[tuple[np.ndarray, int]]:
        return list(zip(values, self._cameras, strict=True))


def upside_down(data: mujoco.MjData, camera: int) -> bool:
    """True if the top of a camera's image shows what is below."""
    return bool(data.cam_xmat[camera].reshape(3, 3)[2, 1] < 0)
