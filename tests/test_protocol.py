import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from instructrl.batch import Observation
from instructrl.config import EVALUATION_ROWS, EvalConfig, SimConfig, TaskConfig
from instructrl.errors import InputError
from instructrl.evaluation import judge as judging
from instructrl.evaluation import run as runs
from instructrl.evaluation.ledger import Ledger
from instructrl.evaluation.protocol import (
    EVALUATION_SEEDS,
    TRAINING_ROLLOUT_SEEDS,
    Evaluation,
    Row,
    demonstrate,
    fixed_starts,
)
from instructrl.evaluation.results import headline, summarize, table
from instructrl.evaluation.rollout import Episode, Plan, rollouts
from instructrl.evaluation.run import check_run, choose_renderer, recorded_renderer
from instructrl.evaluation.stage import stage_workers, task_facts
from instructrl.sim import Outcome, Start
from tests.fake_sim import TRAINING, FakeActor, InlineWorkers

ROOT = Path(__file__).resolve().parent.parent


class Interrupted(FakeActor):
    """Ctrl-C after some calls."""

    def __init__(self, calls: int):
        super().__init__()
        self._left = calls

    def act(self, observations: dict[int, Observation]) -> dict[int, np.ndarray]:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return super().act(observations)


def play(path: Path, actor: FakeActor, *, identity: Any = 1, **settings: Any) -> list[Row]:
    workers = settings.pop("workers", None) or InlineWorkers()
    rows, episodes, seed = settings.get("rows", EVALUATION_ROWS), settings.get("episodes", 12), settings.get("seed", 0)
    with Ledger(path, {"identity": identity}) as ledger:
        return Evaluation(workers, actor, task_facts(workers, "numbers", None), ledger).play(
            rows, episodes=episodes, seed=seed
        )


def results_of(rows: list[Row]) -> dict[str, Any]:
    return summarize(rows, task_facts(InlineWorkers(), "numbers", None), about={})


def without_clock(results: Any) -> Any:
    if isinstance(results, dict):
        return {
            k: without_clock(v) for k, v in results.items() if k not in ("wall_seconds", "episodes_per_minute", "date")
        }
    return results


def rates(rows: list[Row]) -> dict[str, float]:
    return {name: row["success_rate"] for name, row in results_of(rows)["rows"].items()}


def test_rows_tell_who_follows_the_instruction(tmp_path: Path) -> None:
    reader = rates(play(tmp_path / "reader", FakeActor()))
    assert reader == {"trained": 1.0, "held_out": 1.0, "removed": 0.25, "swapped": 1.0, "oracle": 1.0}
    parrot = rates(play(tmp_path / "parrot", FakeActor(knows=("touch", "go"))))
    assert parrot == {"trained": 1.0, "held_out": 0.25, "removed": 0.25, "swapped": 1.0, "oracle": 1.0}
    deaf = rates(play(tmp_path / "deaf", FakeActor(knows=())))
    assert deaf["trained"] == deaf["removed"] == 0.25
    assert deaf["oracle"] == 1.0


def test_each_row_uses_the_words_it_says(tmp_path: Path) -> None:
    rows = {row.name: row.episodes for row in play(tmp_path / "e", FakeActor())}
    for index in range(12):
        scene = index % 4
        assert rows["trained"][index].instruction in [text.format(scene) for text in TRAINING]
        assert rows["held_out"][index].instruction == f"approach {scene}"
        assert rows["removed"][index].instruction == ""
        swapped = rows["swapped"][index]
        assert swapped.start.goal not in (None, scene)
        assert swapped.instruction in [text.format(swapped.start.goal) for text in TRAINING]
        assert len({(rows[name][index].start.variation, rows[name][index].start.seed) for name in rows}) == 1
    assert len({episode.start.goal for episode in rows["swapped"].values()}) > 2, "the seed chooses the rival"


def test_seeds_are_nobody_elses() -> None:
    def seeds(first: int, seed: int) -> set[int]:
        starts = fixed_starts(1000, range(20), first_seed=first, seed=seed)
        return {start.seed for start in starts.values()}

    largest = 2**31 - 1
    evaluation = seeds(EVALUATION_SEEDS, 0) | seeds(EVALUATION_SEEDS, 1) | seeds(EVALUATION_SEEDS, largest)
    training = seeds(TRAINING_ROLLOUT_SEEDS, 0) | seeds(TRAINING_ROLLOUT_SEEDS, largest)
    assert len(evaluation) == 3000, "evaluation seeds do not overlap"
    assert len(training) == 2000
    assert min(evaluation) >= 2_000_000_000, "below are the demonstrations'"
    assert max(evaluation) < min(training)
    assert max(training) < 2**53


def test_a_task_without_rivals_has_no_swapped_row(tmp_path: Path) -> None:
    results = results_of(play(tmp_path / "e", FakeActor(), workers=InlineWorkers(rivals=False)))
    assert list(results["rows"]) == ["trained", "held_out", "removed", "oracle"]
    assert results["absent_rows"] == {"swapped": "nothing else can be asked for in the scenes of numbers"}
    assert "swapped" in table(results)


def test_a_scene_that_kills_the_simulator_is_counted_in_every_row(tmp_path: Path) -> None:
    workers = InlineWorkers(deadly=(EVALUATION_SEEDS + 5,))
    for row in play(tmp_path / "e", FakeActor(), workers=workers):
        dead = [index for index, episode in row.episodes.items() if episode.outcome is Outcome.SIMULATOR_ERROR]
        assert (row.name, dead, len(row.episodes)) == (row.name, [5], 12)


