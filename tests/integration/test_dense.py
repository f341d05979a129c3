"""Dense actions from the simulator to the agent: recorded, trained on, and executed in chunks."""

from pathlib import Path

import numpy as np
import pytest

from instructrl.config.simulators import TabletopConfig
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.errors import InputError
from instructrl.inference.agent import Agent
from instructrl.sim import EpisodeStart, Outcome, make_env
from instructrl.sim.env import OffersExpert
from instructrl.types import Observation
from tests.fixtures import tiny

WORDS = ("task=reach_target", "task.episodes=2", "task.val_episodes=2", "policy.window=1")
CHUNKS = ("head=chunk", "head.chunk=4", "head.execute=3")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    return tiny.dense_demonstrations(tmp_path_factory.mktemp("dense"))


def test_an_agent_of_dense_actions_looks_again_after_some_of_its_chunk(
    data: dict[str, list[Path]], tmp_path: Path
) -> None:
    run = tiny.begun(tmp_path, data, "sim.actions=dense", *CHUNKS, *WORDS)
    agent, made = Agent.load(run), DemonstrationDataset(data["train"][0]).demonstration(0)
    frames = [
        Observation(*parts, made.instructions[0])
        for parts in zip(made.images, made.state, made.intrinsics, made.extrinsics, strict=True)
    ][:5]
    actions, plans = [agent.act(seen, seen.instruction) for seen in frames], []
    for seen in frames:
        agent.reset()
        plans.append(agent.act(seen, seen.instruction))
    assert [np.allclose(*pair, atol=1e-5) for pair in zip(actions, plans, strict=True)] == [
        True,
        False,
        False,
        True,
        False,
    ]


def test_an_expert_of_dense_actions_succeeds_and_its_replay_is_the_same(data: dict[str, list[Path]]) -> None:
    episodes = DemonstrationDataset(data["train"][0])
    made = episodes.demonstration(1)
    assert (made.keyframes == np.arange(1, len(made.images))).all() and len(made.actions) > 4
    way = np.diff(made.actions[:, :3], axis=0)
    assert np.linalg.norm(way, axis=1).max() < 0.2
    sim = TabletopConfig(cameras=["front", "left_shoulder"], image_size=32, renderer="raycast", actions="dense")
    env = make_env(sim, "reach_target")
    assert not isinstance(env, OffersExpert)
    env.reset(EpisodeStart(made.variation, made.seed))
    steps = [env.step(action) for action in made.actions]
    assert [step.outcome for step in steps] == [None] * (len(steps) - 1) + [Outcome.SUCCESS]
    assert (steps[-1].observation.images == made.images[-1]).all()
    assert len(env.film(EpisodeStart(made.variation, made.seed), made.actions, size=16)) > len(steps) // 2
    env.close()


def test_other_actions_than_the_settings_say_are_refused(data: dict[str, list[Path]], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train.hdf5: found demonstrations with the actions dense, but sim.actions=k"):
        tiny.begun(tmp_path, data, *WORDS)
