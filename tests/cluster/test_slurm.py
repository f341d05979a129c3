"""Sweeps on a real SLURM cluster of one node: arrays, failures, preemption, cancellation, refusals."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from instructrl.evaluation.compare import __main__ as compare
from instructrl.inference.batched_agent import load_batched_agent
from instructrl.training.monitoring.metric_writer import read_lines
from tests import paths
from tests.fakes.slurm_cluster import CPUS, UNFIT, Cluster, cluster
from tests.fixtures import tiny
from tests.fixtures.sweeps import Sweep, output_of
from tests.fixtures.waiting import until
from tests.fixtures.xla_flags import xla_flags
from tests.paths import ROOT

GOLDEN = paths.GOLDEN / "slurm_dry_run.txt"
LAUNCHER = ("launcher=slurm_gpu", "launcher.slurm.gpus_per_node=null", "launcher.slurm.memory_gb=null",
            "launcher.slurm.cpus_per_task=1", "launcher.poll_seconds=0.5")  # fmt: skip
needs_slurm = pytest.mark.skipif(bool(UNFIT), reason=UNFIT or "available")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("slurm") / "cluster") as running_cluster:
        yield running_cluster


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of trainings and their demonstrations."""
    return tmp_path_factory.mktemp("studies")


def begin(slurm: Cluster, folder: Path, *words: str) -> subprocess.Popen:
    environment = {**slurm.environment, "XDG_CONFIG_HOME": str(folder), "XLA_FLAGS": xla_flags(devices=1)}
    entry, *rest = words
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL, "text": True}
    return subprocess.Popen([sys.executable, str(ROOT / entry), *rest, *LAUNCHER], cwd=folder, env=environment, **pipes)


def small(slurm: Cluster, folder: Path, programs: dict[str, str]) -> Sweep:
    """Configure a sweep of programs on the cluster."""
    sweep = Sweep(folder, programs, environment=slurm.environment)
    sweep.resources = {"kind": "slurm", "poll_seconds": 0.3}
    sweep.slurm = {"cpus_per_task": 1, "save_seconds": 30}
    return sweep


@needs_slurm
def test_an_array_of_trainings_of_which_one_fails(slurm: Cluster, studies: Path) -> None:
    own = [f"data.dir={studies}/data", f"output_dir={studies}/outputs", "training.epochs=2", "hardware.local_devices=1"]
    words = [*tiny.overrides(studies, *own), "name=run${seed}", "launcher.sweep=array"]
    other = studies / "outputs/run2"
    other.mkdir(parents=True)
    (other / "config.yaml").write_text("seed: 7\n")  # not of a training run: the third job is refused
    output = output_of(begin(slurm, studies, "train.py", "--multirun", *words, "seed=0,1,2"), code=1, timeout=800)
    table = json.loads((studies / "multirun/array/jobs.json").read_text())["jobs"]
    assert [(job["state"], job["exit_code"]) for job in table] == [("done", 0)] * 2 + [("failed", 2)], output
    assert table[2]["error"].startswith(f"error: {other}/config.yaml: ")
    assert f"{table[2]['error']}  [{table[2]['log']}]" in output
    found = slurm.jobs("array")
    assert [job["JobState"] for job in found] == ["COMPLETED"] * 2 + ["FAILED"]
    assert found[2]["ExitCode"] == "2:0"
    assert [f"{job['ArrayJobId']}_{job['ArrayTaskId']}" for job in found] == [job["id"] for job in table]
    evaluated = ",".join(f"{studies}/outputs/run{seed}" for seed in range(2))
    assert f"not evaluated yet: python eval.py --multirun run={evaluated} " in output
    assert "left out: job 3 (seed=2)" in output
    eval_options = ["episodes=2", "conditions=[trained]", "videos=0", "workers=1", "hardware.local_devices=1"]
    words = ["--multirun", f"run={evaluated}", *eval_options, "launcher.sweep=eval"]
    output_of(begin(slurm, studies, "eval.py", *words), code=0, timeout=800)
    for sweep in ("eval", "array"):  # the evaluations were compared at the end, the trainings before them
        if sweep == "array":
            compare.main([str(studies / "multirun/array")])
        numbers = json.loads((studies / f"multirun/{sweep}/comparison.json").read_text())
        [group] = numbers["groups"]
        assert group["seeds"] == [0, 1] and group["conditions"]["trained"]["episodes"] == 4
        assert len(numbers["left_out"]) == (sweep == "array")


