"""Mapping file of an import: assigns features of third-party episodes to those of a demonstration.

    cameras:
      front: {image: steps/observation/image, intrinsics: ..., extrinsics: ...}   # the matrices are optional
    action:
      position: steps/action[0:3]            # metres, in the world frame; a target, not a step towards it
      rotation: steps/action[3:7]
      rotation_is: quaternion_xyzw
      gripper: steps/action[7] > 0.5         # true if it is open
      leads_to: next
    state: {gripper: "steps/observation/state[7] > 0.04", finger_opening: 0.04}
    keyframes: {kind: stops, joint_positions: "steps/observation/joints[0:7]", seconds: 0.1}
    instruction: {key: steps/language_instruction}

A key is the path of a feature in tensorflow-datasets, or the name of a feature of LeRobot, such as observation.state.
[2] or [0:3] selects some of its numbers, flattened; > and < compare one of them.

Data of joints alone takes the pose from a model of the robot, instead of position and rotation:

    kinematics: {model: so101.urdf, frame: gripper_link, joints: "action[0:5]", degrees: true}
    action: {gripper: "action[5] > 30", leads_to: next}
    keyframes: {kind: path, tolerance: 0.02}
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, make_dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import OmegaConf

from data_tools.exchange.episodes import Episode, Source
from instructrl.config.environment import SimConfig, state_field
from instructrl.config.fields import format_value, number, one_of, setting, subdict
from instructrl.config.resolve import resolve
from instructrl.config.yaml_file import read_yaml
from instructrl.errors import InputError
from instructrl.sim.mujoco.robot_model import RobotModel
from instructrl.types import GRIPPER_STATE

ROTATIONS = {"quaternion_xyzw": 4, "quaternion_wxyz": 4, "euler_xyz": 3, "rotation_vector": 3, "matrix": 9}
KEY = re.compile(r"([^\[\]<>\s]+)(?:\[(-?\d+)(?:(:)(-?\d+))?\])?(?:\s*([<>])\s*(\S+))?")


@dataclass
class View:
    """Keys of a camera: its image, and its matrices as in `instructrl.types`, if the data has any."""

    image: str | None = setting(None, help="image, uint8 [H W 3]")
    intrinsics: str | None = setting(None, help="9 numbers: camera coordinates to pixels")
    extrinsics: str | None = setting(None, help="16 numbers: camera to world, metres")


@dataclass
class Action:
    """Keys of the action: the gripper's next pose and opening."""

    position: str | None = setting(None, help="position, 3 numbers, metres")
    rotation: str | None = setting(None, help="rotation, in the form of rotation_is")
    rotation_is: str | None = setting(
        None, help="quaternion_xyzw, quaternion_wxyz, euler_xyz (fixed axes) or rotation_vector in rad, matrix by rows"
    )
    gripper: str = setting(help="gripper opening, with a comparison that is true for open")
    leads_to: str = one_of(
        "next", "same", help="next: a step's action leads to the next step; same: it is the pose at that step"
    )


@dataclass
class Kinematics:
    """Model of the robot and keys of its joints, from which the pose of the action follows; instead of its own keys."""

    model: str | None = setting(None, help="MJCF or URDF file of the robot; relative to the mapping file")
    frame: str | None = setting(None, help="site or body (link) of the model whose pose is the action's")
    joints: str | None = setting(None, help="joint positions, rad or metres")
    names: list[str] | None = setting(None, help="their names in the model; null: all its hinges and slides in order")
    degrees: bool = setting(False, help="angles are in degrees")


@dataclass
class State:
    """Keys of the robot's state: `values`, or `gripper` with its fingers."""

    values: str | None = setting(None, help="as many numbers as names")
    names: list[str] = state_field(*GRIPPER_STATE)
    gripper: str | None = setting(None, help="gripper opening, with a comparison that is true for open")
    fingers: str | None = setting(None, help="finger positions: 1 number for both, or 2, metres")
    finger_opening: float | None = number(
        None, low=0, high=1, help="metres per finger when open, if there is no key for it"
    )


