"""Sweeps on SkyPilot, whose command `sky` is a stand-in: states, killed launchers, refusals, secrets and scripts."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from instructrl.config.launcher import LauncherConfig
from instructrl.config.skypilot import SkyPilotConfig
from launchers.job import JobSpec
from launchers.skypilot.task import run_script
from tests.fakes.sky import FakeSky
from tests.fixtures.secrets import KEY
from tests.fixtures.sweeps import Sweep
from tests.fixtures.waiting import until

NODE = "(instructrl-001, pid=1234) "


@pytest.fixture
def sky(tmp_path: Path) -> FakeSky:
    return FakeSky(tmp_path / "sky")


def sweep_on(sky: FakeSky, folder: Path, *names: str) -> Sweep:
    """Configure a sweep whose commands return at once."""
    sweep = Sweep(folder, dict.fromkeys(names, "print('fine')"), environment=sky.environment)
    sweep.resources = {"kind": "skypilot", "poll_seconds": 0.1, "wait": False}
    return sweep


def errors(sweep: Sweep) -> list[str]:
    return [job["error"] for job in sweep.table]


def test_states_and_logs_are_those_of_skypilot_and_the_same_command_starts_what_failed(
    sky: FakeSky, tmp_path: Path
) -> None:
    sweep = sweep_on(sky, tmp_path, "one", "two", "three", "four")
    assert "4 jobs, 0 done, 0 still active, 4 to start" in sweep()
    assert sweep.states == [("waiting", None)] * 4 and [job["id"] for job in sweep.table] == ["1", "2", "3", "4"]
    sky.set(1, "STARTING", reason="looks for\nL4 in gcp")
    sky.set(2, "RUNNING")
    sky.set(3, "RECOVERING")
    sky.set(4, "A_NEW_STATUS")
    assert "4 jobs, 0 done, 4 still active, 0 to start" in sweep()
    assert [state for state, _ in sweep.states] == ["waiting", "running", "running", "waiting"]
    waits, none, again, unknown = errors(sweep)
    assert waits == "waits: looks for L4 in gcp" and none == "" and again.startswith("is started again: ")
    assert unknown.startswith("SkyPilot reports A_NEW_STATUS, which this version does not know")
    sky.set(1, "SUCCEEDED", log=f"sky says\n{NODE}epoch 1\n{NODE}instructrl: exit code 0\n")
    sky.set(2, "FAILED", log=f"{NODE}\x1b[1merror: data.dir: gone\x1b[0m\n{NODE}instructrl: exit code 2\nfinished\n")
    sky.set(3, "FAILED_NO_RESOURCE", reason="no H100 anywhere")
    sky.set(4, "CANCELLED")
    assert "4 jobs, 1 done, 0 still active, 3 to start" in sweep()
    assert sweep.states[1:] == [("waiting", None)] * 3 and sky.launches() == 7, "what ended badly is started again"
    assert sweep.states[0] == ("done", 0) and Path(sweep.table[0]["log"]).read_text() == "epoch 1\n"


def test_each_end_has_its_reason(sky: FakeSky, tmp_path: Path) -> None:
    sweep = sweep_on(sky, tmp_path, "one", "two", "three", "four", "five")
    running = sweep.begin(wait=True)
    until(lambda: len(sky.jobs) == 5, 120)
    lost = (
        f"{NODE}error: data.dir: gone\n{NODE}instructrl: exit code 2\n(two, rank=1, pid=9) instructrl: exit code 137\n"
    )
    sky.set(1, "FAILED", log=lost)
    sky.set(2, "FAILED_NO_RESOURCE", reason="no H100 anywhere")
    sky.set(3, "CANCELLED")
    sky.set(4, "FAILED", reason="its machine was lost")
    sky.set(5, "FAILED", log=f"{NODE}saved\n{NODE}instructrl: exit code 75\n")
    output = sweep.end(running, code=1)
    assert sweep.states == [("failed", 2), ("failed", None), ("cancelled", None), ("failed", None), ("interrupted", 75)]
    first, second, _, fourth, _ = errors(sweep)
    assert first == "error: data.dir: gone" and fourth == "its machine was lost"
    assert second.startswith("no cloud has these resources now; change") and "no H100 anywhere" in second
    assert "1 of 5 jobs were interrupted: the same command resumes them" in output


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_job_is_started_once_although_the_launcher_was_killed(sky: FakeSky, tmp_path: Path, moment: str) -> None:
    sweep = sweep_on(sky, tmp_path, "one")
    if moment == "after":
        sky.behave("kill")
        sweep(code=-signal.SIGKILL)
        sky.behave("kill", on=False)
    else:  # its `sky` lives on, and starts the job later
        sky.behave("wait")
        running = sweep.begin()
        until(lambda: sky.launches() == 1, 120)
        running.kill()
        running.communicate(timeout=120)
    again = sweep.begin(wait=True)
    if moment == "before":
        until(lambda: len(sky.calls) > 5, 120)  # more queries than a job may be missing from
        sky.behave("wait", on=False)
    until(lambda: len(sky.jobs) == 1, 120)
    sky.set(1, "SUCCEEDED")
    assert "0 to start" in sweep.end(again, code=0)
    assert sweep.states == [("done", 0)] and sky.launches() == 1
    assert [job["submissions"] for job in sweep.table] == [1]


def test_a_refusal_is_that_of_all_jobs_and_an_unanswered_launch_is_asked_for(sky: FakeSky, tmp_path: Path) -> None:
    sweep = sweep_on(sky, tmp_path, "one", "two")
    sky.behave("refuse", "Catalog does not contain any instances satisfying the request")
    sweep(code=1)
    assert sweep.states == [("refused", None)] * 2 and sky.launches() == 1
    assert set(errors(sweep)) == {
        "sky jobs launch: Error: Catalog does not contain any instances satisfying the request"
    }
    sky.behave("refuse", "Connection aborted by the API server")
    sweep(code=1, wait=True)
    assert sweep.states == [("refused", None)] * 2 and sky.launches() == 3, "each may have been started"
    sky.behave("refuse", on=False)
    sweep()
    assert sweep.states == [("waiting", None)] * 2
    (sky.bin / "sky").unlink()
    sweep.environment["PATH"] = "/usr/bin:/bin"
    sweep.programs = {"three": "print('fine')"}
    output = sweep(code=1)
    assert sweep.table[2]["error"].startswith("sky: not found; install SkyPilot with: uv tool install 'skypilot[")
    assert [state for state, _ in sweep.states] == ["waiting", "waiting", "refused"] and "sky: not found" in output


def test_jobs_continue_while_skypilot_is_silent_and_after_ctrl_c_unless_they_are_to_be_cancelled(
    sky: FakeSky, tmp_path: Path
) -> None:
    sweep = sweep_on(sky, tmp_path, "one")
    sweep()
    sky.behave("silent", "the API server is down")
    running = sweep.begin(wait=True)
    until(lambda: len(sky.calls) > 6, 120)
    running.send_signal(signal.SIGINT)
    output = sweep.end(running, code=130)
    assert "the API server is down; the jobs continue, and SkyPilot is asked until it answers" in output
    words = [sys.executable, "-m", "launchers.jobs", "list", "sweep=study"]
    listed = subprocess.run(words, cwd=tmp_path, env=sweep.environment, capture_output=True, text=True, timeout=120)
    assert "sky jobs queue does not answer here: states of SkyPilot jobs are as recorded" in listed.stdout, listed
    sky.behave("silent", on=False)
    assert sweep.states == [("waiting", None)] and sky.jobs[0]["status"] == "PENDING"
    before = len(sky.calls)
    running = sweep.begin(wait=True, on_interrupt="cancel")
    until(lambda: len(sky.calls) > before + 1, 120)
    running.send_signal(signal.SIGINT)
    sweep.end(running, code=130)
    assert sky.jobs[0]["status"] == "CANCELLED" and sweep.states == [("cancelled", None)] and sky.launches() == 1


def test_a_job_whose_controller_was_deleted_is_lost(sky: FakeSky, tmp_path: Path) -> None:
    sweep = sweep_on(sky, tmp_path, "one")
    running = sweep.begin(wait=True)
    until(lambda: sky.launches() == 1 and sweep.table[0]["id"] == "1", 120)
    sky.behave("silent", "sky.exceptions.ClusterDoesNotExist: Cluster 'sky-jobs-controller-f' does not exist.")
    sweep.end(running, code=1)
    assert sweep.states == [("lost", None)] and errors(sweep) == ["SkyPilot knows no job 1 any more"]


def test_secrets_go_by_name_and_no_file_has_their_values(sky: FakeSky, tmp_path: Path) -> None:
    sweep = sweep_on(sky, tmp_path, "one")
    sweep.environment["WANDB_API_KEY"] = KEY
    sweep()
    [call] = [call for call in sky.calls if call["words"][1] == "launch"]
    assert "--secret=WANDB_API_KEY" in call["words"] and call["secrets"]["WANDB_API_KEY"] == KEY
    [path] = (tmp_path / "multirun/study/skypilot").glob("*.yaml")
    assert yaml.safe_load(path.read_text())["secrets"]["WANDB_API_KEY"] is None and path.stat().st_mode & 0o77 == 0
    assert not [
        each for each in tmp_path.rglob("*") if each.is_file() and each.name != "calls" and KEY in each.read_text()
    ]


def run_on_nodes(folder: Path, script: str, nodes: int, code: int = 0) -> list[subprocess.CompletedProcess]:
    """Run a task's script on each node, where Python prints its arguments."""
    python = folder / ".venv/bin/python"
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text(f'#!/bin/sh\nfor word in "$@"; do echo "$word"; done\nexit {code}\n')
    python.chmod(0o755)
    found = []
    for rank in range(nodes):
        environment = {**os.environ, "SKYPILOT_NUM_NODES": str(nodes), "SKYPILOT_NODE_RANK": str(rank)}
        environment["SKYPILOT_NODE_IPS"] = "\n".join(f"10.0.0.{number}" for number in range(5, 5 + nodes))
        found.append(
            subprocess.run(
                ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
            )
        )
    return found


