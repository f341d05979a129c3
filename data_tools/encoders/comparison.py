"""The comparison of encoders: measures, trains and evaluates what is missing, by commands of one process each."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from data_tools.encoders.record import Compared, measured_settings, read_measurement
from data_tools.encoders.settings import MEASURED, RUNS, Choice, CompareConfig, composed, key_of, quoted
from instructrl.config.evaluation import DEFAULT_PROTOCOL
from instructrl.config.training import TrainConfig
from instructrl.errors import InputError, InterruptedRun, RunError
from instructrl.evaluation.compare.sweep_runs import RESULTS, Run, load_run
from instructrl.evaluation.results.summary import HEADLINE
from instructrl.evaluation.run_checks import evaluation_folder
from instructrl.models.weight_files import ENCODER_FILE
from instructrl.storage.json_file import read_json
from instructrl.training.preflight import check_inputs
from instructrl.training.run_dir import find_run, has_finished

INTERRUPTED = (InterruptedRun.exit_code, 130)


def compare(config: CompareConfig, chosen: Sequence[Choice]) -> tuple[list[Compared], dict[str, str]]:
    """Compare encoders; one that cannot be stops none of the others.

    Returns:
        What was found, in the order of `chosen`; and by label, why others were not compared.

    Raises:
        InputError: none could be.
        SystemExit: a command was interrupted.
    """
    left_out: dict[str, str] = {}
    found: list[Compared] = []
    errors: list[InputError | RunError] = []

    def leave_out(label: str, error: InputError | RunError) -> None:
        left_out[label] = " ".join(str(error).split())
        errors.append(error)
        print(f"not compared: {label}: {left_out[label]}", flush=True)

    for choice in chosen:  # first, since those that can be compared take hours
        try:
            check_inputs(choice.config)
        except InputError as error:
            leave_out(choice.label, error)
    for choice in chosen:
        if choice.label not in left_out:
            try:
                found.append(compared(config, choice))
            except (InputError, RunError) as error:
                leave_out(choice.label, error)
    if not found:
        several = f"none of the encoders {', '.join(left_out)} was compared; of the first, " if len(errors) > 1 else ""
        raise type(errors[0])(several + str(errors[0]))
    return found, left_out


def compared(config: CompareConfig, choice: Choice) -> Compared:
    """Measure an encoder, train and evaluate an agent for each seed, unless that is done.

    Raises:
        InputError: a run in `out` has other settings, or results of other ones.
        RunError: a command failed.
    """
    folder = Path(config.out) / MEASURED / choice.label
    settings = measured_settings(config, choice.config)
    measured = read_measurement(folder, settings)
    if measured is None:
        size = [f"{key}={getattr(config, key)}" for key in ("scenes", "test_scenes", "splits")]
        run_command("data_tools.encoders", "measure", *choice.words, *size, f"out={quoted(folder)}")
        measured = read_measurement(folder, settings)
    if measured is None:
        raise RunError(f"{folder}: found no measurement of these settings; files were changed meanwhile: run it again")
    weights = [] if choice.config.encoder.weights is not None else [f"encoder.weights={quoted(folder / ENCODER_FILE)}"]
    runs = [trained(config, choice, seed, [*choice.words, *weights]) for seed in config.seeds or []]
    return Compared(choice.label, choice.config, measured, runs)


def trained(config: CompareConfig, choice: Choice, seed: int, words: Sequence[str]) -> Run:
    """The run of a seed, which is trained and evaluated unless it is already.

    Raises:
        InputError: it was started with other settings, or its results are of other ones.
        RunError: a command failed.
    """
    name = f"{choice.label}-seed{seed}"
    path = Path(config.out) / RUNS / name
    every = [*words, f"seed={seed}", f"name={quoted(name)}"]
    training = composed(every)
    check_run(training, path)
    run = Run(name, str(path), path, seed=seed)
    epochs = training.training.epochs
    finished = (path / "config.yaml").exists() and has_finished(path, epochs)
    if not finished:
        run_command("instructrl.commands.train", *every)
    if not (finished and is_evaluated(path, episodes=config.episodes, epochs=epochs)):
        hardware = [word for word in words if key_of(word).partition(".")[0] == "hardware"]
        workers = [f"workers={training.sim.workers}"] if training.sim.workers else []
        asked = [f"run={quoted(path)}", f"episodes={config.episodes}", f"conditions=[{HEADLINE}]", "videos=0"]
        run_command("instructrl.commands.evaluate", *asked, *hardware, *workers)
    load_run(run, path, needs_results=True)
    if run.reason:
        raise RunError(f"{path}: {run.reason}")
    return run


def check_run(training: TrainConfig, run: Path) -> None:
    """Raise InputError if a run was started with other settings."""
    try:
        find_run(training, run)
    except InputError as error:
        raise InputError(str(error).replace("add name=... for a separate run", "choose another out=")) from None


def is_evaluated(run: Path, *, episodes: int, epochs: int) -> bool:
    """Return True if a run was evaluated in so many episodes, after so many epochs."""
    try:
        results = read_json(evaluation_folder(run, DEFAULT_PROTOCOL) / RESULTS)
        return (results["protocol"]["episodes"], results["training"]["epochs"]) == (episodes, epochs)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def run_command(module: str, *words: str) -> None:
    """Run a command of ours in a process of its own.

    Raises:
        RunError: it failed; its own line on standard error says why.
        SystemExit: it was interrupted.
    """
    code = subprocess.run([sys.executable, "-m", module, *words], check=False).returncode
    if code in INTERRUPTED:
        raise SystemExit(code)
    if code:
        raise RunError(
            f"{module} ended with exit code {code}, and the error that it printed says why; the same command resumes"
        )
