"""When an episode is given up: by the task, or by the protocol of an evaluation."""

import numpy as np
import pytest

from instructrl.config import SimConfig
from instructrl.evaluation.stage import Stage, open_stage, stage_workers, task_facts
from instructrl.sim import Outcome, Rules, Start, Step, make_env

SIM = SimConfig(cameras=["front"], image_size=16, renderer="raycast")
FAR = np.array([0.3, 0.0, 5.0, 0.0, 1.0, 0.0, 0.0, 1.0])  # above the arm's reach
HERE = np.array([0.2785, 0.0, 1.472, 0.0, 0.9927, 0.0, 0.1209, 1.0])  # about where the arm begins


def play(rules: Rules, actions: list[np.ndarray], *, task: str = "push_button") -> list[Step]:
    """The steps of an episode until it ends."""
    stage = Stage(make_env(SIM, task), rules)
    stage.reset(Start(0, 1))
    steps: list[Step] = []
    for action in actions:
        steps.append(stage.step(action))
        if steps[-1].outcome is not None:
            break
    stage.close()
    return steps


@pytest.mark.parametrize("limit", [1, 2, 4, 9])
def test_a_limit_of_keyframes_replaces_the_tasks_own(limit: int) -> None:
    steps = play(Rules(keyframes=limit), [HERE] * 20)
    assert [step.outcome for step in steps] == [None] * (limit - 1) + [Outcome.TIME_LIMIT]


def test_time_is_told_in_the_tasks_keyframes_whatever_the_limit() -> None:
    times = [step.observation.state[-1] for step in play(Rules(keyframes=7), [HERE] * 20)]
    assert times == pytest.approx([-0.5, 0.0, 0.5, 1.0, 1.0, 1.0, 1.0])
    assert [step.observation.state[-1] for step in play(Rules(keyframes=2), [HERE] * 20)] == pytest.approx([-0.5, 0.0])


def test_without_rules_the_first_action_without_a_path_ends_the_episode() -> None:
    assert [step.outcome for step in play(Rules(), [HERE, FAR, HERE])] == [None, Outcome.UNREACHABLE]


def test_an_action_without_a_path_may_be_forgiven_and_costs_a_keyframe() -> None:
    steps = play(Rules(tries=2), [FAR, HERE, FAR, HERE])
    assert [step.outcome for step in steps] == [None, None, Outcome.UNREACHABLE], "the second one ends it"
    assert steps[0].observation.state[-1] == pytest.approx(-0.5)
    start = Stage(make_env(SIM, "push_button")).reset(Start(0, 1))
    assert np.array_equal(steps[0].observation.images, start.images), "nothing moved"


def test_forgiveness_ends_with_the_keyframes_and_the_reason_stays() -> None:
    assert [step.outcome for step in play(Rules(tries=9), [FAR] * 9)] == [None, None, None, Outcome.UNREACHABLE]
    assert play(Rules(tries=9), [FAR] * 3 + [HERE])[-1].outcome is Outcome.TIME_LIMIT


def test_the_next_episode_begins_with_all_tries() -> None:
    stage = open_stage(SIM, "push_button", Rules(tries=2))
    for _ in range(2):
        stage.reset(Start(0, 1))
        assert [stage.step(FAR).outcome, stage.step(FAR).outcome] == [None, Outcome.UNREACHABLE]
    stage.close()


def test_the_expert_and_a_film_keep_to_the_rules() -> None:
    stage = open_stage(SIM, "pick_and_lift", Rules(keyframes=2))
    actions, outcome = stage.expert(Start(0, 1))
    assert (len(actions), outcome) == (2, Outcome.TIME_LIMIT)
    longer = Stage(make_env(SIM, "pick_and_lift"))
    every, outcome = longer.expert(Start(0, 1))
    assert outcome is Outcome.SUCCESS and len(every) > 2
    cut, whole = (one.film(Start(0, 1), every, size=16) for one in (stage, longer))
    assert len(cut) < len(whole)


def test_the_rules_reach_the_worker_processes() -> None:
    rules = Rules(keyframes=2, tries=2)
    with stage_workers(SIM, "push_button", renderer="raycast", count=1, rules=rules) as workers:
        assert task_facts(workers, "push_button", None).max_steps == 2, "the actor makes room for so many"
        workers.call({0: ("reset", (Start(0, 1),))})
        assert workers.call({0: ("step", (FAR,))})[0].outcome is None
        assert workers.call({0: ("step", (HERE,))})[0].outcome is Outcome.TIME_LIMIT
