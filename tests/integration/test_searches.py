"""Searches of settings by sweeper plugins of Hydra, and jobs that launcher plugins start.

A script with InstructRL's entry point stands for a training: its validation loss has a planted minimum.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.fixtures.packages import THIRD_PARTY
from tests.paths import ROOT

PLANTED = f"""
import json, math, sys
from pathlib import Path

sys.path.insert(0, {str(ROOT)!r})
from instructrl.cli.entry import entry_point
from instructrl.config.training import TrainConfig
from instructrl.errors import RunError
from instructrl.training.monitoring.metric_files import best_value
from instructrl.training.run_dir import run_path

@entry_point("train", TrainConfig)
def main(config: TrainConfig) -> float | None:
    with open("calls.txt", "a") as calls:
        calls.write(f"{{config.name}}\\n")
    if config.optimizer.weight_decay > 5:
        raise RunError("planted failure")
    run, loss = run_path(config), (config.optimizer.weight_decay - 0.1) ** 2 + 0.5
    run.mkdir(parents=True, exist_ok=True)
    lines = [{{"step": 1, "split": "val", "loss": 9.0}}, {{"step": 2, "split": "val", "loss": loss}}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
    return best_value(run, config.training.objective)

if __name__ == "__main__":
    main()
"""
NAMED = "name=wd${optimizer.weight_decay}"


def needs(plugin: str) -> pytest.MarkDecorator:
    """Mark for tests with a plugin from PyPI."""
    found = importlib.util.find_spec("hydra_plugins") and importlib.util.find_spec(f"hydra_plugins.{plugin}")
    return pytest.mark.skipif(not found, reason=f"needs {plugin.replace('_', '-')} of PyPI")


def ran(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command of the script, with --multirun, from a folder of its own."""
    (folder / "place").mkdir(exist_ok=True)
    (folder / "script.py").write_text(PLANTED)
    return subprocess.run(
        [sys.executable, str(folder / "script.py"), "--multirun", *words],
        cwd=folder / "place",
        env=os.environ | {"PYTHONPATH": str(THIRD_PARTY)},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )


def calls(folder: Path) -> list[str]:
    """The names of the runs that were begun."""
    return (folder / "place" / "calls.txt").read_text().split()


def table(folder: Path) -> list[dict]:
    [path] = (folder / "place").glob("multirun/*/jobs.json")
    return json.loads(path.read_text())["jobs"]


def test_each_trial_of_a_search_is_a_job_and_the_same_command_repeats_none(tmp_path: Path) -> None:
    words = ("hydra/sweeper=thirds", "optimizer.weight_decay=interval(0.0,0.9)", NAMED)
    done = ran(tmp_path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = table(tmp_path)
    assert [job["state"] for job in jobs] == ["done"] * 4 and len({job["id"] for job in jobs}) == 4
    rounds = [float(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith("round")]
    assert rounds == pytest.approx([0.5 + 0.2**2, 0.5 + 0.1**2]), "of the trials' own losses, the lowest"
    assert f"job {jobs[0]['number']}: val/loss {rounds[0]:.6g}" in done.stdout
    again = ran(tmp_path, *words)
    assert again.returncode == 0 and again.stdout.count("2 jobs, 2 done, 0 still active, 0 to start") == 2
    assert [line for line in again.stdout.splitlines() if line.startswith("round")] == [
        line for line in done.stdout.splitlines() if line.startswith("round")
    ]
    assert len(calls(tmp_path)) == 4


def test_a_failed_trial_has_no_value_and_the_search_goes_on(tmp_path: Path) -> None:
    done = ran(
        tmp_path, "hydra/sweeper=thirds", "hydra.sweeper.rounds=1", "optimizer.weight_decay=interval(0,9)", NAMED
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted((job["state"], job["exit_code"]) for job in table(tmp_path)) == [("done", 0), ("failed", 1)]
    assert "no value: " in done.stdout and ": failed: planted failure  [multirun/" in done.stdout
    assert f"round 1: {2.9**2 + 0.5}" in done.stdout


def test_a_file_chooses_the_sweeper_and_the_search_space(tmp_path: Path) -> None:
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/search.yaml").write_text(
        "# @package _global_\ndefaults:\n- override /hydra/sweeper: thirds\n"
        "hydra: {sweeper: {rounds: 1, params: {optimizer.weight_decay: 'interval(0,9)'}}}\n"
    )
    words = ("--config-dir", str(tmp_path / "conf"), "experiment=search", "--dry-run")
    done = ran(tmp_path, *words, NAMED)
    assert done.returncode == 0, done.stderr
    found = [word for word in done.stdout.split() if word.startswith("optimizer.weight_decay=")]
    assert found == ["optimizer.weight_decay=0.0", "optimizer.weight_decay=9.0"], "jobs at the ends of the search space"
    refused = ran(tmp_path, *words, "name=same")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert refused.stderr.startswith("error: name: found same for jobs 1 and 2; include what varies")


@pytest.mark.parametrize(
    "launcher",
    [
        "basic",
        pytest.param("joblib", marks=needs("hydra_joblib_launcher")),
        pytest.param("submitit_local", marks=needs("hydra_submitit_launcher")),
    ],
)
def test_jobs_of_a_launcher_plugin_end_apart_from_each_other_in_any_folder(launcher: str, tmp_path: Path) -> None:
    searched = ran(
        tmp_path, f"hydra/launcher={launcher}", "hydra/sweeper=thirds", "hydra.sweeper.rounds=1",
        "optimizer.weight_decay=interval(0,9)", NAMED,
    )  # fmt: skip
    assert searched.returncode == 0 and f"round 1: {2.9**2 + 0.5}" in searched.stdout, searched.stderr
    assert "no value: planted failure" in searched.stdout
    if launcher == "basic":  # one after another in this process: the first that fails ends the others
        return
    done = ran(tmp_path, f"hydra/launcher={launcher}", "optimizer.weight_decay=1,9,2", NAMED)
    assert done.returncode == 1, done.stderr
    assert sorted(calls(tmp_path)[2:]) == ["wd1.0", "wd2.0", "wd9.0"], "a failed job ends no other"
    assert "Traceback" not in done.stderr and done.stderr.splitlines()[-1] == "error: planted failure"


@needs("hydra_optuna_sweeper")
def test_optuna_finds_a_planted_minimum(tmp_path: Path) -> None:
    done = ran(
        tmp_path, "hydra/sweeper=optuna", "hydra.sweeper.n_trials=8", "hydra.sweeper.n_jobs=4",
        "hydra.sweeper.sampler.seed=1", "hydra.sweeper.max_failure_rate=1",
        "optimizer.weight_decay=interval(0.0,9.0)", NAMED,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    states = [job["state"] for job in table(tmp_path)]
    assert len(states) == 8 and set(states) == {"done", "failed"}
    [results] = (tmp_path / "place").glob("multirun/*/optimization_results.yaml")
    best = yaml.safe_load(results.read_text())
    decay = best["best_params"]["optimizer.weight_decay"]
    assert best["best_value"] == pytest.approx((decay - 0.1) ** 2 + 0.5)
    losses = [float(line.split()[-1]) for line in done.stdout.splitlines() if ": val/loss " in line]
    assert best["best_value"] == pytest.approx(min(losses), rel=1e-5) and min(losses) < losses[0]
