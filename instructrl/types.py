"""Shared array types: observation, demonstration, batch.

Shape suffixes: K cameras, H x W pixels, S state values, N frames, T keyframe steps, A numbers of an action, B batch,
L tokens.
All are NamedTuples of numpy arrays in loaders and of jax arrays in steps, hence pytrees, and need only numpy to import.
A field's type names its dtype and shape; the tests check them wherever a function takes or returns one.

Cameras follow the computer-vision convention: x right, y down, z into the scene; `extrinsics` maps
camera to world coordinates (metres); `intrinsics` maps camera coordinates to pixels, where the image
spans [0, W] x [0, H] (the center of the first pixel is at 0.5, 0.5).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from instructrl.array_types import Float, Float32, Int32, Int64, UInt8, UInt32
from instructrl.errors import InputError

GRIPPER_STATE = ("gripper open", "left finger (m)", "right finger (m)", "time")  # of RLBench; the time is in [-1, 1]
# Action spaces: the poses at which a motion stops; those on its way, evenly; and keyframes with a ninth number, whether
# the path to them may collide, which PerAct's agents predict and the planner of its fork of RLBench takes.
ACTION_SPACES = KEYFRAME, DENSE, COLLISIONS = "keyframe", "dense", "keyframe_collisions"
ACTION_SIZE = 8  # x y z (m, world), quaternion x y z w with w >= 0, gripper open in {0, 1}


ACTION_SIZES = (ACTION_SIZE, ACTION_SIZE + 1)


def action_size(actions: str) -> int:
    """Return the count of numbers of an action of a space."""
    return ACTION_SIZE + (actions == COLLISIONS)


class Observation(NamedTuple):
    """Input of the agent at one step."""

    images: UInt8[np.ndarray, "K H W 3"]  # in the order of the configured cameras
    state: Float32[np.ndarray, " S"]
    intrinsics: Float32[np.ndarray, "K 3 3"]
    extrinsics: Float32[np.ndarray, "K 4 4"]  # camera to world
    instruction: str


class Demonstration(NamedTuple):
    """One raw episode: all frames, and the actions that produced them.

    Action t leads to frame `keyframes[t]`; it is taken at frame `keyframes[t - 1]`, or at frame 0. Of dense actions
    every frame but the first is one of `keyframes`.
    """

    images: UInt8[np.ndarray, "N K H W 3"]
    state: Float32[np.ndarray, "N S"]
    intrinsics: Float32[np.ndarray, "N K 3 3"]
    extrinsics: Float32[np.ndarray, "N K 4 4"]
    keyframes: Int64[np.ndarray, " T"]  # increasing frame numbers >= 1
    actions: Float32[np.ndarray, "T 8"] | Float32[np.ndarray, "T 9"]  # 9 numbers with a collision flag
    instructions: tuple[str, ...]  # equivalent instructions, without held-out ones
    variation: int
    seed: int
    rejected_placements: int | None = None  # of the seed before this scene, which restores it on RLBench; None: unknown


class Features(NamedTuple):
    """Encoder outputs for camera images and the instruction, in compute precision."""

    pooled: Float[Any, "B T K F"]  # per image, the mean over tokens of every selected layer
    text: Float[Any, "B G"]  # of the instruction alone; G is 0 if the encoder ignores it
    patches: Float[Any, "B T K P D"] | None  # row-major from the top left of the image; None: the head needs none


class FrameFeatures(NamedTuple):
    """Features of N single frames, as an encoder's cache is computed; dimensions as in `Features`."""

    pooled: Float[Any, "N K F"]
    text: Float[Any, "N G"]
    patches: Float[Any, "N K P D"] | None


class Batch(NamedTuple):
    """B sequences of T keyframe steps; steps past the end of a sequence are zero and have step_mask 0."""

    images: UInt8[Any, "B T K H W 3"] | None  # None if features are cached
    state: Float32[Any, "B T S"]
    intrinsics: Float32[Any, "B T K 3 3"]
    extrinsics: Float32[Any, "B T K 4 4"]
    tokens: Int32[Any, "B L"]
    text_padding_mask: Float32[Any, "B L"]  # 1 where a token is padding
    actions: Float32[Any, "B T 8"] | Float32[Any, "B T 9"]  # the action taken at each step
    step_mask: Float32[Any, "B T"]  # 1 where the step exists
    features: Features | None = None  # cached features of a frozen encoder, instead of images
    chunks: Float32[Any, "B T C 8"] | None = None  # of dense actions: that of each step and those that follow
    chunk_mask: Float32[Any, "B T C"] | None = None  # 0 after the end of the episode, where the last one is repeated
    seeds: UInt32[Any, "B 2"] | None = None  # with chunks: of the noise in a head's loss


