"""Comparison of a sweep's runs: groups, intervals, and the reasons for runs left out."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from omegaconf import OmegaConf

from instructrl.cli.compose import compose
from instructrl.config.evaluation import EvalConfig, effective_protocol, protocol_record
from instructrl.errors import InputError
from instructrl.evaluation.compare import sweep_runs
from instructrl.evaluation.compare.__main__ import compare, main, summary
from instructrl.evaluation.compare.page import averaged
from instructrl.evaluation.results.summary import mean, rate
from instructrl.sim import Outcome
from launchers.job import JobSpec
from launchers.job_table import Job, write_table
from launchers.sweep.runner import comparison
from tests.fixtures import tiny
from tests.paths import ROOT
from tests.unit.evaluation.report.test_report import Checker


def condition(successes: int, episodes: int = 20) -> dict[str, Any]:
    ends = [Outcome.SUCCESS] * successes + [Outcome.FAILURE] * (episodes - successes)
    scenes = {f"0/{seed}": str(end) for seed, end in enumerate(ends)}
    return {**rate(ends), "mean_steps": 2.0, "wall_seconds": 1.0, "scenes": scenes}


def evaluated_results(successes: int) -> dict[str, Any]:
    conditions = {"trained": condition(successes), "no_instruction": condition(2)}
    return {**conditions["trained"], "conditions": conditions}


class Study:
    """A sweep's folder with realistic runs."""

    def __init__(self, folder: Path):
        self.folder, self.sweep, self.jobs = folder, folder / "multirun/study", []
        self.command = "python train.py -m seed=0,1 launcher=local launcher.jobs=2"

    def run(self, name: str, *words: str, loss: float = 1.0, **job: Any) -> Path:
        config = tiny.config(self.folder, f"name={name}", *words)
        run = self.folder / "outputs" / name
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(config)))
        with (run / "metrics.jsonl").open("w") as file:
            for epoch in (1, 2, 3):
                for split in ("train", "val"):
                    line = {"step": 3 * epoch, "epoch": epoch, "split": split, "loss": loss + abs(2 - epoch)}
                    file.write(json.dumps(line) + "\n")
        self.job(str(run), list(words), **job)
        return run

    def job(self, run: str, words: list[str], **job: Any) -> None:
        known = {"state": "done", "exit_code": 0} | job
        self.jobs.append(Job(len(self.jobs) + 1, "x", words, run, **known))
        write_table(self.sweep, self.jobs, command=self.command)

    def add_results(self, run: Path, results: dict[str, Any], folder: str = "eval") -> None:
        (run / folder).mkdir()
        (run / folder / "results.json").write_text(json.dumps(results))
        (run / folder / "report.html").write_text("")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def checked(path: Path) -> Checker:
    checker = Checker()
    checker.feed(path.read_text())
    assert not checker.open and "script" not in checker.tags
    return checker


