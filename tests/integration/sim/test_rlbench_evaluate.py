"""Evaluations on RLBench against the stand-in: counting of faults, protocols, sets of tasks."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from instructrl.cli.entry import compose
from instructrl.config.environment import CollectConfig, TaskConfig, task_names
from instructrl.config.evaluation import EvalConfig
from instructrl.config.simulators import RLBenchConfig
from instructrl.errors import InputError, RunError
from instructrl.evaluation import evaluate as judge_module
from instructrl.sim.vector import heartbeat
from tests.fakes.rlbench_stand_in import Seer, StandIn, installed, settings
from tests.integration.sim.test_rlbench_collect import ROOT, environment

MULTI_10 = task_names(compose("collect", CollectConfig, ["task=multi_10", "sim=rlbench"]).task)


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[StandIn]:
    with installed(tmp_path) as made:
        yield made


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run directory trained on RLBench's close_jar, with a policy that solves it from images."""
    run = tmp_path / "a-run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("name: a-run\n")
    about = {"path": "x", "checksum": "y", "provenance": {"renderer": "rlbench_opengl3"}}
    (run / "data.json").write_text(json.dumps({"train": about}))
    (run / "metrics.jsonl").touch()
    monkeypatch.setattr(judge_module, "load_batched_agent", lambda *_, **__: (Seer(0.0, 1.0), 7))
    set_trained_task(monkeypatch, TaskConfig("close_jar", 1, 1, None))
    return run


def set_trained_task(patch: pytest.MonkeyPatch, task: TaskConfig, sim: RLBenchConfig | None = None) -> None:
    """Set the task, and the simulator's settings, that the run was trained on."""
    training = SimpleNamespace(epochs=3, validate_every=1)
    trained = SimpleNamespace(training=training, sim=sim or settings(), task=task)
    patch.setattr(judge_module, "read_config", lambda _: trained)


def evaluated(run: Path, *, protocol: str = "default", **changes: Any) -> tuple[dict[str, Any], Path]:
    config = compose("eval", EvalConfig, [f"run={run}", f"protocol={protocol}"])
    return judge_module.evaluate(replace(config, **{"episodes": 9, "videos": 1, "workers": 2, **changes}))


def outcomes(condition: dict[str, Any]) -> dict[str, int]:
    return {name: count for name, count in condition["outcomes"].items() if count}


def test_an_evaluation_with_every_fault_finishes_with_the_right_counts(
    stand_in: StandIn, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "SILENCE", 1.5)
    monkeypatch.setattr(heartbeat, "_BEAT", 0.05)
    stand_in.faults("step@1=segfault", "step@2=path", "demo@2=DemoError", "step@0=hang*1")
    results, report = evaluated(run)
    assert list(results["conditions"]) == ["trained", "no_instruction", "oracle"]
    assert outcomes(results["conditions"]["trained"]) == {"success": 3, "simulator_error": 3, "planner_failure": 3}
    assert outcomes(results["conditions"]["no_instruction"]) == {
        "success": 3,
        "simulator_error": 3,
        "planner_failure": 3,
    }
    assert outcomes(results["conditions"]["oracle"]) == {"success": 3, "simulator_error": 3, "expert_failure": 3}
    assert results["absent_conditions"] == {
        "held_out_instructions": "close_jar has no held-out instructions",
        "swapped_instruction": "the scenes of close_jar have no alternative goal",
    }
    assert [entry["successes"] for entry in results["conditions"]["trained"]["variations"]] == [3, 0, 0]
    assert results["conditions"]["trained"]["variations"][2]["sentence"] == "touch point 2"
    assert results["renderer"] == {"data": "rlbench_opengl3", "evaluation": "rlbench_opengl3"}
    assert results["simulator"]["coppeliasim"] == "4.1.0"
    page = report.read_text()
    assert "planner failure 3" in page and "expert failure 3" in page
    assert [video["outcome"] for video in results["videos"]] == ["success", "planner_failure"]


