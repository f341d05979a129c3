from pyrep.const import RenderMode


class CameraConfig:
    def __init__(
        self,
        rgb=True,
        rgb_noise=None,
        depth=True,
        depth_noise=None,
        point_cloud=True,
        mask=True,
        image_size=(128, 128),
        render_mode=RenderMode.OPENGL3,
        masks_as_one_channel=True,
        depth_in_meters=False,
    ):
        self.rgb, self.depth, self.point_cloud, self.mask = rgb, depth, point_cloud, mask
        self.image_size, self.render_mode, self.depth_in_meters = image_size, render_mode, depth_in_meters

    def set_all(self, value: bool):
        self.rgb = self.depth = self.point_cloud = self.mask = value


class ObservationConfig:
    LOW_DIM = ("joint_velocities", "joint_positions", "joint_forces", "gripper_open", "gripper_pose",
               "gripper_matrix", "gripper_joint_positions", "gripper_touch_forces", "task_low_dim_state")  # fmt: skip

    def __init__(
        self,
        left_shoulder_camera: CameraConfig | None = None,
        right_shoulder_camera: CameraConfig | None = None,
        overhead_camera: CameraConfig | None = None,
        wrist_camera: CameraConfig | None = None,
        front_camera: CameraConfig | None = None,
        joint_velocities=True,
        joint_positions=True,
        joint_forces=True,
        gripper_open=True,
        gripper_pose=True,
        gripper_matrix=False,
        gripper_joint_positions=False,
        gripper_touch_forces=False,
        task_low_dim_state=False,
    ):
        given = locals()
        for name in ("left_shoulder", "right_shoulder", "overhead", "wrist", "front"):
            setattr(self, f"{name}_camera", given[f"{name}_camera"] or CameraConfig())
        for name in self.LOW_DIM:
            setattr(self, name, given[name])

    def set_all_low_dim(self, value: bool):
        for name in self.LOW_DIM:
            setattr(self, name, value)
