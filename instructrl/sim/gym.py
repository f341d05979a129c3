"""Gymnasium environments of the embedded tasks; importing this module registers them.

    import gymnasium
    import instructrl.sim.gym

    env = gymnasium.make("instructrl/ReachTarget-v0")

An action is a keyframe, float32 [8] as everywhere in InstructRL: x y z of the gripper's tip in metres (world frame),
its rotation as a quaternion x y z w of any nonzero length, and the gripper, open above 0.5. In the middle of the
action space the closed gripper points down, in front of the arm. One step moves the arm all the way to the keyframe.
The reward is 1.0 on success, else 0.0. An episode is terminated by success, failure, or an unreachable or invalid
action; it is truncated at the time limit. This module needs no jax, configuration or model.

`instructrl.sim.gym:instructrl/ReachTarget-v0` as an ID imports the module automatically, also in worker processes.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import read_from_shared_memory

from instructrl.errors import InputError
from instructrl.sim.env import Env, EpisodeLimits, EpisodeStart, Outcome, Step
from instructrl.sim.rendering import available_renderer
from instructrl.tasks import TASKS
from instructrl.types import Observation

if TYPE_CHECKING:
    from instructrl.data.text.tokenizer import Tokenizer

NAMESPACE, VERSION = "instructrl", "v0"
CAMERAS = ("front", "left_shoulder", "right_shoulder")
SEEDS = 1_000_000_000  # exclusive upper bound of episode seeds; those of validation and evaluation are never drawn
MAX_INSTRUCTION_LENGTH = 200  # characters
CHARSET = " abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;'!?-"
MAX_DISTANCE = 10.0  # metres; bound on camera positions
MAX_PIXELS = 10_000.0  # bound on focal lengths and image sizes
# All quaternions of unit length, and in the middle (0 for a policy in [-1, 1]) a gripper that points down, not zeros:
QUATERNION_LOW, QUATERNION_HIGH = (-1.0, -1.0, -1.0, -1.0), (1.0, 2.0, 1.0, 1.0)
FPS = 2  # environment steps per second of video


class InstructionSpace(spaces.Text):
    """A Text space for shared memory: gymnasium reads a plain Text only once, before the first one is written."""

    def __init__(self) -> None:
        super().__init__(MAX_INSTRUCTION_LENGTH, charset=CHARSET)


class SharedInstructions(Sequence[str]):
    """View of instructions in memory that worker processes write to; a deep copy is an independent tuple."""

    def __init__(self, space: InstructionSpace, memory: Any, count: int) -> None:
        self._space = space
        self._codes = np.frombuffer(memory.get_obj(), np.int32).reshape(count, space.max_length)

    def __len__(self) -> int:
        return len(self._codes)

    def __getitem__(self, index: Any) -> Any:
        selected = self._codes[index]
        return self._text(selected) if selected.ndim == 1 else tuple(map(self._text, selected))

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[str, ...]:
        return tuple(self)

    def _text(self, codes: np.ndarray) -> str:
        characters = self._space.character_list
        return "".join(characters[code] for code in codes if code < len(characters))


@read_from_shared_memory.register(InstructionSpace)
def _read_instructions(space: InstructionSpace, shared_memory: Any, n: int = 1) -> SharedInstructions:
    return SharedInstructions(space, shared_memory, n)


class Task(gymnasium.Env[dict[str, Any], np.ndarray]):
    """One embedded task. The spaces depend only on `cameras`, `image_size` and `instruction_tokens`, not on the task.

    Observations: for each camera `NAME_rgb` uint8 [H W 3], `NAME_intrinsics` [3 3], `NAME_extrinsics` [4 4] (camera to
    world, metres); `state` [4]: gripper open, two finger positions in metres, time in [-1, 1]; `instruction`, a text or
    token ids.
    Infos: `variation` and `seed`, which determine the initial state; `instruction`; `outcome`, None until the end.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": FPS}

    def __init__(
        self,
        task: str,
        *,
        cameras: str | Sequence[str] = CAMERAS,
        image_size: int = 128,
        renderer: str = "auto",
        keyframes: int | None = None,
        tries: int = 1,
        render_mode: str | None = None,
        render_size: int = 256,
        instruction_tokens: int | None = None,
    ) -> None:
        """Compile the task's world.

        Args:
            task: name of an embedded task, such as "reach_target".
            cameras: some of front, left_shoulder, right_shoulder and wrist, or one of them by itself.
            image_size: side length of each camera image in pixels.
            renderer: "opengl", "raycast", or "auto" for OpenGL where it works.
            keyframes: maximum number of actions in an episode; None: the task's own limit.
            tries: number of unreachable actions that ends an episode; earlier ones only cost a step.
            render_mode: "rgb_array" for `render`; None for none.
            render_size: side length of the images of `render` in pixels.
            instruction_tokens: None: observations hold the instruction as text; else as that many token ids, those of
                agents with encoder.tokenizer=small, padded with that of [PAD]: a Box, for libraries without texts.

        Raises:
            InputError: an argument is invalid.
        """
        from instructrl.sim.tabletop.env import Tabletop

        for name, value in (("image_size", image_size), ("tries", tries), ("render_size", render_size)):
            check_integer(name, value, low=1)
        if keyframes is not None:
            check_integer("keyframes", keyframes, low=1)
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise InputError(f"render_mode: found {render_mode!r}, expected rgb_array or None")
        self.render_mode, self._render_size = render_mode, render_size
        renderer = available_renderer(renderer)
        self._env = Tabletop(task, cameras=cameras, image_size=image_size, renderer=renderer)
        self.cameras = self._env.cameras
        self._env.limits = EpisodeLimits(max_keyframes=keyframes, max_unreachable=tries)
        self.variations = self._env.variations
        self.observation_space = observation_space(self.cameras, image_size)
        self._tokenizer = None
        if instruction_tokens is not None:
            self._tokenizer = tokenizer_for(self._env, instruction_tokens)
            self.observation_space["instruction"] = token_space(self._tokenizer)
        self.action_space = spaces.Box(
            np.array([*self._env.workspace.low, *QUATERNION_LOW, 0], np.float32),
            np.array([*self._env.workspace.high, *QUATERNION_HIGH, 1], np.float32),
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode, of a random variation and seed unless `options` names `variation` or `seed`.

        Raises:
            InputError: an unknown option, or a value out of range.
        """
        super().reset(seed=seed)
        random_start: dict[str, Any] = {
            "variation": int(self.np_random.integers(self.variations)),
            "seed": int(self.np_random.integers(SEEDS)),
        }
        self._start = EpisodeStart(**random_start | checked_options(options or {}, self.variations))
        observation = self._env.reset(self._start)
        return self._to_dict(observation), self._info(observation, None)

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Execute a keyframe action."""
        observation, outcome = self._step(np.asarray(action))
        truncated = outcome is Outcome.TIME_LIMIT
        reward, terminated = float(outcome is Outcome.SUCCESS), outcome is not None and not truncated
        return self._to_dict(observation), reward, terminated, truncated, self._info(observation, outcome)

    def render(self) -> Any:
        """Render the current scene from a separate camera, uint8 [H W 3]; None without a render mode."""
        return None if self.render_mode is None else self._env.scene_image(size=self._render_size)

    def close(self) -> None:
        """Release the renderers."""
        self._env.close()

    def _step(self, action: np.ndarray) -> Step:
        """Execute an action after normalizing its quaternion."""
        if action.shape == (8,) and np.isfinite(action).all():
            length = np.linalg.norm(action[3:7].astype(np.float64))
            if length > 1e-6 and abs(length - 1) > 1e-2:
                action = np.concatenate([action[:3], action[3:7] / length, action[7:]])
        return self._env.step(action)

    def _to_dict(self, observation: Observation) -> dict[str, Any]:
        text = observation.instruction
        instruction = text if self._tokenizer is None else self._tokenizer([text])[0][0]
        arrays: dict[str, Any] = {"state": observation.state.copy(), "instruction": instruction}
        for index, name in enumerate(self.cameras):
            arrays[f"{name}_rgb"] = observation.images[index].copy()
            arrays[f"{name}_intrinsics"] = observation.intrinsics[index].copy()
            arrays[f"{name}_extrinsics"] = observation.extrinsics[index].copy()
        return arrays

    def _info(self, observation: Observation, outcome: Outcome | None) -> dict[str, Any]:
        return {
            "variation": self._start.variation,
            "seed": self._start.seed,
            "instruction": observation.instruction,
            "outcome": None if outcome is None else str(outcome),
        }


def observation_space(cameras: Sequence[str], image_size: int) -> spaces.Dict:
    """The observation space of all tasks with these cameras and this image size."""
    parts: dict[str, spaces.Space] = {
        "state": spaces.Box(np.array([0, -1, -1, -1], np.float32), np.ones(4, np.float32)),
        "instruction": InstructionSpace(),
    }
    for name in cameras:
        parts[f"{name}_rgb"] = spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        parts[f"{name}_intrinsics"] = spaces.Box(-MAX_PIXELS, MAX_PIXELS, (3, 3), np.float32)
        parts[f"{name}_extrinsics"] = spaces.Box(-MAX_DISTANCE, MAX_DISTANCE, (4, 4), np.float32)
    return spaces.Dict(parts)


def tokenizer_for(env: Env, length: int) -> "Tokenizer":
    """The tokenizer that turns each instruction of a task into `length` ids of the bundled vocabulary.

    Raises:
        InputError: an instruction of the task has more.
    """
    from instructrl.data.text.tokenizer import Tokenizer, bundled_vocabulary  # only for those who ask for it

    check_integer("instruction_tokens", length, low=1)
    tokenizer = Tokenizer(bundled_vocabulary()[1].pieces, length=int(length))
    texts = [text for variation in range(env.variations) for text in env.instructions(variation)]
    check_integer("instruction_tokens", length, low=max(len(tokenizer.pieces(text)) for text in texts))
    return tokenizer


def token_space(tokenizer: "Tokenizer") -> spaces.Box:
    """The space of instructions as token ids."""
    return spaces.Box(0, tokenizer.vocabulary_size - 1, (tokenizer.length,), np.int32)


def checked_options(options: Mapping[str, Any], variations: int) -> dict[str, int]:
    """Validate the options of a reset."""
    unknown = [key for key in options if key not in ("variation", "seed")]
    if unknown:
        raise InputError(f"options: found {unknown[0]!r}, expected variation or seed")
    for key, value in options.items():
        check_integer(f"options: {key}", value, low=0, high=variations - 1 if key == "variation" else None)
    return {key: int(value) for key, value in options.items()}


def check_integer(name: str, value: Any, *, low: int, high: int | None = None) -> None:
    """Raise InputError unless a value is an integer with low <= value <= high."""
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or value < low or (high is not None and value > high):
        upper = f"to {high}" if high is not None else "or more"
        raise InputError(f"{name}: found {value!r}, expected an integer, {low} {upper}")


def env_id(task: str) -> str:
    """Gymnasium ID of a task."""
    return f"{NAMESPACE}/{''.join(part.capitalize() for part in task.split('_'))}-{VERSION}"


def register() -> None:
    """Register all embedded tasks with gymnasium; repeated calls do nothing."""
    for task in TASKS:
        if env_id(task) not in gymnasium.registry:
            entry = f"{__name__}:{Task.__name__}"
            gymnasium.register(env_id(task), entry_point=entry, kwargs={"task": task})


register()