def test_runs_that_differ_in_their_seed_alone_are_one_line(study: Study) -> None:
    for head, counts in (("regression", (2, 4)), ("spatial", (16, 20))):
        for seed, count in enumerate(counts):
            run = study.run(f"{head}-{seed}", f"head={head}", f"seed={seed}", "head.dim=16", loss=count / 10)
            study.add_results(run, evaluated_results(count))
    found, path = compare(study.sweep)
    assert [(group.label, group.seeds) for group in found.groups] == [
        ("head=spatial", [0, 1]), ("head=regression", [0, 1])]  # fmt: skip
    best = found.groups[0].conditions["trained"]
    assert best["success_rate"] == pytest.approx(0.9) and best["rates"] == [0.8, 1.0] and best["episodes"] == 40
    assert best["mean_low"] == 0 and best["mean_high"] == 1, "two seeds that differ say little"
    assert found.groups[0].loss is not None and found.groups[0].loss[0] == pytest.approx(1.8)
    text = summary(found, path).splitlines()
    assert text[0].split() == [
        "2",
        "settings",
        "runs",
        "success",
        "95",
        "%",
        "interval",
        "no_instruction",
        "val",
        "loss",
    ]
    assert text[1].split() == ["head=spatial", "2", "0.900", "[0.000,", "1.000]", "0.100", "1.8"]
    assert text[-1] == f"comparison: {path}" and len(text) == 5
    assert text[3] == (
        "paired: head=spatial minus head=regression: +0.750 [+0.563, +0.866] p < 0.001 (40 pairs of 2 runs each)"
    )
    page = checked(path)
    assert all(part in page.text for part in ("study", "head=spatial", "80.0, 100.0", "Loss, validation", "seeds 0, 1"))
    assert "../../outputs/spatial-0/eval/report.html" in page.references
    assert path.read_text().count("<polyline") == 2 * (2 * 2 + 2), "each run faintly, and the means"
    numbers = json.loads((study.sweep / "comparison.json").read_text())
    assert numbers["groups"][0]["conditions"]["trained"]["rates"] == [0.8, 1.0] and numbers["left_out"] == []
    [difference] = numbers["paired_differences"]
    assert (difference["settings"], difference["minus"]) == ("head=spatial", "head=regression")
    assert (difference["gained"], difference["lost"], difference["pairs"], difference["paired_runs"]) == (30, 0, 40, 2)
    assert "Paired differences" in page.text and "+75.0" in page.text and "+56.3 to +86.6" in page.text


def without_scenes(results: dict[str, Any]) -> dict[str, Any]:
    del results["conditions"]["trained"]["scenes"]
    return results


def with_other_seeds(results: dict[str, Any]) -> dict[str, Any]:
    scenes = results["conditions"]["trained"]["scenes"]
    results["conditions"]["trained"]["scenes"] = {key.replace("0/", "0/1"): end for key, end in scenes.items()}
    return results


@pytest.mark.parametrize(
    ("other", "seed", "said"),
    [
        (evaluated_results(4), 1, "head=spatial has training seeds 0, head=regression has 1, expected one in common"),
        (
            with_other_seeds(evaluated_results(4)),
            0,
            "b has 20 scenes, a 20, of which 10 are the same, expected the same",
        ),
        (without_scenes(evaluated_results(4)), 0, "a: its results have no scenes; evaluate it again"),
    ],
    ids=["training seeds", "scenes", "earlier version"],
)
def test_pairs_of_other_scenes_are_refused_in_one_line(
    study: Study, other: dict[str, Any], seed: int, said: str
) -> None:
    study.add_results(study.run("a", "head=regression", f"seed={seed}"), other)
    study.add_results(study.run("b", "head=spatial", "seed=0"), evaluated_results(16))
    found, path = compare(study.sweep)
    [line] = [line for line in summary(found, path).splitlines() if "paired" in line]
    assert line.startswith(f"not paired: {said}")
    assert f"not paired: {said}" in checked(path).text
    [difference] = json.loads((study.sweep / "comparison.json").read_text())["paired_differences"]
    assert difference["refused"].startswith(said)


@pytest.mark.parametrize(("word", "labels"), [("head", ["head=spatial", "head=regression"]),
                                              ("policy", ["policy=vit_small", "policy=vit_debug"])])  # fmt: skip
def test_only_losses_of_one_kind_rank(study: Study, word: str, labels: list[str]) -> None:
    for name, loss in zip(labels, (3.0, 2.0) if word == "head" else (2.0, 3.0), strict=True):
        study.run(name.partition("=")[2], name, loss=loss)
    found, _ = compare(study.sweep)
    assert [group.label for group in found.groups] == labels


def test_losses_of_different_heads_have_charts_of_their_own(study: Study) -> None:
    for head in ("spatial", "regression"):
        for policy in ("vit_small", "vit_debug"):
            study.run(f"{head}-{policy}", f"head={head}", f"policy={policy}")
    text = checked(compare(study.sweep)[1]).text
    for split in ("validation", "training"):
        assert {f"Loss, {split} (head={head})" in text for head in ("spatial", "regression")} == {True}
    lines = [figure.count("<polyline") for figure in (study.sweep / "comparison.html").read_text().split("<figure")]
    assert lines[1:] == [2, 2, 2, 2]


