"""Evaluation of a run directory: results, videos and report; runs that cannot be evaluated are refused."""

import html
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import eval as eval_entry
from instructrl.cli.entry import compose
from instructrl.config.environment import SimConfig, TaskConfig
from instructrl.config.evaluation import EvalConfig
from instructrl.config.simulators import TabletopConfig
from instructrl.errors import InputError, RunError, SimulatorError
from instructrl.evaluation import evaluate as judge_module
from instructrl.evaluation import run_checks as runs
from instructrl.evaluation.results.summary import headline, table
from instructrl.evaluation.run_checks import check_run, choose_renderer, recorded_renderer
from instructrl.sim import EpisodeLimits
from instructrl.sim.tabletop import env as tabletop
from instructrl.storage.lease import exclusive_lease
from tests.fakes.sim import FakePolicy, InlineWorkers, without_clock
from tests.fixtures.commands import run_main
from tests.paths import ROOT

EPOCHS = SimpleNamespace(epochs=3, validate_every=1)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run directory that `evaluate` accepts, with a fake agent and a fake simulator."""
    run = tmp_path / "a-run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("name: a-run\n")
    (run / "data.json").write_text(
        json.dumps({"train": {"path": "x", "checksum": "y", "provenance": {"renderer": "raycast"}}})
    )
    (run / "metrics.jsonl").write_text('{"step": 1, "epoch": 1, "split": "train", "loss": 2.5}\n')
    trained = SimpleNamespace(
        training=SimpleNamespace(epochs=3, validate_every=1),
        sim=TabletopConfig(),
        task=TaskConfig("reach_target", 1, 1, None),
    )
    monkeypatch.setattr(judge_module, "read_config", lambda _: trained)
    monkeypatch.setattr(judge_module, "load_batched_agent", lambda *_, **__: (FakePolicy(), 77))
    monkeypatch.setattr(judge_module, "start_eval_workers", lambda *_, **settings: InlineWorkers(settings["count"]))
    return run


def settings(run: Path, **changes: Any) -> EvalConfig:
    """The settings of an evaluation; `protocol` is a preset's name or a protocol."""
    preset = changes.get("protocol", "default")
    config = compose("eval", EvalConfig, [f"run={run}", *([f"protocol={preset}"] if isinstance(preset, str) else [])])
    changes = {key: value for key, value in changes.items() if value is not preset}
    config = config if isinstance(preset, str) else replace(config, protocol=preset)
    return replace(config, **{"episodes": 8, "videos": 1, "workers": 2, **changes})


def test_judge_writes_results_videos_and_page(run: Path) -> None:
    results, report = judge_module.evaluate(settings(run))
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


def test_what_limits_the_comparison_is_said_in_the_table_the_numbers_and_on_the_page(run: Path) -> None:
    """A run that another process trains, whose demonstrations are of another version of the simulator."""
    provenance = {"simulator": "fake", "version": "0.9", "renderer": "raycast"}
    (run / "data.json").write_text(json.dumps({"train": {"path": "x", "checksum": "y", "provenance": provenance}}))
    (run / "checkpoints" / "2").mkdir()
    with exclusive_lease(run, activity="trains", busy_hint="", write_hint="") as lease:
        results, report = judge_module.evaluate(settings(run, videos=0))
    expected = [
        f"The run was still in training at epoch 2 of 3 ({lease.holder}): its agent may become another one.",
        "The demonstrations were collected with simulator version 0.9, these episodes played with simulator version 1: "
        "what the agent sees, or how things move, may differ from its training.",
    ]
    written = json.loads((run / "eval" / "results.json").read_text())
    assert written["cautions"] == expected and written["unrecorded"] == []
    assert [line for line in table(results).splitlines() if line.startswith(("caution", "note"))] == [
        f"caution: {sentence}" for sentence in expected]  # fmt: skip
    page = html.unescape(report.read_text())
    assert all(f'<p class="warning">{sentence}</p>' in page for sentence in expected)
    assert "epoch 2 of 3, not ended yet" in page and "simulator version 0.9, renderer raycast" in page