def test_the_script_connects_the_nodes_of_a_training_and_keeps_words_and_exit_code(tmp_path: Path) -> None:
    resources = LauncherConfig("x", "skypilot", skypilot=SkyPilotConfig(accelerators="H100:8", nodes=2))
    words = ("train.py", "experiment=quickstart", "name=a b'c$HOME")
    spec = JobSpec(words, "/mnt/x", "one", words[1:], resources, True)
    first, second = run_on_nodes(tmp_path, run_script(spec), 2, code=3)
    shared = [*words, "hardware=gpu", "hardware.coordinator=10.0.0.5:8476", "hardware.num_processes=2"]
    end = "instructrl: exit code 3"
    assert first.stdout.splitlines() == [*shared, "hardware.process_id=0", end] and first.returncode == 3
    assert second.stdout.splitlines() == [*shared, "hardware.process_id=1", end] and not second.stderr
    [only] = run_on_nodes(tmp_path, run_script(spec), 1)
    assert only.stdout.splitlines() == [*words, "hardware=gpu", "instructrl: exit code 0"]
    own = JobSpec((*words, "hardware.coordinator=auto"), "/mnt/x", "one", words[1:], resources, True)
    assert "hardware.num_processes" not in run_on_nodes(tmp_path, run_script(own), 2)[1].stdout
    alone = JobSpec(("eval.py", "run=/mnt/x"), "/mnt/x", "one", (), resources)
    first, second = run_on_nodes(tmp_path, run_script(alone), 2)
    assert first.stdout.splitlines() == ["eval.py", "run=/mnt/x", "instructrl: exit code 0"] and second.stdout == ""