def test_lines_that_a_runs_curves_lack_are_a_caution(study: Study) -> None:
    run = study.run("a", "seed=0")
    study.run("b", "seed=1")
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    [lost] = [line for line in lines if '"train"' in line and '"epoch": 2' in line]
    (run / "metrics.jsonl").write_text("".join(line for line in lines if line != lost))
    found, path = compare(study.sweep)
    [sentence] = found.cautions
    assert sentence.startswith("a: metrics.jsonl lacks lines: train of epoch 2. ") and sentence in checked(path).text


def test_what_is_not_compared_is_named_with_the_reason(study: Study) -> None:
    study.add_results(study.run("a", "seed=0"), evaluated_results(10))
    study.run("b", "seed=1")
    study.run("c", "seed=2", state="failed", exit_code=1, error="error: loss is nan", log="logs/3")
    study.job(str(study.folder / "outputs/d"), ["seed=3"], state="running")
    study.run("e", "seed=4", state="interrupted", exit_code=75)
    (study.run("f", "seed=5") / "metrics.jsonl").unlink()
    broken = study.run("g", "seed=6")
    study.add_results(broken, evaluated_results(3))
    (broken / "eval/results.json").write_text('{"conditions"')
    torn = study.run("h", "seed=7") / "metrics.jsonl"
    lines = torn.read_text().splitlines(keepends=True)
    torn.write_text("".join([*lines[:2], lines[2][:20] + "\n", *lines[3:]]))
    found, path = compare(study.sweep)
    [group] = found.groups
    assert group.seeds == [0, 1] and group.label == "reach_target, scratch_tiny, vit_debug, spatial"
    assert group.conditions["trained"]["runs"] == 1 and group.conditions["trained"]["mean_low"] == pytest.approx(
        0.299, abs=1e-3
    )
    reasons = {run.name: run.reason for run in found.left_out}
    assert reasons["job 3 (seed=2)"] == "failed: error: loss is nan  [logs/3]"
    assert reasons["job 4 (seed=3)"].startswith("has no settings in ")
    assert reasons["job 5 (seed=4)"] == "interrupted; run the sweep's command again to resume it"
    assert reasons["job 6 (seed=5)"].startswith("has no curves and no results in ")
    assert reasons["job 7 (seed=6)"].startswith("has damaged results in ")
    assert reasons["job 8 (seed=7)"].startswith(f"has damaged curves: {torn}, line 3: found ")
    text = summary(found, path)
    assert "left out: job 3 (seed=2) failed: error: loss is nan  [logs/3]\n" in text
    command = f"python eval.py --multirun run={study.folder}/outputs/b launcher=local launcher.jobs=2"
    assert f"not evaluated yet: {command}\n" in text
    page = checked(path)
    assert command in page.text and "6 of 8 runs are left out" in page.text and "error: loss is nan" in page.text


def test_an_options_name_stands_for_what_it_sets(study: Study) -> None:
    for policy in ("vit_debug", "vit_small"):
        for window in (2, 4):
            study.run(f"{policy}{window}", f"policy={policy}", f"policy.window={window}", "policy.dim=32")
    found, _ = compare(study.sweep)
    assert sorted(group.label for group in found.groups) == [
        f"policy={policy} policy.window={window}" for policy in ("vit_debug", "vit_small") for window in (2, 4)
    ]