def ended_alike(run: Path, other: Path) -> None:
    """Compare two runs bit for bit."""

    def checkpoint(run: Path, which: str) -> tuple[Any, int]:
        hardware = tiny.config(run).hardware
        agent, step = load_batched_agent(run, checkpoint=which, slots=1, steps=6, hardware=hardware)
        return agent.params, step

    for which in ("last", "best"):
        (params, step), (other_params, other_step) = checkpoint(run, which), checkpoint(other, which)
        assert step == other_step
        jax.tree.map(np.testing.assert_array_equal, params, other_params)
    assert read_lines(run / "metrics.jsonl") == read_lines(other / "metrics.jsonl")


@needs_slurm
def test_two_processes_are_preempted_and_end_as_if_undisturbed(slurm: Cluster, studies: Path) -> None:
    """Preempted by SIGUSR2, which SLURM sends before the time limit."""
    own = [f"data.dir={studies}/data", f"output_dir={studies}/outputs", "training.batch_size=6", "training.epochs=80",
           "training.validate_every=20", "launcher.slurm.tasks_per_node=2"]  # fmt: skip
    words = tiny.overrides(studies, *own)

    def train(name: str) -> subprocess.Popen:
        return begin(slurm, studies, "train.py", *words, f"name={name}", f"launcher.sweep={name}")

    disturbed = train("disturbed")
    metrics, log = studies / "outputs/disturbed/metrics.jsonl", studies / "multirun/disturbed"

    def logs() -> str:
        return "".join(path.read_text() for path in log.glob("slurm/*.out"))

    until(lambda: (metrics.exists() and metrics.read_text().count("\n") >= 1) or disturbed.poll() is not None, 600)
    assert disturbed.poll() is None, output_of(disturbed, code=0, timeout=800)
    [job] = slurm.jobs("disturbed")
    slurm.run("scancel", "--signal=USR2", job["JobId"])
    until(lambda: "queued again, 1 of at most 100 times" in logs() or disturbed.poll() is not None, 600)
    assert "done" in output_of(disturbed, code=0, timeout=800)
    assert logs().count("training resumed") == 1 and "of 2 processes" in logs()
    [job] = slurm.jobs("disturbed")
    assert job["JobState"] == "COMPLETED" and job["Restarts"] == "1"
    assert "done" in output_of(train("undisturbed"), code=0, timeout=800)
    ended_alike(studies / "outputs/disturbed", studies / "outputs/undisturbed")


ONE_CPU = (f"--chdir={ROOT}", "--cpus-per-task=1", "--mem=100")
SHARE = """
import json
from instructrl.errors import InputError
from instructrl.local_gpus import gpu_share
try:
    share = gpu_share()
    print(json.dumps([share.visible[number] for number in share.used] + [share.idle] if share else None))
except InputError as error:
    print(json.dumps(str(error)))
"""


