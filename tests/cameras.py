"""Cameras for tests: around the workspace, facing its centre."""

import numpy as np


def ring_of_cameras(count, size, *, radius=1.2, height=1.7, look_at=(0.2, 0.0, 1.0)):
    """Intrinsics [K,3,3] and extrinsics [K,4,4] of `count` cameras on a circle."""
    focal = size * 1.1
    intrinsics = np.tile(np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]], np.float32), (count, 1, 1))
    extrinsics = np.tile(np.eye(4, dtype=np.float32), (count, 1, 1))
    for index, angle in enumerate(np.linspace(0.3, 0.3 + 1.5 * np.pi, count)):
        eye = np.array([look_at[0] + radius * np.cos(angle), radius * np.sin(angle), height + 0.05 * index])
        ahead = (np.array(look_at) - eye) / np.linalg.norm(np.array(look_at) - eye)
        right = np.cross(ahead, [0, 0, 1])
        right /= np.linalg.norm(right)
        extrinsics[index, :3, :3] = np.stack([right, np.cross(ahead, right), ahead], axis=1)
        extrinsics[index, :3, 3] = eye
    return intrinsics, extrinsics