def test_demonstrations_that_do_not_record_their_simulator_are_noted(run: Path) -> None:
    results, report = judge_module.evaluate(settings(run, videos=0))
    said = "Not recorded of the demonstrations: simulator, simulator version."
    assert (results["cautions"], results["unrecorded"]) == ([], [said])
    assert table(results).splitlines()[-1] == f"note: {said}"
    page = report.read_text()
    assert said in page and 'class="warning"' not in page


@pytest.mark.parametrize(("renderer", "reserved"), [("raycast", False), ("opengl", True)])
def test_memory_is_left_to_simulators_that_render_on_the_gpu(
    run: Path, monkeypatch: pytest.MonkeyPatch, renderer: str, reserved: bool
) -> None:
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(judge_module, "choose_renderer", lambda *_: renderer)
    monkeypatch.setattr(judge_module, "load_batched_agent", lambda *_, **more: given.append(more) or (FakePolicy(), 77))
    judge_module.evaluate(settings(run, videos=0, conditions=["trained"]))
    assert [one["beside_renderers"] for one in given] == [reserved]


def test_the_same_command_again_gives_the_same_numbers(run: Path) -> None:
    first, _ = judge_module.evaluate(settings(run))
    second, _ = judge_module.evaluate(settings(run))
    (run / "eval" / "episodes.jsonl").unlink()
    third, _ = judge_module.evaluate(settings(run))
    assert without_clock(first) == without_clock(second) == without_clock(third)
    other, _ = judge_module.evaluate(settings(run, seed=1, protocol=replace(settings(run).protocol, name="other")))
    assert (
        other["conditions"]["no_instruction"] != first["conditions"]["no_instruction"]
        or other["videos"] != first["videos"]
    )


def test_episodes_of_other_parameters_are_played_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge_module.evaluate(settings(run))
    retrained = FakePolicy(knows=())
    retrained.params = {"bias": np.ones(1)}
    monkeypatch.setattr(judge_module, "load_batched_agent", lambda *_, **__: (retrained, 77))
    results, _ = judge_module.evaluate(settings(run))
    assert results["success_rate"] < 1 and retrained.started


def test_the_renderer_of_the_data_is_used_unless_another_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def here(wanted: str) -> str:
        if wanted == "opengl":
            raise InputError("OpenGL does not work on this machine")
        return "raycast"

    assert choose_renderer(TabletopConfig(), "raycast", None) == "raycast"
    monkeypatch.setattr(tabletop, "available_renderer", here)
    with pytest.raises(InputError, match=r"rendered by opengl.*add renderer=raycast"):
        choose_renderer(TabletopConfig(), "opengl", None)
    assert choose_renderer(TabletopConfig(), "opengl", "raycast") == "raycast"
    assert choose_renderer(TabletopConfig(), "opengl", "auto") == "raycast"
    with pytest.raises(InputError, match=r"renderer: found crayon; allowed .*: auto, opengl, raycast"):
        choose_renderer(TabletopConfig(), "raycast", "crayon")
    with pytest.raises(InputError, match="does not work"):
        choose_renderer(TabletopConfig(), "raycast", "opengl")


def test_auto_prefers_the_renderer_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tabletop, "available_renderer", lambda wanted: "opengl" if wanted == "auto" else wanted)
    assert choose_renderer(TabletopConfig(), "raycast", "auto") == "raycast"
    assert choose_renderer(TabletopConfig(), "opengl", "raycast") == "raycast"