@pytest.fixture(scope="module")
def gpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A node with eight GPUs."""
    try:
        with cluster(tmp_path_factory.mktemp("gpus") / "cluster", gpus=8) as running_cluster:
            yield running_cluster
    except PermissionError as error:
        pytest.skip(f"cannot make device files ({error.strerror})")


@needs_slurm
@pytest.mark.parametrize(
    ("words", "shares"),
    [
        ("-n1 --gpus-per-node=8", [[*"01234567", ""]]),
        ("-n4 --gpus-per-node=8", [["0", "1", ""], ["2", "3", ""], ["4", "5", ""], ["6", "7", ""]]),
        ("-n3 --gpus-per-node=8", [["0", "1", "GPUs 6, 7"], ["2", "3", "GPUs 6, 7"], ["4", "5", "GPUs 6, 7"]]),
        ("-n3 --gpus-per-task=1", [["0", ""], ["1", ""], ["2", ""]]),
        ("-n2 --gpus-per-task=2", [["0", "1", ""], ["2", "3", ""]]),
        ("-n2 --gpus-per-node=4 --gpu-bind=map_gpu:3,1", [["1", "2 of the 4 GPUs"], ["3", "2 of the 4 GPUs"]]),
        ("-n2 --gpus-per-task=1 --gpu-bind=none", [["0", ""], ["1", ""]]),
        ("-n2", [None, None]),
    ],
)
def test_tasks_divide_the_gpus_that_slurm_shows_them(gpus: Cluster, words: str, shares: list[Any]) -> None:
    printed = gpus.run("srun", *ONE_CPU, *words.split(), sys.executable, "-c", SHARE)
    assert sorted(map(json.loads, printed.splitlines()), key=str) == sorted(shares, key=str)


@needs_slurm
def test_more_tasks_than_gpus_are_told_by_slurms_variables(gpus: Cluster) -> None:
    words = (*ONE_CPU, "-n3", "--gpus-per-node=2")
    printed = gpus.run("srun", *words, sys.executable, "-c", SHARE).splitlines()
    assert len(printed) == 3 and all(
        "found 3 tasks on this node, which all see 2 GPUs (0, 1)" in one for one in printed
    )


SAVES = """
import os, pathlib, signal, sys, time
def save(*_):
    at.write_text(str(begun + 1))
    sys.exit(75)
