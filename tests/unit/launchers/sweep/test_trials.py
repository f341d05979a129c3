"""Values of trials, read from what their runs wrote."""

import json
from pathlib import Path

import pytest

from instructrl.config.training import TrainConfig
from launchers.job_table import Job
from launchers.sweep.trials import Trial, result_of
from tests.fixtures.settings import composed

LINES = [
    {"step": 1, "split": "val", "loss": 0.75},
    {"step": 1, "split": "rollout", "success_rate": 0.5, "mean_steps": 4.0},
    {"step": 2, "split": "val", "loss": 0.25},
    {"step": 2, "split": "rollout", "success_rate": 0.25, "mean_steps": 3.0},
    {"step": 3, "split": "val", "loss": 0.5},
]
ROLLOUTS = ("training.objective=rollout/success_rate", "training.rollout_every=1")


def config(folder: Path, *words: str) -> TrainConfig:
    return composed("name=trial", f"output_dir={folder}", *words)


def job(state: str = "done", error: str = "") -> Job:
    return Job(1, "001", [], "", log="001.log", state=state, error=error)


@pytest.mark.parametrize(("words", "value"), [((), 0.25), (ROLLOUTS, 0.5)])
def test_the_value_is_the_best_of_the_objective(words: tuple[str, ...], value: float, tmp_path: Path) -> None:
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    assert result_of(job(), config(tmp_path, *words)) == Trial(value)


def test_a_trial_without_a_value_says_why(tmp_path: Path) -> None:
    failed = result_of(job("failed", "error: loss is nan"), config(tmp_path))
    assert failed == Trial(error="failed: loss is nan  [001.log]")
    assert result_of(job(), config(tmp_path)) == Trial(error=f"{tmp_path}/trial/metrics.jsonl: found no val/loss")
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial/metrics.jsonl").write_text(json.dumps(LINES[0]) + "\n")
    without = result_of(job(), config(tmp_path, *ROLLOUTS))
    assert without == Trial(error=f"{tmp_path}/trial/metrics.jsonl: found no rollout/success_rate")
