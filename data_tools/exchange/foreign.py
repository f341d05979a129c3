"""Conversion of third-party episodes to demonstrations, according to a mapping."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from data_tools.convert.skip_report import SkippedError, SkipReason
from data_tools.convert.stored_images import resize
from data_tools.exchange.episodes import Episode
from data_tools.exchange.mapping import ROTATIONS, Mapping, parse_key, robot_model, selected_cameras
from instructrl.actions import canonical_quaternion, quaternion_from_euler
from instructrl.errors import InputError
from instructrl.sim.keyframes import STEP_SECONDS, find_keyframes, kept_frames, path_keyframes, velocities
from instructrl.sim.rlbench.views import MAX_STEPS
from instructrl.types import Demonstration


def demonstration(
    load: Callable[[int], Episode], mapping: Mapping, size: int, index: int, *, seed: int
) -> Demonstration:
    """Convert one third-party episode: its first step, its keyframes, and what else the mapping keeps.

    Raises:
        SkippedError: a part of it cannot be used. InputError: its numbers are invalid.
    """
    episode = load(index)
    if episode.steps < 2:
        raise SkippedError(SkipReason.FRAMES, f"found {episode.steps} steps, expected at least 2")
    instructions = instructions_of(episode, mapping)
    chosen = keyframes(episode, mapping)
    steps, positions, passed = kept_frames(chosen, every=mapping.keyframes.intermediate_frames)
    actions = np.stack([action(episode, mapping, int(step)) for step in chosen])
    views = [
        [camera_view(episode, mapping, name, int(step), size) for name in selected_cameras(mapping)] for step in steps
    ]
    images, intrinsics, extrinsics = (np.array([[one[part] for one in row] for row in views]) for part in range(3))
    variation = 0
    if mapping.variation is not None:
        [number] = check_count("variation", parse_key("variation", mapping.variation).at(episode, 0), 1)
        if not (number >= 0 and number == int(number)):
            raise SkippedError(SkipReason.VARIATION, f"found {number:g}, expected 0, 1, 2 ...")
        variation = int(number)
    return Demonstration(
        images=images,
        state=np.stack(
            [state(episode, mapping, int(step), int(count)) for step, count in zip(steps, passed, strict=True)]
        ),
        intrinsics=intrinsics.astype(np.float32),
        extrinsics=extrinsics.astype(np.float32),
        keyframes=positions,
        actions=actions,
        instructions=instructions,
        variation=variation,
        seed=seed,
    )


def instructions_of(episode: Episode, mapping: Mapping) -> tuple[str, ...]:
    """Distinct instructions of an episode."""
    spec = mapping.instruction
    found = (spec.text or "",) if spec.key is None else episode.text(parse_key("instruction.key", spec.key).name)
    steps = tuple(dict.fromkeys(" ".join(one.split()) for one in found if one.strip()))
    if not steps:
        raise SkippedError(SkipReason.SENTENCES, f"{spec.key} is empty")
    return steps


def keyframes(episode: Episode, mapping: Mapping) -> np.ndarray:
    """Step numbers of the keyframes [T], from 1 on."""
    spec = mapping.keyframes
    if spec.kind == "every":
        return np.arange(1, episode.steps)
    if spec.kind == "marked":
        found = np.flatnonzero(parse_key("keyframes.marked", spec.marked or "").all(episode).any(axis=1))
        if not (found > 0).any():
            raise SkippedError(SkipReason.NUMBERS, f"no step after the first is marked by {spec.marked}")
        return found[found > 0]
    if spec.kind == "path":
        first = 1 if mapping.action.leads_to == "next" else 0  # no action leads to the first step, where it stays
        steps = np.maximum(np.arange(episode.steps), first).tolist()
        places = np.stack([position(episode, mapping, step) for step in steps])
        opened = np.concatenate([gripper(episode, mapping, step) for step in steps])
        return path_keyframes(places, opened, tolerance=spec.tolerance or 0.0)
    if spec.joint_velocities is not None:
        speeds = parse_key("keyframes.joint_velocities", spec.joint_velocities).all(episode)
    else:
        positions = parse_key("keyframes.joint_positions", spec.joint_positions or "").all(episode)
        speeds = velocities(positions) * (STEP_SECONDS / (spec.seconds or 1))
    if mapping.state.gripper is not None:
        opened = parse_key("state.gripper", mapping.state.gripper, compares=True).all(episode)
    else:
        opened = parse_key("state.values", mapping.state.values or "").all(episode)
    return find_keyframes(opened[:, 0], speeds)


def action(episode: Episode, mapping: Mapping, step: int) -> np.ndarray:
    """Action float32 [8] that leads to a step."""
    return np.concatenate([*pose(episode, mapping, step), gripper(episode, mapping, step)], dtype=np.float32)


def number_of(mapping: Mapping, step: int) -> int:
    """Number of the step whose action leads to a step."""
    return step - (mapping.action.leads_to == "next")


def gripper(episode: Episode, mapping: Mapping, step: int) -> np.ndarray:
    """State of the gripper in the action that leads to a step: bool [1], True if it is open."""
    return parse_key("action.gripper", mapping.action.gripper, compares=True).at(episode, number_of(mapping, step))


def pose(episode: Episode, mapping: Mapping, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Position [3] in metres and quaternion [4] of the action that leads to a step."""
    spec, kinematics = mapping.action, mapping.kinematics
    if kinematics.joints is not None:
        joints = parse_key("kinematics.joints", kinematics.joints).at(episode, number_of(mapping, step))
        return robot_model(kinematics).pose(joints, degrees=kinematics.degrees)
    form = spec.rotation_is or ""
    numbers = parse_key("action.rotation", spec.rotation or "").at(episode, number_of(mapping, step))
    return position(episode, mapping, step), quaternion(check_count("action.rotation", numbers, ROTATIONS[form]), form)