at = pathlib.Path({folder!r}) / ("saved-" + os.environ["SLURM_PROCID"])
begun = int(at.read_text()) if at.exists() else 0
if begun == 2:
    print("done", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
signal.signal(signal.SIGUSR2, save)
print(f"began {{begun}}", flush=True)
time.sleep(300)
"""


@needs_slurm
def test_a_preempted_job_is_queued_again(slurm: Cluster, tmp_path: Path) -> None:
    """Preempted by an urgent job (SIGTERM), and by SIGUSR2; both of its processes save."""
    sweep = small(slurm, tmp_path, {"saves": SAVES.format(folder=str(tmp_path))})
    sweep.slurm |= {"tasks_per_node": 2}
    sweep.distributed = True
    running = sweep.begin()

    def logs() -> str:
        return "".join(path.read_text() for path in tmp_path.glob("multirun/study/slurm/*.out"))

    until(lambda: logs().count("began 0") == 2, 600)
    slurm.occupy(1)
    until(lambda: "queued again, 1 of at most 100 times" in logs() and logs().count("began 1") == 2, 600)
    slurm.run("scancel", "--signal=USR2", sweep.table[0]["id"])
    until(lambda: "queued again, 2 of at most 100 times" in logs(), 600)
    sweep.end(running, code=0)
    assert sweep.states == [("done", 0)] and logs().count("done") == 2
    [job] = [job for job in slurm.jobs("study") if job["JobId"] == sweep.table[0]["id"]]
    assert job["JobState"] == "COMPLETED" and job["Restarts"] == "2"


@needs_slurm
def test_a_cancelled_job_ends_the_wait_and_ctrl_c_does_not_end_the_jobs(slurm: Cluster, tmp_path: Path) -> None:
    sweep = small(slurm, tmp_path, {"long": "import time; time.sleep(300)", "fine": "print('fine')"})
    running = sweep.begin()
    until(lambda: (tmp_path / "multirun/study/jobs.json").exists() and sweep.states[0][0] == "running", 600)
    running.send_signal(2)
    assert "the jobs continue; the same command attaches to them again" in sweep.end(running, code=130)
    running = sweep.begin()
    assert running.stdout is not None and " still active, 0 to start" in running.stdout.readline(), "attached"
    slurm.run("scancel", sweep.table[0]["id"])
    output = sweep.end(running, code=1)
    assert sweep.states == [("cancelled", None), ("done", 0)]
    assert "cancelled by scancel or by SLURM" in output
    running = sweep.begin(on_interrupt="cancel")
    until(lambda: sweep.states[0][0] == "running", 600)
    running.send_signal(2)
    assert "interrupted: stopping the jobs, which save first" in sweep.end(running, code=130)
    assert sweep.states == [("cancelled", None), ("done", 0)]
    assert not slurm.run("squeue", "--noheader", "--name=study")


@needs_slurm
def test_what_a_cluster_refuses_or_kills_is_one_line(slurm: Cluster, tmp_path: Path) -> None:
    greedy = "import time; kept = b'x' * 400_000_000; print('began', flush=True); time.sleep(60)"
    sweep = small(slurm, tmp_path, {"greedy": greedy})
    sweep.slurm["memory_gb"] = 0.1
    output = sweep(code=1)
    assert "used more memory than launcher.slurm.memory_gb" in sweep.table[0]["error"], output
    never = "cancelled, as SLURM would never start it: "
    refused = [
        ({"partition": "nowhere"}, "invalid partition specified: nowhere"),
        ({"partition": "closed", "account": "mine"}, f"{never}Job's account not known, so it can't use this partition"),
        ({"cpus_per_task": 1000}, f"{never}PartitionConfig"),
        ({"partition": "short", "minutes": 90}, f"{never}Partition(Config|TimeLimit)"),
    ]
    for number, (settings, line) in enumerate(refused):
        folder = tmp_path / str(number)
        folder.mkdir()
        sweep = small(slurm, folder, {"one": "", "two": ""})
        sweep.slurm |= settings
        output = sweep(code=1)
        assert sweep.states == [("refused", None)] * 2
        assert re.search(line, sweep.table[0]["error"]) and "\n" not in sweep.table[0]["error"], sweep.table


@needs_slurm
def test_a_controller_that_does_not_answer_is_waited_for(slurm: Cluster, tmp_path: Path) -> None:
    resume = tmp_path / "resume"
    sweep = small(
        slurm,
        tmp_path,
        {"long": f"import pathlib, time\nwhile not pathlib.Path({str(resume)!r}).exists(): time.sleep(0.1)"},
    )
    deaf = tmp_path / "bin/squeue"
    deaf.parent.mkdir()
    sweep.environment["PATH"] = f"{deaf.parent}:{sweep.environment['PATH']}"
    running = sweep.begin()
    until(lambda: (tmp_path / "multirun/study/jobs.json").exists() and sweep.states[0][0] == "running", 600)
    deaf.write_text("#!/bin/sh\necho slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1\n")
    deaf.chmod(0o755)
    assert running.stdout is not None
    output = ""
    while "squeue: slurm_load_jobs error: Unable to contact slurm controller; the jobs continue" not in output:
        line = running.stdout.readline()
        assert line, output
        output += line
    assert sweep.states == [("running", None)]
    resume.touch()
    sweep.end(running, code=0)
    assert sweep.states == [("done", 0)]


def test_without_a_cluster_it_is_one_line(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, {"one": "", "two": ""}, environment={**os.environ, "PATH": "/nowhere"})
    sweep.resources = {"kind": "slurm", "poll_seconds": 0.3}
    output = sweep(code=1)
    assert "sbatch: not found here; launch from a node of a SLURM cluster, or with launcher=local" in output
    assert sweep.states == [("refused", None)] * 2


def test_a_dry_run_shows_the_script_that_a_cluster_would_get(tmp_path: Path) -> None:
    """python train.py ... --dry-run, with the paths of this checkout and of Python replaced."""
    words = ["experiment=quickstart", "seed=0,1", "launcher=slurm_a100", "launcher.slurm.partition=gpus",
             "launcher.slurm.account=lab", "launcher.slurm.setup=[module load cuda]"]  # fmt: skip
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    line = [sys.executable, str(ROOT / "train.py"), *words, "--multirun", "--dry-run"]
    ran = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    text = ran.stdout
    for path, name in ((sys.executable, "PYTHON"), (str(ROOT), "SUITE"), (str(tmp_path), "HERE")):
        text = text.replace(path, name)
    assert text == GOLDEN.read_text()
    assert CPUS and not [*tmp_path.iterdir()]
