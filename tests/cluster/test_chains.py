"""Evaluations that follow trainings: `launcher.then=eval`, on a real SLURM and on this machine."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.slurm_cluster import UNFIT, Cluster, cluster
from tests.fixtures.sweeps import Sweep
from tests.fixtures.waiting import until
from tests.paths import ROOT

needs_slurm = pytest.mark.skipif(bool(UNFIT), reason=UNFIT or "available")
WAITS = "import time\nwhile not (folder / 'go').exists(): time.sleep(0.1)\n"
FAILS_WHEN_ATTACHED = WAITS.replace("go", "attached") + "exit(3)\n"  # else the next command would start it again
INTERRUPTED_ONCE = "one = folder / 'interrupted'\nif not one.exists(): one.touch(); exit(75)\n"
HEAD = "import pathlib\nfolder = pathlib.Path({folder!r})\n"
TRAIN = "{body}(folder / 'trained{number}').touch()\n"
EVAL = """assert (folder / 'trained{number}').exists()
with (folder / 'evaluated').open('a') as file: file.write('{number}')
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("slurm") / "cluster", array_size=3) as running_cluster:
        yield running_cluster


def chain(folder: Path, bodies: list[str], environment: dict[str, str] | None = None) -> Sweep:
    """Configure trainings with these bodies, and an evaluation of each."""
    head = HEAD.format(folder=str(folder))
    programs = {f"train{n}": head + TRAIN.format(body=body, number=n) for n, body in enumerate(bodies)}
    programs |= {f"eval{n}": head + EVAL.format(number=n) for n in range(len(bodies))}
    sweep = Sweep(folder, programs, environment=environment)
    sweep.after = {f"eval{n}": [n] for n in range(len(bodies))}
    return sweep


def repair(sweep: Sweep, number: int) -> None:
    name = f"train{number}"
    sweep.programs[name] = sweep.programs[name].replace("exit(3)\n", "")


def evaluated(sweep: Sweep) -> list[str]:
    """Return the numbers of the evaluations that were started, one for each time."""
    return sorted((sweep.folder / "evaluated").read_text())


@needs_slurm
def test_an_evaluation_starts_once_its_training_has_succeeded(slurm: Cluster, tmp_path: Path) -> None:
    """Two arrays of trainings, of which one waits, one fails and one is requeued."""
    sweep = chain(tmp_path, [WAITS, FAILS_WHEN_ATTACHED, INTERRUPTED_ONCE, ""], dict(slurm.environment))
    sweep.resources = {"kind": "slurm", "poll_seconds": 0.3, "wait": False}
    sweep.slurm = {"cpus_per_task": 1, "save_seconds": 30}
    assert "8 jobs, 0 done, 0 still active, 8 to start" in sweep()
    assert len({job["id"].partition("_")[0] for job in sweep.table}) == 4, "an array for each array of trainings"
    running = sweep.begin(wait=True)
    assert running.stdout is not None and " still active, 0 to start" in running.stdout.readline(), "attached"
    (tmp_path / "attached").touch()
    until(lambda: (tmp_path / "evaluated").exists() and evaluated(sweep) == ["2", "3"], 120)  # others need not end
    (tmp_path / "go").touch()
    output = sweep.end(running, code=1)
    done = ("done", 0)
    assert sweep.states == [done, ("failed", 3), done, done, done, ("cancelled", None), done, done], output
    assert sweep.table[5]["error"] == "not started, as job 2 did not succeed"
    repair(sweep, 1)
    assert "8 jobs, 6 done, 0 still active, 2 to start" in sweep(wait=True)
    assert sweep.states == [done] * 8 and evaluated(sweep) == ["0", "1", "2", "3"]
    assert "8 jobs, 8 done, 0 still active, 0 to start" in sweep(wait=True)


@needs_slurm
def test_a_launcher_killed_before_the_evaluations_submits_them_next_time(slurm: Cluster, tmp_path: Path) -> None:
    sweep = chain(tmp_path, [WAITS, WAITS], dict(slurm.environment))
    sweep.resources = {"kind": "slurm", "poll_seconds": 0.3}
    sweep.slurm = {"cpus_per_task": 1, "save_seconds": 30}
    sbatch = tmp_path / "bin/sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(
        f"#!/bin/sh\nif [ -e {tmp_path}/first ]; then kill -9 $PPID; exit 1; fi\n"
        f'touch {tmp_path}/first\nexec /usr/bin/sbatch "$@"\n'
    )
    sbatch.chmod(0o755)
    sweep.environment["PATH"] = f"{sbatch.parent}:{sweep.environment['PATH']}"
    sweep(code=-signal.SIGKILL)
    sbatch.unlink()
    running = sweep.begin()
    assert running.stdout is not None and "4 jobs, 0 done, 2 still active, 2 to start" in running.stdout.readline()
    (tmp_path / "go").touch()
    sweep.end(running, code=0)
    assert sweep.states == [("done", 0)] * 4 and evaluated(sweep) == ["0", "1"]


def test_on_this_machine_too(tmp_path: Path) -> None:
    sweep = chain(tmp_path, ["", "exit(3)\n", "exit(75)\n"])
    sweep.resources["jobs"] = 2
    sweep(code=1)
    assert sweep.states[:3] == [("done", 0), ("failed", 3), ("interrupted", 75)]
    assert sweep.states[3:] == [("done", 0), ("cancelled", None), ("interrupted", None)]
    assert sweep.table[4]["error"] == "not started, as job 2 did not succeed"
    repair(sweep, 1)
    sweep.programs["train2"] = sweep.programs["train2"].replace("exit(75)\n", "")
    assert "6 jobs, 2 done, 0 still active, 4 to start" in sweep()
    assert sweep.states == [("done", 0)] * 6 and evaluated(sweep) == ["0", "1", "2"]


def train(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(ROOT / "train.py"), "experiment=quickstart", *words, "--dry-run"]
    environment = {**os.environ, "XDG_CONFIG_HOME": str(folder)}
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_a_dry_run_shows_the_evaluations(tmp_path: Path) -> None:
    chosen = ["launcher.then=eval", "launcher.then_settings={episodes: 100, conditions: '[trained]'}"]
    ran = train(tmp_path, "seed=0,1", "launcher=slurm_a100", *chosen, "--multirun")
    assert ran.returncode == 0, ran.stderr
    first, second = ran.stdout.split("#!/bin/bash")[1:]
    assert "--dependency" not in first and "--ntasks-per-node=4" in first
    for line in ("dependency=aftercorr:JOB", "kill-on-invalid-dep=yes", "array=0-1%2", "ntasks-per-node=1"):
        assert f"#SBATCH --{line}\n" in second
    commands = re.findall(r"# job (\d): \S+ \S+/(\S+) run=outputs/(\S+) (.*)", second)
    assert [(number, entry) for number, entry, *_ in commands] == [("3", "eval.py"), ("4", "eval.py")]
    assert commands[0][3] == "episodes=100 'conditions=[trained]'"
    [line] = [one for one in train(tmp_path, "launcher.then=eval").stdout.splitlines() if "eval.py" in one]
    assert re.search(r"eval.py run=outputs/\S+$", line), "also of a single local training"
