"""What in a foreign RLDS episode is what: the mapping file of an import.

    cameras:
      front: {image: steps/observation/image, intrinsics: ..., extrinsics: ...}   # the matrices are optional
    action:
      position: steps/action[0:3]            # metres, in the world frame; a target, not a step towards it
      rotation: steps/action[3:7]
      rotation_is: quaternion_xyzw
      gripper: steps/action[7] > 0.5         # true where it is open
      leads_to: next
    state: {gripper: "steps/observation/state[7] > 0.04", finger_opening: 0.04}
    keyframes: {kind: stops, joint_positions: "steps/observation/joints[0:7]", seconds: 0.1}
    instruction: {key: steps/language_instruction}

A key is the path of a feature, as tensorflow-datasets names it. [2] or [0:3] takes some of its numbers, flattened;
> and < compare one of them.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import MISSING, OmegaConf

from data_tools.rlds_source import Episode, Source
from instructrl.config import CAMERAS, resolve
from instructrl.data.records import said
from instructrl.errors import InputError
from instructrl.schema import number, one_of, shown

ROTATIONS = {"quaternion_xyzw": 4, "quaternion_wxyz": 4, "euler_xyz": 3, "rotation_vector": 3, "matrix": 9}
KEY = re.compile(r"([^\[\]<>\s]+)(?:\[(-?\d+)(?:(:)(-?\d+))?\])?(?:\s*([<>])\s*(\S+))?")


@dataclass
class View:
    """A camera: its pictures, and its matrices as `instructrl.batch` has them, if the data has any."""

    image: str | None = None  # uint8 [H W 3]
    intrinsics: str | None = None  # 9 numbers: camera coordinates to pixels
    extrinsics: str | None = None  # 16 numbers: camera to world, metres


@dataclass
class Action:
    """Where the gripper goes."""

    position: str = MISSING
    rotation: str = MISSING
    rotation_is: str = one_of(*ROTATIONS)  # angles in radians; euler_xyz about fixed axes; a matrix row by row
    gripper: str = MISSING  # with a comparison
    leads_to: str = one_of("next", "same")  # next: what a step does leads to the next one; same: it is the pose there


@dataclass
class State:
    """What the robot knows of itself: `values`, or `gripper` with its fingers."""

    values: str | None = None  # 4 numbers: gripper open, both fingers (m), time in [-1, 1]
    gripper: str | None = None  # with a comparison
    fingers: str | None = None  # 1 number for both or 2, metres
    finger_opening: float | None = number(None, low=0, high=1)  # metres, where no key says it: of each when open


@dataclass
class Keyframes:
    """Which steps are kept, beside the first."""

    kind: str = one_of("every", "marked", "stops")
    marked: str | None = None  # true (not 0) at keyframes
    joint_velocities: str | None = None  # rad/s; stops: where the arm rests or the gripper changes, and the end
    joint_positions: str | None = None  # rad, in place of velocities
    seconds: float | None = number(None, above=0, high=10)  # between two steps, with joint_positions


@dataclass
class Instruction:
    """How to ask for it: a key, or one sentence for all."""

    key: str | None = None
    text: str | None = None


Cameras = make_dataclass("Cameras", [(name, View, field(default_factory=View)) for name in CAMERAS])


@dataclass
class Mapping:
    """The file."""

    cameras: Cameras = field(default_factory=Cameras)  # type: ignore[valid-type]
    action: Action = field(default_factory=Action)
    state: State = field(default_factory=State)
    keyframes: Keyframes = field(default_factory=Keyframes)
    instruction: Instruction = field(default_factory=Instruction)
    variation: str | None = None  # an integer; without it, all are of variation 0
    crop: bool = False  # whether pictures that are not square lose their longer sides' ends


class Key(NamedTuple):
    """Some numbers of a feature, or how one of them compares."""

    name: str
    part: slice
    above: bool = True
    limit: float | None = None

    def of(self, value: Any) -> np.ndarray:
        """The numbers [M] of a feature's value, or whether [1] one compares as asked.

        Raises:
            InputError: it has not that many, or they are no numbers.
        """
        try:
            numbers = np.asarray(value, np.float64).reshape(-1)
        except (ValueError, TypeError):
            raise InputError(f"{self.name}: found no numbers; name another key") from None
        found = numbers[self.part]
        wanted = None if self.part.stop is None else abs(self.part.stop - (self.part.start or 0))
        if not len(found) or (wanted is not None and len(found) != wanted):
            raise InputError(f"{self.name}: found {len(numbers)} numbers, too few for the ones asked for")
        if self.limit is None:
            return found
        if len(found) != 1:
            raise InputError(f"{self.name}: found {len(found)} numbers to compare; take one, such as {self.name}[0]")
        if not np.isfinite(found).all():
            raise InputError(f"{self.name}: found {found[0]} to compare, expected a finite number")
        return found > self.limit if self.above else found < self.limit

    def all(self, episode: Episode) -> np.ndarray:
        """`of` each step [N M]."""
        if not self.name.startswith("steps/"):
            return np.tile(self.of(episode.once(self.name)), (episode.steps, 1))
        return np.stack([self.of(episode.at(self.name, step)) for step in range(episode.steps)])

    def at(self, episode: Episode, step: int) -> np.ndarray:
        """`of` one step [M]."""
        return self.of(episode.at(self.name, step) if self.name.startswith("steps/") else episode.once(self.name))


def parsed(where: str, text: str, *, compares: bool = False) -> Key:
    """A key as it is written in the file.

    Raises:
        InputError: it cannot be read, or compares where it should not, or the other way round.
    """
    found = KEY.fullmatch(text)
    example = "steps/action[7] > 0.5" if compares else "steps/action[0:3]"
    try:
        if found is None or bool(found[5]) != compares:
            raise ValueError
        start = int(found[2]) if found[2] else None
        stop = int(found[4]) if found[3] else None if start in (None, -1) else start + 1  # type: ignore[operator]
        if start is not None and stop is not None and not (stop > start and (stop < 0 or start >= 0)):
            raise ValueError
        limit = float(found[6]) if compares else None
        if limit is not None and not math.isfinite(limit):
            raise ValueError
        return Key(found[1], slice(start, stop), found[5] != "<", limit)
    except ValueError:
        raise InputError(f"{where}: found {shown(text)}; allowed: like {example}") from None


def read_mapping(path: Path, source: Source) -> Mapping:
    """The mapping in a file, of which every key is in the source.

    Raises:
        InputError: it cannot be read, or does not say what it must.
    """
    try:
        config = OmegaConf.load(path)
        if not OmegaConf.is_dict(config):
            raise InputError(f"mapping: {path}: holds no mapping; see python -m data_tools.rlds --help")
    except OSError as error:
        raise InputError(f"mapping: {path}: cannot be read ({error.strerror}); name a YAML file") from None
    except InputError:
        raise
    except Exception as error:  # whatever YAML and OmegaConf say
        raise InputError(f"mapping: {path}: no YAML that can be read ({said(error)})") from None
    try:
        mapping = resolve(config, Mapping)  # type: ignore[arg-type]
        check(mapping)
        for where, key in keys(mapping):
            feature = source.leaf(key)
            if where.endswith((".image", "marked")) and not key.startswith("steps/"):
                raise InputError(f"{where}: found {key}; allowed: a key in steps/")
            if where.endswith(".image") and (len(feature.shape) != 3 or feature.shape[2] != 3):
                raise InputError(f"{where}: found {key} of shape {feature.shape}, expected a picture (H, W, 3)")
    except InputError as error:
        raise InputError(f"mapping: {path}: {error}") from None
    return mapping


def check(mapping: Mapping) -> None:
    """Raise InputError where the parts of a mapping do not fit together."""
    state, frames, said_ = mapping.state, mapping.keyframes, mapping.instruction
    views = chosen(mapping)
    if not views:
        raise InputError(f"cameras: found none with an image; allowed: {', '.join(CAMERAS)}")
    matrices = {value is not None for view in views.values() for value in (view.intrinsics, view.extrinsics)}
    if len(matrices) > 1:
        raise InputError("cameras: intrinsics and extrinsics: give both for every camera, or none")
    for name, view in vars(mapping.cameras).items():
        if name not in views and (view.intrinsics or view.extrinsics):
            raise InputError(f"cameras.{name}.image: found null; allowed: a key, as it has matrices")
    if (state.values is None) == (state.gripper is None):
        raise InputError("state: give values, or gripper with fingers or finger_opening")
    fingers = (state.fingers is not None) + (state.finger_opening is not None)
    if fingers != (state.gripper is not None):
        raise InputError("state: with gripper give fingers or finger_opening; without it neither")
    if (said_.key is None) == (said_.text is None):
        raise InputError("instruction: give key or text")
    speeds = (frames.joint_velocities is not None) + (frames.joint_positions is not None)
    if (frames.kind == "marked") != (frames.marked is not None):
        raise InputError("keyframes: marked goes with kind=marked, and kind=marked with it")
    if speeds != (frames.kind == "stops") or (frames.joint_positions is None) != (frames.seconds is None):
        raise InputError("keyframes: kind=stops takes joint_velocities, or joint_positions with seconds")


def chosen(mapping: Mapping) -> dict[str, View]:
    """The cameras that have pictures, by name and in our order."""
    return {name: view for name, view in vars(mapping.cameras).items() if view.image is not None}


def keys(mapping: Mapping) -> Iterator[tuple[str, str]]:
    """Every setting of a mapping that names a key, and that key.

    Raises:
        InputError: one cannot be read.
    """
    action, state, frames = mapping.action, mapping.state, mapping.keyframes
    for name, view in chosen(mapping).items():
        for what in ("image", "intrinsics", "extrinsics"):
            if getattr(view, what) is not None:
                yield f"cameras.{name}.{what}", parsed(f"cameras.{name}.{what}", getattr(view, what)).name
    plain = {
        "action.position": action.position,
        "action.rotation": action.rotation,
        "state.values": state.values,
        "state.fingers": state.fingers,
        "keyframes.marked": frames.marked,
        "keyframes.joint_velocities": frames.joint_velocities,
        "keyframes.joint_positions": frames.joint_positions,
        "instruction.key": mapping.instruction.key,
        "variation": mapping.variation,
    }
    compared = {"action.gripper": action.gripper, "state.gripper": state.gripper}
    for table in (plain, compared):
        for where, text in table.items():
            if text is not None:
                yield where, parsed(where, text, compares=table is compared).name
