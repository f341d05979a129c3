"""Sweeps on this machine: parallel jobs, failures, attaching, resuming and interruption."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.fixtures.sweeps import Sweep
from tests.fixtures.waiting import until
from tests.paths import ROOT

FINE = "print('fine')"
NOTES = """
import pathlib, time
at = pathlib.Path({folder!r}) / "{name}"
at.write_text(f"{{time.monotonic()}} ")
time.sleep({seconds})
at.write_text(at.read_text() + str(time.monotonic()))
"""
WAITS = """
import pathlib, time
print("began", flush=True)
while not (pathlib.Path({folder!r}) / "go").exists():
    time.sleep(0.1)
"""
SAVES = """
import pathlib, signal, sys, time
at = pathlib.Path({folder!r}) / "{name}"
if at.exists():
    print("resumed"); sys.exit(0)
signal.signal(signal.SIGTERM, lambda *_: (at.touch(), sys.exit(75)))
print("began", flush=True)
time.sleep(60)
"""


def logs(sweep: Sweep) -> str:
    return "".join(path.read_text() for path in (sweep.folder / "multirun/study/logs").glob("*"))


def process(sweep: Sweep, number: int) -> psutil.Process:
    return psutil.Process(int(sweep.table[number - 1]["id"].partition("@")[0]))


def ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_so_many_run_at_a_time_and_the_table_says_how(tmp_path: Path) -> None:
    names = ("one", "two", "three", "four")
    sweep = Sweep(tmp_path, {name: NOTES.format(folder=str(tmp_path), name=name, seconds=1.5) for name in names})
    output = sweep(jobs=2)
    assert sweep.states == [("done", 0)] * 4
    spans = [tuple(map(float, (tmp_path / name).read_text().split())) for name in names]
    overlaps = [sum(first <= begin < last for first, last in spans) for begin, _ in spans]
    assert max(overlaps) == 2
    assert output.splitlines()[0] == "sweep multirun/study: 4 jobs, 0 done, 0 still active, 4 to start"
    assert "job 4 (job=four) done" in output and output.splitlines()[-1] == "table: multirun/study/jobs.json"
    again = sweep(jobs=2)
    assert "4 jobs, 4 done, 0 still active, 0 to start" in again
    assert [job["submissions"] for job in sweep.table] == [1] * 4


def test_a_failing_job_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    programs = {
        "bad": "import sys; print('much'); print('error: no data in x', file=sys.stderr); sys.exit(2)",
        "killed": "import os, signal; print('error: 1'); print('2', flush=True); os.kill(os.getpid(), signal.SIGKILL)",
        "fine": FINE,
    }
    sweep = Sweep(tmp_path, programs)
    output = sweep(code=1)
    assert sweep.states == [("failed", 2), ("failed", 137), ("done", 0)]
    assert "error: no data in x  [multirun/study/logs/001.log]" in output
    assert "killed (signal 9): out of memory, or manually  [multirun/study/logs/002.log]" in output
    sweep.programs["bad"] = FINE
    del sweep.programs["killed"]
    assert "2 jobs, 1 done, 0 still active, 1 to start" in sweep()
    assert [job["submissions"] for job in sweep.table] == [2, 1, 1], "only missing jobs"
    assert sweep.states == [("done", 0), ("failed", 137), ("done", 0)], "a job of an earlier command is kept"
    (tmp_path / "run").rmdir()
    assert "2 jobs, 0 done, 0 still active, 2 to start" in sweep()


def test_a_job_that_was_interrupted_is_gone_on_with(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, {"long": SAVES.format(folder=str(tmp_path), name="long"), "fine": FINE})
    running = sweep.begin(jobs=2)
    until(lambda: "began" in logs(sweep) and sweep.table[0]["id"])
    process(sweep, 1).terminate()  # as when the machine shuts down
    output = sweep.end(running, code=75)
    assert sweep.states == [("interrupted", 75), ("done", 0)]
    assert "1 of 2 jobs were interrupted: the same command resumes them" in output
    assert "2 jobs, 1 done, 0 still active, 1 to start" in sweep()
    assert sweep.states == [("done", 0)] * 2 and "resumed" in logs(sweep)


@pytest.mark.parametrize(("number", "code", "by"), [(signal.SIGINT, 130, ""), (signal.SIGTERM, 75, " by SIGTERM")])
def test_a_signal_lets_the_jobs_save_and_starts_no_other(
    tmp_path: Path, number: signal.Signals, code: int, by: str
) -> None:
    programs = {name: SAVES.format(folder=str(tmp_path), name=name) for name in ("one", "two", "three")}
    sweep = Sweep(tmp_path, programs)
    running = sweep.begin(jobs=2)
    until(lambda: logs(sweep).count("began") == 2)
    os.kill(running.pid, number)
    output = sweep.end(running, code=code, timeout=30)
    assert f"interrupted{by}: stopping the jobs, which save first" in output
    assert [state for state, _ in sweep.states] == ["interrupted"] * 3 and logs(sweep).count("began") == 2
    assert not (tmp_path / "three").exists() and (tmp_path / "one").exists() and (tmp_path / "two").exists()


def test_a_job_that_does_not_save_in_time_is_killed(tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('began', flush=True); time.sleep(60)"
    sweep = Sweep(tmp_path, {"deaf": deaf})
    running = sweep.begin(grace_seconds=0.5)
    until(lambda: "began" in logs(sweep))
    pid = process(sweep, 1)
    os.kill(running.pid, signal.SIGINT)
    sweep.end(running, code=1, timeout=30)
    assert [state for state, _ in sweep.states] == ["lost"] and ended(pid)


def test_the_same_command_attaches_to_what_runs(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, {"long": WAITS.format(folder=str(tmp_path)), "fine": FINE})
    first = sweep.begin(jobs=1)
    until(lambda: "began" in logs(sweep) and sweep.table[0]["state"] == "running")
    second = sweep(code=2)
    assert second.startswith("error: ") and "launches" in second and len(second.splitlines()) == 1
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    third = sweep.begin(jobs=1)
    assert third.stdout is not None
    assert "2 jobs, 0 done, 1 still active, 1 to start" in third.stdout.readline()
    (tmp_path / "go").touch()
    sweep.end(third, code=0)
    assert sweep.states == [("done", 0)] * 2 and [job["submissions"] for job in sweep.table] == [1, 1]


def test_a_job_whose_process_is_killed_is_lost_and_its_command_ends(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, {"long": SAVES.format(folder=str(tmp_path), name="long")})
    running = sweep.begin()
    until(lambda: "began" in logs(sweep) and sweep.table[0]["id"])
    [child] = process(sweep, 1).children()
    process(sweep, 1).kill()
    output = sweep.end(running, code=1)
    assert "its process was killed without recording an exit code" in output
    until(lambda: ended(child), 10)


def test_a_job_that_a_command_does_not_list_keeps_its_number_and_its_outcome(tmp_path: Path) -> None:
    """Its outcome is no other job's, and the first command attaches to it again."""
    sweep = Sweep(tmp_path, {"one": FINE, "two": WAITS.format(folder=str(tmp_path))})
    first = sweep.begin(jobs=2)
    until(lambda: "began" in logs(sweep) and sweep.states == [("done", 0), ("running", None)])
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    program = sweep.programs.pop("two")
    assert "1 jobs, 1 done, 0 still active, 0 to start; 1 more of earlier commands" in sweep()
    assert sweep.states == [("done", 0), ("running", None)]
    sweep.programs["three"] = (
        f"import pathlib, time\npathlib.Path({str(tmp_path)!r}, 'go').touch()\ntime.sleep(2); exit(3)"
    )
    assert "job 3 (job=three) failed: exit code 3" in sweep(code=1, jobs=2)
    assert sweep.states == [("done", 0), ("done", 0), ("failed", 3)]
    sweep.programs = {"one": FINE, "two": program}
    assert "2 jobs, 2 done, 0 still active, 0 to start" in sweep()
    assert [job["submissions"] for job in sweep.table] == [1, 1, 1]


