"""The paper's comparisons: which commands run, and the page that they end with."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from data_tools.reproduce import __main__ as reproduce
from data_tools.reproduce.comparisons import AMOUNTS, experiments
from data_tools.reproduce.page import write_page
from data_tools.reproduce.results import load_results
from instructrl.errors import InputError
from tests.integration.test_compare import Study, evaluated_results
from tests.paths import ROOT

SUCCESSES = {
    "scratch": 15,
    "regression": 5,
    "m3ae": 18,
    "demonstrations/m3ae_50": 12,
    "demonstrations/scratch_50": 3,
}


def evaluated(study: Study, successes: dict[str, int]) -> Path:
    """A sweep of these experiments with two seeds, evaluated; returns its folder."""
    for name, count in successes.items():
        for seed in (0, 1):
            run = study.run(f"{name.replace('/', '-')}-{seed}", f"seed={seed}")
            study.jobs.pop()
            study.job(str(run), [f"experiment=paper/{name}", f"seed={seed}"])
            study.add_results(run, evaluated_results(count + seed))
    return study.sweep


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a sweep in which one job failed."""
    folder = tmp_path_factory.mktemp("paper")
    study = Study(folder)
    evaluated(study, SUCCESSES)
    study.job(str(folder / "outputs/gone"), ["experiment=paper/discrete", "seed=0"], state="failed", error="no memory")
    return write_page(load_results(study.sweep), folder / "docs/method.md", command="the command")


def test_the_page_compares_each_experiment_with_its_baseline(page: Path) -> None:
    text = page.read_text()
    assert "Made by `the command`" in text and "seeds 0, 1" in text and "20 scenes" in text
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| `paper/")}
    assert list(lines) == ["`paper/scratch`", "`paper/m3ae`", "`paper/regression`"]
    assert "| 0.275 [" in lines["`paper/regression`"] and "-0.500 [" in lines["`paper/regression`"]
    assert "p < 0.001" in lines["`paper/regression`"]
    assert "## Action head" in text and "## History" not in text, "a comparison without others is not shown"
    assert "paper/discrete" in text.split("## Left out")[1] and "no memory" in text
    assert "| demonstrations | 50 | 1,000 |" in text and "| from scratch | 0.175 [" in text
    trained, without = [line for line in text.splitlines() if line.startswith("| pretrained, frozen, minus ")]
    assert trained.startswith("| pretrained, frozen, minus from scratch | +0.450 [") and "| +0.150 [" in trained
    assert without.startswith("| pretrained, frozen, minus from scratch | +0.000 ["), "each condition in its scenes"
    assert text.index("Training instructions:") < text.index(trained) < text.index("No instruction:")


def test_the_figure_shows_rates_over_the_number_of_demonstrations(page: Path) -> None:
    drawing = ElementTree.fromstring((page.parent / "method-demonstrations.svg").read_text())
    shapes = {tag: drawing.findall(f".//{{*}}{tag}") for tag in ("polyline", "circle", "text")}
    labels = [text.text for text in shapes["text"]]
    assert {"50", "1,000", "from scratch", "pretrained, frozen", "demonstrations"} <= set(labels)
    lines = [line.get("points").split() for line in shapes["polyline"] if "thin" not in line.get("class")]
    assert [len(points) for points in lines] == [2, 2], "two amounts of each"
    pretrained, scratch = ([float(point.split(",")[1]) for point in points] for points in lines)
    assert pretrained[0] > pretrained[1] and pretrained[0] < scratch[0], "higher rates are further up"


def test_every_experiment_of_the_folder_is_run_once_and_pairs_with_the_figure() -> None:
    files = {
        path.relative_to(ROOT / "conf/experiment/paper") for path in (ROOT / "conf/experiment/paper").rglob("*.yaml")
    }
    assert {f"{name}.yaml" for name in experiments()} == {path.as_posix() for path in files}
    assert len(set(experiments())) == len(experiments())
    assert {f"demonstrations/scratch_{count}" for count in AMOUNTS if count != 1000} <= set(experiments())


def test_trainings_are_followed_by_evaluations_and_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands: list[list[str]] = []

    def run(words: list[str]) -> subprocess.CompletedProcess:
        commands.append(words)
        if len(commands) == 1:
            study = Study(tmp_path)
            study.sweep = tmp_path / "multirun/paper"
            evaluated(study, {"scratch": 15, "regression": 5})
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr("subprocess.run", run)
    reproduce.main(
        ["--experiments=scratch,regression", "--seeds=0,1", "--episodes=20", "launcher.jobs=2", "optimizer.ema=0.9"]
    )
    monkeypatch.undo()
    training, evaluation = commands
    assert training[-2:] == ["launcher.jobs=2", "launcher.sweep=paper"] and "optimizer.ema=0.9" in training
    assert "optimizer.ema=0.9" not in evaluation and "episodes=20" in evaluation
    assert [word.count(",") for word in evaluation if word.startswith("run=")] == [3], "four runs"
    assert "--experiments=scratch,regression" in (tmp_path / "docs/benchmarks/method.md").read_text()
    planned = subprocess.run([*training, "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.count("experiment=paper/regression") >= 2
    assert training[:4] == [sys.executable, "-m", "instructrl.commands.train", "--multirun"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--experiments", "scratch,nothing"], "--experiments: found nothing; allowed: scratch, "),
        (["--seeds", "0,x"], "--seeds: found 0,x; allowed: integers, like 0,1,2"),
        (["--episodes", "0"], "--episodes: found 0; allowed: an integer >= 1"),
        (["seed=3"], "seed=3: not allowed here"),
        (["hardware"], "hardware: not allowed here"),
    ],
)
def test_other_words_are_refused(words: list[str], line: str) -> None:
    with pytest.raises(InputError, match=line.replace("(", r"\(")):
        reproduce.main(words)


def test_a_training_that_fails_ends_the_command_with_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.run", lambda words: subprocess.CompletedProcess(words, 75))
    with pytest.raises(SystemExit) as ended:
        reproduce.main(["--experiments", "scratch"])
    assert ended.value.code == 75
