"""Episode limits of the task and of the evaluation protocol."""

from collections.abc import Callable

import numpy as np
import pytest

from instructrl.config.simulators import TabletopConfig
from instructrl.evaluation.worker_env import EvalEnv, make_eval_env
from instructrl.sim import EpisodeLimits, EpisodeStart, Outcome, Step, make_checked_env, make_env
from instructrl.sim.tabletop.raycast import Raycaster

SIM = TabletopConfig(cameras=["front"], image_size=16, renderer="raycast")
FAR = np.array([0.3, 0.0, 5.0, 0.0, 1.0, 0.0, 0.0, 1.0])  # above the arm's reach
HERE = np.array([0.2785, 0.0, 1.472, 0.0, 0.9927, 0.0, 0.1209, 1.0])  # about where the arm begins


def play(limits: EpisodeLimits, actions: list[np.ndarray], *, task: str = "push_button") -> list[Step]:
    """Run an episode until it ends."""
    stage = EvalEnv(make_env(SIM, task), limits)
    stage.reset(EpisodeStart(0, 1))
    steps: list[Step] = []
    for action in actions:
        steps.append(stage.step(action))
        if steps[-1].outcome is not None:
            break
    stage.close()
    return steps


@pytest.mark.parametrize("limit", [1, 2, 4, 9])
def test_a_limit_of_keyframes_replaces_the_tasks_own(limit: int) -> None:
    steps = play(EpisodeLimits(max_keyframes=limit), [HERE] * 20)
    assert [step.outcome for step in steps] == [None] * (limit - 1) + [Outcome.TIME_LIMIT]


def test_time_is_told_in_the_tasks_keyframes_whatever_the_limit() -> None:
    steps = play(EpisodeLimits(max_keyframes=7), [HERE] * 20)[:-1]
    assert [step.observation.state[-1] for step in steps] == pytest.approx([-0.5, 0.0, 0.5, 1.0, 1.0, 1.0])
    steps = play(EpisodeLimits(max_keyframes=3), [HERE] * 20)[:-1]
    assert [step.observation.state[-1] for step in steps] == pytest.approx([-0.5, 0.0])


@pytest.mark.parametrize("make", [make_env, make_checked_env])
def test_the_image_that_no_policy_sees_is_not_drawn(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    draw = Raycaster.draw
    monkeypatch.setattr(Raycaster, "draw", lambda *scene: (drawn.append(1), draw(*scene))[1])
    stage = EvalEnv(make(SIM, "push_button"), EpisodeLimits(max_keyframes=2))
    stage.reset(EpisodeStart(0, 1))
    first, last = stage.step(HERE), stage.step(HERE)
    assert first.observation is not None and (last.observation, last.outcome) == (None, Outcome.TIME_LIMIT)
    assert len(drawn) == 2, "at the start and after the first of two actions"


def test_without_rules_the_first_action_without_a_path_ends_the_episode() -> None:
    assert [step.outcome for step in play(EpisodeLimits(), [HERE, FAR, HERE])] == [None, Outcome.UNREACHABLE]


def test_an_action_without_a_path_may_be_forgiven_and_costs_a_keyframe() -> None:
    steps = play(EpisodeLimits(max_unreachable=2), [FAR, HERE, FAR, HERE])
    assert [step.outcome for step in steps] == [None, None, Outcome.UNREACHABLE], "the second one ends it"
    assert steps[0].observation.state[-1] == pytest.approx(-0.5)
    start = EvalEnv(make_env(SIM, "push_button")).reset(EpisodeStart(0, 1))
    assert np.array_equal(steps[0].observation.images, start.images), "nothing moved"


def test_forgiveness_ends_with_the_keyframes_and_the_reason_stays() -> None:
    assert [step.outcome for step in play(EpisodeLimits(max_unreachable=9), [FAR] * 9)] == [
        None,
        None,
        None,
        Outcome.UNREACHABLE,
    ]
    assert play(EpisodeLimits(max_unreachable=9), [FAR] * 3 + [HERE])[-1].outcome is Outcome.TIME_LIMIT


def test_the_next_episode_begins_with_all_tries() -> None:
    stage = make_eval_env(SIM, "push_button", EpisodeLimits(max_unreachable=2))
    for _ in range(2):
        stage.reset(EpisodeStart(0, 1))
        assert [stage.step(FAR).outcome, stage.step(FAR).outcome] == [None, Outcome.UNREACHABLE]
    stage.close()


def test_the_expert_and_a_film_keep_to_the_rules() -> None:
    stage = make_eval_env(SIM, "pick_and_lift", EpisodeLimits(max_keyframes=2))
    actions, outcome = stage.expert(EpisodeStart(0, 1))
    assert (len(actions), outcome) == (2, Outcome.TIME_LIMIT)
    longer = EvalEnv(make_env(SIM, "pick_and_lift"))
    every, outcome = longer.expert(EpisodeStart(0, 1))
    assert outcome is Outcome.SUCCESS and len(every) > 2
    cut, whole = (one.film(EpisodeStart(0, 1), every, size=16) for one in (stage, longer))
    assert len(cut) < len(whole)
