"""A world of points, shared by the stand-ins of RLBench and of PerAct's fork: cameras, scenes, demonstrations.

Cameras are CoppeliaSim's: x to the left, y up, z into the scene; matrices are as PyRep gives them.
"""

import os

import faults
import numpy as np
from rlbench.backend.exceptions import BoundaryError, DemoError, NoWaypointsError, WaypointError
from rlbench.backend.observation import Observation
from rlbench.demo import Demo

NAMES = ("left_shoulder", "right_shoulder", "overhead", "front", "wrist")
KINDS = ("rgb", "depth", "mask", "point_cloud")
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
GOLDEN_RATIO = 0.5 * 5**0.5 - 0.5


def look(place, at) -> np.ndarray:
    """CoppeliaSim's pose matrix [4 4] of a camera."""
    forward = np.subtract(at, place) / np.linalg.norm(np.subtract(at, place))
    left = np.cross([0.0, 0.0, 1.0], forward)
    left /= np.linalg.norm(left)
    pose = np.eye(4)
    pose[:3] = np.stack([left, np.cross(forward, left), forward, place], axis=1)
    return pose


class World:
    """The arm, the task's points and the cameras."""

    def __init__(self, obs_config):
        self.config, self.task = obs_config, None
        self.tip, self.opened, self.velocities = START.copy(), 1.0, np.zeros(7)
        self._variation_index, self._attempts = 0, 0
        # cameras that record nothing at the start are removed for good
        self.cameras = [name for name in NAMES if any(getattr(self.wanted(name), kind) for kind in KINDS[:2])]

    def wanted(self, name: str):
        return getattr(self.config, f"{name}_camera")

    def home(self):
        self.tip, self.opened, self.velocities = START.copy(), 1.0, np.zeros(7)

    def place(self, index: int, attempts: int, *, validate: bool) -> list[str]:
        """Draw placements until one is valid; with `validate` False, draw exactly this many."""
        self._variation_index, self._attempts = index, 0
        descriptions = None
        while self._attempts < attempts:
            faults.strike("place", index)
            descriptions = self.task.init_episode(index)
            try:
                self.turn()
                if validate:
                    self.task.validate()
                    break
                self._attempts += 1
            except (BoundaryError, WaypointError):
                self.task.cleanup_()
                self.task.restore_state(None)
                self._attempts += 1
                if self._attempts >= attempts:
                    raise
        return descriptions

    def turn(self):
        """Move the task as a whole, which fails if it is crowded."""
        self.task.places[:, 0] += np.random.uniform(0.0, 0.1)
        if self.task.places[0, 0] > float(os.environ.get("FAKE_RLBENCH_CROWDED", "inf")):
            raise BoundaryError("Could not place within boundary.")

    def camera(self, name: str) -> tuple[np.ndarray, float]:
        size = self.wanted(name).image_size[0]
        focal = size / 2 / np.tan(np.radians(FOV.get(name, 40.0)) / 2)
        if name == "wrist":
            return look(self.tip[:3] + [0.05, 0.0, 0.05], self.tip[:3] + [0.06, 0.0, -0.2]), focal
        return look(*EYES[name]), focal

    def draw(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Colours and normalized depths in [0, 1]; the first row is the top."""
        size = self.wanted(name).image_size[0]
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

    def misc(self) -> dict:
        found = {}
        for name in self.cameras:
            pose, focal = self.camera(name)
            middle = self.wanted(name).image_size[0] / 2
            found[f"{name}_camera_extrinsics"] = pose
            found[f"{name}_camera_intrinsics"] = np.array([[-focal, 0, middle], [0, -focal, middle], [0, 0, 1.0]])
            found[f"{name}_camera_near"], found[f"{name}_camera_far"] = NEAR, FAR
        return found

    def observe(self, misc: dict, **more) -> Observation:
        fields = {f"{name}_{kind}": None for name in NAMES for kind in KINDS}
        for name in self.cameras:
            if self.wanted(name).rgb or self.wanted(name).depth:
                image, depth = self.draw(name)
                fields[f"{name}_rgb"] = image if self.wanted(name).rgb else None
                fields[f"{name}_depth"] = depth if self.wanted(name).depth else None
        low_dim = {
            "gripper_open": self.opened,
            "gripper_pose": self.tip.copy(),
            "gripper_joint_positions": np.full(2, 0.04 * self.opened),
            "joint_velocities": self.velocities,
            **dict.fromkeys(("joint_positions", "joint_forces", "gripper_matrix", "gripper_touch_forces")),
            "task_low_dim_state": None,
        }
        fields |= {name: value if getattr(self.config, name) else None for name, value in low_dim.items()}
        return Observation(**fields, **more, misc=misc)

    def demonstrate(self, observe) -> Demo:
        """Fast moves to above each waypoint and down to it, with gripper changes where needed."""
        if not self.task.get_waypoints():
            raise NoWaypointsError("No waypoints were found.", self.task)
        faults.strike("demo", self._variation_index)
        seen = [observe()]
        ways = [
            (place + [0, 0, height], opened if not height else None)
            for place, opened in zip(self.task.places, self.task.gripper, strict=True)
            for height in (0.1, 0.0)
        ]
        for place, opened in ways:
            begin, end = self.tip, np.concatenate([place, DOWN])
            for share, speed in zip(np.linspace(0, 1, 8)[1:], (0.3, 0.8, 0.9, 0.9, 0.8, 0.3, 0.001), strict=True):
                self.tip = begin * (1 - share) + end * share
                self.tip[3:] /= np.linalg.norm(self.tip[3:])
                self.velocities = np.array([speed, -speed / 2, 0, 0, 0, 0, speed / 3])
                self.task.look(self.tip, self.opened)
                seen.append(observe())
            if opened not in (None, self.opened):
                self.opened = opened
                self.task.look(self.tip, self.opened)
                seen.append(observe())
        if not self.task.success()[0] and not self.task.hopeless:
            raise DemoError("Demo was completed, but was not successful.", self.task)
        return Demo(seen)


def plan(variation: int, task) -> None:
    """Plan the way to the waypoints of a task, which fails without regard to seeds, as CoppeliaSim's planner does.

    Whether it fails follows from how many plans all processes have made, so that exactly the share
    FAKE_RLBENCH_INFEASIBLE of them fails and no test depends on chance.
    """
    faults.strike("validate", variation)
    if faults.count("validate") * GOLDEN_RATIO % 1.0 < float(os.environ.get("FAKE_RLBENCH_INFEASIBLE", "0")):
        raise WaypointError("Infeasible episode. Can't reach waypoint 0.", task)
