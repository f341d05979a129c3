"""Pickles of RLBench's stored demonstrations, read without importing or executing anything in them."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from data_tools.convert.skip_report import SkippedError, SkipReason
from instructrl.errors import InputError, format_value
from instructrl.sim.keyframes import velocities
from instructrl.sim.rlbench.stored_episodes import ONE_ARM, TWO_ARMS, load_pickle, whole_number
from instructrl.sim.rlbench.views import observed
from instructrl.storage.pickles.safe_pickle_types import InertObject

MAX_JOINTS = 64  # numbers per frame: a pickle can use one large array in every frame


def read_pickle(path: Path) -> Any:
    """Load a pickle.

    Raises:
        SkippedError: it cannot be read.
    """
    try:
        return load_pickle(path)
    except InputError as error:
        raise SkippedError(SkipReason.PICKLE, str(error)) from None


def observations(path: Path) -> list[Any]:
    """Read the observations of a pickled Demo, with their fields as attributes.

    Raises:
        SkippedError: the pickle is not a valid Demo.
    """
    demo = read_pickle(path)
    fields = demo.state if isinstance(demo, InertObject) else None
    frames = fields.get("_observations") if isinstance(fields, dict) else demo
    if not isinstance(frames, list) or not frames:
        raise SkippedError(SkipReason.PICKLE, f"{path}: not a Demo of RLBench with observations")
    for frame in frames:
        if isinstance(frame, InertObject) and frame.name in TWO_ARMS:
            raise SkippedError(SkipReason.PICKLE, f"{path}: observations of two arms; one arm is supported")
        if not isinstance(frame, InertObject) or frame.name not in ONE_ARM or not isinstance(frame.state, dict):
            raise SkippedError(SkipReason.PICKLE, f"{path}: contains an object that is not an Observation")
        if not isinstance(frame.state.get("misc"), dict):
            raise SkippedError(SkipReason.NUMBERS, f"{path}: an observation without misc, so without camera matrices")
    # A pickle can use one object as many observations: its fields are copied once.
    distinct = {id(frame.state): frame.state for frame in frames}
    fields_by_id = {number: read_fields(path, state) for number, state in distinct.items()}
    return [fields_by_id[id(frame.state)] for frame in frames]


def read_fields(path: Path, state: dict[Any, Any]) -> SimpleNamespace:
    """Return the fields of an observation.

    Raises:
        SkippedError: one of them is a list of lists or arrays, which numpy would expand: if they are the same object,
            to any size.
    """
    found = {key: value for key, value in state.items() if type(key) is str}
    for key, value in (*found.items(), *found["misc"].items()):
        if isinstance(value, list | tuple) and any(isinstance(one, list | tuple | np.ndarray) for one in value):
            raise SkippedError(SkipReason.NUMBERS, f"{path}: {format_value(key)}: a list of lists, expected an array")
    found |= {key: value.item() for key, value in found.items() if isinstance(value, np.ndarray) and value.size == 1}
    return SimpleNamespace(**found)


def read_variation(path: Path) -> int | None:
    """Read the number of a variation, also one stored as an array; None: the pickle holds something else."""
    return whole_number(read_pickle(path))


def read_sentences(path: Path) -> tuple[str, ...]:
    """Read the sentences of a variation.

    Raises:
        SkippedError: there are none.
    """
    found = read_pickle(path)
    if not isinstance(found, list | tuple) or not found or not all(type(one) is str and one.strip() for one in found):
        raise SkippedError(SkipReason.SENTENCES, f"{path}: found no list of sentences")
    return tuple(found)


def joint_velocities(frames: Sequence[Any]) -> np.ndarray:
    """Joint velocities [N J], computed from the positions if they are not stored, or not finite."""
    positions = [getattr(frame, "joint_positions", None) for frame in frames]
    has_positions = all(value is not None for value in positions)
    if all(getattr(frame, "joint_velocities", None) is not None for frame in frames):
        stored = stack_rows([frame.joint_velocities for frame in frames])
        if np.isfinite(stored).all() or not has_positions:
            return stored
    return velocities(stack_rows([observed(frame, "joint_positions") for frame in frames]))


def stack_rows(values: Sequence[Any]) -> np.ndarray:
    """Stack rows of numbers [N J].

    Raises:
        InputError: their lengths differ, or are too large.
    """
    for value in values:
        if np.size(value) > MAX_JOINTS:
            raise InputError(f"joints: found {np.size(value)} numbers in a frame, allowed: at most {MAX_JOINTS}")
    plain = [np.asarray(value, np.float64).reshape(-1) for value in values]
    if len({len(row) for row in plain}) != 1:
        raise InputError("joints: their number changes from frame to frame")
    return np.stack(plain)
