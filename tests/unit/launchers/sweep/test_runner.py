"""Names of sweeps, the jobs that are left to submit, and the time that they still take."""

import io
import os
import re
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from instructrl.errors import InterruptedRun
from instructrl.preemption import handle_signals
from launchers.job_table import Job
from launchers.sweep.runner import exit_code, needs_submission, sweep_name, wait

JOBS = [["seed=0", "training.max_instructions=3"], ["seed=1", "training.max_instructions=3"]]
FORMER = [[word.replace("max_instructions", "sentences") for word in job] for job in JOBS]


def test_the_name_of_a_sweep_depends_on_its_jobs_and_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = sweep_name(JOBS, entry="train")
    assert name.startswith("train-seed-") and sweep_name(JOBS[::-1], entry="train") == name
    others = {sweep_name(JOBS[:1], entry="train"), sweep_name(JOBS, entry="eval"), sweep_name(FORMER, entry="train")}
    assert len(others) == 3 and name not in others


def test_a_sweep_that_was_started_under_former_names_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    former, current = sweep_name(FORMER, entry="train"), sweep_name(JOBS, entry="train")
    (tmp_path / "multirun" / former).mkdir(parents=True)
    assert sweep_name(JOBS, entry="train") == former
    (tmp_path / "multirun" / current).mkdir()
    assert sweep_name(JOBS, entry="train") == current


def test_only_jobs_without_a_result_are_submitted(tmp_path: Path) -> None:
    def job(state: str, run: str = str(tmp_path)) -> Job:
        return Job(1, "x", [], run, state=state)

    assert [needs_submission(job(state)) for state in ("running", "failed", "lost", "done")] == [
        False,
        True,
        True,
        False,
    ]
    assert needs_submission(job("done", str(tmp_path / "removed"))) and not needs_submission(job("done", "gs://b/run"))


@pytest.mark.parametrize(
    ("states", "interruption", "code"),
    [
        (["done", "done"], None, 0),
        (["done", "failed"], None, 1),
        (["done", "interrupted"], None, 75),
        (["done", "cancelled"], None, 1),
        (["done", "cancelled"], KeyboardInterrupt(), 130),
        (["running"], KeyboardInterrupt(), 130),
        (["done", "cancelled"], InterruptedRun("by SIGTERM"), 75),
        (["running"], InterruptedRun("by SIGTERM"), 75),
        (["failed"], InterruptedRun("by SIGTERM"), 1),
    ],
)
def test_the_exit_code_of_a_sweep(
    states: list[str], interruption: KeyboardInterrupt | InterruptedRun | None, code: int
) -> None:
    jobs = [Job(number, "x", [], "run", state=state) for number, state in enumerate(states)]
    assert exit_code(jobs, interruption) == code


def test_a_launcher_answers_a_signal_between_two_looks_at_its_queue() -> None:
    """A cluster kills what has not ended some seconds after the signal; the queue is asked less often."""
    table: Any = SimpleNamespace(jobs=[Job(1, "x", [], "run", state="running")], refresh=lambda: None)
    backend: Any = SimpleNamespace(poll_seconds=20)
    timer, begun = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)), time.monotonic()
    timer.start()
    with pytest.raises(InterruptedRun, match="by SIGTERM"), handle_signals():
        wait(table, backend)
    assert time.monotonic() - begun < 5


def test_the_time_left_follows_from_the_jobs_that_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two jobs one after the other, the first ends after a hundred seconds."""
    now, screen = [0.0], io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    jobs = [Job(number, "x", [f"seed={number}"], "run", state="running") for number in (1, 2)]

    def refresh() -> None:
        for job in jobs:
            job.state = "done" if now[0] >= 100 * job.number else "running"

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr("launchers.sweep.runner.sleep", sleep)
    table: Any = SimpleNamespace(jobs=jobs, refresh=refresh, write=lambda: None)
    backend: Any = SimpleNamespace(poll_seconds=10)
    wait(table, backend)
    assert set(re.findall(r" 0/2 \[\S+, (.*?),", screen.getvalue())) == {"? left"}
    assert set(re.findall(r" 1/2 \[\S+, (.*?),", screen.getvalue())) == {"01:40 left"}
