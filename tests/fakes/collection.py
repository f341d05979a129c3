"""Fake simulator with random demonstrations for tests of collection, and a command that collects from it.

Its environment variables reach the worker processes: FAKE_VERSION, FAKE_SLEEP (seconds an episode takes),
FAKE_DEADLY (a seed, or TASK:SEED, at which the process crashes), FAKE_HOPELESS (the expert never succeeds),
FAKE_OUTSIDE (of so many seeds, one has its first keyframe outside the workspace).
"""

import os
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from instructrl.config.environment import DataConfig, SimConfig, TaskConfig
from instructrl.config.simulators import TabletopConfig
from instructrl.sim.env import EpisodeStart, Outcome
from instructrl.sim.vector.pool import Workers
from instructrl.types import Demonstration
from tests.fakes.inline_pool import InlinePool
from tests.fixtures.demonstrations import demonstration

VARIATIONS = 3


def succeeds(seed: int) -> bool:
    """Return True if the fake expert succeeds: it fails with about one seed in five."""
    return seed * 2654435761 % 2**32 / 2**32 > 0.2


class FakeEnv:
    """The part of Env that collection uses."""

    variations = VARIATIONS

    def __init__(self, renderer: str, task: str, *, exits: bool = True) -> None:
        self.renderer, self.task, self._exits = renderer, task, exits

    def demonstrate(self, start: EpisodeStart) -> tuple[Demonstration, Outcome]:
        time.sleep(float(os.environ.get("FAKE_SLEEP", "0")))
        if os.environ.get("FAKE_DEADLY") in (str(start.seed), f"{self.task}:{start.seed}"):
            if self._exits:
                os._exit(7)
            raise ConnectionError
        result = demonstration(start.seed, steps=1 + start.seed // 100 % 2)
        outcome = Outcome.SUCCESS if succeeds(start.seed) else Outcome.UNREACHABLE
        if "FAKE_HOPELESS" in os.environ:
            outcome = Outcome.TIME_LIMIT
        if "FAKE_OUTSIDE" in os.environ and start.seed % int(os.environ["FAKE_OUTSIDE"]) == 0:
            result.actions[0, 2] = 0.1
        return result._replace(variation=start.variation, state=np.abs(result.state)), outcome

    def provenance(self) -> dict[str, str]:
        version = os.environ.get("FAKE_VERSION", "1")
        return {"simulator": "fake", "version": version, "renderer": self.renderer, "expert": "fake"}

    def close(self) -> None:
        pass


def make_fake(cfg: SimConfig, task: str) -> FakeEnv:
    return FakeEnv(cfg.renderer, task)


def start_processes(sim: SimConfig, task: str) -> Workers:
    """Real worker processes with the fake simulator."""
    return Workers(partial(make_fake, sim, task), sim.workers or 1, timeout=sim.timeout)


class Inline(InlinePool):
    """The fake simulator without processes."""

    def __init__(self, sim: SimConfig, task: str) -> None:
        super().__init__(FakeEnv(sim.renderer, task, exits=False))


def main(folder: str, episodes: str) -> None:
    """Collect push_button from two processes."""
    from instructrl.collection.collect import ensure_demonstrations
    from instructrl.errors import report_user_errors
    from instructrl.preemption import handle_signals
    from tests.fakes import collection  # under a name that worker processes can import

    sim = TabletopConfig(cameras=["front", "wrist"], image_size=16, renderer="raycast", workers=2)
    task, data = TaskConfig("push_button", int(episodes), 2), DataConfig(str(Path(folder)))
    with report_user_errors(), handle_signals():
        ensure_demonstrations(task, sim, data, start=collection.start_processes)


if __name__ == "__main__":
    main(*sys.argv[1:])
