"""Exports and files of the package, and the command lines of its jobs with and without a checkout."""

import inspect
import subprocess
import sys

import pytest

import instructrl
from instructrl import package_files
from instructrl.cli import entry
from instructrl.commands import collect, evaluate, train
from instructrl.errors import InputError
from launchers import job
from tests.paths import ROOT


def test_its_classes_are_loaded_when_they_are_asked_for() -> None:
    program = "import sys, instructrl; print('jax' in sys.modules, instructrl.Observation, 'jax' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.stdout == "False <class 'instructrl.types.Observation'> False\n", ran.stderr
    assert {"Agent", "Observation"} < {*dir(instructrl)} and instructrl.Agent.__name__ == "Agent"
    with pytest.raises(AttributeError, match="module 'instructrl' has no attribute 'Agents'"):
        instructrl.Agents  # noqa: B018


def test_its_files_are_there() -> None:
    assert package_files.CONFIG_DIR == ROOT / "conf" and package_files.IS_CHECKOUT
    assert package_files.VOCABULARY.is_file() and package_files.REPORT_STYLE.is_file()
    assert [*package_files.SHIPPED_WEIGHTS.glob("*.safetensors")]


@pytest.mark.parametrize(("checkout", "before"), [(True, [str(ROOT)]), (False, [])])
def test_jobs_start_as_files_of_a_checkout_or_as_modules(
    checkout: bool, before: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry, "IS_CHECKOUT", checkout)
    monkeypatch.setattr(job, "IS_CHECKOUT", checkout)
    assert job.import_path() == before
    commands = {"train.py": train.main, "eval.py": evaluate.main}
    for (script, main), name in zip(commands.items(), ("train", "evaluate"), strict=True):
        expected = (script,) if checkout else ("-m", f"instructrl.commands.{name}")
        assert entry.entry_words(inspect.unwrap(main), script) == expected
    assert {"train.py", "instructrl.commands.train"} == job.TRAINING
    assert {"eval.py", "instructrl.commands.evaluate"} == job.EVALUATION
    assert collect.__name__ == "instructrl.commands.collect"


def test_a_pod_needs_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    assert job.checkout() == ROOT
    monkeypatch.setattr(job, "IS_CHECKOUT", False)
    with pytest.raises(InputError, match="an installed package, but other machines need the code of a checkout"):
        job.checkout()


def test_a_command_is_noted_as_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "seed=1"])
    assert entry.command_line() == "python train.py seed=1"
    monkeypatch.setattr(sys, "argv", ["/opt/bin/instructrl-train", "seed=1"])
    assert entry.command_line() == "instructrl-train seed=1"
