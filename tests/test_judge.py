"""From a run directory to results, videos and page; and what cannot be judged is refused."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from instructrl.command import compose
from instructrl.config import EvalConfig, SimConfig, TaskConfig
from instructrl.errors import InputError
from instructrl.evaluation import judge as judging
from instructrl.evaluation import run as runs
from instructrl.evaluation.run import check_run, choose_renderer, recorded_renderer
from tests.fake_sim import FakeActor, InlineWorkers, without_clock

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run directory that `judge` accepts, with a fake agent and a fake simulator behind it."""
    run = tmp_path / "a-run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("name: a-run\n")
    (run / "data.json").write_text(
        json.dumps({"train": {"path": "x", "checksum": "y", "provenance": {"renderer": "raycast"}}})
    )
    (run / "metrics.jsonl").write_text('{"step": 1, "epoch": 1, "split": "train", "loss": 2.5}\n')
    trained = SimpleNamespace(sim=SimConfig(), task=TaskConfig("reach_target", 1, 1, None))
    monkeypatch.setattr(judging, "read_config", lambda _: trained)
    monkeypatch.setattr(judging, "load_actor", lambda *_, **__: (FakeActor(), 77))
    monkeypatch.setattr(judging, "stage_workers", lambda *_, **settings: InlineWorkers(settings["count"]))
    return run


def settings(run: Path, **changes: Any) -> EvalConfig:
    config = compose("eval", EvalConfig, [f"run={run}", f"protocol={changes.pop('protocol', 'ours')}"])
    return replace(config, **{"episodes": 8, "videos": 1, "workers": 2, **changes})


def test_judge_writes_results_videos_and_page(run: Path) -> None:
    results, report = judging.judge(settings(run))
    assert report == run / "eval" / "report.html"
    written = json.loads((run / "eval" / "results.json").read_text())
    assert written == results
    assert (written["episodes"], written["success_rate"], written["checkpoint"]) == (
        8,
        1.0,
        {"name": "best", "step": 77},
    )
    assert written["renderer"] == {"data": "raycast", "evaluation": "raycast"}
    assert [video["file"] for video in written["videos"]] == ["videos/0000-success.mp4"]
    assert (run / "eval" / written["videos"][0]["file"]).stat().st_size > 500
    assert "a-run" in report.read_text()
    assert sorted(path.name for path in (run / "eval").iterdir()) == [
        "episodes.jsonl", "report.html", "results.json", "videos",
    ]  # fmt: skip


def test_the_same_command_again_gives_the_same_numbers(run: Path) -> None:
    first, _ = judging.judge(settings(run))
    second, _ = judging.judge(settings(run))
    (run / "eval" / "episodes.jsonl").unlink()
    third, _ = judging.judge(settings(run))
    assert without_clock(first) == without_clock(second) == without_clock(third)
    other, _ = judging.judge(settings(run, seed=1))
    assert other["rows"]["removed"] != first["rows"]["removed"] or other["videos"] != first["videos"]


def test_episodes_of_other_parameters_are_played_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judging.judge(settings(run))
    retrained = FakeActor(knows=())
    retrained.params = {"bias": np.ones(1)}
    monkeypatch.setattr(judging, "load_actor", lambda *_, **__: (retrained, 77))
    results, _ = judging.judge(settings(run))
    assert results["success_rate"] < 1 and retrained.begun


def test_the_renderer_of_the_data_is_used_unless_another_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def here(wanted: str) -> str:
        if wanted == "opengl":
            raise InputError("OpenGL does not work on this machine")
        return "raycast"

    assert choose_renderer("raycast", None) == "raycast"
    monkeypatch.setattr(runs, "available_renderer", here)
    with pytest.raises(InputError, match=r"drawn by opengl.*add renderer=raycast"):
        choose_renderer("opengl", None)
    assert choose_renderer("opengl", "raycast") == "raycast"
    assert choose_renderer("opengl", "auto") == "raycast"
    with pytest.raises(InputError, match="does not work"):
        choose_renderer("raycast", "opengl")


def test_auto_prefers_the_renderer_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "available_renderer", lambda wanted: "opengl" if wanted == "auto" else wanted)
    assert choose_renderer("raycast", "auto") == "raycast"
    assert choose_renderer("opengl", "raycast") == "raycast"


@pytest.mark.parametrize("missing", ["directory", "config.yaml", "data.json", "checkpoints"])
def test_a_run_that_cannot_be_judged_is_refused(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    if missing != "directory":
        run.mkdir()
        if missing != "config.yaml":
            monkeypatch.setattr(runs, "read_config", lambda _: None)
        if missing == "checkpoints":
            (run / "data.json").write_text('{"train": {"provenance": {}}}')
    with pytest.raises(InputError, match=f"{run}.*(train|give the directory of a run)"):
        check_run(run)


def test_data_that_does_not_tell_its_renderer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text('{"train": {"provenance": {}}}')
    with pytest.raises(InputError, match="which renderer"):
        recorded_renderer(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run=outputs/no-such-run"], "no directory outputs/no-such-run"),
        ([], "run: no value given"),
        (["run=x", "rows=[oracle]"], "rows: found ['oracle']; allowed: lists with trained"),
        (["run=x", "episodes=0"], "episodes: found 0"),
        (["run=x", "renderer=crayon"], "renderer: found crayon"),
    ],
)
def test_eval_answers_a_mistake_in_one_line(arguments: list[str], expected: str) -> None:
    done = subprocess.run(
        [sys.executable, "eval.py", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert expected in done.stderr


def test_a_run_is_checked_before_jax_is_imported() -> None:
    code = "import sys, instructrl.evaluation.run; sys.exit('jax' in sys.modules or 'mujoco' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