@dataclass(frozen=True)
class FeatureSizes:
    """Sizes that determine every shape of Features, and their dtype."""

    pooled: int  # F
    text: int  # G, 0 if the instruction is ignored
    patches: tuple[int, int] | None  # P and D; None if the head does not need them
    dtype: str  # float32 or bfloat16

    @property
    def numpy_dtype(self) -> np.dtype:
        """The numpy dtype."""
        if self.dtype != "bfloat16":
            return np.dtype(self.dtype)
        import ml_dtypes  # comes with jax, which a simulator's own interpreter does not have

        return np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True)
class BatchSizes:
    """Sizes that determine every shape of a batch."""

    batch: int
    steps: int
    cameras: int
    image_size: int
    tokens: int
    features: FeatureSizes | None = None  # instead of images
    state: int = len(GRIPPER_STATE)
    chunk: int | None = None  # C; None: no chunks
    actions: int = ACTION_SIZE  # A


def batch_spec(sizes: BatchSizes) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Return shape and dtype of every array of a Batch; those of Features are named `features.pooled` and so on."""
    steps = (sizes.batch, sizes.steps)
    views = (*steps, sizes.cameras)
    float32, int32, uint8 = np.dtype(np.float32), np.dtype(np.int32), np.dtype(np.uint8)
    spec: dict[str, tuple[tuple[int, ...], np.dtype]] = {
        "images": ((*views, sizes.image_size, sizes.image_size, 3), uint8),
        "state": ((*steps, sizes.state), float32),
        "intrinsics": ((*views, 3, 3), float32),
        "extrinsics": ((*views, 4, 4), float32),
        "tokens": ((sizes.batch, sizes.tokens), int32),
        "text_padding_mask": ((sizes.batch, sizes.tokens), float32),
        "actions": ((*steps, sizes.actions), float32),
        "step_mask": (steps, float32),
    }
    if sizes.chunk is not None:
        spec["chunks"] = ((*steps, sizes.chunk, ACTION_SIZE), float32)
        spec["chunk_mask"] = ((*steps, sizes.chunk), float32)
        spec["seeds"] = ((sizes.batch, 2), np.dtype(np.uint32))
    if sizes.features is None:
        return spec
    del spec["images"]
    features, dtype = sizes.features, sizes.features.numpy_dtype
    spec["features.pooled"] = ((*views, features.pooled), dtype)
    spec["features.text"] = ((sizes.batch, features.text), dtype)
    if features.patches is not None:
        spec["features.patches"] = ((*views, *features.patches), dtype)
    return spec


def empty_batch(sizes: BatchSizes) -> Batch:
    """Return a batch of zeros."""
    arrays = {key: np.zeros(shape, dtype) for key, (shape, dtype) in batch_spec(sizes).items()}
    parts = {key: arrays.pop(f"features.{key}", None) for key in Features._fields}
    return Batch(**{"images": None} | arrays, features=Features(**parts) if sizes.features else None)


def fake_batch(sizes: BatchSizes) -> Batch:
    """Return a batch of plausible constants for initialization and tests: all steps exist, cameras are unrotated."""
    batch = empty_batch(sizes)
    focal = np.float32(sizes.image_size)
    batch.intrinsics[:] = np.array([[focal, 0, focal / 2], [0, focal, focal / 2], [0, 0, 1]], np.float32)
    batch.extrinsics[:] = np.eye(4, dtype=np.float32)
    batch.actions[..., 6] = 1.0
    batch.step_mask[:] = 1.0
    if batch.chunks is not None and batch.chunk_mask is not None:
        batch.chunks[..., 6] = batch.chunk_mask[:] = 1.0
    return batch


def check_batch(batch: Batch, sizes: BatchSizes) -> None:
    """Raise InputError naming the first array whose shape or dtype does not match `sizes`."""
    spec = batch_spec(sizes)
    for key, value in named_arrays(batch).items():
        found = "None" if value is None else f"{value.dtype}{tuple(value.shape)}"
        expected = f"{spec[key][1]}{spec[key][0]}" if key in spec else "None"
        if found != expected:
            raise InputError(
                f"batch.{key}: found {found}, expected {expected}; "
                "check that data, sim.cameras, sim.image_size, sim.state, sim.actions and features agree"
            )


def named_arrays(batch: Batch) -> dict[str, Any]:
    """Return every array of a batch by the names of `batch_spec`, None if absent."""
    features = batch.features or Features(None, None, None)
    parts = {f"features.{key}": value for key, value in features._asdict().items()}
    return {key: value for key, value in batch._asdict().items() if key != "features"} | parts