@pytest.mark.parametrize(
    ("words", "key", "values"),
    [
        (["encoder=m3ae_tiny", "encoder.heads=2", "training.token_dropout=0"], "encoder.weights", ("null", "shipped")),
        (["experiment=pretrain_tiny", "encoder.heads=2"], "pretraining.train", ("[one.hdf5]", "[two.hdf5]")),
    ],
)
def test_what_a_run_may_find_elsewhere_is_still_another_setting(
    study: Study, words: list[str], key: str, values: tuple[str, str]
) -> None:
    for number, value in enumerate(values):
        for seed in (0, 1):
            study.run(f"{number}-{seed}", *words, f"{key}={value}", f"seed={seed}")
    found, _ = compare(study.sweep)
    assert [(group.label, group.seeds) for group in found.groups] == [(f"{key}={value}", [0, 1]) for value in values]


def test_a_sweep_of_evaluations_compares_what_it_judged(study: Study) -> None:
    runs = [study.run(name, f"seed={seed}", f"policy.depth={depth}") for name, seed, depth in
            (("a", 0, 1), ("b", 1, 1), ("c", 0, 2))]  # fmt: skip
    study.jobs.clear()
    for run, count in zip(runs, (5, 6, 7), strict=True):
        study.add_results(run, evaluated_results(count), "eval-peract")
        study.job(str(run), [f"run={run}", "protocol=peract"])
    study.job(str(runs[0]), [f"run={runs[0]}", "protocol=hiveformer"])
    found, path = compare(study.sweep)
    assert [(group.label, group.seeds) for group in found.groups] == [
        ("policy.depth=2", [0]), ("policy.depth=1", [0, 1])]  # fmt: skip
    [left] = found.left_out
    assert left.reason.startswith("has no results of protocol hiveformer; evaluate it with python eval.py run=")
    assert not found.pending_command and "eval-peract/report.html" in path.read_text()
    assert compare(study.sweep, protocol="peract")[0].left_out[0].reason == "was evaluated with protocol hiveformer"


def test_results_and_sweeps_of_earlier_versions_are_read(study: Study) -> None:
    condition_names = {"trained": "trained", "removed": "no_instruction"}
    for seed, count in enumerate((4, 6)):
        current = evaluated_results(count)
        rows = {former: current["conditions"][name] for former, name in condition_names.items()}
        old = {key: value for key, value in current.items() if key != "conditions"}
        old |= {"rows": rows, "absent_rows": {"swapped": "none"}, "protocol": {"name": "ours", "rows": ["trained"]}}
        old["tasks"] = {"reach_target": {"rows": rows, "absent_rows": {}}}
        run = study.run(f"r{seed}", f"seed={seed}")
        study.add_results(run, old)
        study.jobs[-1].overrides = [f"run={run}", "protocol=ours"]
    write_table(study.sweep, study.jobs, command="")
    [group] = compare(study.sweep)[0].groups
    assert list(group.conditions) == ["trained", "no_instruction"]
    assert group.conditions["trained"]["rates"] == group.tasks["reach_target"]["rates"] == [0.2, 0.3]
    with pytest.raises(InputError, match=r"^--protocol: ours is now called default$"):
        compare(study.sweep, protocol="ours")


