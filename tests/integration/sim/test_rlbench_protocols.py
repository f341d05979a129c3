"""Protocols on the stand-in for RLBench: stored scenes, planning attempts, repeated motions, collisions, clipping."""

import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instructrl.cli.entry import compose
from instructrl.collection.collect import ensure_demonstrations
from instructrl.config.environment import DataConfig, TaskConfig
from instructrl.config.evaluation import EvalConfig, RLBenchProtocol
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.errors import InputError
from instructrl.evaluation import evaluate as judge_module
from instructrl.evaluation.results.summary import table
from instructrl.evaluation.worker_env import make_eval_env
from instructrl.sim import EpisodeLimits, EpisodeStart, Outcome
from instructrl.sim.rlbench.stored_episodes import stored_scenes
from instructrl.sim.vector.pool import Workers
from instructrl.types import COLLISIONS
from tests.fakes.rlbench_stand_in import COLORS, DOWN, Seer, StandIn, installed, place_of, settings
from tests.integration.sim.test_rlbench_evaluate import outcomes, run, set_trained_task  # noqa: F401  (a fixture)

HIVEFORMER = RLBenchProtocol(planner_attempts=1, motion_attempts=10, separate_gripper=True, failure_ends=False)


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[StandIn]:
    with installed(tmp_path) as made:
        yield made


def open_workers(choices: RLBenchProtocol, task: str = "reach_target") -> Workers:
    make = partial(make_eval_env, settings(), task, EpisodeLimits(), choices)
    return Workers(make, 1, timeout=60)


def ask(workers: Workers, method: str, *given: Any) -> Any:
    return workers.call({0: (method, given)})[0]


def evaluated(run: Path, *words: str, **changes: Any) -> dict[str, Any]:  # noqa: F811
    config = compose("eval", EvalConfig, [f"run={run}", *words])
    return judge_module.evaluate(replace(config, **{"videos": 0, "workers": 1, **changes}))[0]


# Stored scenes.


@pytest.mark.parametrize(("variant", "infeasible"), [("original", "0.5"), ("peract", "0")])
def test_a_stored_scene_is_the_one_of_its_demonstration(
    stand_in: StandIn, tmp_path: Path, variant: str, infeasible: str
) -> None:
    """RLBench records the accepted placement; PerAct's fork does not, and its planner decides once more."""
    stand_in.install(variant)
    stand_in.patch.setenv("FAKE_RLBENCH_INFEASIBLE", infeasible)
    places = stand_in.store(tmp_path / "stored", "reach_target", 5)
    starts = stored_scenes(tmp_path / "stored", "reach_target").starts
    assert [(start.variation, start.seed) for start in starts] == [(0, 0), (1, 1), (2, 2), (3, 3), (0, 4)]
    with open_workers(RLBenchProtocol()) as workers:
        for start, place in zip(starts, places, strict=True):
            seen = ask(workers, "reset", start)
            assert seen.instruction.endswith(f"point {start.variation}")
            # heights follow from Python's own random numbers too, which RLBench does not record
            np.testing.assert_allclose(place_of(COLORS[0], seen)[:2], place[:2], atol=0.01)
            drawn = place_of(COLORS[0], ask(workers, "reset", replace(start, stored="")))
            assert np.abs(drawn[:2] - place[:2]).max() > 1e-3, "the seed's own scene is another one"


