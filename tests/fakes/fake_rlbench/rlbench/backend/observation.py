"""Observation of a task environment; disabled fields are None."""

CAMERAS = ("left_shoulder", "right_shoulder", "overhead", "wrist", "front")


class Observation:
    def __init__(self, **fields):
        for camera in CAMERAS:
            for kind in ("rgb", "depth", "mask", "point_cloud"):
                setattr(self, f"{camera}_{kind}", None)
        self.joint_velocities = self.joint_positions = self.joint_forces = None
        self.gripper_open = self.gripper_pose = self.gripper_matrix = None
        self.gripper_joint_positions = self.gripper_touch_forces = self.task_low_dim_state = None
        self.misc = {}
        for name, value in fields.items():
            setattr(self, name, value)