def test_all_conditions_and_videos_show_the_same_scenes(stand_in: StandIn, run: Path) -> None:
    """Although most placements are rejected at random; what restores the scenes is in the episode log."""
    stand_in.patch.setenv("FAKE_RLBENCH_INFEASIBLE", "0.7")
    results, _ = evaluated(run, conditions=["trained", "no_instruction", "oracle"], episodes=8, videos=1)
    assert [results["conditions"][name]["success_rate"] for name in ("trained", "oracle")] == [1.0, 1.0]
    entries = [json.loads(line) for line in (run / "eval" / "episodes.jsonl").read_text().splitlines()[1:]]
    rejected = {}
    for entry in entries:
        rejected.setdefault(entry["condition"], {})[entry["index"]] = entry["rejected_placements"]
    assert rejected["trained"] == rejected["no_instruction"] == rejected["oracle"] and any(rejected["trained"].values())
    assert results["simulator"]["scenes"].startswith("the first placement of a seed")
    (run / "eval" / "results.json").unlink()
    again, _ = evaluated(run, conditions=["trained", "no_instruction", "oracle"], episodes=12, videos=0)
    entries = [json.loads(line) for line in (run / "eval" / "episodes.jsonl").read_text().splitlines()[1:]]
    for entry in entries:
        rejected[entry["condition"]][entry["index"]] = entry["rejected_placements"]
    assert len(entries) == 36 and rejected["trained"] == rejected["oracle"] == rejected["no_instruction"]
    assert again["success_rate"] == 1.0


def test_an_evaluation_on_rlbench_says_which_renderers_there_are(stand_in: StandIn, run: Path) -> None:
    with pytest.raises(InputError, match="renderer: found raycast; allowed for this run's sim=rlbench: auto, rl"):
        evaluated(run, renderer="raycast")
    assert evaluated(run, renderer="auto", conditions=["trained"], episodes=2, videos=0)[0]["success_rate"] == 1.0
    (run / "eval" / "results.json").unlink()
    other = evaluated(run, renderer="rlbench_opengl", conditions=["trained"], episodes=2, videos=0)[0]
    assert other["renderer"] == {"data": "rlbench_opengl3", "evaluation": "rlbench_opengl"}


def test_an_evaluation_goes_on_after_its_simulator_no_longer_starts(stand_in: StandIn, run: Path) -> None:
    """The episode log keeps the finished episodes, and nothing counts against the policy."""
    conditions = {"conditions": ["trained"], "videos": 0, "workers": 1}
    episode_log = run / "eval" / "episodes.jsonl"

    class BreaksDown(Seer):
        def start_episode(self, slot: int, instruction: str) -> None:
            super().start_episode(slot, instruction)
            stand_in.faults("step@2=exit", "launch@any=exit")  # once the simulator runs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge_module, "load_batched_agent", lambda *_, **__: (BreaksDown(0.0, 1.0), 7))
        with pytest.raises(RunError, match="cannot start"):
            evaluated(run, **conditions)
    played = episode_log.read_text().splitlines()[1:]
    assert len(played) == 2
    stand_in.faults()
    results, _ = evaluated(run, **conditions)
    assert results["episodes"] == results["successes"] == 9
    assert episode_log.read_text().splitlines()[1:3] == played