@pytest.mark.parametrize("missing", ["directory", "config.yaml", "data.json", "checkpoints"])
def test_a_run_that_cannot_be_judged_is_refused(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    if missing != "directory":
        run.mkdir()
        if missing != "config.yaml":
            monkeypatch.setattr(runs, "read_config", lambda _: SimpleNamespace(objective="behavior_cloning"))
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
        (["run=x", "conditions=[oracle]"], "conditions: found ['oracle']; allowed: lists with trained"),
        (["run=x", "rows=[trained]"], "rows: is now called conditions; write conditions=..."),
        (["run=x", "protocol.rows=[trained]"], "protocol.rows: is now called protocol.conditions"),
        (["run=x", "conditions=[trained,removed]"], "removed is now called no_instruction"),
        (["run=x", "protocol=ours"], "protocol: found ours (ours is now called default); allowed: default, hiveformer"),
        (["run=x", "protocol.name=ours"], "protocol.name: found ours (ours is now called default)"),
        (["run=x", "episodes=0"], "episodes: found 0"),
    ],
)
def test_eval_answers_a_mistake_in_one_line(arguments: list[str], expected: str) -> None:
    done = run_main(eval_entry.main, *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert expected in done.stderr


def test_a_run_is_checked_before_jax_is_imported() -> None:
    code = "import sys, instructrl.evaluation.run_checks; sys.exit('jax' in sys.modules or 'mujoco' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# Protocols.


def played(run: Path, **changes: Any) -> tuple[dict[str, Any], FakePolicy, list[EpisodeLimits]]:
    """Results, the policy, and the episode limits of the simulators."""
    policy, limits = FakePolicy(), []

    def workers(*_: Any, **settings: Any) -> InlineWorkers:
        limits.append(settings["limits"])
        return InlineWorkers(settings["count"], limits=settings["limits"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge_module, "load_batched_agent", lambda *_, **__: (policy, 77))
        patch.setattr(judge_module, "start_eval_workers", workers)
        return judge_module.evaluate(settings(run, **changes))[0], policy, limits


def logged_episodes(folder: Path) -> list[dict[str, Any]]:
    """The episodes of an episode log."""
    lines = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    return [line for line in lines if "evaluation" not in line]


@pytest.mark.parametrize(
    ("name", "folder", "count", "first", "conditions", "keyframes"),
    [
        (
            "default",
            "eval",
            200,
            2_000_000_000,
            ["trained", "held_out_instructions", "no_instruction", "swapped_instruction", "oracle"],
            None,
        ),
        ("peract", "eval-peract", 25, 2_000_000_000, ["trained", "oracle"], 25),
        ("rvt", "eval-rvt", 25, 2_000_000_000, ["trained", "oracle"], 25),
        ("hiveformer", "eval-hiveformer", 500, 2_200_000_000, ["trained", "oracle"], 20),
    ],
)
def test_a_preset_is_played_as_it_says(
    run: Path, name: str, folder: str, count: int, first: int, conditions: list[str], keyframes: int | None
) -> None:
    results, policy, limits = played(run, protocol=name, episodes=None, videos=0)
    assert limits == [EpisodeLimits(keyframes, 1)]
    assert policy.steps == (keyframes or 3)  # type: ignore[attr-defined]
    assert json.loads((run / folder / "results.json").read_text()) == results
    assert results["protocol"]["name"] == name and list(results["conditions"]) == conditions
    episodes = logged_episodes(run / folder)
    assert len(episodes) == count * len(conditions)
    for condition in conditions:
        assert sorted(one["seed"] for one in episodes if one["condition"] == condition) == list(
            range(first, first + count)
        )
    by_index = {one["index"]: one["variation"] for one in episodes if one["condition"] == "trained"}
    order = [by_index[index] for index in range(count)]
    if name == "hiveformer":
        assert set(order) == {0}
        assert results["judged_variations"] == [0]
    else:
        assert sorted(order[:4]) == [0, 1, 2, 3] and order[:4] * (count // 4) == order[: count // 4 * 4]
        assert (order[:4] == [0, 1, 2, 3]) == (name == "default"), "PerAct's are shuffled"
    words = {one["instruction"].split()[0] for one in episodes if one["condition"] == "trained"}
    assert words == ({"touch", "go"} if name == "default" else {"touch"})
    authors = {"peract": "PerAct", "rvt": "RVT", "hiveformer": "HiveFormer"}
    if name == "default":
        assert results["published"] is None
    else:
        assert results["published"] == {"of": authors[name], "differences": ["played on fake, not on RLBench"]}


def test_a_protocol_does_not_disturb_the_results_of_another(run: Path) -> None:
    played(run)
    before = {path.name: path.read_bytes() for path in (run / "eval").iterdir() if path.is_file()}
    peract, _, _ = played(run, protocol="peract")
    assert {path.name: path.read_bytes() for path in (run / "eval").iterdir() if path.is_file()} == before
    assert peract["episodes"] == 8, "what is set beside the protocol has the last word"
    assert peract["protocol"]["episodes"] == 8 and peract["seed"] == peract["protocol"]["seed"] == 0


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"max_keyframes": 1}, "protocol.max_keyframes=null, asked 1"),
    ({"max_unreachable": 2}, "protocol.max_unreachable=1, asked 2"),
    ({"sentence": "first"}, "protocol.sentence=seed, asked first"),
    ({"variations": [2]}, "protocol.variations=trained, asked [2]"),
    ({"order": "shuffled"}, "protocol.order=in_turn, asked shuffled"),
    ({"seed": 5}, "seed=0, asked 5"),
]
RECORDED_NAMES = {"max_keyframes": "keyframes", "max_unreachable": "tries"}  # in results.json
TRAINED = {"conditions": ["trained"]}
REPLACEMENTS: list[tuple[dict[str, Any], str]] = [
    ({"episodes": 7}, "episodes=8, asked 7"),
    ({"seed": 5}, "seed=0, asked 5"),
    ({"checkpoint": "last"}, "checkpoint=best, asked last"),
    ({"conditions": ["trained", "no_instruction"]}, "conditions=[trained, oracle], asked [trained, no_instruction]"),
    ({"seed": 5, "episodes": 2}, "episodes=8, asked 2; seed=0, asked 5"),
]


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_kept(run: Path, said: str, **changes: Any) -> None:
    """Check that an evaluation is refused for the results that are there, which stay."""
    before = files_of(run)
    line = f"{run}/eval/results.json: found results of {said}; they would be lost: add protocol.name=NAME, which writes"
    with pytest.raises(InputError, match=f"^{re.escape(line)}"):
        played(run, **changes)
    assert files_of(run) == before