def test_results_of_several_protocols_need_a_choice(study: Study) -> None:
    run = study.run("a")
    for name in ("eval-peract", "eval-hiveformer"):
        study.add_results(run, evaluated_results(4), name)
    with pytest.raises(InputError, match=r"^--protocol: not given, but there are results of hiveformer, peract"):
        compare(study.sweep)
    assert compare(study.sweep, protocol="peract")[0].groups[0].conditions["trained"]["success_rate"] == 0.2


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        (["protocol.name=short", "protocol.max_keyframes=10", "protocol.max_unreachable=3"], "eval-short"),
        (["protocol=peract", "protocol.name=mine", "protocol.variations=[0,2]", "seed=4"], "eval-mine"),
        (
            ["protocol.name=last", "checkpoint=last", "renderer=raycast", "conditions=[trained,dropped_word]"],
            "eval-last",
        ),
        (["protocol=peract", "episodes=50"], "eval-peract"),
        (["episodes=1000"], "eval"),
        ([], "eval"),
    ],
)
def test_the_command_for_runs_that_are_not_evaluated_asks_what_the_others_were_asked(
    study: Study, words: list[str], folder: str
) -> None:
    asked = compose("eval", EvalConfig, ["run=x", *words])
    record = protocol_record(effective_protocol(asked))
    renderer = {"data": "opengl", "evaluation": asked.renderer or "opengl"}
    about = {"protocol": record, "checkpoint": {"name": asked.checkpoint, "step": 9}, "renderer": renderer}
    study.add_results(study.run("a", "seed=0"), evaluated_results(10) | about, folder)
    study.run("b", "seed=1")
    study.command += " launcher.sweep=study"
    write_table(study.sweep, study.jobs, command=study.command)
    protocols = [None] if folder == "eval" else [None, folder.removeprefix("eval-")]
    for protocol in protocols:
        found, _ = compare(study.sweep, protocol=protocol)
        python, script, multirun, run, *more = shlex.split(found.pending_command)
        assert (python, script, multirun, run) == ("python", "eval.py", "--multirun", f"run={study.folder}/outputs/b")
        assert more[-2:] == ["launcher=local", "launcher.jobs=2"], "not in the folder of the sweep that trained"
        given = compose("eval", EvalConfig, ["run=x", *more[:-2]])
        assert effective_protocol(given) == effective_protocol(asked)
        assert (given.checkpoint, given.renderer) == (asked.checkpoint, asked.renderer)


def test_a_protocol_without_results_that_is_no_option_is_refused(study: Study) -> None:
    study.add_results(study.run("a"), evaluated_results(4), "eval-short")
    with pytest.raises(InputError, match=r"^--protocol: found shrot, of which .*; allowed: short, default, hiveformer"):
        compare(study.sweep, protocol="shrot")
    assert compare(study.sweep, protocol="peract")[0].pending_command.split()[4] == "protocol=peract"


def test_an_evaluation_without_results_is_given_as_it_was(study: Study) -> None:
    run = study.run("a")
    study.jobs.clear()
    words = [f"run={run}", "protocol.name=short", "protocol.max_keyframes=10", "conditions=[trained,oracle]"]
    study.job(str(run), words)
    with pytest.raises(InputError) as error:
        compare(study.sweep)
    _, _, command = str(error.value).partition("evaluate it with ")
    assert shlex.split(command) == ["python", "eval.py", *words]


def test_runs_that_were_evaluated_in_other_ways_than_others_are_named(study: Study) -> None:
    simulator = {"simulator": "tabletop", "version": "3.10.0", "renderer": "opengl", "opengl": "egl", "expert": "x"}
    ended, early = ({"epoch": epoch, "epochs": 3, "process": ""} for epoch in (3, 2))
    for name, seed, here, training in (
        ("a", 0, {}, ended), ("b", 1, {"version": "3.5.0", "opengl": "osmesa"}, ended),
        ("c", 2, {"renderer": "raycast", "opengl": ""}, early),
    ):  # fmt: skip
        about = {
            "simulator": {**simulator, **here},
            "demonstrations": {"": {**simulator, **here}},
            "training": training,
        }
        study.add_results(study.run(name, f"seed={seed}"), evaluated_results(9) | about)
    study.add_results(study.run("d", "seed=3"), evaluated_results(9))  # of an earlier version
    found, path = compare(study.sweep)
    expected = [
        "The runs were not evaluated with the same simulator version: 3.10.0 (a, c), 3.5.0 (b), not recorded (d).",
        "The runs were not evaluated with the same renderer: opengl (a, b), raycast (c), not recorded (d).",
        "The runs were not evaluated with the same OpenGL backend: egl (a), osmesa (b), not recorded (d).",
        "c: The training has not ended: the last checkpoint is of epoch 2 of 3.",
    ]
    assert [line for line in summary(found, path).splitlines() if "caution: " in line] == [
        f"caution: {sentence}" for sentence in expected]  # fmt: skip
    assert json.loads((study.sweep / "comparison.json").read_text())["cautions"] == expected
    assert all(sentence in checked(path).text for sentence in expected)