def test_numbers_of_the_results(tmp_path: Path) -> None:
    workers = InlineWorkers(deadly=(EVALUATION_SEEDS + 5,))
    results = results_of(play(tmp_path / "e", FakeActor(), workers=workers))
    assert {key: results[key] for key in ("episodes", "successes", "mean_steps")} == {
        "episodes": 12,
        "successes": 11,
        "mean_steps": pytest.approx((11 * 2 + 1) / 12, abs=1e-3),
    }
    assert results["success_rate"] == pytest.approx(11 / 12)
    assert (results["wilson_low"], results["wilson_high"]) == pytest.approx((0.6461, 0.9851), abs=1e-4)
    assert set(results["outcomes"]) == set(Outcome)
    assert {word: count for word, count in results["outcomes"].items() if count} == {
        "success": 11,
        "simulator_error": 1,
    }
    for row in results["rows"].values():
        assert sum(row["outcomes"].values()) == row["episodes"] == sum(v["episodes"] for v in row["variations"])
        assert row["successes"] == sum(v["successes"] for v in row["variations"])
    assert [(v["variation"], v["sentence"]) for v in results["rows"]["held_out"]["variations"]] == [
        (number, f"approach {number}") for number in range(4)
    ]
    assert json.loads(json.dumps(results)) == results
    assert headline(results) == "success_rate 0.92 [0.65, 0.99] over 12 episodes"


def test_an_interrupted_evaluation_goes_on(tmp_path: Path) -> None:
    undisturbed = play(tmp_path / "whole", FakeActor())
    for calls in (5, 3):
        with pytest.raises(KeyboardInterrupt):
            play(tmp_path / "pieces", Interrupted(calls))
    with (tmp_path / "pieces").open("a") as file:
        file.write('{"row": "trained", "index": 11, "vari')  # killed while writing
    last = FakeActor()
    resumed = play(tmp_path / "pieces", last)
    assert without_clock(results_of(resumed)) == without_clock(results_of(undisturbed))
    assert 0 < len(last.begun) < 48
    again = FakeActor()
    assert without_clock(results_of(play(tmp_path / "pieces", again))) == without_clock(results_of(undisturbed))
    assert again.begun == []


def test_more_episodes_extend_and_other_settings_start_anew(tmp_path: Path) -> None:
    play(tmp_path / "e", FakeActor(), rows=["trained"])
    longer = FakeActor()
    assert len(play(tmp_path / "e", longer, rows=["trained"], episodes=20)[0].episodes) == 20
    assert len(longer.begun) == 8
    assert len(play(tmp_path / "e", FakeActor(), rows=["trained"], episodes=4)[0].episodes) == 4
    other = FakeActor()
    play(tmp_path / "e", other, rows=["trained"], identity=2)
    assert len(other.begun) == 12


def test_wall_time_is_counted_over_all_sessions(tmp_path: Path) -> None:
    first = play(tmp_path / "e", FakeActor(), rows=["trained"])[0].seconds
    assert first > 0
    assert play(tmp_path / "e", FakeActor(), rows=["trained"])[0].seconds == pytest.approx(first, abs=0.01)


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
    monkeypatch.setattr(judging, "load_actor", lambda *_, **__: (FakeActor(), trained, 77))
    monkeypatch.setattr(judging, "stage_workers", lambda *_, **settings: InlineWorkers(settings["count"]))
    return run


def settings(run: Path, **changes: Any) -> EvalConfig:
    return EvalConfig(run=str(run), **{"episodes": 8, "videos": 1, "workers": 2, **changes})


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


def test_the_embedded_simulator_plays_all_parts() -> None:
    """The expert succeeds, also where a rival is asked for; what it did can be replayed and filmed."""
    sim = SimConfig(cameras=["front"], image_size=16)
    with stage_workers(sim, "reach_target", renderer="raycast", count=2) as workers:
        facts = task_facts(workers, "reach_target", [3, 7])
        assert facts.variations == (3, 7)
        assert len(facts.sentences) == 20
        assert not set(facts.sentences[3]) & set(facts.held_out[3])
        starts = fixed_starts(4, facts.variations, first_seed=EVALUATION_SEEDS, seed=0)
        shown: dict[int, Any] = {}
        demonstrate(workers, starts, facts, on_episode=shown.__setitem__)
        assert [shown[index].outcome for index in range(4)] == [Outcome.SUCCESS] * 4

        class Replay(FakeActor):
            def answer(self, slot: int, seen: Observation) -> np.ndarray:
                return shown[next(i for i in range(4) if i % 2 == slot and begun[slot] == i // 2)].actions[0]

            def begin(self, slot: int, instruction: str) -> None:
                begun[slot] = begun.get(slot, -1) + 1

        begun: dict[int, int] = {}
        replayed = rollouts(workers, Replay(), plans={i: Plan(start) for i, start in starts.items()})
        assert [episode.outcome for episode in replayed.values()] == [Outcome.SUCCESS] * 4
        frames = workers.call({0: ("film", (shown[0].start, shown[0].actions, 64))})[0]
        assert frames.shape[1:] == (64, 64, 3)
        assert len(frames) > 5


def test_an_episode_is_on_disk_as_soon_as_it_ends(tmp_path: Path) -> None:
    with Ledger(tmp_path / "e", {}) as ledger:
        ledger.append("trained", 4, Episode(Start(1, 2, 3), "touch 3", Outcome.FAILURE, np.full((1, 8), 0.1)))
        found = Ledger(tmp_path / "e", {}).episodes("trained")[4]  # as if the first were killed now
    assert (found.start, found.instruction, found.outcome) == (Start(1, 2, 3), "touch 3", Outcome.FAILURE)
    assert found.actions.tolist() == [[0.1] * 8]
