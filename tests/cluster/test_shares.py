"""Commands whose episodes jobs of a real SLURM share: the files are those of one process, also after killed tasks."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from instructrl.commands import collect
from launchers.job_table import Job, read_table
from tests.fakes.slurm_cluster import UNFIT, Cluster, cluster
from tests.fixtures.commands import run_main
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


def collected(folder: Path) -> dict[str, bytes]:
    """The demonstration files in a folder, parts among them."""
    return {path.name: path.read_bytes() for path in folder.rglob("*.hdf5")}


@needs_slurm
def test_a_collection_is_divided_among_tasks_and_the_same_command_repeats_one_that_was_killed(
    slurm: Cluster, tmp_path: Path
) -> None:
    setup = tmp_path / "cfg/instructrl/launcher.yaml"
    setup.parent.mkdir(parents=True)
    setup.write_text(f"slurm:\n  setup: ['{KILLED_ONCE.replace('{mark}', str(tmp_path / 'killed'))}']\n")
    line = [sys.executable, "-m", "data_tools.collect", *SETTINGS, "data.dir=data", "jobs=2", *LAUNCHER]
    environment = {**slurm.environment, "XDG_CONFIG_HOME": str(tmp_path / "cfg"), "PYTHONPATH": str(ROOT)}

    def launch() -> subprocess.CompletedProcess[str]:
        return subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)

    first = launch()
    assert first.returncode == 1 and "Traceback" not in first.stderr, first.stdout + first.stderr
    assert [job.state for job in jobs(tmp_path)] == ["done", "failed", "cancelled"], first.stdout
    assert jobs(tmp_path)[2].error == "not started, as job 2 did not succeed"
    assert "train.hdf5" not in collected(tmp_path / "data")
    second = launch()
    assert second.returncode == 0 and "3 jobs, 1 done, 0 still active, 2 to start" in second.stdout, second.stdout
    assert [(job.state, job.submissions) for job in jobs(tmp_path)] == [("done", 1), ("done", 2), ("done", 2)]
    run_main(collect.main, *SETTINGS, f"data.dir={tmp_path / 'alone'}")
    assert collected(tmp_path / "data") == collected(tmp_path / "alone")
    assert set(collected(tmp_path / "data")) == {"train.hdf5", "val.hdf5"}
