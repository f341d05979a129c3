"""A world of points: the tip, the points to visit, and cameras that show them as discs.

Cameras are CoppeliaSim's: x to the left, y up, z into the scene; matrices are as PyRep gives them.
"""

import random

import numpy as np

from rlbench.backend.observation import CAMERAS, Observation

START = np.array([0.2785, -0.0082, 1.472, 0.0, 0.9927, 0.0, 0.1209])
DOWN = np.array([0.0, 1.0, 0.0, 0.0])
LOW, HIGH = np.array([-0.1, -0.5, 0.75]), np.array([0.6, 0.5, 1.75])  # workspace
NEAR, FAR = 0.01, 4.5
EYES = {  # position, and target point
    "front": ((1.35, 0.0, 1.58), (0.2, 0.0, 1.0)),
    "left_shoulder": ((-0.175, 0.2, 1.98), (0.3, 0.0, 0.9)),
    "right_shoulder": ((-0.175, -0.2, 1.98), (0.3, 0.0, 0.9)),
    "overhead": ((0.25, 0.01, 2.2), (0.25, 0.0, 0.8)),
}
FOV = {"wrist": 60.0}
RADIUS = 0.04  # metres
COLORS = ((220, 30, 30), (30, 200, 40), (40, 60, 230))


def look(place, at) -> np.ndarray:
    """CoppeliaSim's pose matrix [4 4] of a camera."""
    forward = np.subtract(at, place) / np.linalg.norm(np.subtract(at, place))
    left = np.cross([0.0, 0.0, 1.0], forward)
    left /= np.linalg.norm(left)
    pose = np.eye(4)
    pose[:3] = np.stack([left, np.cross(forward, left), forward, place], axis=1)
    return pose


class Scene:
    def __init__(self, obs_config):
        self.config, self.task = obs_config, None
        self.tip, self.opened, self.velocities = START.copy(), 1.0, np.zeros(7)

    def reset(self):
        self.tip, self.opened, self.velocities = START.copy(), 1.0, np.zeros(7)

    def draw_places(self, count: int) -> np.ndarray:
        """Random points, from both global random number generators."""
        places = np.random.uniform([0.15, -0.05, 0.85], [0.4, 0.05, 1.0], size=(count, 3))
        places[:, 1] += np.arange(count) * 0.3 - 0.15
        places[:, 2] += random.uniform(0.0, 0.1)
        return places

    def camera(self, name: str) -> tuple[np.ndarray, float]:
        size = getattr(self.config, f"{name}_camera").image_size[0]
        focal = size / 2 / np.tan(np.radians(FOV.get(name, 40.0)) / 2)
        if name == "wrist":
            return look(self.tip[:3] + [0.05, 0.0, 0.05], self.tip[:3] + [0.06, 0.0, -0.2]), focal
        return look(*EYES[name]), focal

    def draw(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Colours and normalized depths in [0, 1]; the first row is the top."""
        size = getattr(self.config, f"{name}_camera").image_size[0]
        pose, focal = self.camera(name)
        image, depth = np.full((size, size, 3), 90, np.uint8), np.ones((size, size))
        rows, columns = np.mgrid[0:size, 0:size] + 0.5
        for place, color in zip(self.task.places, COLORS, strict=False):
            left, up, ahead = pose[:3, :3].T @ (place - pose[:3, 3])
            if ahead > NEAR:
                across, down = size / 2 - focal * left / ahead, size / 2 - focal * up / ahead
                inside = (columns - across) ** 2 + (rows - down) ** 2 < (focal * RADIUS / ahead) ** 2
                image[inside], depth[inside] = color, (ahead - NEAR) / (FAR - NEAR)
        return image, depth

    def get_observation(self) -> Observation:
        fields, misc = {}, {}
        for name in CAMERAS:
            wanted = getattr(self.config, f"{name}_camera")
            pose, focal = self.camera(name)
            size = wanted.image_size[0]
            misc[f"{name}_camera_extrinsics"] = pose
            misc[f"{name}_camera_intrinsics"] = np.array([[-focal, 0, size / 2], [0, -focal, size / 2], [0, 0, 1.0]])
            misc[f"{name}_camera_near"], misc[f"{name}_camera_far"] = NEAR, FAR
            if wanted.rgb or wanted.depth:
                image, depth = self.draw(name)
                fields[f"{name}_rgb"] = image if wanted.rgb else None
                fields[f"{name}_depth"] = depth if wanted.depth else None
        low_dim = {
            "gripper_open": self.opened,
            "gripper_pose": self.tip.copy(),
            "gripper_joint_positions": np.full(2, 0.04 * self.opened),
            "joint_velocities": self.velocities,
        }
        fields |= {name: value if getattr(self.config, name) else None for name, value in low_dim.items()}
        return Observation(misc=misc, **fields)
