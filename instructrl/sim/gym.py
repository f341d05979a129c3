"""The embedded tasks as environments of gymnasium; importing this module registers them.

    import gymnasium
    import instructrl.sim.gym

    env = gymnasium.make("instructrl/ReachTarget-v0")

An action is a keyframe, float32 [8] as everywhere in the suite: x y z of the gripper's tip in metres (world frame),
its rotation as a quaternion x y z w of any length but zero, and the gripper, open above 0.5. One step moves the arm
all the way there. The reward is 1.0 where that is the task's success, else 0.0. An episode is terminated by success,
and where it cannot or may not go on (failure, an action out of reach or invalid); it is truncated at the time limit.
Nothing here needs jax, a configuration or a model.

`instructrl.sim.gym:instructrl/ReachTarget-v0` as a name imports the module by itself, also in a process of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import read_from_shared_memory

from instructrl.actions import WORKSPACE_HIGH, WORKSPACE_LOW
from instructrl.batch import Observation
from instructrl.errors import InputError
from instructrl.sim.env import Outcome, Rules, Start, Step
from instructrl.sim.graphics import available_renderer

NAMESPACE, VERSION = "instructrl", "v0"
CAMERAS = ("front", "left_shoulder", "right_shoulder")
SEEDS = 1_000_000_000  # episodes' seeds lie below: those of validation and evaluation are never drawn
LONGEST_SENTENCE = 200  # characters
LETTERS = " abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;'!?-"
FARTHEST = 10.0  # metres; nothing of the scene is farther from the origin
MOST_PIXELS = 10_000.0  # of a focal length or an image
FPS = 2  # steps of a video in a second


class Sentence(spaces.Text):
    """A text that processes can share: gymnasium reads a Text of theirs once, before there is any."""

    def __init__(self) -> None:
        super().__init__(LONGEST_SENTENCE, charset=LETTERS)


class Shared(Sequence[str]):
    """The texts in memory that is written to by others, as they are now; a deep copy is a tuple and stays as it is."""

    def __init__(self, space: Sentence, memory: Any, count: int) -> None:
        self._space = space
        self._letters = np.frombuffer(memory.get_obj(), np.int32).reshape(count, space.max_length)

    def __len__(self) -> int:
        return len(self._letters)

    def __getitem__(self, place: Any) -> Any:
        chosen = self._letters[place]
        return self._text(chosen) if chosen.ndim == 1 else tuple(map(self._text, chosen))

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[str, ...]:
        return tuple(self)

    def _text(self, letters: np.ndarray) -> str:
        known = self._space.character_list
        return "".join(known[letter] for letter in letters if letter < len(known))


@read_from_shared_memory.register(Sentence)
def _read_sentences(space: Sentence, shared_memory: Any, n: int = 1) -> Shared:
    return Shared(space, shared_memory, n)


class Task(gymnasium.Env[dict[str, Any], np.ndarray]):
    """One embedded task. The spaces depend on `cameras` and `image_size` alone, so that tasks can be mixed.

    Observations: for each camera `NAME_rgb` uint8 [H W 3], `NAME_intrinsics` [3 3], `NAME_extrinsics` [4 4] (camera to
    world, metres); `state` [4]: gripper open, two finger positions in metres, time in [-1, 1]; `instruction`, a text.
    Infos: `variation` and `seed`, which name the episode's `Start`; `instruction`; `outcome`, None while it goes on.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": FPS}

    def __init__(
        self,
        task: str,
        *,
        cameras: Sequence[str] = CAMERAS,
        image_size: int = 128,
        renderer: str = "auto",
        keyframes: int | None = None,
        tries: int = 1,
        render_mode: str | None = None,
        render_size: int = 256,
    ) -> None:
        """Compile the task's world.

        Args:
            task: its name in the suite, such as "reach_target".
            cameras: some of front, left_shoulder, right_shoulder and wrist.
            image_size: pixels along a side of each camera's image.
            renderer: "opengl", "raycast", or "auto" for OpenGL where it works.
            keyframes: actions that an episode may take; None for the task's own number.
            tries: the so many-th action out of reach ends an episode; those before only cost a step.
            render_mode: "rgb_array" for `render`; None for none.
            render_size: pixels along a side of what `render` answers.

        Raises:
            InputError: one of these cannot be used.
        """
        from instructrl.sim.tabletop.env import Tabletop

        for name, value in (("image_size", image_size), ("tries", tries), ("render_size", render_size)):
            check_whole(name, value, low=1)
        if keyframes is not None:
            check_whole("keyframes", keyframes, low=1)
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise InputError(f"render_mode: found {render_mode!r}, expected rgb_array or None")
        self.cameras, self.render_mode, self._render_size = tuple(cameras), render_mode, render_size
        drawn = available_renderer(renderer)
        self._env = Tabletop(task, cameras=self.cameras, image_size=image_size, renderer=drawn)
        self._env.rules = Rules(keyframes=keyframes, tries=tries)
        self.variations = self._env.variations
        self.observation_space = observation_space(self.cameras, image_size)
        self.action_space = spaces.Box(
            np.array([*WORKSPACE_LOW, -1, -1, -1, -1, 0], np.float32),
            np.array([*WORKSPACE_HIGH, 1, 1, 1, 1, 1], np.float32),
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode, of a random variation and seed unless `options` names `variation` or `seed`.

        Raises:
            InputError: an option that there is not, or a value out of range.
        """
        super().reset(seed=seed)
        drawn = {
            "variation": int(self.np_random.integers(self.variations)),
            "seed": int(self.np_random.integers(SEEDS)),
        }
        self._start = Start(**drawn | chosen(options or {}, self.variations))
        seen = self._env.reset(self._start)
        return self._shown(seen), self._about(seen, None)

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Move to a keyframe."""
        seen, outcome = self._moved(np.asarray(action))
        truncated = outcome is Outcome.TIME_LIMIT
        reward, terminated = float(outcome is Outcome.SUCCESS), outcome is not None and not truncated
        return self._shown(seen), reward, terminated, truncated, self._about(seen, outcome)

    def render(self) -> Any:
        """The scene as it is now from a camera of its own, uint8 [H W 3]; None without a render mode."""
        return None if self.render_mode is None else self._env.picture(size=self._render_size)

    def close(self) -> None:
        """Free the renderers."""
        self._env.close()

    def _moved(self, action: np.ndarray) -> Step:
        """What follows an action, whose quaternion may have any length but zero."""
        if action.shape == (8,) and np.isfinite(action).all():
            length = np.linalg.norm(action[3:7].astype(np.float64))
            if length > 1e-6 and abs(length - 1) > 1e-2:
                action = np.concatenate([action[:3], action[3:7] / length, action[7:]])
        return self._env.step(action)

    def _shown(self, seen: Observation) -> dict[str, Any]:
        shown: dict[str, Any] = {"state": seen.state.copy(), "instruction": seen.instruction}
        for place, name in enumerate(self.cameras):
            shown[f"{name}_rgb"] = seen.images[place].copy()
            shown[f"{name}_intrinsics"] = seen.intrinsics[place].copy()
            shown[f"{name}_extrinsics"] = seen.extrinsics[place].copy()
        return shown

    def _about(self, seen: Observation, outcome: Outcome | None) -> dict[str, Any]:
        return {
            "variation": self._start.variation,
            "seed": self._start.seed,
            "instruction": seen.instruction,
            "outcome": None if outcome is None else str(outcome),
        }


def observation_space(cameras: Sequence[str], image_size: int) -> spaces.Dict:
    """Of all tasks with these cameras and images."""
    parts: dict[str, spaces.Space] = {
        "state": spaces.Box(np.array([0, -1, -1, -1], np.float32), np.ones(4, np.float32)),
        "instruction": Sentence(),
    }
    for name in cameras:
        parts[f"{name}_rgb"] = spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        parts[f"{name}_intrinsics"] = spaces.Box(-MOST_PIXELS, MOST_PIXELS, (3, 3), np.float32)
        parts[f"{name}_extrinsics"] = spaces.Box(-FARTHEST, FARTHEST, (4, 4), np.float32)
    return spaces.Dict(parts)


def chosen(options: Mapping[str, Any], variations: int) -> dict[str, int]:
    """The options of a reset, checked."""
    unknown = [key for key in options if key not in ("variation", "seed")]
    if unknown:
        raise InputError(f"options: found {unknown[0]!r}, expected variation or seed")
    for key, value in options.items():
        check_whole(f"options: {key}", value, low=0, high=variations - 1 if key == "variation" else None)
    return {key: int(value) for key, value in options.items()}


def check_whole(name: str, value: Any, *, low: int, high: int | None = None) -> None:
    """Raise InputError unless a value is a whole number with low <= value <= high."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        upper = f"to {high}" if high is not None else "or more"
        raise InputError(f"{name}: found {value!r}, expected a whole number, {low} {upper}")


def identifier(task: str) -> str:
    """What a task is called in gymnasium."""
    return f"{NAMESPACE}/{''.join(part.capitalize() for part in task.split('_'))}-{VERSION}"


def register() -> None:
    """Tell gymnasium of every embedded task; once is enough."""
    from instructrl.sim.tabletop.task import task_names

    for task in task_names():
        if identifier(task) not in gymnasium.registry:
            entry = f"{__name__}:{Task.__name__}"
            gymnasium.register(identifier(task), entry_point=entry, kwargs={"task": task})


register()