@dataclass
class Keyframes:
    """Selection of the steps that are kept in addition to the first."""

    kind: str = one_of(
        *("every", "marked", "stops", "path"),
        help="every step, marked steps, stops of the arm, or corners of its path; the latter two with gripper changes",
    )
    tolerance: float | None = number(
        None, above=0, high=1, help="metres from the path to straight motions between keyframes; for kind=path"
    )
    marked: str | None = setting(None, help="mark, true (not 0) at keyframes; for kind=marked")
    joint_velocities: str | None = setting(
        None, help="joint velocities, rad/s; kind=stops: the arm rests or the gripper changes, and the last step"
    )
    joint_positions: str | None = setting(None, help="joint positions, rad, instead of velocities")
    seconds: float | None = number(None, above=0, high=10, help="time step, with joint_positions")
    intermediate_frames: int | None = number(
        None, low=1, high=1000, help="keep also every n-th step between keyframes; null: none"
    )


@dataclass
class Instruction:
    """Key of the instruction, or one text for all episodes."""

    key: str | None = setting(None, help="instruction of an episode")
    text: str | None = setting(None, help="one instruction for all episodes")


@dataclass
class Mapping:
    """Content of a mapping file, to which `mapping_schema` adds `cameras`, with a `View` for each of a simulator's."""

    action: Action = field(default_factory=Action)
    kinematics: Kinematics = field(default_factory=Kinematics)
    state: State = field(default_factory=State)
    keyframes: Keyframes = field(default_factory=Keyframes)
    instruction: Instruction = field(default_factory=Instruction)
    variation: str | None = setting(None, help="key of the variation, an integer; null: variation 0 for all")
    crop: bool = setting(False, help="crop images to a centred square")


@cache
def mapping_schema(cameras: tuple[str, ...]) -> type[Mapping]:
    """The content of a mapping file whose cameras have these names."""
    views = make_dataclass("Cameras", [(name, View, field(default_factory=View)) for name in cameras])
    return make_dataclass("SimulatorMapping", [("cameras", views, field(default_factory=views))], bases=(Mapping,))


class Key(NamedTuple):
    """A selection of a feature's numbers, or a comparison of one of them with a limit."""

    name: str
    part: slice
    above: bool = True
    limit: float | None = None

    def of(self, value: Any) -> np.ndarray:
        """Select numbers [M] of a feature's value, or compare one of them: bool [1].

        Raises:
            InputError: there are too few, or they are not numbers.
        """
        try:
            numbers = np.asarray(value, np.float64).reshape(-1)
        except (ValueError, TypeError):
            raise InputError(f"{self.name}: found no numbers; choose another key") from None
        found = numbers[self.part]
        wanted = None if self.part.stop is None else abs(self.part.stop - (self.part.start or 0))
        if not len(found) or (wanted is not None and len(found) != wanted):
            raise InputError(f"{self.name}: found {len(numbers)} numbers, too few for the selection")
        if self.limit is None:
            return found
        if len(found) != 1:
            raise InputError(f"{self.name}: found {len(found)} numbers to compare; select one, such as {self.name}[0]")
        if not np.isfinite(found).all():
            raise InputError(f"{self.name}: found {found[0]} to compare, expected a finite number")
        return found > self.limit if self.above else found < self.limit

    def all(self, episode: Episode) -> np.ndarray:
        """Apply `of` to each step [N M]."""
        if not episode.is_per_step(self.name):
            return np.tile(self.of(episode.episode_value(self.name)), (episode.steps, 1))
        return np.stack([self.of(episode.at(self.name, step)) for step in range(episode.steps)])

    def at(self, episode: Episode, step: int) -> np.ndarray:
        """Apply `of` to one step [M]."""
        per_step = episode.is_per_step(self.name)
        return self.of(episode.at(self.name, step) if per_step else episode.episode_value(self.name))