def test_a_changed_protocol_replaces_no_results(run: Path) -> None:
    first, _, _ = played(run, **TRAINED)
    for index, (change, said) in enumerate(CHANGES):
        protocol = replace(settings(run).protocol, **change)
        assert_kept(run, said, protocol=protocol, **TRAINED)
        recorded = {RECORDED_NAMES.get(key, key): value for key, value in change.items()}
        name = f"other{index}"
        changed, policy, _ = played(run, protocol=replace(protocol, name=name), **TRAINED)
        assert len(policy.started) == 8, change
        assert changed["protocol"] == {**first["protocol"], **recorded, "name": name}
        assert (changed["outcomes"]["time_limit"] == 8) == ("max_keyframes" in change), "one keyframe is too few"
    again, policy, _ = played(run, **TRAINED)
    assert policy.started == []
    assert without_clock(again) == without_clock(first)


@pytest.mark.parametrize(("change", "said"), REPLACEMENTS)
def test_results_of_another_question_are_not_replaced(run: Path, change: dict[str, Any], said: str) -> None:
    played(run, conditions=["trained", "oracle"])
    assert_kept(run, said, **{"conditions": ["trained", "oracle"], **change})


def test_another_renderer_replaces_no_results(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played(run, **TRAINED)
    monkeypatch.setattr(judge_module, "choose_renderer", lambda *_: "opengl")
    assert_kept(run, "renderer=raycast, asked opengl", **TRAINED)


def test_more_episodes_and_conditions_go_on_where_fewer_ended(run: Path) -> None:
    played(run, **TRAINED)
    more, policy, _ = played(run, episodes=11, **TRAINED)
    assert (more["episodes"], len(policy.started)) == (11, 3)
    both, policy, _ = played(run, episodes=11, conditions=["no_instruction", "trained"])
    assert (list(both["conditions"]), len(policy.started)) == (["no_instruction", "trained"], 11)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", "{}", "\0", '{"task": "x", "protocol": 3}', '{"task": "x", "protocol": {"episodes": "x"}}',
     '{"task": [], "protocol": {}}', '{"task": "x", "protocol": {"conditions": 3}}'],
)  # fmt: skip
def test_damaged_results_are_not_replaced(run: Path, content: str) -> None:
    (run / "eval").mkdir()
    (run / "eval" / "results.json").write_text(content)
    before = files_of(run)
    with pytest.raises(InputError, match=f"^{run}/eval/results.json: damaged; move it away, and the same command "):
        played(run)
    assert files_of(run) == before