def test_peracts_protocol_on_rlbench(stand_in: StandIn, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """25 episodes over all variations, shuffled, with the first instruction, whatever was trained."""
    set_trained_task(monkeypatch, TaskConfig("close_jar", 1, 1, [0]))
    stand_in.faults("step@1=segfault", "step@2=path", "demo@2=DemoError")
    results, report = evaluated(run, protocol="peract", episodes=None)
    assert report.parent == run / "eval-peract" and results["episodes"] == 25
    assert list(results["conditions"]) == ["trained", "oracle"]
    each = {entry["variation"]: entry["episodes"] for entry in results["conditions"]["trained"]["variations"]}
    assert sorted(each) == [0, 1, 2] and sorted(each.values()) == [8, 8, 9]
    good, dead, pathless = (each[variation] for variation in range(3))
    counted = {"success": good, "simulator_error": dead}
    assert outcomes(results["conditions"]["trained"]) == {**counted, "planner_failure": pathless}
    assert outcomes(results["conditions"]["oracle"]) == {**counted, "expert_failure": pathless}
    instructions = {json.loads(line)["instruction"] for line in episode_lines(run / "eval-peract")}
    assert instructions == {f"touch point {variation}" for variation in range(3)}


def test_hiveformers_protocol_on_rlbench_keeps_to_the_first_variation(stand_in: StandIn, run: Path) -> None:
    stand_in.faults("step@0=path*1")  # one action of one episode, which nothing forgives
    results, _ = evaluated(run, protocol="hiveformer", conditions=["trained"], videos=0, workers=1)
    assert outcomes(results["conditions"]["trained"]) == {"success": 8, "planner_failure": 1}
    assert [entry["variation"] for entry in results["conditions"]["trained"]["variations"]] == [0]


@pytest.mark.parametrize(
    ("keyframes", "tries", "expected"),
    [(25, 1, "planner_failure"), (25, 2, "failure"), (1, 9, "planner_failure")],
)
def test_a_protocols_tries_and_keyframes_reach_rlbench(
    stand_in: StandIn, run: Path, keyframes: int, tries: int, expected: str
) -> None:
    """The first action has no path; if tolerated, the policy continues to the second point, which is too early."""
    stand_in.faults("step@any=path*1")
    config = compose("eval", EvalConfig, [f"run={run}", "protocol=peract"])
    config = replace(
        config,
        protocol=replace(config.protocol, max_keyframes=keyframes, max_unreachable=tries),
        conditions=["trained"],
    )
    results, _ = judge_module.evaluate(replace(config, episodes=1, videos=0, workers=1))
    assert outcomes(results["conditions"]["trained"]) == {expected: 1}


def episode_lines(folder: Path) -> list[str]:
    """The lines of the trained condition in the episode log."""
    lines = (folder / "episodes.jsonl").read_text().splitlines()[1:]
    return [line for line in lines if json.loads(line)["condition"] == "trained"]


def test_a_set_of_tasks_is_collected_in_one_command_and_resumed(stand_in: StandIn, tmp_path: Path) -> None:
    stand_in.add_tasks(*MULTI_10)
    words = ["task=multi_10", "sim=rlbench", f"data.dir={tmp_path}/data", "sim.image_size=16", "sim.workers=1"]
    command = [sys.executable, "-m", "data_tools.collect", *words, "episodes=1", "val_episodes=1"]

    def collect() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120)

    stand_in.remove_task(MULTI_10[-1])
    refused = collect()
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
    assert f"task.name: found {MULTI_10[-1]}; not one of RLBench's" in refused.stderr
    assert "task 1 of 10" not in refused.stdout, "before hours of collecting the others"
    stand_in.add_tasks(MULTI_10[-1])
    stand_in.faults()
    done = collect()
    assert done.returncode == 0, done.stderr
    assert [line.split("/")[-2].split("-")[0] for line in done.stdout.splitlines() if line.startswith("train: ")] == [
        *MULTI_10
    ]
    stand_in.remove_task(MULTI_10[-1])
    again = collect()
    assert again.returncode == 0 and stand_in.processes() == 10, "complete: no task needs to be installed"


def test_a_set_of_tasks_is_judged_task_by_task(stand_in: StandIn, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [task for task in MULTI_10 if task != "reach_target"][:3]  # two variations each
    stand_in.add_tasks(*tasks)
    set_trained_task(monkeypatch, TaskConfig("three", 1, 1, None, tasks=tasks))
    monkeypatch.setattr(judge_module, "load_batched_agent", lambda *_, **__: (Seer(1.0), 7))
    stand_in.faults("step@1=path")
    results, _ = evaluated(run, protocol="peract", conditions=["trained"], episodes=4, videos=0, workers=1)
    assert list(results["tasks"]) == tasks
    for one in results["tasks"].values():
        assert outcomes(one["conditions"]["trained"]) == {"success": 2, "planner_failure": 2}