def parse_key(where: str, text: str, *, compares: bool = False) -> Key:
    """Parse a key of the mapping file.

    Raises:
        InputError: it is malformed, or its comparison is missing or not allowed.
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
        raise InputError(f"{where}: found {format_value(text)}; allowed: like {example}") from None


def read_mapping(path: Path, source: Source, sim: SimConfig) -> Mapping:
    """Read a mapping file and check that every key exists in the source.

    Args:
        path: the file.
        source: the data set whose keys it has.
        sim: the simulator whose cameras it names, and whose state the episodes have unless it says otherwise.

    Raises:
        InputError: the file cannot be read, or is incomplete or inconsistent.
    """
    try:
        file = read_yaml(path)
    except InputError as error:
        raise InputError(f"mapping: {error}") from None
    try:
        cameras = sim.choices("cameras") or tuple(sim.cameras)
        if other := [name for name in subdict(file.values, ["cameras"]) if name not in cameras]:
            found = format_value(other[0])
            raise InputError(
                f"cameras: found {found}; allowed with sim={sim.kind}: {', '.join(cameras)}", key=f"cameras.{other[0]}"
            )
        mapping = resolve(OmegaConf.create(file.values), mapping_schema(cameras))
        if "names" not in subdict(file.values, ["state"]):
            mapping.state.names = list(sim.state)
            check_state_kind(mapping.state, sim)
        check_mapping(mapping)
        if mapping.kinematics.model is not None:
            mapping.kinematics.model = str(path.absolute().parent / mapping.kinematics.model)
            robot_model(mapping.kinematics)
        for where, key in referenced_keys(mapping):
            shape = source.shape(key)
            if where.endswith((".image", "marked")) and not source.is_per_step(key):
                raise InputError(f"{where}: found {key}; allowed: a key with a value at each step")
            if where.endswith(".image") and (len(shape) != 3 or shape[2] != 3):
                raise InputError(f"{where}: found {key} of shape {shape}, expected an image (H, W, 3)")
    except InputError as error:
        raise InputError(f"mapping: {file.place(tuple(error.key.split('.')))}: {error}") from None
    return mapping


def check_state_kind(state: State, sim: SimConfig) -> None:
    """Raise InputError for the state of a gripper without names, where that of the simulator has other numbers."""
    if state.gripper is not None and state.names != [*GRIPPER_STATE]:
        numbers = f"its {len(state.names)} numbers {', '.join(state.names)}, or with others and their state.names"
        found, allowed = format_value(state.gripper), f"allowed with sim={sim.kind}: state.values with {numbers}"
        raise InputError(f"state.gripper: found {found}; {allowed}", key="state.gripper")


def check_mapping(mapping: Mapping) -> None:
    """Raise InputError if the parts of a mapping are inconsistent."""
    state, frames, instruction = mapping.state, mapping.keyframes, mapping.instruction
    check_pose(mapping)
    views = selected_cameras(mapping)
    if not views:
        raise InputError(f"cameras: found none with an image; allowed: {', '.join(vars(all_cameras(mapping)))}")
    matrices = {value is not None for view in views.values() for value in (view.intrinsics, view.extrinsics)}
    if len(matrices) > 1:
        raise InputError("cameras: intrinsics and extrinsics: give both for every camera, or none")
    for name, view in vars(all_cameras(mapping)).items():
        if name not in views and (view.intrinsics or view.extrinsics):
            raise InputError(f"cameras.{name}.image: found null; allowed: a key, since matrices are given")
    if state.gripper is not None and state.names != [*GRIPPER_STATE]:
        raise InputError(
            "state.names: with gripper, the state is the usual one; give values instead, or leave names out"
        )
    if (state.values is None) == (state.gripper is None):
        raise InputError("state: give values, or gripper with fingers or finger_opening")
    fingers = (state.fingers is not None) + (state.finger_opening is not None)
    if fingers != (state.gripper is not None):
        raise InputError("state: with gripper give fingers or finger_opening; without it neither")
    if (instruction.key is None) == (instruction.text is None):
        raise InputError("instruction: give key or text")
    speeds = (frames.joint_velocities is not None) + (frames.joint_positions is not None)
    if (frames.kind == "path") != (frames.tolerance is not None):
        raise InputError("keyframes: tolerance goes with kind=path, and kind=path with it")
    if (frames.kind == "marked") != (frames.marked is not None):
        raise InputError("keyframes: marked goes with kind=marked, and kind=marked with it")
    if frames.kind == "every" and frames.intermediate_frames is not None:
        raise InputError("keyframes: kind=every has no steps between keyframes; leave intermediate_frames out")
    if speeds != (frames.kind == "stops") or (frames.joint_positions is None) != (frames.seconds is None):
        raise InputError("keyframes: kind=stops takes joint_velocities, or joint_positions with seconds")


def check_pose(mapping: Mapping) -> None:
    """Raise InputError unless the pose of an action follows from keys of its own, or from joints and a model."""
    action, kinematics = mapping.action, mapping.kinematics
    own = {f"action.{name}": getattr(action, name) for name in ("position", "rotation", "rotation_is")}
    of_joints = {f"kinematics.{name}": getattr(kinematics, name) for name in ("model", "frame", "joints")}
    has_joints = any(of_joints.values()) or kinematics.names is not None or kinematics.degrees
    for name, value in (of_joints if has_joints else own).items():
        if value is None:
            other = "" if has_joints else ", or kinematics"
            raise InputError(f"{name}: no value given; write {name.rpartition('.')[2]}: ...{other}", key=name)
    given = [name for name, value in own.items() if value is not None]
    if has_joints and given:
        raise InputError(f"{given[0]}: the pose follows from kinematics already; leave one of the two out")
    if not has_joints and action.rotation_is not in ROTATIONS:
        found = format_value(action.rotation_is)
        raise InputError(
            f"action.rotation_is: found {found}; allowed: {', '.join(ROTATIONS)}", key="action.rotation_is"
        )


def robot_model(kinematics: Kinematics) -> RobotModel:
    """The robot's model, read once.

    Raises:
        InputError: it cannot be read, or has no such frame or joint.
    """
    names = None if kinematics.names is None else tuple(kinematics.names)
    try:
        return _robot_model(Path(kinematics.model or ""), kinematics.frame or "", names)
    except InputError as error:
        raise InputError(f"kinematics.{error}") from None


@cache
def _robot_model(path: Path, frame: str, names: tuple[str, ...] | None) -> RobotModel:
    return RobotModel(path, frame, names)


def all_cameras(mapping: Mapping) -> Any:
    """The `View` of every camera of the simulator, as attributes."""
    return mapping.cameras  # type: ignore[attr-defined]  # of the schema for this simulator


def selected_cameras(mapping: Mapping) -> dict[str, View]:
    """Cameras with an image key, by name and in the order of the simulator's."""
    return {name: view for name, view in vars(all_cameras(mapping)).items() if view.image is not None}


