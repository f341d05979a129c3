"""Fake simulator with random demonstrations for tests of collection, and the collect command for it.

Its environment variables reach the worker processes: FAKE_VERSION, FAKE_SLEEP (seconds an episode takes),
FAKE_DEADLY (a seed, or TASK:SEED, at which the process crashes), FAKE_HOPELESS (the expert never succeeds).
"""

import os
import time

import numpy as np

import data_tools.collect
from instructrl.config.environment import SimConfig
from instructrl.sim.env import EpisodeStart, Outcome
from instructrl.types import Demonstration
from tests.fixtures.demonstrations import demonstration

VARIATIONS = 3


def succeeds(seed: int) -> bool:
    """Return True if the fake expert succeeds: it fails with about one seed in five."""
    return seed * 2654435761 % 2**32 / 2**32 > 0.2


class FakeEnv:
    """The part of Env that collection uses."""

    variations = VARIATIONS

    def __init__(self, renderer: str, task: str) -> None:
        self.renderer, self.task = renderer, task

    def demonstrate(self, start: EpisodeStart) -> tuple[Demonstration, Outcome]:
        time.sleep(float(os.environ.get("FAKE_SLEEP", "0")))
        if os.environ.get("FAKE_DEADLY") in (str(start.seed), f"{self.task}:{start.seed}"):
            os._exit(7)
        result = demonstration(start.seed, steps=1 + start.seed // 100 % 2)
        outcome = Outcome.SUCCESS if succeeds(start.seed) else Outcome.UNREACHABLE
        if "FAKE_HOPELESS" in os.environ:
            outcome = Outcome.TIME_LIMIT
        return result._replace(variation=start.variation, state=np.abs(result.state)), outcome

    def provenance(self) -> dict[str, str]:
        version = os.environ.get("FAKE_VERSION", "1")
        return {"simulator": "fake", "version": version, "renderer": self.renderer, "expert": "fake"}

    def close(self) -> None:
        pass


def make_fake(cfg: SimConfig, task: str) -> FakeEnv:
    return FakeEnv(cfg.renderer, task)


if __name__ == "__main__":
    from tests.fakes import collection  # under a name that worker processes can import

    data_tools.collect.make_env = collection.make_fake
    data_tools.collect.main()