def test_a_job_is_found_though_its_launcher_was_killed_before_it_noted_the_start(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, {"long": WAITS.format(folder=str(tmp_path))})
    first = sweep.begin()
    until(lambda: "began" in logs(sweep) and sweep.table[0]["state"] == "running")
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    table = tmp_path / "multirun/study/jobs.json"
    before = json.loads(table.read_text())
    before["jobs"][0] |= {"id": "", "state": "waiting", "submissions": 0}  # as it was before the start
    table.write_text(json.dumps(before))
    again = sweep.begin()
    assert again.stdout is not None and "1 still active, 0 to start" in again.stdout.readline()
    (tmp_path / "go").touch()
    sweep.end(again, code=0)


@pytest.mark.parametrize(("name", "state", "reason"), [
    ("outcomes", ("done", 0), ""),
    ("logs", ("refused", None), "multirun/study/logs: cannot be written or started (File exists)"),
])  # fmt: skip
def test_a_folder_of_the_sweep_that_cannot_be_written(tmp_path: Path, name: str, state: object, reason: str) -> None:
    """Without a recorded exit code, that of the process counts."""
    sweep = Sweep(tmp_path, {"fine": FINE})
    (tmp_path / "multirun/study").mkdir(parents=True)
    (tmp_path / "multirun/study" / name).write_text("")
    sweep(code=0 if name == "outcomes" else 1)
    assert sweep.states == [state] and sweep.table[0]["error"] == reason


