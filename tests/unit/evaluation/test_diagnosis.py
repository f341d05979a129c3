"""Causes of failures: faults put into the expert's actions are named, in results, episode log, table and page."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instructrl.actions import turn_about_approach
from instructrl.config.simulators import TabletopConfig
from instructrl.evaluation.diagnosis import Cause, Deviation, diagnose
from instructrl.evaluation.episode_log import EpisodeLog
from instructrl.evaluation.evaluator import TaskEvaluator
from instructrl.evaluation.results.summary import summarize
from instructrl.evaluation.results.tables import tables
from instructrl.evaluation.rollout import Episode, EpisodeSpec, run_rollouts
from instructrl.evaluation.worker_env import EvalEnv
from instructrl.evaluation.workers import task_info
from instructrl.sim import EpisodeStart, Outcome, make_env
from tests.fakes.sim import FakePolicy, InlineWorkers
from tests.unit.evaluation.report.test_report import page_text

START = EpisodeStart(variation=0, seed=3)
Change = Callable[[np.ndarray], np.ndarray]


class OneWorker:
    """`Workers` with one environment in this process."""

    def __init__(self, env: EvalEnv):
        self._env = env

    def __len__(self) -> int:
        return 1

    def call(self, requests: dict[int, tuple[str, tuple]]) -> dict[int, Any]:
        return {slot: getattr(self._env, method)(*given) for slot, (method, given) in requests.items()}


class Scripted:
    """A policy that takes given actions, the last one again and again."""

    def __init__(self, actions: np.ndarray):
        self._actions = list(actions)

    def start_episode(self, slot: int, instruction: str) -> None:
        pass

    def act(self, observations: dict[int, Any]) -> dict[int, np.ndarray]:
        return {slot: self._actions.pop(0) if len(self._actions) > 1 else self._actions[0] for slot in observations}


@cache
def simulator(task: str) -> EvalEnv:
    return EvalEnv(make_env(TabletopConfig(cameras=["front"], image_size=8, renderer="raycast"), task))


def play(task: str, actions: np.ndarray) -> Episode:
    return run_rollouts(OneWorker(simulator(task)), Scripted(actions), specs={0: EpisodeSpec(START)})[0]  # type: ignore[arg-type]


def expert(task: str, goal: int | None = None) -> np.ndarray:
    return simulator(task).expert(EpisodeStart(START.variation, START.seed, goal))[0].astype(np.float64)


def moved(*keyframes: int, by: float) -> Change:
    """Keyframes, counted from 1, moved sideways."""

    def change(actions: np.ndarray) -> np.ndarray:
        actions[[number - 1 for number in keyframes], 1] += by
        return actions

    return change


def turned(degrees: float) -> Change:
    return lambda actions: np.stack([turn_about_approach(action, np.radians(degrees)) for action in actions])


def opened(keyframe: int) -> Change:
    def change(actions: np.ndarray) -> np.ndarray:
        actions[keyframe - 1 :, 7] = 1.0
        return actions

    return change


@pytest.mark.parametrize(
    ("task", "change", "cause", "keyframe"),
    [
        ("pick_and_lift", moved(2, 3, by=0.04), Cause.POSITION, 2),
        ("pick_and_lift", moved(1, 2, 3, by=0.04), Cause.POSITION, 1),
        ("pick_and_lift", lambda actions: moved(1, by=0.012)(moved(2, 3, by=0.04)(actions)), Cause.POSITION, 2),
        ("take_money_out_safe", turned(40), Cause.ROTATION, 1),
        ("pick_and_lift", opened(3), Cause.GRIPPER, 3),
        ("pick_and_lift", lambda actions: moved(1, by=0.03)(opened(3)(actions)), Cause.GRIPPER, 3),
        ("pick_and_lift", moved(4, by=-0.08), Cause.POSITION, 4),
    ],
    ids=["grasp", "from the start", "detour, grasp", "rotation", "gripper", "detour, gripper", "target"],
)
def test_a_fault_in_the_experts_actions_is_named(task: str, change: Change, cause: Cause, keyframe: int) -> None:
    episode = play(task, change(expert(task)))
    assert not episode.success
    assert episode.diagnosis == (cause, keyframe), episode.deviations


@pytest.mark.parametrize("task", ["reach_target", "pick_and_lift", "push_buttons", "put_money_in_safe"])
def test_going_for_another_object_is_named(task: str) -> None:
    simulator(task).reset(START)
    goal = simulator(task).alternative_goals(START)[0]
    episode = play(task, expert(task, goal))
    assert episode.outcome is Outcome.FAILURE and episode.diagnosis is not None
    assert episode.diagnosis.cause is Cause.WRONG_OBJECT


def test_a_rotation_that_is_as_good_for_the_object_is_no_fault() -> None:
    for degrees in (90, 180, 270):
        episode = play("pick_and_lift", turned(degrees)(expert("pick_and_lift")))
        assert max(deviation.rotation_deg for deviation in episode.deviations) < 10
        assert episode.success or episode.diagnosis == (Cause.UNREACHABLE, None)


def near(**changes: Any) -> Deviation:
    return Deviation(**{"position_cm": 0.4, "rotation_deg": 3.0, "gripper_wrong": False, "gripper_acts": False,
                        "other_cm": 20.0, **changes})  # fmt: skip


@pytest.mark.parametrize(
    ("outcome", "deviations", "expected"),
    [
        (Outcome.TIME_LIMIT, [near(), near()], (Cause.OUT_OF_STEPS, None)),
        (Outcome.UNREACHABLE, [near()], (Cause.UNREACHABLE, None)),
        (Outcome.SIMULATOR_ERROR, [], (Cause.OTHER, None)),
        (Outcome.UNREACHABLE, [near(rotation_deg=50.0)], (Cause.ROTATION, 1)),
        (Outcome.TIME_LIMIT, [near(), near(position_cm=3.0, rotation_deg=20.0)], (Cause.POSITION, 2)),
        (Outcome.TIME_LIMIT, [near(), near(position_cm=3.0, rotation_deg=40.0)], (Cause.ROTATION, 2)),
        (Outcome.FAILURE, [near(position_cm=30.0, other_cm=2.0, rotation_deg=180.0)], (Cause.WRONG_OBJECT, 1)),
        (Outcome.FAILURE, [near(position_cm=30.0, other_cm=16.0)], (Cause.POSITION, 1)),
        (Outcome.TIME_LIMIT, [near(position_cm=3.0), near(position_cm=2.0), near()], (Cause.POSITION, 1)),
        (Outcome.TIME_LIMIT, [near(position_cm=9.0), near(), near(gripper_wrong=True), near()], (Cause.GRIPPER, 3)),
        (
            Outcome.TIME_LIMIT,
            [near(rotation_deg=60.0), near(rotation_deg=50.0, gripper_acts=True), near(position_cm=40.0)],
            (Cause.ROTATION, 1),
        ),
    ],
)  # fmt: skip
def test_the_action_that_decided_gives_the_cause(
    outcome: Outcome, deviations: list[Deviation], expected: tuple[Cause, int | None]
) -> None:
    assert diagnose(outcome, deviations) == expected


def evaluated(path: Path, policy: FakePolicy, **settings: Any) -> dict[str, Any]:
    workers = InlineWorkers(**settings)
    info = task_info(workers, "numbers", None)
    with EpisodeLog(path, {}) as episode_log:
        evaluator = TaskEvaluator(workers, policy, info, episode_log)
        conditions = evaluator.evaluate(["trained", "no_instruction", "oracle"], episodes=12, seed=0)
    return summarize(conditions, info, about={})


def test_causes_are_in_results_table_page_and_episode_log(tmp_path: Path) -> None:
    results = evaluated(tmp_path / "e", FakePolicy())
    assert results["conditions"]["trained"]["diagnosis"] == {"failures": 0, "causes": {}}
    assert "diagnosis" not in results["conditions"]["oracle"] and results["improve_next"] == ""
    failures = {"failures": 9, "causes": {"wrong_object": {"episodes": 9, "keyframes": {"1": 9}}}}
    assert results["conditions"]["no_instruction"]["diagnosis"] == failures
    deaf = evaluated(tmp_path / "deaf", FakePolicy(knows=()))
    assert deaf["improve_next"] == (
        "Most common cause: wrong object (9 of 9 failures with trained instructions, all of them from keyframe 1 on); "
        "improve how the instruction selects the object."
    )
    assert json.loads(json.dumps(deaf)) == deaf
    text = tables(deaf).splitlines()
    assert [line.split() for line in text[-3:-1]] == [
        [name, "9", "wrong", "object", "9", "(9", "at", "keyframe", "1)"] for name in ("trained", "no_instruction")
    ]
    assert text[-1] == deaf["improve_next"]
    shown = page_text(deaf)
    assert (
        "Why episodes fail" in shown and deaf["improve_next"] in shown and "wrong object 9 (9 at keyframe 1)" in shown
    )
    entries = [json.loads(line) for line in (tmp_path / "deaf").read_text().splitlines()[1:]]
    failed = [entry for entry in entries if entry["outcome"] != "success"]
    assert len(failed) == 18 and {(entry["cause"], entry["cause_keyframe"]) for entry in failed} == {
        ("wrong_object", 1)
    }
    assert all(len(entry["deviations"]) == 2 for entry in failed)


def test_a_resumed_evaluation_has_the_same_causes_and_an_earlier_log_none(tmp_path: Path) -> None:
    path = tmp_path / "e"
    first = evaluated(path, FakePolicy(knows=()))
    again = evaluated(path, FakePolicy(knows=()))
    assert again["conditions"]["trained"]["diagnosis"] == first["conditions"]["trained"]["diagnosis"]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    added = ("deviations", "cause", "cause_keyframe")
    path.write_text("".join(json.dumps({k: v for k, v in one.items() if k not in added}) + "\n" for one in lines))
    policy = FakePolicy(knows=())
    earlier = evaluated(path, policy)
    assert policy.started == [], "nothing is run twice"
    assert earlier["conditions"]["trained"]["diagnosis"] == {"failures": 9, "causes": {}}
    assert "not diagnosed 9" in tables(earlier)
    assert "Why episodes fail" in page_text(earlier)


def test_a_simulator_without_an_expert_leaves_the_diagnosis_out_and_the_page_says_so(tmp_path: Path) -> None:
    results = evaluated(tmp_path / "e", FakePolicy(knows=()), expert=False)
    assert not any("diagnosis" in condition for condition in results["conditions"].values())
    assert "failures" not in tables(results)
    assert "Not diagnosed: simulator fake does not offer its expert's action" in page_text(results)
    assert '"deviations"' not in (tmp_path / "e").read_text()


def test_results_of_an_earlier_version_have_a_page(tmp_path: Path) -> None:
    results = evaluated(tmp_path / "e", FakePolicy(knows=()), expert=False)
    del results["improve_next"]
    for condition in results["conditions"].values():
        for added in ("scenes", "paired"):
            condition.pop(added, None)
    shown = page_text(results)
    assert "25.0%" in shown and "Why episodes fail" not in shown and "in the same scenes" not in shown
    assert "failures" not in tables(results) and "pairs" not in tables(results)