def test_peracts_stored_scenes_are_played_in_all_conditions(
    stand_in: StandIn,
    run: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    stand_in.install("peract")
    stand_in.store(tmp_path / "stored", "close_jar", 4)
    words = ("protocol=peract", f"protocol.scenes={tmp_path}/stored")
    results = evaluated(run, *words, episodes=4)
    for condition in results["conditions"].values():
        assert outcomes(condition) == {"success": 4}
        assert list(condition["scenes"]) == ["0/0", "1/1", "2/2", "0/3"]
    lines = [json.loads(line) for line in (run / "eval-peract" / "episodes.jsonl").read_text().splitlines()]
    stored = [line["stored"] for line in lines if line.get("condition") == "trained"]
    assert stored == [f"{tmp_path}/stored/close_jar/all_variations/episodes/episode{number}" for number in range(4)]
    assert lines[0]["evaluation"]["scenes"]["folder"] == f"{tmp_path}/stored"
    assert results["published"] == {
        "of": "PerAct",
        "differences": [
            "episodes=4, there 25",
            "ignore_collisions the same in all actions, there predicted by the agent",
        ],
    }
    assert "note: Not comparable with PerAct's published numbers: episodes=4, there 25; ignore_coll" in table(results)
    assert "Not comparable with PerAct&#39;s published numbers" in (run / "eval-peract" / "report.html").read_text()
    with pytest.raises(InputError, match=rf"^protocol.scenes: found 4 scenes of close_jar in {tmp_path}/stored; allow"):
        evaluated(run, *words)
    with pytest.raises(InputError, match=r"protocol.scenes=\S+, asked null; they would be lost"):
        evaluated(run, words[0], episodes=4)


def broken(folder: Path) -> Path:
    """The file of the first demonstration in a folder."""
    return folder / "reach_target" / "all_variations" / "episodes" / "episode0" / "low_dim_obs.pkl"


def test_scenes_that_cannot_be_restored_are_refused_by_name(stand_in: StandIn, tmp_path: Path) -> None:
    stand_in.store(tmp_path, "reach_target", 2)
    first = stored_scenes(tmp_path, "reach_target")
    assert stored_scenes(tmp_path / "reach_target", "reach_target") == first
    with pytest.raises(InputError, match=r"^protocol.scenes: found no close_jar/all_variations/episodes/episode<N>"):
        stored_scenes(tmp_path, "close_jar")
    file = broken(tmp_path)
    content = file.read_bytes()
    # a state of numpy's random numbers with another name in it, a list in place of a demonstration, half a file
    for damaged, found in (
        (content.replace(b"MT19937", b"PCG6400"), "found a random_seed of another form; allowed: the state of numpy's"),
        (pickle.dumps([1]), "found no random_seed; allowed: the state of numpy's random numbers"),
        (content[: len(content) // 2], "damaged or not a pickle"),
    ):
        file.write_bytes(damaged)
        with pytest.raises(InputError) as error:
            stored_scenes(tmp_path, "reach_target")
        assert str(error.value).startswith(f"{file}: {found}")
    file.write_bytes(content)
    (file.parent / "variation_number.pkl").write_bytes(pickle.dumps("1"))
    with pytest.raises(InputError, match=r"variation_number.pkl: found None, expected the number of a variation"):
        stored_scenes(tmp_path, "reach_target")
    (file.parent / "variation_number.pkl").write_bytes(pickle.dumps(np.array(3)))
    changed = stored_scenes(tmp_path, "reach_target")
    assert changed.starts[0].variation == 3 and changed.digest != first.digest


# Execution of actions.


@pytest.mark.parametrize(("protocol", "expected"), [("default", {"success": 1}), ("peract", {"planner_failure": 1})])
def test_peracts_planner_has_one_attempt(
    stand_in: StandIn,
    run: Path,  # noqa: F811
    protocol: str,
    expected: dict[str, int],
) -> None:
    stand_in.faults("step@any=path*1")
    results = evaluated(run, f"protocol={protocol}", episodes=1, conditions=["trained"])
    assert outcomes(results["conditions"]["trained"]) == expected


def test_the_renderer_is_the_protocols_unless_another_is_asked_for(stand_in: StandIn, run: Path) -> None:  # noqa: F811
    asked = {"episodes": 1, "conditions": ["trained"]}
    results = evaluated(run, "protocol=hiveformer", **asked)
    assert results["renderer"] == {"data": "rlbench_opengl3", "evaluation": "rlbench_opengl"}
    assert "collected with renderer rlbench_opengl3, these episodes played with renderer" in results["cautions"][0]
    differences = ["episodes=1, there 500", "close_jar not among the tasks of hiveformer_10 and rlbench_74"]
    assert results["published"] == {"of": "HiveFormer", "differences": differences}
    results = evaluated(run, "protocol=hiveformer", "protocol.name=other", "renderer=rlbench_opengl3", **asked)
    assert results["renderer"]["evaluation"] == "rlbench_opengl3" and results["published"] is None


@pytest.mark.parametrize(("choices", "motions", "outcome"), [(HIVEFORMER, 3, "success"), (RLBenchProtocol(), 1, None)])
def test_a_motion_that_ends_too_far_away_is_executed_again(
    stand_in: StandIn, choices: RLBenchProtocol, motions: int, outcome: str | None
) -> None:
    with open_workers(choices) as workers:
        target = np.array([*place_of(COLORS[0], ask(workers, "reset", EpisodeStart(0, 1))), *DOWN, 1.0])
        stand_in.faults("short@0=far*2")  # two motions end 8 cm above it
        assert ask(workers, "step", target).outcome == outcome
        assert stand_in.calls("step 0") == motions


def test_no_motion_is_executed_more_than_ten_times(stand_in: StandIn) -> None:
    with open_workers(HIVEFORMER) as workers:
        target = np.array([*place_of(COLORS[0], ask(workers, "reset", EpisodeStart(0, 1))), *DOWN, 1.0])
        stand_in.faults("short@0=far")
        assert ask(workers, "step", target).outcome is None and stand_in.calls("step 0") == 10
        stand_in.faults("short@0=far", "step@0=path*1")
        assert ask(workers, "step", target).outcome is Outcome.PLANNER_FAILURE


def test_the_gripper_changes_in_a_motion_of_its_own_after_the_first_action(stand_in: StandIn) -> None:
    """Close at the first point, which nothing precedes, then open at the second after the arm has arrived."""
    for choices, motions in ((HIVEFORMER, [1, 3]), (RLBenchProtocol(), [1, 2])):
        with open_workers(choices, "close_jar") as workers:
            seen, policy, counts = ask(workers, "reset", EpisodeStart(0, 1)), Seer(0.0, 1.0), []
            policy.start_episode(0, "")
            stand_in.faults()
            for expected in (None, Outcome.SUCCESS):
                step = ask(workers, "step", policy.act({0: seen})[0])
                assert step.outcome is expected
                seen = step.observation
                counts.append(stand_in.calls("step 0"))
            assert counts == motions


def test_an_episode_goes_on_where_the_task_can_no_longer_succeed(stand_in: StandIn) -> None:
    """Visiting the second point first ends close_jar for RLBench, not for HiveFormer."""
    for choices, ends in ((HIVEFORMER, None), (RLBenchProtocol(), Outcome.FAILURE)):
        with open_workers(choices, "close_jar") as workers:
            seen = ask(workers, "reset", EpisodeStart(0, 1))
            assert ask(workers, "step", np.array([*place_of(COLORS[1], seen), *DOWN, 1.0])).outcome is ends


@pytest.mark.parametrize("variant", ["original", "peract"])
def test_targets_are_moved_onto_the_boundary_of_the_workspace(stand_in: StandIn, variant: str) -> None:
    stand_in.install(variant)
    outside = np.array([0.2, 0.0, 3.0, *DOWN, 1.0])
    with open_workers(RLBenchProtocol()) as workers:
        ask(workers, "reset", EpisodeStart(0, 1))
        assert ask(workers, "step", outside).outcome is Outcome.UNREACHABLE
    with open_workers(RLBenchProtocol(clip_to_workspace=True)) as workers:
        ask(workers, "reset", EpisodeStart(0, 1))
        stand_in.faults()
        assert ask(workers, "step", outside).outcome is None and stand_in.calls("step 0") == 1


class Asking(Seer):
    """A `Seer` whose ninth number is given for each action."""

    def __init__(self, *grips: float, flags: tuple[float, ...]) -> None:
        super().__init__(*grips)
        self.flags = flags

    def answer(self, slot: int, seen: Any) -> np.ndarray:
        flag = self.flags[min(self.taken[slot], len(self.flags) - 1)]
        return np.append(super().answer(slot, seen), flag)


def test_collisions_are_demonstrated_and_predicted_for_each_action(
    stand_in: StandIn,
    run: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sim = settings(image_size=16, actions=COLLISIONS)
    words = (TaskConfig("close_jar", 2, 1, None), sim, DataConfig(str(tmp_path / "data")))
    with pytest.raises(InputError, match=r"^sim.actions: found keyframe_collisions; allowed with the install"):
        ensure_demonstrations(*words)
    stand_in.install("peract")
    stand_in.faults()
    [file] = ensure_demonstrations(*words)["train"]
    assert file.parent.name.startswith("close_jar-keyframe_collisions-")
    with DemonstrationDataset(file) as episodes:
        for number in range(len(episodes)):
            opened, flags = episodes.actions(number)[:, 7], episodes.actions(number)[:, 8]
            np.testing.assert_array_equal(flags, [1, *opened[:-1]])  # the stand-in's rule, before each keyframe
            assert {0, 1} == {*flags}
    assert stand_in.calls("ignore_collisions False") >= 3 and stand_in.calls("ignore_collisions True") >= 3

    policy = Asking(0.0, 1.0, flags=(1.0, 0.0))
    monkeypatch.setattr(judge_module, "load_batched_agent", lambda *_, **__: (policy, 7))
    set_trained_task(monkeypatch, TaskConfig("close_jar", 1, 1, None), settings(actions=COLLISIONS))
    stand_in.store(tmp_path / "stored", "close_jar", 4)
    stand_in.faults()
    words = ("protocol=peract", f"protocol.scenes={tmp_path}/stored", "conditions=[trained]")
    results = evaluated(run, *words, episodes=4)
    assert outcomes(results["conditions"]["trained"]) == {"success": 4}
    assert [stand_in.calls(f"ignore_collisions {flag}") for flag in ("True", "False")] == [4, 4]
    assert results["published"]["differences"] == ["episodes=4, there 25"]
    lines = [json.loads(line) for line in (run / "eval-peract" / "episodes.jsonl").read_text().splitlines()]
    assert [[action[8] for action in line["actions"]] for line in lines[1:]] == [[1, 0]] * 4
    assert evaluated(run, *words, episodes=4)["conditions"] == results["conditions"], "the log is read again"


def test_collisions_are_checked_where_the_protocol_asks_for_it(stand_in: StandIn) -> None:
    """By the ninth number of the actions of PerAct's fork, which RLBench's do not have."""
    checked = RLBenchProtocol(ignore_collisions=False)
    with pytest.raises(InputError, match=r"^protocol.rlbench.ignore_collisions: found false; allowed with the install"):
        open_workers(checked).close()
    stand_in.install("peract")
    for choices, logged in ((checked, "False"), (RLBenchProtocol(), "True")):
        with open_workers(choices) as workers:
            ask(workers, "reset", EpisodeStart(0, 1))
            stand_in.faults()
            ask(workers, "step", np.array([0.2, 0.1, 1.0, *DOWN, 1.0]))
            assert stand_in.calls(f"ignore_collisions {logged}") == 1
