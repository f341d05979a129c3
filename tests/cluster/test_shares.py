"""Commands whose episodes jobs of a real SLURM share: the files are those of one process, also after killed tasks."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from instructrl.commands import collect, evaluate
from launchers.job_table import Job, read_table
from tests.fakes.sim import without_clock
from tests.fakes.slurm_cluster import UNFIT, Cluster, cluster
from tests.fixtures.commands import run_main
from tests.fixtures.tiny import begun, shared_demonstrations
from tests.paths import ROOT

needs_slurm = pytest.mark.skipif(bool(UNFIT), reason=UNFIT or "available")
SETTINGS = ("task=pick_and_lift", "episodes=5", "val_episodes=2", "sim.image_size=16", "sim.cameras=[front]",
            "sim.renderer=raycast", "sim.workers=1")  # fmt: skip
LAUNCHER = ("launcher=slurm_gpu", "launcher.slurm.gpus_per_node=null", "launcher.slurm.memory_gb=null",
            "launcher.slurm.cpus_per_task=1", "launcher.poll_seconds=0.3", "launcher.sweep=study")  # fmt: skip
KILLED_ONCE = "[ -e {mark} ] || [ $SLURM_ARRAY_TASK_ID != 1 ] || { touch {mark}; kill -9 $$; }"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("slurm") / "cluster") as running_cluster:
        yield running_cluster


def jobs(folder: Path) -> list[Job]:
    return read_table(folder / "multirun/study")


def evaluated(run: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The results of an evaluation, and the lines of its episodes in their order, without times, dates and command."""
    results = without_clock(json.loads((run / "eval/results.json").read_text())) | {"command": None}
    [log] = (run / "eval").rglob("episodes.*")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return results, sorted(({**line, "seconds": None} for line in lines), key=str)


def collected(folder: Path) -> dict[str, bytes]:
    """The demonstration files in a folder, parts among them."""
    return {path.name: path.read_bytes() for path in folder.rglob("*.hdf5")}


def launch_twice(slurm: Cluster, folder: Path, *words: str) -> list[str]:
    """Launch a command whose second job is killed, and again; returns what was printed the first and second time."""
    setup = folder / "cfg/instructrl/launcher.yaml"
    setup.parent.mkdir(parents=True)
    setup.write_text(f"slurm:\n  setup: ['{KILLED_ONCE.replace('{mark}', str(folder / 'killed'))}']\n")
    line = [sys.executable, *words, "jobs=2", *LAUNCHER]
    environment = {**slurm.environment, "XDG_CONFIG_HOME": str(folder / "cfg"), "PYTHONPATH": str(ROOT)}
    printed = []
    for code, states, submissions in [
        (1, ["done", "failed", "cancelled"], [1, 1, 1]),
        (0, ["done", "done", "done"], [1, 2, 2]),
    ]:
        ran = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        assert ran.returncode == code and "Traceback" not in ran.stderr, ran.stdout + ran.stderr
        assert [job.state for job in jobs(folder)] == states, ran.stdout
        assert [job.submissions for job in jobs(folder)] == submissions
        printed.append(ran.stdout)
    assert "not started, as job 2 did not succeed" in printed[0]
    assert "3 jobs, 1 done, 0 still active, 2 to start" in printed[1]
    return printed


@needs_slurm
def test_a_collection_is_divided_among_tasks_and_the_same_command_repeats_one_that_was_killed(
    slurm: Cluster, tmp_path: Path
) -> None:
    first, second = launch_twice(slurm, tmp_path, "-m", "data_tools.collect", *SETTINGS, "data.dir=data")
    alone = run_main(collect.main, *SETTINGS, f"data.dir={tmp_path / 'alone'}").stdout
    assert collected(tmp_path / "data") == collected(tmp_path / "alone")
    assert set(collected(tmp_path / "data")) == {"train.hdf5", "val.hdf5"}
    files = [
        line
        for line in alone.replace(str(tmp_path / "alone"), "data").splitlines()
        if line.startswith(("train: ", "val: "))
    ]
    assert len(files) == 2 and second.splitlines()[-2:] == files
    assert f"job 3 writes {', '.join(files)}\n" in first and files[0] not in first.splitlines()


@needs_slurm
def test_an_evaluation_is_divided_among_tasks_and_the_same_command_repeats_one_that_was_killed(
    slurm: Cluster, tmp_path: Path
) -> None:
    run = begun(tmp_path, shared_demonstrations())
    words = (f"run={run}", "episodes=3", "conditions=[trained]", "videos=0", "workers=1")
    first, second = launch_twice(slurm, tmp_path, str(ROOT / "eval.py"), *words)
    divided = evaluated(run)
    shutil.rmtree(run / "eval")
    alone = run_main(evaluate.main, *words)
    assert alone.returncode == 0, alone.stderr
    whole = evaluated(run)
    assert divided[1] == whole[1] and len(whole[1]) == 1 + 3
    assert divided[0] == whole[0]
    report = f"report: {run / 'eval/report.html'}"
    assert second.splitlines()[-1] == report == alone.stdout.splitlines()[-1]
    assert f"job 3 writes {report}\n" in first and report not in first.splitlines()
