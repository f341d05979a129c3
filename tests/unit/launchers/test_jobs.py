"""The table of jobs from the files of a sweep, and what the command on them refuses."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from instructrl.config.launcher import LauncherConfig
from instructrl.errors import InputError
from launchers.job_table import Job, write_table
from launchers.jobs.__main__ import main
from launchers.jobs.control import job_spec, recorded_launcher
from launchers.jobs.progress import Progress, read_progress
from launchers.jobs.sweep import Sweep
from launchers.jobs.table import Content, Row, jobs_content


def write_sweep(folder: Path, *jobs: Job, command: str = "python train.py", name: str = "study") -> Path:
    """Write the table of a sweep; returns its folder."""
    path = folder / "multirun" / name
    path.mkdir(parents=True, exist_ok=True)
    write_table(path, jobs, command=command, entry=["train.py"])
    return path


def write_run(run: Path, *, metrics: list[dict[str, Any]], speed: list[dict[str, Any]], epochs: int = 10) -> Path:
    """Write the files of a training, the metrics 1000 seconds after 1970."""
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(f"training:\n  epochs: {epochs}\n")
    for name, lines in (("metrics", metrics), ("speed", speed)):
        (run / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    os.utime(run / "metrics.jsonl", (1000, 1000))
    return run


METRICS = [
    {"step": 100, "epoch": 1, "split": "train", "loss": 0.75},
    {"step": 100, "epoch": 1, "split": "val", "loss": 0.5},
    {"step": 150, "epoch": 1.5, "split": "step", "loss": 0.25},
]
SPEED = [
    {"step": 100, "epoch": 1, "split": "speed", "seconds": 300.0, "steps": 100, "share_compiling": 2 / 3},
    {"step": 150, "epoch": 1.5, "split": "speed", "seconds": 50.0, "steps": 50, "share_compiling": 0.0},
]


@pytest.mark.parametrize(("age", "left"), [(0, 850.0), (20, 830.0), (3600, 800.0)])
def test_the_time_left_follows_from_the_rate_without_compilation(tmp_path: Path, age: float, left: float) -> None:
    """It counts down between two lines, and no further: the job may have been stopped in between."""
    run = write_run(tmp_path / "run", metrics=METRICS, speed=SPEED)
    assert read_progress(run, now=1000 + age) == Progress(1.5, 10, 0.25, pytest.approx(left))


def test_damaged_and_missing_files_of_a_run_leave_cells_empty(tmp_path: Path) -> None:
    assert read_progress(tmp_path / "nowhere") == Progress()
    run = write_run(tmp_path / "run", metrics=METRICS, speed=[])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('[]\n{"step": 1}\nnonsense\n{"step": 151, "epoch": 1.51, "spl')
    assert read_progress(run) == Progress(1.5, 10, 0.25, None)
    (run / "config.yaml").write_text("- 1")
    assert read_progress(run) == Progress(1.5, None, 0.25, None)
    (run / "metrics.jsonl").write_text("")
    assert read_progress(run) == Progress()


def test_rows_tell_state_progress_and_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "outputs/a", metrics=METRICS, speed=SPEED)
    (tmp_path / "log").write_text("began\nepisode 3 of 9\n")
    running = {"launcher": "mars", "state": "running"}  # a kind of launcher of another version
    folder = write_sweep(
        Path(),
        Job(1, "a", ["seed=0", "x=1"], "outputs/a", id="managed-7", entry=["train.py"], **running),
        Job(2, "b", ["seed=1", "x=1"], "outputs/a", id="managed-8", log="log", entry=["eval.py"], **running),
        Job(3, "c", ["seed=2", "x=1"], "gs://b/c", id="9", launcher="local", state="failed", error="bad", log="log"),
    )
    sweep = Sweep(folder)
    lines = jobs_content(sweep).lines().splitlines()
    assert lines[0] == (
        "sweep multirun/study: 2 running, 1 failed; launcher mars is unknown here: states of its jobs are as recorded"
    )
    assert [line.split() for line in lines[1:5]] == [
        ["job", "id", "state", "epoch", "loss", "left", "choices"],
        ["1", "managed-7", "running", "1.5/10", "0.25", "13:20", "seed=0"],
        ["2", "managed-8", "running", "-", "-", "-", "seed=1"],
        ["3", "9", "failed", "-", "-", "-", "seed=2"],
    ]
    assert lines[5:] == ["job 2: episode 3 of 9", "job 3 failed: bad  [log]"]
    outcome = sweep.jobs[0].outcome(folder)
    outcome.parent.mkdir()
    outcome.write_text('{"exit_code": 0, "job": "managed-7"}')
    sweep.refresh()
    assert [job.state for job in sweep.jobs] == ["done", "running", "failed"], "a recorded exit code counts"


def test_a_job_whose_process_is_not_there_is_never_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    gone = {"id": f"{os.getpid()}@1.00", "state": "running"}  # another process had that number
    jobs = [Job(number, kind, [kind], "r", launcher=kind, **gone) for number, kind in enumerate(("local", "tpu"), 1)]
    jobs.append(Job(3, "c", ["new"], "r", launcher="local", state="waiting"))
    sweep = Sweep(write_sweep(Path(), *jobs))
    for _ in range(2):  # also if it is looked at again
        assert [job.state for job in sweep.jobs] == ["lost", "lost", "interrupted"]
        sweep.refresh()


def test_looking_at_a_job_that_never_starts_does_not_cancel_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep's own command does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("launchers.slurm.query_queue", lambda ids: {"7": ("PENDING", "BadConstraints")})
    monkeypatch.setattr("launchers.slurm.cancel", lambda ids: pytest.fail("cancelled"))
    sweep = Sweep(write_sweep(Path(), Job(1, "a", [], "r", launcher="slurm", id="7", state="waiting")))
    assert [(job.state, job.error) for job in sweep.jobs] == [("waiting", "waits: BadConstraints")]


def test_a_terminal_shows_the_rows_that_matter_if_there_are_too_many() -> None:
    from rich.console import Console

    rows = [Row((str(number), f"{number}_0", "done", "", "", "", "x=" * 50), "done") for number in range(200)]
    rows[150] = Row(("150", "150_0", "running", "1.5/10", "0.25", "1:00", "seed=1"), "running", "job 150: note")
    content = Content("title", ("job", "id", "state", "epoch", "loss", "left", "choices"), rows)
    for width in (80, 160):
        console = Console(width=width, record=True, file=sys.stderr)
        console.print(content.fitted(width, height=24))
        lines = console.export_text().splitlines()
        assert any("150" in line and "running" in line for line in lines) and "job 150: note" in lines
        assert max(map(len, lines)) <= width and any(line.startswith("and 1") for line in lines)
        assert len(lines) <= 24 and ("id" in lines[1].split()) == (width == 160)
        assert "150" in next(line for line in lines if "1.5/10" in line), "no cell but the last one is cut"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["lits"], "lits: no such command; did you mean list?; see"),
        (["list", "swep=study"], "swep: no such setting; did you mean sweep?"),
        (["list", "study"], "study: cannot be read as key=value; see python -m launchers.jobs --help"),
        (["list", "folder=nowhere"], "folder: found nowhere, no folder; allowed: the folder multirun that a command"),
        (["list", "folder=."], "without sweeps; allowed: a folder with NAME/jobs.json; did you mean folder="),
        (["list", "sweep=studi"], "sweep: found studi, no sweep of "),
        (["list", "sweep=study", "job=1"], "job: found 1; list shows all jobs of a sweep, leave it out"),
        (["list", "sweep=../x"], "sweep: found ../x; allowed: at most 200 letters"),
        (["logs"], "sweep: not set; allowed: study; python -m launchers.jobs list shows them"),
        (["logs", "sweep=study"], "job: not set, with several jobs of multirun/study; allowed: 1 (seed=1), 2 "),
        (["logs", "sweep=study", "job=x=1"], "job: found x=1, the words of several jobs of multirun/study; allowed: 1"),
        (["logs", "sweep=study", "job=3"], "job: found 3, no job of multirun/study; allowed: 1 (seed=1), 2 (seed=10)"),
        (["logs", "sweep=study", "job=seed=1"], "job: found 1, which is done and has no log"),
        (["logs", "sweep=study", "job=1", "lines=0"], "lines: found 0; allowed: "),
        (["cancel", "sweep=study", "launcher.jobs=2"], "launcher.jobs: no setting of cancel; only retry has"),
        (["retry", "sweep=study"], "job: found 2, whose program an earlier version did not record; repeat its command"),
        (["retry", "sweep=study", "launcher=nowhere"], "launcher: found nowhere; "),
    ],
)
def test_what_is_wrong_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    done = {"launcher": "local", "state": "done"}
    (tmp_path / "r").touch()
    jobs = [Job(1, "a", ["seed=1", "x=1"], "r", **done), Job(2, "b", ["seed=10", "x=1"], "missing", **done)]
    write_sweep(tmp_path, *jobs)
    monkeypatch.setattr(sys, "argv", ["jobs", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1 and line in error, error


def test_a_damaged_table_is_a_row_among_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_sweep(tmp_path, Job(1, "a", [], "r", launcher="slurm", id="7", state="done"))
    (write_sweep(tmp_path, name="other") / "jobs.json").write_text("{")
    monkeypatch.setattr(sys, "argv", ["jobs", "list"])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr().out
    assert ended.value.code == 0 and "multirun/other/jobs.json: damaged; remove it" in printed
    assert any(line.split()[:3] == ["study", "slurm", "1"] for line in printed.splitlines())


def test_a_retry_has_the_launcher_of_the_command_and_its_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    job = Job(1, "a", ["seed=1"], "r", launcher="slurm", state="failed")
    words = "launcher=slurm_gpu launcher.slurm.memory_gb=8 launcher.slurm.minutes=7"
    sweep = Sweep(write_sweep(Path(), job, command=f"python train.py --multirun seed=1,2 {words}"))
    resources = recorded_launcher(sweep, [job], ["launcher.slurm.memory_gb=64"])
    assert (resources.kind, resources.sweep, resources.slurm.memory_gb) == ("slurm", "study", 64)
    assert resources.slurm.minutes == 7 and resources.name == "slurm_gpu"
    sweep.command = "python train.py 'launcher.slurm.setup=***'"
    with pytest.raises(InputError, match=r"launcher\.slurm\.setup: its value is confidential and not recorded; add"):
        recorded_launcher(sweep, [job], ["launcher=slurm_gpu"])
    sweep.command = "python train.py"
    with pytest.raises(InputError, match=r"launcher: found local in the last command .* job 1 had kind=slurm; add"):
        recorded_launcher(sweep, [job], [])


def test_jobs_that_follow_others_are_retried_where_they_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    own = {"launcher": "local", "entry": ["train.py"]}
    jobs = [Job(1, "a", ["seed=1"], "r", state="failed", **own), Job(2, "b", ["run=r"], "r", state="cancelled", **own)]
    jobs[1].after = [1]
    before = (write_sweep(tmp_path, *jobs) / "jobs.json").read_bytes()
    monkeypatch.setattr(sys, "argv", ["jobs", "retry", "sweep=study", "job=1", "launcher=skypilot"])
    with pytest.raises(SystemExit) as ended:
        main()
    line = (
        "error: launcher: found skypilot, but job 2 must follow job 1; allowed: launcher=local or a profile of SLURM\n"
    )
    assert ended.value.code == 2 and capsys.readouterr().err == line
    assert (tmp_path / "multirun/study/jobs.json").read_bytes() == before


def test_a_training_is_started_again_with_what_its_launcher_adds(tmp_path: Path) -> None:
    job = Job(4, "d", ["experiment=quickstart", "wandb.mode=offline"], "outputs/d", entry=["train.py"])
    resources = LauncherConfig(name="slurm_gpu", kind="slurm", sweep="study")
    resources.slurm.gpus_per_node = 1
    spec = job_spec(job, resources)
    assert spec.command == ("train.py", *job.overrides, "wandb.group=study", "hardware=gpu")
    assert spec.distributed and (spec.run, spec.name, spec.entry) == ("outputs/d", "d", ("train.py",))
