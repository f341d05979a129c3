"""Commands find output folders that cannot be written before the work whose results they hold."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from instructrl.collection import collect as collection
from instructrl.commands import collect, evaluate
from tests.fixtures import tiny
from tests.fixtures.commands import run_main
from tests.paths import ROOT

STATS, TASKS, FRAMES = "data_tools.stats.__main__", "data_tools.tasks", "data_tools.frames.__main__"
CONVERT, WEIGHTS, RLDS = "data_tools.convert.__main__", "data_tools.weights.__main__", "data_tools.rlds.__main__"
EXPORTER, IMPORTER, INSPECT = "data_tools.rlds.exporter", "data_tools.rlds.importer", "data_tools.inspect"


def refuse_work(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Make a function fail the test when it is called; `name`: module:function."""
    module, function = name.split(":")
    monkeypatch.setattr(importlib.import_module(module), function, lambda *_, **__: pytest.fail("found too late"))


@pytest.fixture
def blocked(tmp_path: Path) -> Path:
    """A path in a folder of which a part is a file."""
    (tmp_path / "file").touch()
    return tmp_path / "file" / "results"


@pytest.mark.parametrize(
    ("module", "words", "work"),
    [
        (STATS, ["DATA", "--out", "OUT"], f"{STATS}:measure"),
        (INSPECT, ["DATA", "--verify", "--out", "OUT"], f"{INSPECT}:summary"),
        (TASKS, ["--out", "OUT.png"], f"{TASKS}:episode_images"),
        (FRAMES, ["out=OUT"], f"{FRAMES}:available_renderer"),
        (CONVERT, ["kind=rlbench", "src=.", "out=OUT"], f"{CONVERT}:find_task_folders"),
        (CONVERT, ["kind=windows", "src=w.hdf5", "out=OUT/x.hdf5"], f"{CONVERT}:open_windows"),
        (WEIGHTS, ["convert", "kind=clip", "src=.", "out=OUT"], f"{WEIGHTS}:read_published"),
        (WEIGHTS, ["fetch", "kind=clip", "name=b16", "out=OUT"], f"{WEIGHTS}:fetch_tokenizer"),
        (RLDS, ["export", "src=DATA", "out=OUT"], f"{EXPORTER}:export"),
        (RLDS, ["import", "src=DATA", "out=OUT"], f"{IMPORTER}:import_native"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_tool_finds_it_before_its_work(
    module: str, words: list[str], work: str, blocked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = str(tiny.shared_demonstrations()["train"][0]), str(blocked)
    given = [word.replace("OUT", out).replace("DATA", data) for word in words]
    refuse_work(monkeypatch, work)
    if words[0] == "import":
        monkeypatch.setattr("data_tools.rlds.source.Source", lambda folder: folder)
    ran = run_main(importlib.import_module(module).main, *given)
    assert ran.returncode == 2 and ran.stderr.count("\n") == 1, ran.stderr
    assert ran.stderr.startswith(f"error: {out}") or str(blocked.parent) in ran.stderr
    assert "cannot be written (" in ran.stderr and "choose another" in ran.stderr


@pytest.mark.parametrize("setting", ["data.dir", "features_dir", "output_dir"])
def test_a_training_finds_it_before_it_collects(setting: str, blocked: Path, tmp_path: Path) -> None:
    frozen = ["encoder.frozen=true", "training.token_dropout=0"] if setting == "features_dir" else []
    words = [*tiny.overrides(tmp_path / "new", *frozen), f"{setting}={blocked}"]
    command = [sys.executable, ROOT / "train.py", *words]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert ran.returncode == 2, ran.stderr
    assert "cannot be written" in ran.stderr.splitlines()[-1] and f"choose another {setting}" in ran.stderr
    assert "collecting" not in ran.stdout
    assert not [*(tmp_path / "new").rglob("*.hdf5")]


def test_a_collection_finds_it_before_its_simulators_start(blocked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collection, "check_tasks", lambda *_: pytest.fail("found too late"))
    ran = run_main(collect.main, "task=push_button", f"data.dir={blocked}", "sim.renderer=raycast")
    assert ran.returncode == 2 and ran.stderr.count("\n") == 1, ran.stderr
    assert "cannot be written (Not a directory); make room or choose another data.dir" in ran.stderr


def test_an_evaluation_finds_it_before_the_agent_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny.copied_run(tmp_path)
    (run / "eval").touch()
    monkeypatch.setattr("instructrl.evaluation.evaluate.evaluate", lambda *_: pytest.fail("found too late"))
    ran = run_main(evaluate.main, f"run={run}")
    assert ran.returncode == 2, ran.stderr
    assert ran.stderr.startswith(f"error: {run}/eval: cannot be written (Not a directory)")


def test_the_comparisons_find_it_before_hours_of_training(blocked: Path) -> None:
    words = ["--experiments", "scratch", "--out", str(blocked / "page.md")]
    ran = subprocess.run(
        [sys.executable, "-m", "data_tools.reproduce", *words], cwd=ROOT, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 2 and ran.stdout == "", ran.stdout
    assert ran.stderr.startswith(f"error: {blocked}/page.md: cannot be written (")


def test_a_probe_finds_it_before_it_renders(blocked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from data_tools.probe import __main__ as probe

    monkeypatch.setattr(probe, "collect_scenes", lambda *_: pytest.fail("found too late"))
    ran = run_main(probe.main, "encoder=m3ae_tiny", f"out={blocked}/a.json")
    assert ran.returncode == 2 and f"{blocked}/a.json: cannot be written (" in ran.stderr, ran.stderr
    assert ran.stdout == ""
