"""Submissions to a real SLURM cluster that go wrong: no answer, killed launchers, forgotten and lost jobs."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from instructrl.config.launcher import LauncherConfig
from instructrl.errors import RunError
from launchers import slurm_commands
from launchers.job import JobSpec
from launchers.job_table import merge_jobs
from launchers.slurm import Slurm
from tests.fakes.slurm_cluster import UNFIT, Cluster, cluster
from tests.fixtures.sweeps import Sweep
from tests.fixtures.waiting import until

needs_slurm = pytest.mark.skipif(bool(UNFIT), reason=UNFIT or "available")
FINE = "print('fine')"
WAITS = "import pathlib, time\nwhile not pathlib.Path({go!r}).exists(): time.sleep(0.1)"
TIMED_OUT = "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("slurm") / "cluster") as running_cluster:
        yield running_cluster


def sweep_on(slurm: Cluster, folder: Path, programs: dict[str, str]) -> Sweep:
    """Configure a sweep whose commands return at once."""
    sweep = Sweep(folder, programs, environment=slurm.environment)
    sweep.resources = {"kind": "slurm", "poll_seconds": 0.2, "wait": False}
    sweep.slurm = {"cpus_per_task": 1, "save_seconds": 30}
    return sweep


def replace_command(folder: Path, name: str, text: str, sweep: Sweep | None = None) -> Path:
    """Put a script before one of SLURM's commands."""
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    if sweep is not None and str(path.parent) not in sweep.environment["PATH"]:
        sweep.environment["PATH"] = f"{path.parent}:{sweep.environment['PATH']}"
    return path


def submitted(slurm: Cluster, folder: Path) -> list[str]:
    """Return the IDs of all jobs of a folder."""
    return [job["JobId"] for job in slurm.jobs("study") if job["Command"].startswith(f"{folder}/")]


@needs_slurm
@pytest.mark.parametrize(
    ("variables", "line"),
    [
        (
            {"SBATCH_EXPORT": "NONE", "SLURM_EXPORT_ENV": "NONE"},
            "SBATCH_EXPORT=NONE, SLURM_EXPORT_ENV=NONE: left out",
        ),
        (
            {"SBATCH_EXPORT": "HOME,LANG"},
            "SBATCH_EXPORT=HOME,LANG: left out; jobs inherit the environment of this",
        ),
        ({"SBATCH_EXPORT": "ALL,MY_OTHER=1"}, ""),
    ],
)
def test_jobs_get_the_environment_although_sbatch_is_told_to_withhold_it(
    slurm: Cluster, tmp_path: Path, variables: dict[str, str], line: str
) -> None:
    sweep = sweep_on(slurm, tmp_path, {"one": "import os; assert os.environ['MY_KEY'] == 'here'"})
    sweep.environment = {**sweep.environment, **variables, "MY_KEY": "here"}
    printed = sweep(wait=True)
    assert sweep.states == [("done", 0)]
    assert line in printed and ("left out" in printed) == bool(line)


@needs_slurm
def test_a_job_that_a_command_does_not_list_keeps_its_number_and_its_outcome(slurm: Cluster, tmp_path: Path) -> None:
    go = tmp_path / "go"
    sweep = sweep_on(slurm, tmp_path, {"one": FINE, "two": FINE})
    sweep()
    until(lambda: len([*(tmp_path / "multirun/study/outcomes").glob("*.json")]) == 2, 60)
    two = sweep.programs.pop("two")
    assert "1 jobs, 1 done, 0 still active, 0 to start; 1 more of earlier commands" in sweep()
    sweep.programs["three"] = WAITS.format(go=str(go))
    assert "2 jobs, 1 done, 0 still active, 1 to start" in sweep()
    assert "2 jobs, 1 done, 1 still active, 0 to start" in sweep(), "its number's outcome is not the second job's"
    assert [job["name"] for job in sweep.table] == ["one", "two", "three"]
    assert [state for state, _ in sweep.states][:2] == ["done", "done"] and sweep.states[2][0] in ("waiting", "running")
    sweep.programs = {"one": FINE, "two": two}
    assert "2 jobs, 2 done, 0 still active, 0 to start" in sweep()
    go.touch()
    sweep.programs["three"] = WAITS.format(go=str(go))
    sweep(wait=True)
    assert sweep.states == [("done", 0)] * 3 and len(submitted(slurm, tmp_path)) == 3


