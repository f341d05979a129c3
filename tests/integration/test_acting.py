"""Acting step by step, with a memory, against the same network on whole episodes."""

from typing import Any

import jax
import numpy as np
import pytest

from instructrl.cli.entry import compose
from instructrl.config.training import TrainConfig
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.inference.batched_agent import CAPACITY_UNIT, BatchedAgent
from instructrl.models.agent import Agent
from instructrl.training.model_factory import dummy_batch, make_agent, random_params
from instructrl.types import Batch, Observation

ASK = "reach the red ball"
STEPS = CAPACITY_UNIT + 2


def whole_episodes(agent: Agent, params: Any, batch: Batch) -> Any:
    """Actions at every step of whole episodes."""

    def actions(network: Agent, batch: Batch) -> Any:
        return network.head.decode(network.predict(batch)[0], network.cameras(batch))

    return agent.apply({"params": params}, batch, method=actions)


def observations() -> list[Observation]:
    numbers = np.random.default_rng(0)
    images = numbers.integers(0, 256, (STEPS, 1, 24, 24, 3), np.uint8)
    state = numbers.normal(size=(STEPS, 4)).astype(np.float32)
    matrices = np.eye(3, dtype=np.float32)[None], np.eye(4, dtype=np.float32)[None]
    return [Observation(*seen, *matrices, ASK) for seen in zip(images, state, strict=True)]


def network_and_actor(*words: str, steps: int) -> tuple[Agent, BatchedAgent]:
    small = ["task=reach_target", "sim.image_size=24", "sim.cameras=[front]"]
    config = compose("train", TrainConfig, ["experiment=quickstart", *small, *words])
    tokenizer = make_tokenizer(config.encoder)
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    params = random_params(agent, dummy_batch(config, tokenizer), seed=0)
    return agent, BatchedAgent(agent, params, tokenizer, slots=2, steps=steps)


def sequence(seen: list[Observation], actions: list[np.ndarray], actor: BatchedAgent) -> Batch:
    tokens, padding = actor.tokenizer([ASK])
    images, state, intrinsics, extrinsics = (np.stack(leaves)[None] for leaves in list(zip(*seen, strict=True))[:4])
    mask = np.ones((1, len(seen)), np.float32)
    return Batch(images, state, intrinsics, extrinsics, tokens, padding, np.array(actions)[None], mask)


@pytest.fixture(scope="module", params=["null", "3"], ids=["no window", "window"])
def agents(request: pytest.FixtureRequest) -> tuple[Agent, BatchedAgent]:
    return network_and_actor("head=regression", f"policy.window={request.param}", steps=6)


def test_actions_one_at_a_time_are_those_of_the_whole_episode(agents: tuple[Agent, BatchedAgent]) -> None:
    network, actor = agents
    seen = observations()
    actor.start_episode(1, ASK)
    actor.start_episode(0, "push the button")
    found = []
    for number, one in enumerate(seen):
        if number == actor.steps:
            actor.steps *= 2  # an episode goes on
        found.append(actor.act({1: one} if number % 3 else {0: one, 1: one})[1])
    expected = whole_episodes(network, actor.params, sequence(seen, found, actor))
    np.testing.assert_allclose(found, expected[0], atol=1e-5)
    programs = actor._act._cache_size()  # type: ignore[attr-defined]
    assert programs == (2 if actor.steps > CAPACITY_UNIT and network.policy_config.window is None else 1)


def test_numbers_that_are_not_finite_end_with_their_episode(agents: tuple[Agent, BatchedAgent]) -> None:
    actor, seen = agents[1], observations()
    for slot in (0, 1):
        actor.start_episode(slot, ASK)
    expected = [actor.act({0: one})[0] for one in seen[:2]]
    broken = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), seen[0].state)
    assert not np.isfinite(actor.act({1: seen[0]._replace(state=broken)})[1]).all()
    actor.start_episode(1, ASK)
    found = [actor.act({1: one})[1] for one in seen[:2]]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("window", [None, 1, 2])
def test_a_chunk_is_executed_in_part_and_the_next_is_of_the_last_observations(window: int | None) -> None:
    words = ("head=chunk", "sim.actions=dense", "head.chunk=4", "head.execute=3")
    network, actor = network_and_actor(*words, f"policy.window={'null' if window is None else window}", steps=7)
    seen, found = observations()[:7], list[np.ndarray]()
    for slot in (0, 1):
        actor.start_episode(slot, ASK)
    actor.act({0: seen[0]})
    for number, one in enumerate(seen):
        if number == 4:
            actor.start_episode(0, "push the button")  # begins without the rest of a chunk
        found.append(actor.act({0: seen[number - 1], 1: one})[1] if number in (3, 4, 5) else actor.act({1: one})[1])
    for planned in (0, 3, 6):
        first = 0 if window is None else max(0, planned + 1 - window)
        batch = sequence(seen[first : planned + 1], [*found[first:planned], np.zeros(8, np.float32)], actor)
        chunk = whole_episodes(network, actor.params, batch)[0][-1]
        np.testing.assert_allclose(found[planned : planned + 3], chunk[: len(found[planned : planned + 3])], atol=1e-5)


def test_a_new_episode_is_predicted_at_once_whatever_the_other_slots_do() -> None:
    words = ("head=chunk", "sim.actions=dense", "head.chunk=4", "head.execute=3", "policy.window=1")
    _, actor = network_and_actor(*words, steps=7)
    one, other = observations()[:2]
    for slot in (0, 1):
        actor.start_episode(slot, ASK)
    first = actor.act({0: one, 1: other})
    actor.start_episode(0, ASK)
    again = actor.act({0: one, 1: one})
    np.testing.assert_array_equal(again[0], first[0])
    assert np.abs(again[1] - first[1]).max() > 1e-6, "the second action of its chunk"
