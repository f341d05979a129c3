from functools import partial

import numpy as np
import pytest

from instructrl.batch import Observation
from instructrl.evaluation.rollout import Episode, Plan, rollouts
from instructrl.sim import Outcome, Rules, Start
from instructrl.sim.workers import Workers
from tests.fake_sim import TRAINING, FakeActor, InlineWorkers, fake_stage


def plans(count: int) -> dict[int, Plan]:
    return {index: Plan(Start(index % 4, 100 + index)) for index in range(count)}


def same(first: dict[int, Episode], second: dict[int, Episode]) -> bool:
    return list(first) == list(second) and all(
        (one.start, one.instruction, one.outcome) == (two.start, two.instruction, two.outcome)
        and np.array_equal(one.actions, two.actions)
        for one, two in zip(first.values(), second.values(), strict=True)
    )


class Misbehaving(FakeActor):
    """Gives a strange action in one episode, known by its seed's picture."""

    def __init__(self, action: np.ndarray, seed: int):
        super().__init__()
        self._action, self._picture = action, seed % 251

    def answer(self, slot: int, seen: Observation) -> np.ndarray:
        return self._action if seen.images[0, 0, 0, 0] == self._picture else super().answer(slot, seen)


def test_every_plan_is_played_with_one_of_the_training_sentences() -> None:
    played = rollouts(InlineWorkers(), FakeActor(), plans=plans(10))
    assert list(played) == list(range(10))
    for index, episode in played.items():
        assert episode.start == Start(index % 4, 100 + index)
        assert episode.outcome is Outcome.SUCCESS
        assert episode.steps == 2
        assert episode.instruction in [text.format(index % 4) for text in TRAINING]
    assert len({episode.instruction.split()[0] for episode in played.values()}) == 2, "the seed chooses the sentence"


def test_the_instruction_of_the_plan_reaches_actor_and_observation() -> None:
    actor = FakeActor()
    played = rollouts(InlineWorkers(), actor, plans={0: Plan(Start(2, 5), "touch 3"), 1: Plan(Start(2, 5), "")})
    assert sorted(actor.begun) == [(0, "touch 3"), (1, "")]  # the fake actor compares each observation with this
    assert [episode.instruction for episode in played.values()] == ["touch 3", ""]
    assert played[0].outcome is Outcome.TIME_LIMIT, "the plan names the wrong thing"


@pytest.mark.parametrize("slots", [1, 2, 7])
def test_results_do_not_depend_on_the_number_of_workers(slots: int) -> None:
    assert same(
        rollouts(InlineWorkers(slots), FakeActor(), plans=plans(9)),
        rollouts(InlineWorkers(3), FakeActor(), plans=plans(9)),
    )


def test_an_episode_keeps_its_slot_whatever_else_is_played() -> None:
    workers = InlineWorkers(3)
    rollouts(workers, FakeActor(), plans={index: plan for index, plan in plans(20).items() if index in (4, 5, 13)})
    resets = {request[1][0].seed: slot for slot, request in workers.calls if request[0] == "reset"}
    assert resets == {104: 1, 105: 2, 113: 1}


@pytest.mark.parametrize(
    "action",
    [np.full(8, np.nan), np.array([np.inf, 0, 0, 0, 0, 0, 1, 1]), np.zeros(8), np.zeros(7)],
    ids=["nan", "inf", "no rotation", "too short"],
)
def test_a_bad_action_ends_its_episode_and_is_not_sent(action: np.ndarray) -> None:
    played = rollouts(InlineWorkers(), Misbehaving(action, seed=101), plans=plans(10))
    assert [i for i, episode in played.items() if episode.outcome is Outcome.INVALID_ACTION] == [1]
    assert played[1].steps == 0  # and the fake simulator asserts that nothing unfit arrives
    assert sum(episode.success for episode in played.values()) == 9


def test_an_unreachable_pose_is_counted_with_its_action() -> None:
    far = np.array([0, 0, 99, 0, 0, 0, 1, 1])
    played = rollouts(InlineWorkers(), Misbehaving(far, seed=102), plans=plans(4))
    assert played[2].outcome is Outcome.UNREACHABLE
    assert played[2].actions.tolist() == [far.tolist()]


def test_a_dead_simulator_costs_one_episode() -> None:
    played = rollouts(InlineWorkers(deadly=(103,)), FakeActor(), plans=plans(10))
    assert [i for i, episode in played.items() if episode.outcome is Outcome.SIMULATOR_ERROR] == [3]
    assert sum(episode.success for episode in played.values()) == 9


def test_a_process_that_dies_costs_one_episode() -> None:
    with Workers(partial(fake_stage, deadly=(103,)), 2, timeout=20.0) as workers:
        played = rollouts(workers, FakeActor(), plans=plans(8))
    assert [i for i, episode in played.items() if episode.outcome is Outcome.SIMULATOR_ERROR] == [3]
    undisturbed = rollouts(InlineWorkers(), FakeActor(), plans=plans(8))
    del played[3], undisturbed[3]
    assert same(played, undisturbed)


def test_episodes_are_reported_as_they_end() -> None:
    seen: list[int] = []

    class Counting(FakeActor):
        def begin(self, slot: int, instruction: str) -> None:
            super().begin(slot, instruction)
            if len(self.begun) == 9:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rollouts(InlineWorkers(3), Counting(), plans=plans(12), on_episode=lambda index, episode: seen.append(index))
    assert sorted(seen) == [0, 1, 2, 3, 4, 5]


def test_no_plans_no_episodes() -> None:
    assert rollouts(InlineWorkers(), FakeActor(), plans={}) == {}


@pytest.mark.parametrize("limit", [1, 2, 5, 12])
def test_an_episode_ends_with_the_protocols_keyframes(limit: int) -> None:
    lost = {index: Plan(plan.start, "touch 3") for index, plan in plans(3).items()}  # nobody is asked for thing 3
    played = rollouts(InlineWorkers(rules=Rules(keyframes=limit)), FakeActor(), plans=lost)
    assert [(episode.outcome, episode.steps) for episode in played.values()] == [(Outcome.TIME_LIMIT, limit)] * 3


def test_an_action_without_a_path_is_forgiven_as_often_as_the_protocol_says() -> None:
    class Returning(FakeActor):
        """Asks for the moon twice, then knows what to do."""

        def answer(self, slot: int, seen: Observation) -> np.ndarray:
            asked[slot] = asked.get(slot, 0) + 1
            right = super().answer(slot, seen)
            return np.array([0, 0, 99, 0, 0, 0, 1, 1]) if asked[slot] <= 2 else right

    for tries, expected in ((1, (Outcome.UNREACHABLE, 1)), (2, (Outcome.UNREACHABLE, 2)), (3, (Outcome.SUCCESS, 3))):
        asked: dict[int, int] = {}
        workers = InlineWorkers(1, rules=Rules(keyframes=5, tries=tries))
        played = rollouts(workers, Returning(), plans=plans(1))
        assert [(episode.outcome, episode.steps) for episode in played.values()] == [expected]