@needs_slurm
@pytest.mark.parametrize(
    ("ending", "ended"),
    [(TIMED_OUT, False), ("kill -9 $PPID; sleep 1", False), ("kill -9 $PPID; sleep 1", True)],
    ids=["timed-out", "launcher-killed", "launcher-killed-and-jobs-ended"],
)
def test_a_job_that_sbatch_submitted_without_saying_so_is_not_submitted_again(
    slurm: Cluster, tmp_path: Path, ending: str, ended: bool
) -> None:
    sweep = sweep_on(slurm, tmp_path, {"one": FINE, "two": FINE})  # one that has failed would be submitted again
    sweep.environment["SBATCH_COMMENT"] = "mine"
    sbatch = replace_command(tmp_path, "sbatch", f'/usr/bin/sbatch "$@" >/dev/null\n{ending}', sweep)
    sweep(code=0 if ending == TIMED_OUT else -signal.SIGKILL)
    sbatch.unlink()
    if ended:
        until(lambda: len([*(tmp_path / "multirun/study/outcomes").glob("*.json")]) == 2, 60)
    sweep(wait=True)
    assert sweep.states == [("done", 0)] * 2 and len(submitted(slurm, tmp_path)) == 2
    assert [job["submissions"] for job in sweep.table] == [1, 1]
    assert all(job["id"] and job["id"] in job["log"] for job in sweep.table)


@needs_slurm
def test_a_job_that_sbatch_did_not_submit_is_refused_and_submitted_by_the_next_command(
    slurm: Cluster, tmp_path: Path
) -> None:
    sweep = sweep_on(slurm, tmp_path, {"one": FINE})
    sbatch = replace_command(tmp_path, "sbatch", TIMED_OUT, sweep)
    assert "sbatch: Batch job submission failed: Socket timed out on send/recv operation" in sweep(code=1)
    assert sweep.states == [("refused", None)]
    deaf = replace_command(tmp_path, "squeue", "echo 'squeue: error: no controller' >&2; exit 1", sweep)
    sweep()
    assert sweep.states == [("waiting", None)], "unknown, so not submitted again while SLURM does not answer"
    assert "1 still active, 0 to start" in sweep()
    deaf.unlink()
    sbatch.unlink()
    sweep(wait=True)
    assert sweep.states == [("done", 0)] and len(submitted(slurm, tmp_path)) == 1


@needs_slurm
def test_a_lost_job_is_noticed_without_waiting(slurm: Cluster, tmp_path: Path) -> None:
    sweep = sweep_on(slurm, tmp_path, {"one": FINE})
    sweep()
    table = tmp_path / "multirun/study/jobs.json"
    content = json.loads(table.read_text())
    content["jobs"][0]["id"] = "999999"  # as if SLURM had lost it
    table.write_text(json.dumps(content))
    assert "1 jobs, 0 done, 0 still active, 1 to start" in sweep()
    assert sweep.table[0]["submissions"] == 2 and sweep.table[0]["id"] != "999999"


