"""The command on the jobs of sweeps, beside a launcher on this machine, after it and without it."""

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from instructrl.training.monitoring.metric_files import read_lines
from launchers.jobs.progress import Progress, read_progress
from tests.fixtures.sweeps import Sweep
from tests.fixtures.tiny_objective import STEPS_PER_EPOCH, Metrics, trained
from tests.fixtures.waiting import until
from tests.paths import ROOT

PROGRAM = """
import pathlib, signal, sys, time
name = sys.argv[1].removeprefix("job=")
at, go = pathlib.Path(name).absolute(), pathlib.Path("go").absolute()
if at.exists():
    print("resumed"); sys.exit(0)
signal.signal(signal.SIGTERM, lambda *_: (at.touch(), sys.exit(75)))
print("began", flush=True)
end = time.monotonic() + 300
while not go.exists() and time.monotonic() < end:
    time.sleep(0.05)
print("ended", flush=True)
sys.exit(3 if name == "bad" else 0)
"""


def study(folder: Path, *names: str) -> Sweep:
    """Configure a sweep of programs that wait for a file, and save if they are terminated."""
    sweep = Sweep(folder, dict.fromkeys(names, ""))
    sweep.module = "program"
    (folder / "program.py").write_text(PROGRAM)
    return sweep


def jobs(folder: Path, *words: str, code: int = 0) -> str:
    """Run the command in another folder than the sweep's; returns what it prints."""
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    line = [sys.executable, "-m", "launchers.jobs", *words, f"folder={folder}/multirun"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(line, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == code and "Traceback" not in ran.stderr, ran.stdout + ran.stderr
    assert not any(elsewhere.iterdir())
    return ran.stdout + ran.stderr


def states(text: str) -> list[str]:
    """Return the states in a printed table."""
    return [found[1] for line in text.splitlines() if (found := re.match(r"\d+ +\S+ +([a-z]+) ", line))]


def began(folder: Path, number: int) -> bool:
    log = folder / f"multirun/study/logs/{number:03}.log"
    return log.exists() and "began" in log.read_text()


def test_jobs_are_cancelled_beside_their_launcher_and_retried_after_it(tmp_path: Path) -> None:
    sweep = study(tmp_path, "one", "two", "three")
    running = sweep.begin(jobs=2)
    until(lambda: began(tmp_path, 1) and began(tmp_path, 2) and [job["state"] for job in sweep.table][1] == "running")
    assert states(jobs(tmp_path, "list", "sweep=study")) == ["running", "running", "waiting"]
    assert "cancelled" in jobs(tmp_path, "cancel", "sweep=study", "job=job=three")
    until(lambda: sweep.table[2]["state"] == "cancelled")
    busy = jobs(tmp_path, "retry", "sweep=study", "job=3", code=2)
    assert busy.startswith("error: multirun/study: another process launches here") and busy.count("\n") == 1
    assert "cancelled" in jobs(tmp_path, "cancel", "sweep=study", "job=2")
    (tmp_path / "go").touch()
    output = sweep.end(running, code=1)
    assert "job 3 (job=three) cancelled: stopped by launchers.jobs cancel" in output
    assert sweep.states == [("done", 0), ("cancelled", 75), ("cancelled", None)]
    output = jobs(tmp_path, "retry", "sweep=study")
    assert "2 jobs, 0 done, 0 still active, 2 to start; 1 more of earlier commands" in output
    assert sweep.states == [("done", 0)] * 3 and [job["submissions"] for job in sweep.table] == [1, 2, 1]
    assert jobs(tmp_path, "logs", "sweep=study", "job=2") == "began\n--- submitted again ---\nresumed\n"
    assert "none of these jobs has failed" in jobs(tmp_path, "retry", "sweep=study")
    assert "none of these jobs is waiting or running" in jobs(tmp_path, "cancel", "sweep=study")


def test_a_retried_job_waits_for_those_that_it_follows_and_is_retried_with_them(tmp_path: Path) -> None:
    sweep = study(tmp_path, "bad", "next")
    sweep.after = {"next": [0]}
    (tmp_path / "go").touch()
    sweep(code=1)
    assert sweep.states == [("failed", 3), ("cancelled", None)]
    output = jobs(tmp_path, "retry", "sweep=study", "job=1", "launcher.jobs=2", code=1)
    assert "2 jobs, 0 done, 0 still active, 2 to start" in output and "not started, as job 1 did not succeed" in output
    assert sweep.states == [("failed", 3), ("cancelled", None)]
    assert [job["submissions"] for job in sweep.table] == [2, 0]
    (tmp_path / "bad").touch()  # it succeeds
    assert "2 jobs, 0 done, 0 still active, 2 to start" in jobs(tmp_path, "retry", "sweep=study", "job=2")
    assert sweep.states == [("done", 0)] * 2
    assert [job["submissions"] for job in sweep.table] == [3, 1]


def test_a_retried_job_waits_for_one_that_still_runs(tmp_path: Path) -> None:
    sweep = study(tmp_path, "one", "next")
    sweep.after = {"next": [0]}
    launcher = sweep.begin(jobs=2)
    until(lambda: began(tmp_path, 1) and sweep.table[0]["state"] == "running")
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait()
    line = [sys.executable, "-m", "launchers.jobs", "retry", "sweep=study", "launcher.jobs=2"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    retry = subprocess.Popen(line, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes)
    assert retry.stdout is not None
    assert retry.stdout.readline() == "sweep multirun/study: 2 jobs, 0 done, 1 still active, 1 to start\n"
    until(lambda: sweep.table[1]["state"] == "waiting")
    assert not began(tmp_path, 2)
    (tmp_path / "go").touch()
    output = retry.communicate(timeout=120)[0]
    assert retry.returncode == 0 and sweep.states == [("done", 0)] * 2, output


def test_jobs_without_their_launcher_are_told_as_it_would_and_cancelled(tmp_path: Path) -> None:
    sweep = study(tmp_path, "one", "two", "three")
    launcher = sweep.begin(jobs=2)
    until(lambda: began(tmp_path, 1) and began(tmp_path, 2) and [job["state"] for job in sweep.table][1] == "running")
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait()
    killed = psutil.Process(int(sweep.table[0]["id"].partition("@")[0]))
    killed.kill()
    killed.wait(20)
    before = sweep.table
    output = jobs(tmp_path, "list", "sweep=study")
    assert states(output) == ["lost", "running", "interrupted"]
    assert "job 1 lost: its process was killed without recording an exit code" in output
    assert "1 running, 1 interrupted, 1 lost" in jobs(tmp_path, "list")
    assert sweep.table == before, "nothing is written by looking"
    assert "cancelled" in jobs(tmp_path, "cancel", "sweep=study")
    assert [state for state, _ in sweep.states] == ["lost", "cancelled", "interrupted"]
    assert (tmp_path / "two").exists(), "it saved"


def test_a_log_is_followed_until_its_job_ends(tmp_path: Path) -> None:
    sweep = study(tmp_path, "bad")
    running = sweep.begin()
    until(lambda: began(tmp_path, 1) and sweep.table[0]["state"] == "running")
    line = [sys.executable, "-m", "launchers.jobs", "follow", "sweep=study", "poll_seconds=0.3"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    follow = subprocess.Popen(line, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes)
    assert follow.stdout is not None and follow.stdout.readline() == "began\n"
    (tmp_path / "go").touch()
    assert follow.communicate(timeout=120)[0] == "ended\njob 1 failed: ended\n" and follow.returncode == 1
    sweep.end(running, code=1)


@pytest.mark.parametrize("words", [("follow",), ("list", "watch=true")])
def test_a_command_that_only_looks_ends_with_one_line_and_the_jobs_go_on(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    sweep = study(tmp_path, "one")
    launcher = sweep.begin()
    until(lambda: began(tmp_path, 1) and sweep.table[0]["state"] == "running")
    line = [sys.executable, "-m", "launchers.jobs", *words, "sweep=study"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    looking = subprocess.Popen(line, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes)
    until(lambda: answers_sigterm(looking.pid))
    looking.terminate()
    assert looking.communicate(timeout=60)[1] == "interrupted by SIGTERM: the same command resumes\n"
    assert looking.returncode == 75
    (tmp_path / "go").touch()
    sweep.end(launcher, code=0)


def answers_sigterm(pid: int) -> bool:
    """Return True once a process has a handler of SIGTERM."""
    caught = re.search(r"SigCgt:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())
    return bool(caught and int(caught[1], 16) & 1 << signal.SIGTERM - 1)


@pytest.mark.parametrize("columns", [80, 160])
def test_a_live_table_fits_the_terminal_and_stays_when_all_have_ended(tmp_path: Path, columns: int) -> None:
    sweep = study(tmp_path, "one", "two-with-a-name-" + "which-is-long-" * 8)
    launcher = sweep.begin(jobs=2)
    until(lambda: began(tmp_path, 1) and began(tmp_path, 2) and [job["state"] for job in sweep.table][1] == "running")
    main, side = pty.openpty()
    words = ["-m", "launchers.jobs", "list", "sweep=study", "watch=true", "poll_seconds=0.2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": str(columns), "LINES": "24"}
    files = {"stdin": side, "stdout": side, "stderr": side}
    watching = subprocess.Popen([sys.executable, *words], cwd=tmp_path, env=environment, **files)
    os.close(side)
    text = b""
    while b"2 running" not in text:
        text += os.read(main, 65_536)
    (tmp_path / "go").touch()
    while b"2 done" not in text or watching.poll() is None:
        try:
            text += os.read(main, 65_536)
        except OSError:  # it has ended
            break
    os.close(main)
    assert watching.wait(60) == 0 and b"Traceback" not in text
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.decode()).replace("\r", "").splitlines()
    assert max(map(len, lines)) <= columns
    header = "job  state    epoch  loss   left  choices" if columns == 80 else "job  id "
    assert any(line.startswith("sweep multirun/study: 2 running") for line in lines)
    assert any(" ".join(line.split()).startswith(" ".join(header.split())) for line in lines), lines
    sweep.end(launcher, code=0)


def test_epoch_loss_and_time_left_are_those_of_the_runs_files(tmp_path: Path) -> None:
    """In the third of four epochs, and at the end."""
    seen: list[tuple[Progress, dict[str, Any]]] = []

    def look(step: int, metrics: Metrics) -> Metrics:
        if step == 2 * STEPS_PER_EPOCH + 2:
            [run] = (tmp_path / "outputs").iterdir()
            seen.append((read_progress(run), read_lines(run / "metrics.jsonl")[-1]))
        return metrics

    run = trained(tmp_path, "training.epochs=4", "training.log_every=1", on_step=look)
    [(progress, line)] = seen
    assert (progress.epoch, progress.epochs) == (line["epoch"], 4) and 2 <= line["epoch"] < 3
    assert progress.seconds_left is not None and progress.seconds_left >= 0
    last = [line for line in read_lines(run / "metrics.jsonl") if line["split"] in ("train", "step")][-1]
    assert read_progress(run) == Progress(4, 4, last["loss"], 0.0)
