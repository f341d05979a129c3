"""A foreign RLDS episode as one of our demonstrations, as a mapping says."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from data_tools.conversion import Reason, SkippedError
from data_tools.rlds_mapping import ROTATIONS, Mapping, chosen, parsed
from data_tools.rlds_source import Episode
from data_tools.stored import resized
from instructrl.actions import canonical_quaternion, quaternion_of
from instructrl.batch import STATE_SIZE, Demonstration
from instructrl.errors import InputError
from instructrl.sim.keyframes import STEP_SECONDS, find_keyframes, velocities
from instructrl.sim.rlbench.env import MAX_STEPS


def demonstration(
    load: Callable[[int], Episode], mapping: Mapping, size: int, index: int, *, seed: int
) -> Demonstration:
    """One foreign episode: its first step and its keyframes.

    Raises:
        SkippedError: something in it cannot be used. InputError: its numbers cannot.
    """
    episode = load(index)
    if episode.steps < 2:
        raise SkippedError(Reason.FRAMES, f"found {episode.steps} steps, expected at least 2")
    sentences = sentences_of(episode, mapping)
    kept = np.concatenate([[0], keyframes(episode, mapping)])
    actions = np.stack([action(episode, mapping, int(step)) for step in kept[1:]])
    views = [[view(episode, mapping, name, int(step), size) for name in chosen(mapping)] for step in kept]
    images, intrinsics, extrinsics = (np.array([[one[part] for one in row] for row in views]) for part in range(3))
    variation = 0
    if mapping.variation is not None:
        [number] = sized("variation", parsed("variation", mapping.variation).at(episode, 0), 1)
        if not (number >= 0 and number == int(number)):
            raise SkippedError(Reason.VARIATION, f"found {number:g}, expected 0, 1, 2 ...")
        variation = int(number)
    return Demonstration(
        images=images,
        state=np.stack([state(episode, mapping, int(step), place) for place, step in enumerate(kept)]),
        intrinsics=intrinsics.astype(np.float32),
        extrinsics=extrinsics.astype(np.float32),
        keyframes=np.arange(1, len(kept), dtype=np.int64),
        actions=actions,
        instructions=sentences,
        variation=variation,
        seed=seed,
    )


def sentences_of(episode: Episode, mapping: Mapping) -> tuple[str, ...]:
    """The ways to ask for what an episode shows."""
    asked = mapping.instruction
    found = (asked.text or "",) if asked.key is None else episode.text(parsed("instruction.key", asked.key).name)
    kept = tuple(dict.fromkeys(" ".join(one.split()) for one in found if one.strip()))
    if not kept:
        raise SkippedError(Reason.SENTENCES, f"{asked.key} is empty")
    return kept


def keyframes(episode: Episode, mapping: Mapping) -> np.ndarray:
    """The steps that are keyframes [T], from 1 on."""
    asked = mapping.keyframes
    if asked.kind == "every":
        return np.arange(1, episode.steps)
    if asked.kind == "marked":
        found = np.flatnonzero(parsed("keyframes.marked", asked.marked or "").all(episode).any(axis=1))
        if not (found > 0).any():
            raise SkippedError(Reason.NUMBERS, f"no step after the first is marked by {asked.marked}")
        return found[found > 0]
    if asked.joint_velocities is not None:
        speeds = parsed("keyframes.joint_velocities", asked.joint_velocities).all(episode)
    else:
        positions = parsed("keyframes.joint_positions", asked.joint_positions or "").all(episode)
        speeds = velocities(positions) * (STEP_SECONDS / (asked.seconds or 1))
    if mapping.state.gripper is not None:
        opened = parsed("state.gripper", mapping.state.gripper, compares=True).all(episode)
    else:
        opened = parsed("state.values", mapping.state.values or "").all(episode)
    return find_keyframes(opened[:, 0], speeds)


def action(episode: Episode, mapping: Mapping, step: int) -> np.ndarray:
    """The action float32 [8] that leads to a step."""
    asked, at = mapping.action, step - (mapping.action.leads_to == "next")
    position = sized("action.position", parsed("action.position", asked.position).at(episode, at), 3)
    numbers = parsed("action.rotation", asked.rotation).at(episode, at)
    rotation = quaternion(sized("action.rotation", numbers, ROTATIONS[asked.rotation_is]), asked.rotation_is)
    gripper = parsed("action.gripper", asked.gripper, compares=True).at(episode, at)
    return np.concatenate([position, rotation, gripper], dtype=np.float32)


def quaternion(numbers: np.ndarray, form: str) -> np.ndarray:
    """The canonical quaternion x y z w of a rotation in one of `ROTATIONS`.

    Raises:
        InputError: it is far from being a rotation.
    """
    if not np.isfinite(numbers).all():
        raise InputError(f"action.rotation: found {numbers.tolist()}, expected finite numbers")
    if form == "euler_xyz":
        return quaternion_of(numbers)
    if form == "rotation_vector":
        from scipy.spatial.transform import Rotation

        return canonical_quaternion(Rotation.from_rotvec(numbers).as_quat())
    if form == "matrix":
        from scipy.spatial.transform import Rotation

        matrix = numbers.reshape(3, 3)
        if np.abs(matrix @ matrix.T - np.eye(3)).max() > 1e-2 or np.linalg.det(matrix) < 0:
            raise InputError("action.rotation: found a matrix that is no rotation; check rotation_is")
        return canonical_quaternion(Rotation.from_matrix(matrix).as_quat())
    if abs(np.linalg.norm(numbers) - 1) > 1e-2:
        raise InputError(f"action.rotation: found a quaternion of length {np.linalg.norm(numbers):.3g}, expected 1")
    return canonical_quaternion(numbers if form == "quaternion_xyzw" else np.roll(numbers, -1))


def state(episode: Episode, mapping: Mapping, step: int, place: int) -> np.ndarray:
    """The state float32 [4] at a step, the `place`-th that is kept."""
    asked = mapping.state
    if asked.values is not None:
        values = sized("state.values", parsed("state.values", asked.values).at(episode, step), STATE_SIZE)
        return values.astype(np.float32)
    opened = parsed("state.gripper", asked.gripper or "", compares=True).at(episode, step)
    if asked.fingers is not None:
        fingers = parsed("state.fingers", asked.fingers).at(episode, step)
        fingers = np.repeat(fingers, 2) if len(fingers) == 1 else sized("state.fingers", fingers, 2)
    else:
        fingers = np.repeat(opened * (asked.finger_opening or 0.0), 2)
    return np.concatenate([opened, fingers, [min(-1 + 2 * place / MAX_STEPS, 1.0)]], dtype=np.float32)


def view(episode: Episode, mapping: Mapping, name: str, step: int, size: int) -> tuple[np.ndarray, ...]:
    """A camera's pixels uint8 [size size 3], intrinsics [3 3] and extrinsics [4 4] at a step."""
    asked = chosen(mapping)[name]
    pixels = np.asarray(episode.at(parsed("image", asked.image or "").name, step))
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise SkippedError(Reason.PICTURES, f"{name}: found {pixels.dtype}{pixels.shape}, expected uint8(H, W, 3)")
    high, wide = pixels.shape[:2]
    side = min(high, wide)
    if high != wide and not mapping.crop:
        raise SkippedError(Reason.PICTURES, f"{name}: found {wide} x {high}, expected a square; crop: true makes one")
    top, left = (high - side) // 2, (wide - side) // 2
    square = pixels[top : top + side, left : left + side]
    inner = np.array([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1]], np.float64)  # stands for what is not known
    outer = np.eye(4)
    if asked.intrinsics is not None and asked.extrinsics is not None:
        where = f"cameras.{name}"
        inner = sized(where, parsed(where, asked.intrinsics).at(episode, step), 9).reshape(3, 3).copy()
        outer = sized(where, parsed(where, asked.extrinsics).at(episode, step), 16).reshape(4, 4)
        inner[:2] -= np.outer([left, top], inner[2])
        inner[:2] *= size / side
    return resized(Image.fromarray(square), size), inner, outer


def sized(where: str, numbers: np.ndarray, count: int) -> np.ndarray:
    """Numbers, of which there are as many as there should be."""
    if len(numbers) != count:
        raise InputError(f"{where}: found {len(numbers)} numbers, expected {count}")
    return numbers
