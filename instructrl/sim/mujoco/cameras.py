"""Camera matrices in the computer-vision convention of `instructrl.types`."""

import mujoco
import numpy as np


def intrinsics(model: mujoco.MjModel, camera: int, size: int) -> np.ndarray:
    """Intrinsics, float32 [3 3]: camera coordinates to pixels of a square image that spans [0, size]."""
    focal = size / 2 / np.tan(np.radians(model.cam_fovy[camera]) / 2)
    return np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]], np.float32)


def extrinsics(data: mujoco.MjData, camera: int) -> np.ndarray:
    """Extrinsics, float32 [4 4]: camera (x right, y down, z into the scene) to world coordinates, metres."""
    pose = np.eye(4, dtype=np.float32)
    pose[:3, :3] = data.cam_xmat[camera].reshape(3, 3) * (1.0, -1.0, -1.0)  # mujoco: y up, looking along -z
    pose[:3, 3] = data.cam_xpos[camera]
    return pose