def test_an_exit_code_that_could_not_be_recorded_is_known_to_a_later_command(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, {"long": f"{WAITS.format(folder=str(tmp_path))}\nprint('no end of line', end='')"})
    (tmp_path / "multirun/study").mkdir(parents=True)
    (tmp_path / "multirun/study/outcomes").write_text("")
    first = sweep.begin()
    until(lambda: "began" in logs(sweep) and sweep.table[0]["state"] == "running")
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    job = process(sweep, 1)
    (tmp_path / "go").touch()
    until(lambda: ended(job))
    assert "1 jobs, 1 done, 0 still active, 0 to start" in sweep()


def test_a_damaged_table_is_one_line(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, {"fine": FINE})
    sweep()
    (tmp_path / "multirun/study/jobs.json").write_text("{")
    output = sweep(code=2)
    assert output.startswith("error: multirun/study/jobs.json: damaged; remove it") and len(output.splitlines()) == 1


def test_a_sweep_of_a_command_goes_through_the_launcher(tmp_path: Path) -> None:
    """Invalid settings of any job are refused before one starts; a dry run prints the commands."""
    root = ROOT
    environment = os.environ | {"XDG_CONFIG_HOME": str(tmp_path)}

    def train(*words: str) -> subprocess.CompletedProcess:
        line = [sys.executable, str(root / "train.py"), *words]
        return subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    wrong = train("--multirun", "experiment=quickstart", "seed=0,1", "policy=vit_debug,vit_huge")
    assert (
        wrong.returncode == 2 and wrong.stderr.startswith("error: policy: found vit_huge") and not [*tmp_path.iterdir()]
    )
    dry = train(
        "--multirun", "--dry-run", "experiment=quickstart", "seed=0,1", "wandb.mode=offline", "launcher.sweep=study"
    )
    assert dry.returncode == 0, dry.stderr
    assert [line.partition("train.py ")[2] for line in dry.stdout.splitlines()] == [
        f"experiment=quickstart seed={seed} wandb.mode=offline wandb.group=study" for seed in (0, 1)
    ]
    assert not [*tmp_path.iterdir()]
