"""Meta-World's scenes and experts: the only file that imports metaworld."""

import copy
import sys
import warnings
from importlib.metadata import version
from typing import Any

import numpy as np

from instructrl.errors import InputError

try:
    import mujoco
    from metaworld.env_dict import ENV_CLS_MAP
    from metaworld.policies import ENV_POLICY_MAP
except ImportError as error:
    raise InputError(
        f"sim=metaworld: {sys.executable} has no Meta-World ({error}); make metaworld installs it, "
        "or give the interpreter that has it as sim.python=PATH"
    ) from None

TASKS: tuple[str, ...] = tuple(sorted(ENV_CLS_MAP))
STEP_METRES = 0.01  # the farthest that the hand is moved in one step, along each axis
MAX_STEPS = 500  # of an episode; Meta-World refuses more
STEP_SECONDS = 0.0125
TIP_BELOW_HAND = 0.045  # metres from the origin of the hand to the point between the finger tips


class Scene:
    """One task: a scene that follows from a random number generator, whatever was played before.

    Positions are those of the tip, the point between the finger tips, in Meta-World's frame, in metres.
    """

    def __init__(self, task: str):
        self._env: Any = ENV_CLS_MAP[task]()
        # what Meta-World's own benchmarks set: goals are drawn at each reset, and the expert sees them
        self._env._set_task_called, self._env._freeze_rand_vec, self._env.seeded_rand_vec = True, False, True
        self._env._partially_observable = False
        vars(self._env).pop("sawyer_observation_space", None)  # cached, and of the hidden goals
        self._expert: Any = ENV_POLICY_MAP[task]()
        self.model: mujoco.MjModel = self._env.model
        self._first_model = {name: getattr(self.model, name).copy() for name in ("body_pos", "body_quat", "site_pos")}
        kept = np.ndarray, dict, bool, int, float, str, type(None)
        self._first_values = {name: value for name, value in vars(self._env).items() if isinstance(value, kept)}
        self._first_values = copy.deepcopy(self._first_values)
        self._seen = np.zeros(0)

    @property
    def data(self) -> mujoco.MjData:
        """The state of the simulation."""
        return self._env.data

    @property
    def steps_left(self) -> int:
        """Steps until the end of the episode."""
        return MAX_STEPS - int(self._env.curr_path_length)

    def begin(self, rng: np.random.Generator) -> None:
        """Draw a scene: first all that earlier episodes have changed is as it was."""
        for name, values in self._first_model.items():
            getattr(self.model, name)[:] = values
        vars(self._env).update(copy.deepcopy(self._first_values))
        mujoco.mj_resetData(self.model, self.data)
        self._env.np_random = rng
        self._seen, _ = self._env.reset()
        mujoco.mj_forward(self.model, self.data)

    def step(self, towards: np.ndarray, *, effort: float) -> bool:
        """Move the hand's target for one step, and work the gripper.

        Args:
            towards: position [3] to which the target moves, by at most `STEP_METRES` along each axis.
            effort: of the gripper, from -1 (opens) to 1 (closes).

        Returns:
            True if Meta-World counts the task as done.
        """
        offset = (towards - self.target()) / STEP_METRES
        return self._step(np.append(np.clip(offset, -1, 1), effort))

    def expert_step(self) -> tuple[bool, float]:
        """Take one step of the expert; returns whether the task is done, and the effort of its gripper."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large gains, which the experts have
            action = np.clip(self._expert.get_action(self._seen), -1, 1)
        return self._step(action), float(action[3])

    def target(self) -> np.ndarray:
        """The position [3] to which the hand is drawn: that of the tip, once the hand has arrived."""
        return self.data.mocap_pos[0] - (0, 0, TIP_BELOW_HAND)

    def within_reach(self, position: np.ndarray) -> np.ndarray:
        """The nearest position [3] to which Meta-World lets the hand be drawn."""
        below = (0, 0, TIP_BELOW_HAND)
        return np.clip(position, self._env.mocap_low - below, self._env.mocap_high - below)

    def tip(self) -> np.ndarray:
        """The position [3] of the tip."""
        return np.asarray(self._env.tcp_center)

    def opening(self) -> float:
        """The distance of the fingers, from 0 (closed) to 1 (open)."""
        return float(self._seen[3])

    def objects(self) -> np.ndarray:
        """Position and quaternion of two objects (zeros for one that a task lacks) and the goal's position [17]."""
        return np.concatenate([self._seen[4:18], self._seen[36:39]])

    def _step(self, action: np.ndarray) -> bool:
        self._seen, *_, info = self._env.step(action.astype(np.float32))
        return bool(info["success"])


def versions() -> dict[str, str]:
    """The versions of what determines scenes and images."""
    return {"version": version("metaworld"), "mujoco": mujoco.__version__}
