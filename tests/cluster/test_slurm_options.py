"""Settings of `launcher.slurm` on a real SLURM: nodes, mail, dependencies, variables, containers and others."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from instructrl.cli.overrides import options
from tests.fakes.slurm_cluster import UNFIT, Cluster, cluster
from tests.fixtures.sweeps import Sweep
from tests.fixtures.waiting import until
from tests.paths import ROOT

pytestmark = pytest.mark.skipif(bool(UNFIT), reason=UNFIT or "available")
ALL = [
    "nodelist=localhost", "exclude='gpu[1-3],old'", "gres='nvme:1'", "dependency='afterok:12,singleton'", "nice=0",
    "comment='a-study'", "mail_user=me@lab.org", "mail_types=[BEGIN]", "extra={hint: nomultithread, exclusive: true}",
    "environment={NCCL_SOCKET_IFNAME: ib0, NCCL_IB_DISABLE: 0}", "container=docker://lab/jax:1",
    "container_mounts=['/data:/in:ro']", "container_python=python3",
]  # fmt: skip
# Runs the command behind a container's options and image, which it appends to a file.
APPTAINER = """#!/bin/bash
echo "apptainer $*" >>{calls}
while [[ $1 != *.sif ]]; do shift; done
shift; exec "$@"
"""
PYXIS = """#!/bin/bash
for word; do case $word in --container-*) echo "$word" >>{calls};; *) others+=("$word");; esac; done
exec /usr/bin/srun "${{others[@]}}"
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("slurm") / "cluster") as running_cluster:
        yield running_cluster


def sweep_on(slurm: Cluster, folder: Path, programs: dict[str, str], **settings: object) -> Sweep:
    sweep = Sweep(folder, programs, environment=slurm.environment)
    sweep.resources = {"kind": "slurm", "poll_seconds": 0.2}
    sweep.slurm = {"cpus_per_task": 1, "save_seconds": 30, **settings}
    return sweep


def stub(folder: Path, name: str, text: str, sweep: Sweep) -> Path:
    """Put a script before a program of the nodes; returns the file to which it appends its options."""
    path, calls = folder / "bin" / name, folder / "calls"
    path.parent.mkdir()
    path.write_text(text.format(calls=calls))
    path.chmod(0o755)
    sweep.environment["PATH"] = f"{path.parent}:{sweep.environment['PATH']}"
    return calls


@pytest.mark.parametrize("profile", [name for name in options("launcher") if name.startswith("slurm_")])
def test_a_dry_run_is_a_script_that_bash_and_sbatch_accept(slurm: Cluster, tmp_path: Path, profile: str) -> None:
    words = [f"launcher={profile}", *(f"launcher.slurm.{word}" for word in ALL), "--multirun", "--dry-run"]
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}
    line = [sys.executable, str(ROOT / "train.py"), "experiment=quickstart", "seed=0,1", *words]
    ran = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    script = tmp_path / "script.sh"
    script.write_text(ran.stdout)
    assert not subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True).stderr
    here = ["--nodes=1", "--ntasks-per-node=1", "--cpus-per-task=1", "--mem=100", "--gpus-per-node=0", "--gres=none",
            "--dependency=", "--exclude="]  # as this cluster has only one small node  # fmt: skip
    slurm.run("sbatch", "--test-only", *here, str(script))
    given = {line.removeprefix("#SBATCH --") for line in ran.stdout.splitlines() if line.startswith("#SBATCH")}
    expected = {"nodelist=localhost", "exclude='gpu[1-3],old'", "gres=nvme:1", "dependency=afterok:12,singleton",
                "nice=0", "comment='instructrl-SUBMISSION a-study'", "mail-user=me@lab.org", "mail-type=BEGIN",
                "hint=nomultithread", "exclusive"}  # fmt: skip
    assert expected <= given
    mounted = f"--bind={tmp_path} --bind={ROOT} --bind=/data:/in:ro docker://lab/jax:1 python3 -u -m submitit"
    assert "\nexport NCCL_SOCKET_IFNAME=ib0\n" in ran.stdout and f" apptainer exec --nv {mounted}" in ran.stdout
    assert f"# job 1: python3 {ROOT}/train.py " in ran.stdout


