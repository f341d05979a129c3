"""End-to-end evaluation of a run with several tasks: processes, renderer, agent, episode logs, videos and report."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from instructrl.cli.entry import compose
from instructrl.config.evaluation import EvalConfig
from instructrl.evaluation.evaluate import evaluate
from instructrl.evaluation.results.summary import headline, table
from instructrl.evaluation.run_checks import check_run
from instructrl.training.run_dir import read_config
from tests.fakes.sim import without_clock
from tests.fixtures import tiny

TASKS = ["reach_target", "push_button", "pick_and_lift"]
FEW = ("episodes=3", "workers=2", "conditions=[trained,oracle]")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two runs of the same barely trained agent: one recorded with three tasks, the other with one of them."""
    folder, config, found = tmp_path_factory.mktemp("set"), read_config(tiny.shared_run()), {}
    for name, task in (("set", {"tasks": TASKS}), ("single", {"name": "push_button"})):
        found[name] = Path(shutil.copytree(tiny.shared_run(), folder / name))
        renamed = replace(config, name=name, task=replace(config.task, **task))
        (found[name] / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(renamed)))
    return found


def evaluated(run: Path, *words: str) -> dict[str, Any]:
    config = compose("eval", EvalConfig, [f"run={run}", *FEW, *words])
    check_run(run, tasks=config.tasks)
    return evaluate(config)[0]


def test_one_evaluation_judges_every_task_and_goes_on_where_it_was(runs: dict[str, Path]) -> None:
    results = evaluated(runs["set"])
    assert list(results["tasks"]) == TASKS
    assert results["conditions"]["oracle"]["success_rate"] == 1.0
    assert [entry["task_variations"] for entry in results["tasks"].values()] == [20, 18, 20]
    assert len(table(results).splitlines()) == 1 + 3 + 2
    assert "on variations 0-2 only in every task" in headline(results)
    folder = runs["set"] / "eval"
    assert json.loads((folder / "results.json").read_text()) == results
    films = [video for entry in results["tasks"].values() for video in entry["videos"]]
    assert films and all((folder / film["file"]).is_file() for film in films)
    assert (folder / "report.html").read_text().count("<video ") == len(films)
    before = {task: (folder / task / "episodes.jsonl").read_bytes() for task in TASKS}
    assert without_clock(evaluated(runs["set"])) == without_clock(results)
    assert before == {task: (folder / task / "episodes.jsonl").read_bytes() for task in TASKS}, "nothing was played"


def test_a_task_of_a_set_gives_the_numbers_that_it_gives_alone(runs: dict[str, Path]) -> None:
    """An agent that evaluated tasks of other lengths before has other array shapes, but gives the same actions."""
    together = evaluated(runs["set"], "videos=0")["tasks"]["push_button"]
    alone = evaluated(runs["single"], "videos=0")
    assert without_clock({key: alone[key] for key in together}) == without_clock(together)
    files = [runs["set"] / "eval" / "push_button" / "episodes.jsonl", runs["single"] / "eval" / "episodes.jsonl"]
    played = [[json.loads(line) for line in file.read_text().splitlines()[1:]] for file in files]
    keyed = [{(one["condition"], one["index"]): one for one in some} for some in played]
    assert set(keyed[0]) == set(keyed[1])
    for key, one in keyed[0].items():
        assert np.array_equal(one["actions"], keyed[1][key]["actions"]), key


def test_a_protocol_allows_more_keyframes_than_the_task_does(runs: dict[str, Path]) -> None:
    words = (
        "tasks=[pick_and_lift]",
        "videos=0",
        "protocol.max_keyframes=9",
        "protocol.max_unreachable=9",
        "protocol.name=long",
    )
    results = evaluated(runs["set"], *words)
    assert results["conditions"]["trained"]["outcomes"]["time_limit"] + results["successes"] <= 3
    lines = (runs["set"] / "eval-long" / "pick_and_lift" / "episodes.jsonl").read_text().splitlines()[1:]
    lengths = {len(one["actions"]) for one in map(json.loads, lines) if one["condition"] == "trained"}
    assert max(lengths) == 9, "this agent never lifts a block: it plays until it is stopped"
    assert "trained" in results["conditions"] and results["protocol"]["keyframes"] == 9