def test_evaluations_of_one_run_are_told_apart_by_their_jobs(study: Study) -> None:
    run = study.run("a")
    study.jobs.clear()
    for protocol, renderer in (("peract", "opengl"), ("hiveformer", "raycast")):
        results = evaluated_results(9) | {"simulator": {"simulator": "tabletop", "renderer": renderer}}
        study.add_results(run, results, f"eval-{protocol}")
        study.job(str(run), [f"run={run}", f"protocol={protocol}"])
    assert compare(study.sweep)[0].cautions == [
        "The runs were not evaluated with the same renderer: opengl (job 1 (protocol=peract)), "
        "raycast (job 2 (protocol=hiveformer))."
    ]


def test_runs_that_were_evaluated_alike_have_no_cautions(study: Study) -> None:
    for seed in (0, 1, 2):
        simulator = {"simulator": {"simulator": "tabletop", "version": "3.10.0"}} if seed else {}
        study.add_results(study.run(f"r{seed}", f"seed={seed}"), evaluated_results(9) | simulator)
    assert compare(study.sweep)[0].cautions == []


def test_sets_are_compared_task_by_task(study: Study) -> None:
    for seed in (0, 1):
        tasks = {task: evaluated_results(count + seed) for task, count in (("push_button", 18), ("reach_target", 4))}
        conditions = {
            name: mean([entry["conditions"][name] for entry in tasks.values()])
            for name in ("trained", "no_instruction")
        }
        study.add_results(
            study.run(f"r{seed}", f"seed={seed}"), {**conditions["trained"], "conditions": conditions, "tasks": tasks}
        )
    found, path = compare(study.sweep)
    assert found.tasks == ["push_button", "reach_target"]
    assert found.groups[0].tasks["push_button"]["rates"] == [0.9, 0.95]
    assert found.groups[0].conditions["trained"]["success_rate"] == pytest.approx((0.55 + 0.6) / 2)
    assert "push button" in checked(path).text


