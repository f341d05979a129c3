"""Meta-World with dense actions: positions to which the hand is drawn, one every few steps."""

import numpy as np

from instructrl.sim.env import EpisodeStart, Outcome
from instructrl.sim.metaworld.env import MetaWorld
from instructrl.sim.metaworld.expert import NO_ACTIONS, ROTATION, expert_path
from instructrl.sim.metaworld.library import MAX_STEPS
from instructrl.sim.metaworld.motion import DENSE_STEPS
from instructrl.types import ACTION_SIZE


class DenseMetaWorld(MetaWorld):
    """One task of Meta-World in which an action lasts for `DENSE_STEPS`."""

    max_steps = MAX_STEPS // DENSE_STEPS

    def provenance(self) -> dict[str, str]:
        """Simulator, versions, renderer and expert, to be recorded with generated data."""
        return {**super().provenance(), "expert": "closed loop, replayed as dense actions"}

    def _expert(self, start: EpisodeStart) -> np.ndarray:
        """The expert's commands at the end of every `DENSE_STEPS`, float32 [T 8]; none if it fails."""
        self._begin(start)
        path = expert_path(self._scene)
        if path is None:
            return NO_ACTIONS
        last = len(path.closed) - 1
        ends = np.append(np.arange(DENSE_STEPS - 1, last, DENSE_STEPS), last)
        actions = np.empty((len(ends), ACTION_SIZE), np.float32)
        actions[:, :3], actions[:, 3:7], actions[:, 7] = path.positions[ends], ROTATION, ~path.closed[ends]
        return actions

    def _move(self, position: np.ndarray, *, opened: bool) -> Outcome | None:
        return self._motion.servo(position, opened=opened)
