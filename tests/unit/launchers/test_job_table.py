"""The table of a sweep's jobs: text, and jobs that are known from an earlier start."""

import json
from pathlib import Path
from typing import Any

import pytest

from instructrl.config.launcher import LauncherConfig
from instructrl.errors import InputError
from launchers.job import JobSpec
from launchers.job_table import (
    Job,
    describe_exit_code,
    distinguishing_overrides,
    format_table,
    merge_jobs,
    read_table,
    reason_for_exit,
    write_table,
)


def spec(*overrides: str) -> JobSpec:
    return JobSpec(("train.py", *overrides), "outputs/run", "name", overrides, LauncherConfig(name="local"))


def recorded(folder: Path, **fields: Any) -> list[Job]:
    """Read the table of a sweep with one job of these fields."""
    job = {"number": 1, "name": "a", "overrides": [], "run": "outputs/run", "state": "done", "exit_code": 0} | fields
    (folder / "jobs.json").write_text(json.dumps({"sweep": "x", "command": "y", "jobs": [job]}))
    return read_table(folder)


def test_the_table_is_read_at_a_glance() -> None:
    jobs = [
        Job(1, "a", ["task=x", "seed=0"], "r", id="7@1.5", state="done", exit_code=0),
        Job(12, "b", ["task=x", "seed=1"], "r", state="refused", error="no such partition", log="l"),
    ]
    assert format_table(jobs).splitlines() == [
        "job  id  state    exit  choices",
        "1    7   done     0     seed=0",
        "12   -   refused        seed=1",
        "     no such partition  [l]",
    ]
    assert distinguishing_overrides(jobs[0], jobs[:1]) == "task=x seed=0"
    evaluations = [Job(3 + seed, "e", [f"run=r{seed}", "episodes=9"], "r", entry=["eval.py"]) for seed in (0, 1)]
    together = [*jobs, *evaluations]
    assert [distinguishing_overrides(job, together) for job in together] == ["seed=0", "seed=1", "run=r0", "run=r1"]
    assert describe_exit_code(143) == "killed by signal 15" and describe_exit_code(3) == "exit code 3"


def test_an_exit_code_sets_the_state() -> None:
    job = Job(1, "x", [], "run")
    job.record_exit(75)
    assert job.state == "interrupted"


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    jobs = [Job(3, "a", ["optimizer.ema=0.9", "seed=0"], "r", state="running", id="7@1.5", submissions=2)]
    write_table(tmp_path, jobs, command="python train.py")
    assert read_table(tmp_path) == jobs
    assert read_table(tmp_path / "new") == []


@pytest.mark.parametrize("text", ["{", "[]", '{"jobs": [{}]}', '{"jobs": [{"number": 1, "overrides": 3}]}'])
def test_a_damaged_table_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "jobs.json").write_text(text)
    with pytest.raises(InputError, match=r"jobs\.json: damaged; remove it"):
        read_table(tmp_path)


def test_a_job_is_known_by_its_overrides(tmp_path: Path) -> None:
    known = recorded(tmp_path, number=4, overrides=["seed=0"])
    same, new = merge_jobs(known, [spec("seed=0"), spec("seed=1")])
    assert same is known[0] and (new.number, new.state) == (5, "new")
    evaluation = JobSpec(("eval.py", "seed=0"), "outputs/run", "name", ("seed=0",), LauncherConfig(name="local"))
    assert merge_jobs([same, new], [evaluation])[0].number == 6, "the same choices of another command"


def test_every_attempt_has_an_outcome_of_its_own(tmp_path: Path) -> None:
    jobs = merge_jobs([], [spec("seed=0"), spec("seed=1")])
    for job in jobs:
        job.begin_attempt("local", "a")
    outcomes = {job.outcome(tmp_path) for job in jobs}
    jobs[0].begin_attempt("local", "b")
    jobs[1].number = jobs[0].number  # in a table that was removed and made again
    jobs[1].begin_attempt("local", "b")
    assert len(outcomes | {job.outcome(tmp_path) for job in jobs}) == 4


@pytest.mark.parametrize(
    ("logs", "reason"),
    [
        (["error: old\nstep 3"], "killed (signal 9): out of memory, or manually"),
        (["step 3"], "killed (signal 9): out of memory, or manually"),
        (["step 3\nerror: no data\nslurmstepd: error: *** STEP 1.0 CANCELLED ***", "step 3"], "error: no data"),
        (
            ["3\nslurmstepd: error: *** STEP 1.0 CANCELLED DUE TO TIME LIMIT ***"],
            "slurmstepd: error: *** STEP 1.0 CANC",
        ),
        (["error: old\n--- submitted again ---\n"], "killed (signal 9): out of memory, or manually"),
        (["error: x\n3", "slurmstepd: error: Exceeded job memory limit"], "killed: it used more memory than launcher"),
    ],
)
def test_a_killed_job_is_not_blamed_on_what_it_wrote_last(tmp_path: Path, logs: list[str], reason: str) -> None:
    for number, text in enumerate(logs):
        (tmp_path / f"{number}.log").write_text(f"{text}\n")
    assert reason_for_exit(137, str(tmp_path / "*.log")).startswith(reason)
    (tmp_path / "0.log").write_text("step 3\nno such file\n")
    assert reason_for_exit(1, str(tmp_path / "0.log")) == "no such file"


@pytest.mark.parametrize(
    ("former", "current"),
    [
        ("hardware.process=1", "hardware.process_id=1"),
        ("training.sentences=3", "training.max_instructions=3"),
        ("rows=[trained,held_out]", "conditions=[trained,held_out_instructions]"),
        ("rows=removed", "conditions=no_instruction"),
        ("protocol=ours", "protocol=default"),
        ("objective=masked", "objective=masked_pretraining"),
        ("protocol.rows=[swapped]", "protocol.conditions=[swapped_instruction]"),
        ("name=rows=ours", "name=rows=ours"),
        ("protocol.name=ours-2", "protocol.name=ours-2"),
    ],
)
def test_a_job_that_was_recorded_with_former_names_is_known(tmp_path: Path, former: str, current: str) -> None:
    known = recorded(tmp_path, overrides=["seed=0", former])
    assert known[0].overrides == ["seed=0", current]
    assert merge_jobs(known, [spec("seed=0", current)]) == known
