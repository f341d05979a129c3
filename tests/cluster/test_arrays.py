"""Sweeps with more jobs than a real SLURM cluster allows in one array."""

import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.slurm_cluster import UNFIT, Cluster, cluster
from tests.fixtures.sweeps import Sweep
from tests.fixtures.waiting import until

pytestmark = pytest.mark.skipif(bool(UNFIT), reason=UNFIT or "available")
ARRAY_SIZE, JOBS, SIZES = 3, 7, [2, 2, 3]  # of the cluster, of the sweep, and of its arrays
WAITS = "import pathlib, time\nwhile not pathlib.Path({go!r}).exists(): time.sleep(0.1)\n"
INTERRUPTED_ONCE = "import pathlib\none = pathlib.Path({mark!r})\nif not one.exists(): one.touch(); exit(75)\n"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("slurm") / "cluster", array_size=ARRAY_SIZE) as running_cluster:
        yield running_cluster


def sweep_on(slurm: Cluster, folder: Path, program: str) -> Sweep:
    sweep = Sweep(folder, {f"job{number}": program for number in range(JOBS)}, environment=slurm.environment)
    sweep.resources = {"kind": "slurm", "poll_seconds": 0.2, "wait": False}
    sweep.slurm = {"cpus_per_task": 1, "save_seconds": 30, "parallel": 3}
    return sweep


def arrays(sweep: Sweep) -> list[int]:
    """Return the number of jobs of each array, in order of submission."""
    sizes = Counter(int(job["id"].partition("_")[0]) for job in sweep.table)
    return [sizes[number] for number in sorted(sizes)]


def queue(slurm: Cluster, sweep: Sweep) -> list[str]:
    """Return the state and the reason of each of a sweep's jobs in the queue."""
    numbers = ",".join({job["id"].partition("_")[0] for job in sweep.table})
    lines = slurm.run("squeue", "--array", "--noheader", "--format=%T %r", f"--jobs={numbers}")
    return sorted(line.strip() for line in lines.splitlines())


def submitted(slurm: Cluster, folder: Path) -> int:
    """Count the jobs of a folder that were ever submitted."""
    lines = slurm.run("squeue", "--array", "--noheader", "--states=all", "--format=%o").splitlines()
    return sum(line.startswith(f"{folder}/") for line in lines)


def test_more_jobs_than_an_array_takes_are_several_of_one_sweep(slurm: Cluster, tmp_path: Path) -> None:
    """One job is requeued, one fails, the third array is cancelled, and the same command submits what is missing."""
    go = tmp_path / "go"
    sweep = sweep_on(slurm, tmp_path, WAITS.format(go=str(go)))
    sweep.programs["job1"] += INTERRUPTED_ONCE.format(mark=str(tmp_path / "interrupted"))
    sweep.programs["job2"] += "exit(4)"
    assert f"{JOBS} jobs, 0 done, 0 still active, {JOBS} to start" in sweep()
    assert arrays(sweep) == SIZES
    limited = ["PENDING JobArrayTaskLimit"] * (JOBS - 3) + ["RUNNING None"] * 3
    until(lambda: queue(slurm, sweep) == limited, 120)  # on four CPUs, with launcher.slurm.parallel=3
    running = sweep.begin(wait=True)
    assert running.stdout is not None
    assert f"{JOBS} jobs, 0 done, {JOBS} still active, 0 to start" in running.stdout.readline(), "attached"
    slurm.run("scancel", sweep.table[-1]["id"].partition("_")[0])
    go.touch()
    sweep.end(running, code=1)
    log = Path(sweep.table[1]["log"].replace("*", "0"))
    expected = [("done", 0)] * 2 + [("failed", 4), ("done", 0)] + [("cancelled", None)] * 3
    assert sweep.states == expected and "queued again, 1 of" in log.read_text()
    sweep.programs["job2"] = ""
    assert f"{JOBS} jobs, 3 done, 0 still active, 4 to start" in sweep(wait=True)
    assert sweep.states == [("done", 0)] * JOBS
    assert [job["submissions"] for job in sweep.table] == [1, 1, 2, 1, 2, 2, 2]


def test_ctrl_c_cancels_the_jobs_of_all_arrays(slurm: Cluster, tmp_path: Path) -> None:
    sweep = sweep_on(slurm, tmp_path, WAITS.format(go=str(tmp_path / "go")))
    running = sweep.begin(wait=True, on_interrupt="cancel")
    table = tmp_path / "multirun/study/jobs.json"
    until(lambda: table.exists() and any(state == "running" for state, _ in sweep.states), 120)
    running.send_signal(signal.SIGINT)
    sweep.end(running, code=130)
    assert sweep.states == [("cancelled", None)] * JOBS and not queue(slurm, sweep)


def test_a_launcher_that_is_killed_between_arrays_submits_the_others_next_time(slurm: Cluster, tmp_path: Path) -> None:
    sweep = sweep_on(slurm, tmp_path, "")
    sbatch = tmp_path / "bin/sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(
        f'#!/bin/sh\n[ ! -e {tmp_path}/first ] || kill -9 $PPID\ntouch {tmp_path}/first\nexec /usr/bin/sbatch "$@"\n'
    )
    sbatch.chmod(0o755)
    sweep.environment["PATH"] = f"{sbatch.parent}:{sweep.environment['PATH']}"
    sweep(code=-signal.SIGKILL)
    assert [bool(job["id"]) for job in sweep.table] == [True] * 2 + [False] * 5
    until(lambda: submitted(slurm, tmp_path) >= 4, 120)  # the second one's sbatch outlives its launcher
    sbatch.unlink()
    assert re.search(r"7 jobs, \d done, \d still active, 3 to start", sweep())
    sweep(wait=True)
    assert sweep.states == [("done", 0)] * JOBS and submitted(slurm, tmp_path) == JOBS


def test_fewer_jobs_at_a_time_than_arrays_are_refused(slurm: Cluster, tmp_path: Path) -> None:
    sweep = sweep_on(slurm, tmp_path, "")
    sweep.slurm["parallel"] = 2
    output = sweep(code=2)
    assert "launcher.slurm.parallel: found 2, but the jobs are 3 arrays" in output and "allowed: at least 3" in output
    assert not (tmp_path / "multirun/study/jobs.json").exists()
    sweep.slurm["parallel"] = 4
    printed = sweep(dry_run=True)
    assert re.findall("--array=(.*)", printed) == ["0-1%2", "0-1%1", "0-2%1"]
    assert re.findall("# job (.):", printed) == [*"1234567"]
