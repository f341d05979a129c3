"""Episodes of the HDF5 windows of the method's first release."""

import numpy as np

from data_tools.convert.skip_report import SkippedError, SkipReason
from instructrl.actions import canonical_quaternion
from instructrl.config.environment import EMBEDDED_TASKS
from instructrl.data.demonstrations.legacy_windows import WindowEpisode, Windows
from instructrl.plausibility import check_gripper_poses
from instructrl.sim.rlbench.views import MAX_STEPS
from instructrl.sim.tabletop.task import load_task
from instructrl.types import Demonstration
from instructrl.workspace import RLBENCH_WORKSPACE


def window_demonstration(
    windows: Windows, episode: WindowEpisode, task: str, variations: int | None, *, seed: int
) -> Demonstration:
    """Convert one episode of windows; the final frame, which no window contains, is replaced by the one before it."""
    if episode.fault:
        raise SkippedError(SkipReason.GAPS, episode.fault)
    if variations is not None and episode.variation >= variations:
        raise SkippedError(SkipReason.VARIATION, f"found {episode.variation}, expected 0..{variations - 1}")
    if task not in EMBEDDED_TASKS:
        raise SkippedError(
            SkipReason.SENTENCES, f"windows contain none, and {task} is not an embedded task with its own"
        )
    frames = [*episode.frames, episode.frames[-1]]
    views, size, actions = len(windows.cameras), windows.image_size, episode.actions
    placeholder = np.array([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1]], np.float32)
    times = [min(-1 + 2 * t / MAX_STEPS, 1.0) for t in range(len(frames))]
    check_gripper_poses(actions[:, :7], RLBENCH_WORKSPACE)
    rotations = canonical_quaternion(actions[:, 3:7])
    return Demonstration(
        images=np.stack([windows.pixels(frame) for frame in frames]),
        state=np.array([[*windows.gripper(one), t] for one, t in zip(frames, times, strict=True)], np.float32),
        intrinsics=np.tile(placeholder, (len(frames), views, 1, 1)),
        extrinsics=np.tile(np.eye(4, dtype=np.float32), (len(frames), views, 1, 1)),
        keyframes=np.arange(1, len(frames), dtype=np.int64),
        actions=np.concatenate([actions[:, :3], rotations, actions[:, 7:] > 0.5], axis=1, dtype=np.float32),
        instructions=load_task(task).instructions(episode.variation),
        variation=episode.variation,
        seed=seed,
    )