def position(episode: Episode, mapping: Mapping, step: int) -> np.ndarray:
    """Position [3] in metres of the action that leads to a step."""
    if mapping.kinematics.joints is not None:
        return pose(episode, mapping, step)[0]
    key = parse_key("action.position", mapping.action.position or "")
    return check_count("action.position", key.at(episode, number_of(mapping, step)), 3)


def quaternion(numbers: np.ndarray, form: str) -> np.ndarray:
    """Convert a rotation in one of the `ROTATIONS` to a canonical quaternion x y z w.

    Raises:
        InputError: the numbers are not close to a rotation.
    """
    if not np.isfinite(numbers).all():
        raise InputError(f"action.rotation: found {numbers.tolist()}, expected finite numbers")
    if form == "euler_xyz":
        return quaternion_from_euler(numbers)
    if form == "rotation_vector":
        from scipy.spatial.transform import Rotation

        return canonical_quaternion(Rotation.from_rotvec(numbers).as_quat())
    if form == "matrix":
        from scipy.spatial.transform import Rotation

        matrix = numbers.reshape(3, 3)
        if np.abs(matrix @ matrix.T - np.eye(3)).max() > 1e-2 or np.linalg.det(matrix) < 0:
            raise InputError("action.rotation: found a matrix that is not a rotation; check rotation_is")
        return canonical_quaternion(Rotation.from_matrix(matrix).as_quat())
    if abs(np.linalg.norm(numbers) - 1) > 1e-2:
        raise InputError(f"action.rotation: found a quaternion of length {np.linalg.norm(numbers):.3g}, expected 1")
    return canonical_quaternion(numbers if form == "quaternion_xyzw" else np.roll(numbers, -1))


def state(episode: Episode, mapping: Mapping, step: int, passed: int) -> np.ndarray:
    """State float32 [S] at a step, which is the keyframe number `passed`, or on the way from it to the next."""
    spec = mapping.state
    if spec.values is not None:
        values = check_count("state.values", parse_key("state.values", spec.values).at(episode, step), len(spec.names))
        return values.astype(np.float32)
    opened = parse_key("state.gripper", spec.gripper or "", compares=True).at(episode, step)
    if spec.fingers is not None:
        fingers = parse_key("state.fingers", spec.fingers).at(episode, step)
        fingers = np.repeat(fingers, 2) if len(fingers) == 1 else check_count("state.fingers", fingers, 2)
    else:
        fingers = np.repeat(opened * (spec.finger_opening or 0.0), 2)
    return np.concatenate([opened, fingers, [min(-1 + 2 * passed / MAX_STEPS, 1.0)]], dtype=np.float32)


def camera_view(episode: Episode, mapping: Mapping, name: str, step: int, size: int) -> tuple[np.ndarray, ...]:
    """Pixels uint8 [size size 3], intrinsics [3 3] and extrinsics [4 4] of a camera at a step."""
    spec = selected_cameras(mapping)[name]
    try:
        pixels = np.asarray(episode.at(parse_key("image", spec.image or "").name, step))
    except InputError as error:
        raise SkippedError(SkipReason.IMAGES, str(error)) from None
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise SkippedError(SkipReason.IMAGES, f"{name}: found {pixels.dtype}{pixels.shape}, expected uint8(H, W, 3)")
    height, width = pixels.shape[:2]
    side = min(height, width)
    if height != width and not mapping.crop:
        raise SkippedError(
            SkipReason.IMAGES, f"{name}: found {width} x {height}, expected a square; crop: true crops it"
        )
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side]
    intrinsic = np.array(
        [[size, 0, size / 2], [0, size, size / 2], [0, 0, 1]], np.float64
    )  # placeholder for unknown intrinsics
    extrinsic = np.eye(4)
    if spec.intrinsics is not None and spec.extrinsics is not None:
        setting = f"cameras.{name}"
        intrinsic = check_count(setting, parse_key(setting, spec.intrinsics).at(episode, step), 9).reshape(3, 3).copy()
        extrinsic = check_count(setting, parse_key(setting, spec.extrinsics).at(episode, step), 16).reshape(4, 4)
        intrinsic[:2] -= np.outer([left, top], intrinsic[2])
        intrinsic[:2] *= size / side
    return resize(Image.fromarray(square), size), intrinsic, extrinsic


def check_count(setting: str, numbers: np.ndarray, count: int) -> np.ndarray:
    """Return `numbers` if there are `count` of them.

    Raises:
        InputError: their number differs.
    """
    if len(numbers) != count:
        raise InputError(f"{setting}: found {len(numbers)} numbers, expected {count}")
    return numbers
