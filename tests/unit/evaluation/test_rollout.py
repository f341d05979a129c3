import numpy as np
import pytest

from instructrl.evaluation.rollout import Episode, EpisodeSpec, run_rollouts
from instructrl.sim import EpisodeLimits, EpisodeStart, Outcome
from instructrl.types import Observation
from tests.fakes.sim import TRAINING, FakePolicy, InlineWorkers


def specs(count: int) -> dict[int, EpisodeSpec]:
    return {index: EpisodeSpec(EpisodeStart(index % 4, 100 + index)) for index in range(count)}


def same(first: dict[int, Episode], second: dict[int, Episode]) -> bool:
    return list(first) == list(second) and all(
        (one.start, one.instruction, one.outcome) == (two.start, two.instruction, two.outcome)
        and np.array_equal(one.actions, two.actions)
        for one, two in zip(first.values(), second.values(), strict=True)
    )


class Misbehaving(FakePolicy):
    """Returns a given action in one episode, identified by the image value of its seed."""

    def __init__(self, action: np.ndarray, seed: int):
        super().__init__()
        self._action, self._image_value = action, seed % 251

    def answer(self, slot: int, seen: Observation) -> np.ndarray:
        return self._action if seen.images[0, 0, 0, 0] == self._image_value else super().answer(slot, seen)


def test_every_plan_is_played_with_one_of_the_training_sentences() -> None:
    played = run_rollouts(InlineWorkers(), FakePolicy(), specs=specs(10))
    assert list(played) == list(range(10))
    for index, episode in played.items():
        assert episode.start == EpisodeStart(index % 4, 100 + index)
        assert episode.outcome is Outcome.SUCCESS
        assert episode.steps == 2
        assert episode.instruction in [text.format(index % 4) for text in TRAINING]
    assert len({episode.instruction.split()[0] for episode in played.values()}) == 2, "the seed chooses the sentence"


def test_the_instruction_of_the_plan_reaches_actor_and_observation() -> None:
    policy = FakePolicy()
    played = run_rollouts(
        InlineWorkers(),
        policy,
        specs={0: EpisodeSpec(EpisodeStart(2, 5), "touch 3"), 1: EpisodeSpec(EpisodeStart(2, 5), "")},
    )
    assert sorted(policy.started) == [(0, "touch 3"), (1, "")]  # the fake actor compares each observation with this
    assert [episode.instruction for episode in played.values()] == ["touch 3", ""]
    assert played[0].outcome is Outcome.TIME_LIMIT, "the plan names the wrong thing"


@pytest.mark.parametrize("slots", [1, 2, 7])
def test_results_do_not_depend_on_the_number_of_workers(slots: int) -> None:
    assert same(
        run_rollouts(InlineWorkers(slots), FakePolicy(), specs=specs(9)),
        run_rollouts(InlineWorkers(3), FakePolicy(), specs=specs(9)),
    )


def test_an_episode_keeps_its_slot_whatever_else_is_played() -> None:
    workers = InlineWorkers(3)
    run_rollouts(workers, FakePolicy(), specs={index: spec for index, spec in specs(20).items() if index in (4, 5, 13)})
    resets = {request[1][0].seed: slot for slot, request in workers.calls if request[0] == "reset"}
    assert resets == {104: 1, 105: 2, 113: 1}


@pytest.mark.parametrize(
    "action",
    [np.full(8, np.nan), np.array([np.inf, 0, 0, 0, 0, 0, 1, 1]), np.zeros(8), np.zeros(7)],
    ids=["nan", "inf", "no rotation", "too short"],
)
def test_a_bad_action_ends_its_episode_and_is_not_sent(action: np.ndarray) -> None:
    played = run_rollouts(InlineWorkers(), Misbehaving(action, seed=101), specs=specs(10))
    assert [i for i, episode in played.items() if episode.outcome is Outcome.INVALID_ACTION] == [1]
    assert played[1].steps == 0  # and the fake simulator asserts that nothing unfit arrives
    assert sum(episode.success for episode in played.values()) == 9


def test_an_unreachable_pose_is_counted_with_its_action() -> None:
    far = np.array([0, 0, 99, 0, 0, 0, 1, 1])
    played = run_rollouts(InlineWorkers(), Misbehaving(far, seed=102), specs=specs(4))
    assert played[2].outcome is Outcome.UNREACHABLE
    assert played[2].actions.tolist() == [far.tolist()]


def test_a_dead_simulator_costs_one_episode() -> None:
    played = run_rollouts(InlineWorkers(deadly=(103,)), FakePolicy(), specs=specs(10))
    assert [i for i, episode in played.items() if episode.outcome is Outcome.SIMULATOR_ERROR] == [3]
    assert sum(episode.success for episode in played.values()) == 9


def test_episodes_are_reported_as_they_end() -> None:
    seen: list[int] = []

    class Counting(FakePolicy):
        def start_episode(self, slot: int, instruction: str) -> None:
            super().start_episode(slot, instruction)
            if len(self.started) == 9:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_rollouts(
            InlineWorkers(3), Counting(), specs=specs(12), on_episode=lambda index, episode: seen.append(index)
        )
    assert sorted(seen) == [0, 1, 2, 3, 4, 5]


def test_no_plans_no_episodes() -> None:
    assert run_rollouts(InlineWorkers(), FakePolicy(), specs={}) == {}


@pytest.mark.parametrize("limit", [1, 2, 5, 12])
def test_an_episode_ends_with_the_protocols_keyframes(limit: int) -> None:
    lost = {
        index: EpisodeSpec(spec.start, "touch 3") for index, spec in specs(3).items()
    }  # nobody is asked for thing 3
    played = run_rollouts(InlineWorkers(limits=EpisodeLimits(max_keyframes=limit)), FakePolicy(), specs=lost)
    assert [(episode.outcome, episode.steps) for episode in played.values()] == [(Outcome.TIME_LIMIT, limit)] * 3


def test_an_action_without_a_path_is_forgiven_as_often_as_the_protocol_says() -> None:
    class Returning(FakePolicy):
        """Requests an unreachable pose twice, then acts correctly."""

        def answer(self, slot: int, seen: Observation) -> np.ndarray:
            asked[slot] = asked.get(slot, 0) + 1
            right = super().answer(slot, seen)
            return np.array([0, 0, 99, 0, 0, 0, 1, 1]) if asked[slot] <= 2 else right

    for tries, expected in ((1, (Outcome.UNREACHABLE, 1)), (2, (Outcome.UNREACHABLE, 2)), (3, (Outcome.SUCCESS, 3))):
        asked: dict[int, int] = {}
        workers = InlineWorkers(1, limits=EpisodeLimits(max_keyframes=5, max_unreachable=tries))
        played = run_rollouts(workers, Returning(), specs=specs(1))
        assert [(episode.outcome, episode.steps) for episode in played.values()] == [expected]