def referenced_keys(mapping: Mapping) -> Iterator[tuple[str, str]]:
    """Yield every setting of a mapping that contains a key, and the feature's path.

    Raises:
        InputError: a key is malformed.
    """
    action, state, frames = mapping.action, mapping.state, mapping.keyframes
    whole, plain = {"instruction.key": mapping.instruction.key}, dict[str, str | None]()
    for name, view in selected_cameras(mapping).items():
        whole[f"cameras.{name}.image"] = view.image
        plain |= {f"cameras.{name}.{what}": getattr(view, what) for what in ("intrinsics", "extrinsics")}
    plain |= {
        "action.position": action.position,
        "action.rotation": action.rotation,
        "kinematics.joints": mapping.kinematics.joints,
        "state.values": state.values,
        "state.fingers": state.fingers,
        "keyframes.marked": frames.marked,
        "keyframes.joint_velocities": frames.joint_velocities,
        "keyframes.joint_positions": frames.joint_positions,
        "variation": mapping.variation,
    }
    compared = {"action.gripper": action.gripper, "state.gripper": state.gripper}
    for table in (whole, plain, compared):
        for where, text in table.items():
            if text is None:
                continue
            key = parse_key(where, text, compares=table is compared)
            if table is whole and key.part != slice(None):  # of pixels and text, no numbers are selected
                found = f"{where}: found {format_value(text)}"
                raise InputError(f"{found}; allowed: {key.name}, without a selection", key=where)
            yield where, key.name