def test_runs_in_a_bucket_are_read_through_copies(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = study.run("a")
    study.add_results(run, evaluated_results(5))
    (run / "checkpoints").mkdir()
    (run / "checkpoints/large").write_text("")
    names = [str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()]
    monkeypatch.setattr(
        sweep_runs.object_store, "list_objects", lambda url: names if url == "gs://bucket/out/a" else []
    )
    read: list[str] = []

    @contextmanager
    def copy(place: Any) -> Iterator[Path]:
        read.append(str(place))
        yield run / str(place).removeprefix("gs://bucket/out/a/")

    monkeypatch.setattr(sweep_runs, "open_source", copy)
    study.jobs[0].run = "gs://bucket/out/a"
    write_table(study.sweep, study.jobs, command="")
    found, _ = compare(study.sweep)
    assert found.groups[0].conditions["trained"]["success_rate"] == 0.25
    wanted = ("config.yaml", "eval/results.json", "metrics.jsonl")
    assert sorted(read) == [f"gs://bucket/out/a/{name}" for name in wanted]


def test_names_are_text_and_never_markup(study: Study) -> None:
    hostile = """<script>alert('1')<script> & "the" <b>ball<b>"""
    study.sweep, study.command = study.sweep.with_name(f"sweep {hostile}"), f"python train.py {hostile}"
    run = study.run("plain", "seed=0")
    study.jobs[-1].run = str(run.rename(run.with_name(f"run {hostile}")))
    results = evaluated_results(10) | {"tasks": {f"task {hostile}": evaluated_results(10)}}
    study.add_results(run.with_name(f"run {hostile}"), results)
    study.run("lost", "seed=1", state="failed", exit_code=1, error=f"error: {hostile}")
    page = checked(compare(study.sweep)[1])
    assert page.text.count("ball") == page.text.count(hostile) == 6
    for known in ("sweep", "python train.py", "run", "task", "failed: error:"):
        assert f"{known} {hostile}" in page.text
    assert [unquote(reference) for reference in page.references if "script" in reference] == [
        f"../../outputs/run {hostile}/eval/report.html"]  # fmt: skip


def test_more_settings_than_colours(study: Study) -> None:
    for depth in range(1, 12):
        study.run(f"r{depth}", f"policy.depth={depth}", loss=depth)
    _, path = compare(study.sweep)
    assert path.read_text().count('<polyline class="series g0"') == 2
    assert path.read_text().count('<polyline class="series g0 dashed"') == 2


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "found no such file; pass the folder that a sweep printed at its end"),
        ("{", "damaged; run the sweep's command again"),
        ('{"sweep": "x", "command": "y", "jobs": [{"number": 1}]}', "damaged"),
        ('{"sweep": "x", "command": "y", "jobs": []}', "the sweep has no runs"),
    ],
)
def test_what_is_no_sweep_is_one_line(tmp_path: Path, content: str | None, line: str) -> None:
    if content is not None:
        (tmp_path / "jobs.json").write_text(content)
    with pytest.raises(InputError, match=line) as error:
        main([str(tmp_path)])
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_the_command(study: Study) -> None:
    study.run("a")
    words = [sys.executable, "-m", "instructrl.evaluation.compare"]
    done = subprocess.run([*words, str(study.sweep)], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == f"comparison: {study.sweep}/comparison.html"
    wrong = subprocess.run([*words, "--protocl"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: ") and len(wrong.stderr.splitlines()) == 1


def test_a_sweep_ends_with_the_comparison(study: Study) -> None:
    from instructrl.config.launcher import LauncherConfig

    for seed in (0, 1):
        study.run(f"r{seed}", f"seed={seed}")
    resources = LauncherConfig(name="local", kind="local")
    spec = JobSpec(("train.py",), "r", "x", (), resources)
    assert comparison(study.sweep, [spec] * 2, study.jobs).endswith(f"comparison: {study.sweep}/comparison.html\n")
    collect = JobSpec(("-m", "data_tools.collect"), "r", "x", (), resources)
    assert comparison(study.sweep, [collect] * 2, study.jobs) == ""
    assert comparison(study.sweep, [spec], study.jobs[:1]) == ""
    for job in study.jobs:
        job.run = f"/nowhere/run{job.number}"
    write_table(study.sweep, study.jobs, command="")
    assert comparison(study.sweep, [spec] * 2, study.jobs).startswith("not compared: ")
    for job in study.jobs:  # which share the episodes of one
        job.run = "/nowhere/run"
    assert comparison(study.sweep, [spec] * 2, study.jobs) == ""


def test_jobs_of_another_program_in_the_table_are_not_compared(study: Study) -> None:
    for seed in (0, 1):
        study.run(f"r{seed}", f"seed={seed}")
    for job in study.jobs:
        job.entry = ["train.py"]
    evaluation = Job(3, "x", ["run=outputs/r0"], "outputs/r0", state="failed", entry=["eval.py"])
    write_table(study.sweep, [*study.jobs, evaluation], command="", entry=["train.py"])
    sweep = sweep_runs.load_sweep(study.sweep, protocol=None)
    assert not sweep.is_evaluation and len(sweep.runs) == 2
    write_table(study.sweep, [*study.jobs, evaluation], command="", entry=["eval.py"])
    sweep = sweep_runs.load_sweep(study.sweep, protocol=None)
    assert sweep.is_evaluation and len(sweep.runs) == 1


def test_curves_are_averaged_where_all_are() -> None:
    assert averaged([[(1, 2.0), (2, 4.0)], [(1, 4.0), (2, 8.0), (3, 1.0)]]) == [(1, 3.0), (2, 6.0)]
    assert averaged([[(1, 2.0)], [(2, 4.0)]]) == [(1, 2.0)]