@needs_slurm
def test_jobs_are_listed_cancelled_and_retried_from_another_folder(slurm: Cluster, tmp_path: Path) -> None:
    program = "import pathlib, sys, time\nprint(sys.argv[1], flush=True)\n"
    (tmp_path / "program.py").write_text(program + WAITS.format(go=str(tmp_path / "go")).partition("\n")[2])
    sweep = sweep_on(slurm, tmp_path, {"one": "", "two": ""})
    sweep.module = "program"
    sweep.command = "python train.py launcher=slurm_gpu launcher.slurm.gpus_per_node=null launcher.slurm.memory_gb=null"
    sweep.command += " launcher.slurm.cpus_per_task=1"
    sweep()

    def jobs(*words: str, code: int = 0) -> str:
        line = [sys.executable, "-m", "launchers.jobs", *words, "sweep=study", f"folder={tmp_path}/multirun"]
        ran = subprocess.run(line, cwd="/", env=sweep.environment, capture_output=True, text=True, timeout=300)
        assert ran.returncode == code and "Traceback" not in ran.stderr, ran.stdout + ran.stderr
        return ran.stdout + ran.stderr

    until(lambda: len([*tmp_path.glob("multirun/study/slurm/*.out")]) == 2, 300)
    assert "2 running" in jobs("list")
    first = sweep.table[0]["id"]
    assert jobs("logs", f"job={first}").splitlines()[-1] == "job=one"
    before = (tmp_path / "multirun/study/jobs.json").read_text()
    environment = {**sweep.environment, "PATH": "/nowhere"}
    away = subprocess.run(
        [sys.executable, "-m", "launchers.jobs", "list"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert "squeue does not answer here: states of SLURM jobs are as recorded" in away.stdout
    assert (tmp_path / "multirun/study/jobs.json").read_text() == before
    assert "cancelled by scancel or by SLURM" in jobs("cancel", "job=job=one")
    assert sweep.states[0] == ("cancelled", None) and "1 running, 1 cancelled" in jobs("list")
    own = [one for one in slurm.jobs("study") if one["Command"].startswith(f"{tmp_path}/")]
    assert [one["JobState"] for one in own] == ["CANCELLED", "RUNNING"]
    (tmp_path / "go").touch()
    assert "1 jobs, 0 done, 0 still active, 1 to start" in jobs("retry", "job=1", "launcher.poll_seconds=0.3")
    until(lambda: len([*tmp_path.glob("multirun/study/outcomes/*.json")]) == 2, 300)
    assert "2 done" in jobs("list")
    assert sweep.states[0] == ("done", 0) and [job["submissions"] for job in sweep.table] == [2, 1]


@needs_slurm
def test_the_exit_code_of_a_job_counts_if_it_cannot_be_recorded(slurm: Cluster, tmp_path: Path) -> None:
    killed = "import os; print('step 3', flush=True); os.kill(os.getpid(), 9)"
    sweep = sweep_on(slurm, tmp_path, {"fine": FINE, "bad": "print('error: no data'); exit(3)", "killed": killed})
    (tmp_path / "multirun/study").mkdir(parents=True)
    (tmp_path / "multirun/study/outcomes").write_text("")
    sweep(code=1, wait=True)
    assert sweep.states == [("done", 0), ("failed", 3), ("failed", 137)]
    reasons = ["", "error: no data", "killed (signal 9): out of memory, or manually"]
    assert [job["error"] for job in sweep.table] == reasons


def test_commands_that_never_answer_are_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script stands for a site's wrapper, whose own process must not stay either."""
    for name in ("sbatch", "squeue", "scancel", "srun"):
        replace_command(tmp_path, name, f"sleep 987 & echo $! >>{tmp_path}/{name}; wait")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(slurm_commands, "ANSWER_SECONDS", 0.5)
    resources = LauncherConfig(name="x", kind="slurm", poll_seconds=0.1, grace_seconds=0)
    spec = JobSpec(("-c", FINE), "run", "one", ("job=one",), resources)
    backend, jobs, started = Slurm(tmp_path / "study", resources), merge_jobs([], [spec]), time.monotonic()
    backend.submit([(jobs[0], spec)], lambda: None)
    assert (jobs[0].state, jobs[0].error) == ("waiting", "sbatch: no answer in 0.5 s"), "it may have been submitted"
    jobs[0].id = "1"
    backend.interrupt(jobs)
    with pytest.raises(RunError, match=r"^squeue: no answer in 0\.5 s$"):
        slurm_commands.query_queue({"1"})
    assert time.monotonic() - started < 20
    for name in ("sbatch", "squeue", "scancel"):
        until(lambda name=name: not any(map(psutil.pid_exists, map(int, (tmp_path / name).read_text().split()))), 10)
