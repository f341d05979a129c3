from pyrep.const import RenderMode

from rlbench.noise_model import Identity

CAMERAS = ("left_shoulder", "right_shoulder", "overhead", "wrist", "front")
LOW_DIM = (
    "joint_velocities",
    "joint_positions",
    "joint_forces",
    "gripper_open",
    "gripper_pose",
    "gripper_matrix",
    "gripper_joint_positions",
    "gripper_touch_forces",
    "wrist_camera_matrix",
    "task_low_dim_state",
)


class CameraConfig:
    def __init__(
        self,
        rgb=True,
        rgb_noise=Identity(),  # noqa: B008
        depth=True,
        depth_noise=Identity(),  # noqa: B008
        point_cloud=True,
        mask=True,
        image_size=(128, 128),
        render_mode=RenderMode.OPENGL3,
        masks_as_one_channel=True,
        depth_in_meters=False,
    ):
        fields = locals()
        del fields["self"]
        vars(self).update(fields)

    def set_all(self, value):
        self.rgb = self.depth = self.point_cloud = self.mask = value


class ObservationConfig:
    def __init__(
        self,
        left_shoulder_camera=None,
        right_shoulder_camera=None,
        overhead_camera=None,
        wrist_camera=None,
        front_camera=None,
        joint_velocities=True,
        joint_velocities_noise=Identity(),  # noqa: B008
        joint_positions=True,
        joint_positions_noise=Identity(),  # noqa: B008
        joint_forces=True,
        joint_forces_noise=Identity(),  # noqa: B008
        gripper_open=True,
        gripper_pose=True,
        gripper_matrix=False,
        gripper_joint_positions=False,
        gripper_touch_forces=False,
        wrist_camera_matrix=False,
        record_gripper_closing=False,
        task_low_dim_state=False,
    ):
        fields = locals()
        del fields["self"]
        cameras = {f"{name}_camera": fields[f"{name}_camera"] or CameraConfig() for name in CAMERAS}
        vars(self).update(fields | cameras)

    def set_all_low_dim(self, value):
        vars(self).update(dict.fromkeys(LOW_DIM, value))
