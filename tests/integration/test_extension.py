"""A finished run is extended by a larger training.epochs; its learning rate then follows the schedule of all epochs."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from instructrl.errors import InputError, InterruptedRun
from instructrl.evaluation.results.comparability import cautions, training_record
from instructrl.training.monitoring.metric_files import read_lines
from instructrl.training.run_dir import find_run, read_config
from tests.fixtures import tiny
from tests.fixtures.tiny_objective import LEARNS, Metrics, assert_same_end, trained

CONSTANT = "optimizer.schedule=constant"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has finished two epochs."""
    folder = tmp_path_factory.mktemp("finished")
    trained(folder, "training.epochs=2")
    return folder


def interrupt(folder: Path, *words: str, step: int) -> None:
    """Train until SIGTERM arrives after a step."""

    def signalled(number: int, metrics: Metrics) -> Metrics:
        if number == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return metrics

    with pytest.raises(InterruptedRun):
        trained(folder, *words, on_step=signalled)


def rates(run: Path) -> list[float]:
    """The learning rate at the beginning of every epoch."""
    return [line["learning_rate"] for line in read_lines(run / "metrics.jsonl") if line["split"] == "train"]


def test_with_a_constant_learning_rate_it_ends_as_one_long_training(tmp_path: Path) -> None:
    trained(tmp_path / "one", CONSTANT, "training.epochs=2")
    extended = trained(tmp_path / "one", CONSTANT, "training.epochs=4")
    assert_same_end(extended, trained(tmp_path / "other", CONSTANT, "training.epochs=4"))


def test_the_learning_rate_follows_the_schedule_of_all_epochs_from_there_on(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(finished, tmp_path / "extended")
    run = trained(folder, "training.epochs=4", f"output_dir={folder}/outputs")
    assert f"{run}: extended from 2 to 4 epochs; the learning rate now follows the cosine" in capsys.readouterr().out
    [short] = (finished / "outputs").iterdir()
    long = rates(trained(tmp_path / "long", "training.epochs=4"))
    assert rates(run) == [*rates(short), *long[2:]]
    assert rates(run)[2] > rates(run)[1] * 0.4 and long[1] > rates(run)[1]
    assert read_config(run).training.epochs == 4
    assert json.loads((run / "extensions.json").read_text()) == {"epochs": [2]}


def test_an_extended_run_says_so_where_it_is_evaluated(finished: Path, tmp_path: Path) -> None:
    [short] = (finished / "outputs").iterdir()
    assert "extended_after" not in training_record(short, short, epochs=2, validate_every=1)
    folder = shutil.copytree(finished, tmp_path / "extended")
    trained(folder, "training.epochs=3")
    run = trained(folder, "training.epochs=4")
    training = training_record(run, run, epochs=4, validate_every=1)
    assert training == {"epoch": 4, "epochs": 4, "process": "", "extended_after": [2, 3]}
    [sentence] = cautions({"training": training})
    assert sentence.startswith("The training was extended to 4 epochs after it had finished 2 and 3: ")


def test_an_interruption_of_the_extension_changes_no_number(finished: Path, tmp_path: Path) -> None:
    one, other = (shutil.copytree(finished, tmp_path / name) for name in ("one", "other"))
    interrupt(one, "training.epochs=4", step=8)
    assert_same_end(trained(one, "training.epochs=4"), trained(other, "training.epochs=4"))


def test_an_unfinished_run_is_not_extended(tmp_path: Path) -> None:
    interrupt(tmp_path, "training.epochs=2", step=4)
    expected = (
        r"found training.epochs=3 for a run of 2 epochs, which has not finished; finish it with training.epochs=2"
    )
    with pytest.raises(InputError, match=expected):
        find_run(tiny.config(tmp_path, LEARNS, "training.epochs=3"))
    trained(tmp_path, "training.epochs=2")
    find_run(tiny.config(tmp_path, LEARNS, "training.epochs=3"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("training.epochs=1",), "found training.epochs=1 for a run of 2 epochs; allowed: 2, or more to extend it"),
        (("training.epochs=3", "seed=5"), "different settings (seed: 0 -> 5; training.epochs: 2 -> 3)"),
    ],
)
def test_fewer_epochs_and_other_settings_are_refused(finished: Path, words: tuple[str, ...], expected: str) -> None:
    [run] = (finished / "outputs").iterdir()
    before = {path: path.read_bytes() for path in run.glob("*.*")}
    with pytest.raises(InputError) as error:
        find_run(tiny.config(finished, LEARNS, *words, f"name={run.name}"))
    assert expected in str(error.value) and "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in run.glob("*.*")} == before


def test_a_damaged_record_of_extensions_is_one_line(finished: Path, tmp_path: Path) -> None:
    [run] = (shutil.copytree(finished, tmp_path / "copy") / "outputs").iterdir()
    (run / "extensions.json").write_text('{"epochs": 2}')
    with pytest.raises(InputError, match=r"extensions.json: damaged; restore it"):
        training_record(run, run, epochs=2, validate_every=1)