@pytest.mark.parametrize("change", ["max_keyframes=10", "max_unreachable=2", "sentence=seed", "variations=trained"])
def test_a_preset_keeps_its_name_only_as_it_is(change: str) -> None:
    words = ["run=x", "protocol=peract", f"protocol.{change}"]
    with pytest.raises(
        InputError, match=r"^protocol\.\w+: found \w+; allowed with protocol.name=peract: \w+; add proto"
    ):
        compose("eval", EvalConfig, words)
    with pytest.raises(InputError, match=r"allowed with protocol\.name=hiveformer"):  # nor does it get that of another
        compose("eval", EvalConfig, [*words, "protocol.name=hiveformer"])
    assert compose("eval", EvalConfig, [*words, "protocol.name=mine"]).protocol.name == "mine"
    free = ["protocol.episodes=3", "protocol.seed=4", "protocol.conditions=[trained]", "protocol.max_keyframes=25"]
    assert compose("eval", EvalConfig, [*words[:2], *free]).protocol.name == "peract"


def test_what_only_rlbench_can_follow_is_said_elsewhere(run: Path) -> None:
    protocol = replace(settings(run, protocol="peract").protocol, name="mine")
    results, _ = judge_module.evaluate(settings(run, protocol=protocol))
    assert table(results).endswith(
        "note: Not used on fake: protocol.rlbench.renderer, protocol.rlbench.planner_attempts."
    )
    with pytest.raises(InputError, match=r"^protocol.scenes: found /x; allowed for this run's sim=tabletop: null; RLB"):
        judge_module.evaluate(settings(run, protocol=replace(protocol, name="stored", scenes="/x")))


def test_a_protocol_of_ones_own_has_a_folder_of_its_own(run: Path) -> None:
    protocol = replace(settings(run).protocol, name="mine", max_keyframes=2)
    _, report = judge_module.evaluate(settings(run, protocol=protocol))
    assert report == run / "eval-mine" / "report.html" and not (run / "eval").exists()


def test_what_was_not_judged_is_said_on_the_page(run: Path) -> None:
    results, _, _ = played(run, protocol="hiveformer")
    assert headline(results).endswith("over 8 episodes, protocol hiveformer, on variation 0 of 4 only")
    text = (run / "eval-hiveformer" / "report.html").read_text()
    assert "<b>on variation 0 of 4 only</b>" in text
    assert "Protocol <b>hiveformer</b>" in text
    played(run)
    assert "only" not in (run / "eval" / "report.html").read_text().partition("<h2>")[0].partition("<main>")[2]