def test_options_reach_slurm_and_variables_the_job(slurm: Cluster, tmp_path: Path) -> None:
    program = "import os, json; print(json.dumps({name: os.environ.get(name) for name in ('NCCL_X', 'B')}))"
    values = {"NCCL_X": "it's $HOME", "B": 1}
    own = {
        "nodelist": "localhost",
        "nice": 7,
        "comment": "a-study",
        "extra": {"exclusive": "user"},
        "environment": values,
    }
    sweep = sweep_on(slurm, tmp_path, {"one": program}, **own, mail_user="me", mail_types=["BEGIN", "FAIL"])
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sbatch").write_text('#!/bin/sh\n/usr/bin/sbatch "$@" >/dev/null\necho timed out >&2; exit 1\n')
    (tmp_path / "bin/sbatch").chmod(0o755)
    sweep.environment["PATH"] = f"{tmp_path}/bin:{sweep.environment['PATH']}"
    output = sweep()
    assert "was submitted, although sbatch did not say so" in output, "found by its comment, beside the user's"
    [log] = (tmp_path / "multirun/study/slurm").glob("*_0_log.out")
    assert '{"NCCL_X": "it\'s $HOME", "B": "1"}' in log.read_text()
    record = slurm.run("scontrol", "-o", "show", "job", sweep.table[0]["id"])
    for part in ("ReqNodeList=localhost", "Nice=7", " a-study", "OverSubscribe=USER", "MailUser=me", "BEGIN,FAIL"):
        assert part in record, part


def test_a_job_waits_for_another_and_is_refused_if_that_fails(slurm: Cluster, tmp_path: Path) -> None:
    go = tmp_path / "go"
    first = slurm.run("sbatch", "--parsable", "--mem=100", "--output=/dev/null",
                      f"--wrap=while [ ! -e {go} ]; do sleep 0.1; done; exit 3").strip()  # fmt: skip
    sweep = sweep_on(slurm, tmp_path, {"one": ""}, dependency=f"afterok:{first}")
    running = sweep.begin()
    table = tmp_path / "multirun/study/jobs.json"
    until(lambda: table.exists() and sweep.table[0]["error"] == "waits: Dependency", 120)
    go.touch()
    output = sweep.end(running, code=1)
    assert "cancelled, as SLURM would never start it: DependencyNeverSatisfied" in output
    assert sweep.states == [("refused", None)]


def test_an_option_that_sbatch_does_not_know_is_its_error(slurm: Cluster, tmp_path: Path) -> None:
    sweep = sweep_on(slurm, tmp_path, {"one": ""}, extra={"hnit": "nomultithread"})
    assert "hnit" in sweep(code=1) and sweep.states == [("refused", None)]


@pytest.mark.parametrize(
    ("name", "text", "settings", "expected"),
    [
        (
            "apptainer",
            APPTAINER,
            {},
            "apptainer exec --bind={here} --bind={root} --bind=/data /images/jax.sif {python} ",
        ),
        (
            "srun",
            PYXIS,
            {"container_runtime": "pyxis"},
            "--container-image=/images/jax.sif\n--container-mounts={here}:{here},{root}:{root},/data:/data\n"
            "--container-workdir={here}\n",
        ),
    ],
)
def test_a_job_runs_in_a_container(
    slurm: Cluster, tmp_path: Path, name: str, text: str, settings: dict[str, str], expected: str
) -> None:
    """apptainer, and the options that the plugin pyxis adds to srun, are stand-ins that run the command as it is."""
    own = {"container": "/images/jax.sif", "container_mounts": ["/data"], "container_python": sys.executable}
    sweep = sweep_on(slurm, tmp_path, {"one": "print('inside')"}, **own, **settings)
    calls = stub(tmp_path, name, text, sweep)
    sweep()
    [log] = (tmp_path / "multirun/study/slurm").glob("*_0_log.out")
    assert "inside" in log.read_text()
    assert calls.read_text().startswith(expected.format(here=tmp_path, root=ROOT, python=sys.executable))