def test_variations_kept_out_of_training_can_be_judged(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = SimpleNamespace(
        training=SimpleNamespace(epochs=3, validate_every=1),
        sim=TabletopConfig(),
        task=TaskConfig("reach_target", 1, 1, [0, 1]),
    )
    monkeypatch.setattr(judge_module, "read_config", lambda _: trained)
    for choice, expected in (("trained", [0, 1]), ("held_out", [2, 3]), ("all", [0, 1, 2, 3]), ([3], [3])):
        protocol = replace(settings(run).protocol, variations=choice, name=f"of-{choice}")
        results, _, _ = played(run, protocol=protocol)
        assert results["judged_variations"] == expected
        assert results["trained_variations"] == [0, 1]
        assert ("none of them trained" in headline(results)) == (choice in ("held_out", [3]))


# Several tasks.

TASKS = ["reach_target", "push_button", "pick_and_lift"]


class Lost(InlineWorkers):
    """Workers that cannot be restarted after a crash, at the start or after some calls."""

    def __init__(self, count: int, *, after: int, limits: EpisodeLimits):
        if after < 0:
            raise SimulatorError("a simulator process cannot start: no licence")
        super().__init__(count, limits=limits)
        self._left = after

    def _one(self, slot: int, request: Any) -> Any:
        self._left -= request[0] == "step"
        if self._left < 0:
            raise SimulatorError("a simulator process cannot start: no memory")
        return super()._one(slot, request)


@pytest.fixture
def set_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run of a set of three tasks; push_button has no alternative goals."""
    trained = SimpleNamespace(
        training=SimpleNamespace(epochs=3, validate_every=1),
        sim=TabletopConfig(),
        task=TaskConfig("reach_target", 1, 1, None, TASKS),
    )
    monkeypatch.setattr(judge_module, "read_config", lambda _: trained)
    monkeypatch.setattr(judge_module, "start_eval_workers", of_each_task())
    return run


def of_each_task(**after: int) -> Callable[..., InlineWorkers]:
    """The simulators of a set of tasks, some of which are lost after a number of calls."""

    def workers(
        _: SimConfig, task: str, *, renderer: str, count: int, limits: EpisodeLimits, choices: None
    ) -> InlineWorkers:
        assert renderer == "raycast"
        if task in after:
            return Lost(count, after=after[task], limits=limits)
        return InlineWorkers(count, limits=limits, alternative_goals=task != "push_button")

    return workers


def test_a_set_is_judged_task_by_task(set_run: Path) -> None:
    results, report = judge_module.evaluate(
        settings(set_run, conditions=["trained", "no_instruction", "swapped_instruction", "oracle"])
    )
    assert json.loads((set_run / "eval" / "results.json").read_text()) == results
    assert list(results["tasks"]) == TASKS
    assert results["success_rate"] == 1.0 and results["episodes"] == 24
    assert results["conditions"]["no_instruction"]["success_rate"] == pytest.approx(
        sum(entry["conditions"]["no_instruction"]["success_rate"] for entry in results["tasks"].values()) / 3
    )
    assert results["conditions"]["swapped_instruction"]["averaged_tasks"] == 2
    assert list(results["tasks"]["push_button"]["absent_conditions"]) == ["swapped_instruction"]
    for task, entry in results["tasks"].items():
        assert len(logged_episodes(set_run / "eval" / task)) == (24 if task == "push_button" else 32)
        assert [video["file"] for video in entry["videos"]] == [f"{task}/videos/0000-success.mp4"]
        assert (set_run / "eval" / entry["videos"][0]["file"]).stat().st_size > 500
    text = report.read_text()
    assert text.count("<video ") == 3
    assert [text.count(f'id="task-{task}"') for task in TASKS] == [1, 1, 1]
    assert table(results).splitlines()[1].startswith("reach_target ")


def test_a_set_gets_fewer_videos_unless_asked(set_run: Path) -> None:
    results, _ = judge_module.evaluate(settings(set_run, videos=None, conditions=["trained"]))
    assert [len(entry["videos"]) for entry in results["tasks"].values()] == [1, 1, 1]
    results, _ = judge_module.evaluate(settings(set_run, videos=2, conditions=["trained"]))
    assert [len(entry["videos"]) for entry in results["tasks"].values()] == [2, 2, 2]


def test_a_single_task_gets_three_videos_unless_asked(run: Path) -> None:
    assert len(judge_module.evaluate(settings(run, videos=None))[0]["videos"]) == 3


def test_some_tasks_of_a_set_can_be_judged(set_run: Path) -> None:
    results, _ = judge_module.evaluate(
        settings(set_run, tasks=["pick_and_lift", "reach_target"], conditions=["trained"])
    )
    assert list(results["tasks"]) == ["reach_target", "pick_and_lift"], "in the run's order"
    assert_kept(set_run, "tasks=[reach_target, pick_and_lift], asked [push_button]", tasks=["push_button"], **TRAINED)
    protocol = replace(settings(set_run).protocol, name="button")
    results, _ = judge_module.evaluate(settings(set_run, tasks=["push_button"], protocol=protocol, **TRAINED))
    assert (list(results["tasks"]), results["episodes"]) == (["push_button"], 8)
    assert results["mean_low"] == results["tasks"]["push_button"]["wilson_low"]


def test_a_task_that_was_not_learnt_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="tasks: found push_button; allowed for this run: reach_target"):
        judge_module.evaluate(settings(run, tasks=["push_button"]))
    trained = SimpleNamespace(objective="behavior_cloning", task=TaskConfig("reach_target", 1, 1, None, TASKS[:2]))
    monkeypatch.setattr(runs, "read_config", lambda _: trained)
    check_run(run, tasks=["push_button"])
    with pytest.raises(InputError, match="tasks: found pick_and_lift; allowed for this run: reach_target, push_button"):
        check_run(run, tasks=["pick_and_lift"])


@pytest.mark.parametrize("after", [-1, 0, 11, 30])
def test_a_simulator_lost_for_one_task_does_not_cost_the_others(
    set_run: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    conditions = ["trained", "no_instruction", "oracle"]
    whole, _ = judge_module.evaluate(settings(set_run, conditions=conditions))
    for task in TASKS:
        (set_run / "eval" / task / "episodes.jsonl").unlink()
    monkeypatch.setattr(judge_module, "start_eval_workers", of_each_task(push_button=after))
    results, report = judge_module.evaluate(settings(set_run, conditions=conditions))
    for task in ("reach_target", "pick_and_lift"):
        assert without_clock(results["tasks"][task]) == without_clock(whole["tasks"][task])
    lost = results["tasks"]["push_button"]
    assert [condition["episodes"] for condition in lost["conditions"].values()] == [8, 8, 8]
    assert sum(condition["outcomes"]["simulator_error"] for condition in lost["conditions"].values()) == 24 - (
        0 if after < 0 else len(logged_episodes(set_run / "eval" / "push_button"))
    )
    assert results["success_rate"] == pytest.approx((2 + lost["success_rate"]) / 3)
    assert len(results["problems"]) == 1 and results["problems"][0].startswith(
        "push_button: a simulator process cannot"
    )
    assert "no licence" in report.read_text() if after < 0 else "no memory" in report.read_text()
    monkeypatch.setattr(judge_module, "start_eval_workers", of_each_task())
    mended, _ = judge_module.evaluate(settings(set_run, conditions=conditions))
    assert without_clock(mended) == without_clock(whole), "the same command resumes"


def test_without_any_simulator_there_are_no_results(set_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_module, "start_eval_workers", of_each_task(**dict.fromkeys(TASKS, -1)))
    with pytest.raises(SimulatorError, match="no licence"):
        judge_module.evaluate(settings(set_run))
    assert not (set_run / "eval").exists()


def test_an_interrupted_set_goes_on(set_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(FakePolicy):
        def start_episode(self, slot: int, instruction: str) -> None:
            super().start_episode(slot, instruction)
            if len(self.started) == 14:
                raise KeyboardInterrupt

    stopped = Stopped()
    monkeypatch.setattr(judge_module, "load_batched_agent", lambda *_, **__: (stopped, 77))
    with pytest.raises(KeyboardInterrupt):
        judge_module.evaluate(settings(set_run, conditions=["trained"]))
    results, policy, _ = played(set_run, conditions=["trained"])
    assert results["episodes"] == 24 and 24 - 14 <= len(policy.started) < 24 - 8


@pytest.mark.parametrize("name", ["metrics.jsonl", "speed.jsonl", "eval/pick_and_lift/episodes.jsonl"])
def test_damaged_curves_or_episodes_are_refused_before_anything_is_run(
    set_run: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    monkeypatch.setattr(judge_module, "load_batched_agent", lambda *_, **__: started.append("agent"))
    damaged = set_run / name
    damaged.parent.mkdir(parents=True, exist_ok=True)
    damaged.write_text('{"step": 1, "epo\n{"step": 2, "split": "train"}\n')
    before = {path: path.read_bytes() for path in set_run.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=f"^{damaged}, line 1: found .*; allowed: a JSON object; restore the file, or"):
        judge_module.evaluate(settings(set_run))
    assert {path: path.read_bytes() for path in set_run.rglob("*") if path.is_file()} == before and not started


def test_a_variation_that_one_task_lacks_is_refused_before_anything_is_played(
    set_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, int]] = []

    def workers(sim: SimConfig, task: str, *, count: int, **more: Any) -> InlineWorkers:
        opened.append((task, count))
        small = InlineWorkers(count, limits=more["limits"])
        if task == "pick_and_lift":
            small._envs[0]._env.variations = 2
        return small

    monkeypatch.setattr(judge_module, "start_eval_workers", workers)
    protocol = replace(settings(set_run).protocol, variations=[0, 3])
    with pytest.raises(InputError, match=r"found \[0, 3\]; allowed for pick_and_lift: 0 to 1"):
        judge_module.evaluate(settings(set_run, protocol=protocol))
    assert opened == [(task, 1) for task in TASKS]
    assert not (set_run / "eval").exists()


def test_videos_that_cannot_be_made_cost_only_themselves(set_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def film(workers: Any, episodes: Any, indices: Any, *, folder: Path) -> list[Any]:
        if "push_button" in str(folder):
            raise RunError("ffmpeg does not run here")
        return []

    monkeypatch.setattr(judge_module, "film_episodes", film)
    results, report = judge_module.evaluate(settings(set_run, conditions=["trained"]))
    assert results["success_rate"] == 1.0
    assert results["problems"] == ["push_button: no videos: ffmpeg does not run here"]
    assert "ffmpeg does not run here" in report.read_text()


def test_the_command_prints_the_numbers_and_then_says_what_is_wrong(
    set_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(judge_module, "start_eval_workers", of_each_task(push_button=-1))
    monkeypatch.setattr(runs, "read_config", lambda _: SimpleNamespace(objective="behavior_cloning"))
    words = ["eval.py", f"run={set_run}", "episodes=8", "conditions=[trained]", "workers=2", "videos=0"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        eval_entry.main()
    said = capsys.readouterr()
    assert ended.value.code == 1
    assert "success_rate 0.667" in said.out and "mean of trained" in said.out
    last = said.err.splitlines()[-1]
    assert last.startswith("error: push_button: a simulator process cannot start: no licence; all its episodes")
    assert last.endswith("the same command resumes")


CONDITIONS = ["trained", "no_instruction", "swapped_instruction", "oracle"]


def without_seconds(run: Path) -> list[Any]:
    """The lines of the episode logs of a set's tasks, headers among them, without the time that episodes took."""
    lines = [json.loads(line) for task in TASKS for line in (run / "eval" / task / "episodes.jsonl").open()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.mark.parametrize("jobs", [2, 7])
def test_jobs_that_share_the_episodes_give_the_results_of_one_process(
    set_run: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    """One of them is killed on the way, and repeats what it had not finished."""
    agent = FakePolicy()
    monkeypatch.setattr(judge_module, "load_batched_agent", lambda *_, **__: (agent, 77))
    whole, _ = judge_module.evaluate(settings(set_run, conditions=CONDITIONS))
    lines, played = without_seconds(set_run), len(agent.started)
    shutil.rmtree(set_run / "eval")
    for job in range(jobs, 0, -1):
        share = settings(set_run, conditions=CONDITIONS, jobs=jobs, job=job)
        if job == 1:
            monkeypatch.setattr(judge_module, "start_eval_workers", of_each_task(reach_target=6))
            with pytest.raises(SimulatorError):
                judge_module.evaluate(share)
            monkeypatch.setattr(judge_module, "start_eval_workers", of_each_task())
        judge_module.evaluate(share)
        assert not (set_run / "eval/results.json").exists()
    assert played <= len(agent.started) - played <= played + 2, "two were under way when the job ended"
    parts = {path: path.read_bytes() for path in (set_run / "eval").rglob("*.parts/*")}
    for again in (False, True):
        if again:  # as if it had been killed before it removed them
            for path, content in parts.items():
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
        results, _ = judge_module.evaluate(settings(set_run, conditions=CONDITIONS, jobs=1))
        assert without_clock(results) == without_clock(whole) and len(agent.started) <= 2 * played + 2
        assert sorted(map(str, without_seconds(set_run))) == sorted(map(str, lines))
        assert not list((set_run / "eval").rglob("*.parts"))
