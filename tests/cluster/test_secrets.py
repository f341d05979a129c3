"""Passwords and tokens reach the jobs of every launcher, and no command line, log, table or script."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.test_pods import Commands
from tests.fakes.pods import SSHD, Pod, copy_of_checkout, give_python, pod
from tests.fakes.slurm_cluster import UNFIT, cluster
from tests.fixtures.secrets import (
    CREDENTIALS,
    KEY,
    PASSWORD,
    command_lines_watched,
    expected,
    readable_by_others,
    reports,
)
from tests.fixtures.sweeps import Sweep
from tests.paths import ROOT

PROXY = f"http://me:{PASSWORD}@proxy:3128"
SETUP_LINES = [f"export HTTPS_PROXY={PROXY}"]
needs_sshd = pytest.mark.skipif(SSHD is None, reason="needs openssh-server")


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """Variables with secrets, one of them the path of a file."""
    path = tmp_path / "private/credentials.json"
    path.parent.mkdir()
    path.write_text(CREDENTIALS)
    path.chmod(0o600)
    return {"WANDB_API_KEY": KEY, "HF_TOKEN": KEY[::-1], "GOOGLE_APPLICATION_CREDENTIALS": str(path)}


def logs(sweep: Sweep) -> str:
    log = sweep.folder / sweep.table[0]["log"]
    return "".join(path.read_text() for path in log.parent.glob(log.name))


@pytest.mark.parametrize("kind", ["local", pytest.param("slurm", marks=pytest.mark.skipif(bool(UNFIT), reason=UNFIT))])
def test_the_jobs_of_a_sweep_get_the_environment(
    kind: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, variables: dict[str, str]
) -> None:
    slurm = tmp_path_factory.mktemp("slurm")  # a short name: paths of sockets have 108 bytes at most
    names = ["WANDB_API_KEY", *(["HTTPS_PROXY"] if kind == "slurm" else [])]
    with cluster(slurm) if kind == "slurm" else pytest.MonkeyPatch.context() as running:
        environment = running.environment if kind == "slurm" else os.environ
        sweep = Sweep(tmp_path, {"one": reports(*names)}, environment={**environment, **variables})
        sweep.resources = {"kind": kind, "poll_seconds": 0.3}
        if kind == "slurm":
            sweep.slurm = {"setup": SETUP_LINES, "cpus_per_task": 1}
        with command_lines_watched() as found:
            sweep()
    assert all(line in logs(sweep) for line in expected({"WANDB_API_KEY": KEY, "HTTPS_PROXY": PROXY})[: len(names)])
    assert not found and not readable_by_others(tmp_path) and not readable_by_others(slurm)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    with pod(tmp_path_factory.mktemp("pod")) as running:
        give_python(running)
        yield running


@needs_sshd
@pytest.mark.parametrize("detach", ["false", "true"])
def test_commands_on_hosts_get_the_environment(
    hosts: Pod, tmp_path: Path, variables: dict[str, str], detach: str
) -> None:
    (tmp_path / "instructrl").mkdir()
    tpu = Commands(ROOT, hosts.words)
    tpu.environment |= {"XDG_CONFIG_HOME": str(tmp_path), "MY_PASSWORD": PASSWORD, **variables}
    names = ["WANDB_API_KEY", "MY_PASSWORD", "GOOGLE_APPLICATION_CREDENTIALS"]
    given = {"PLAIN": "a b'c", "X_TOKEN": f"{PASSWORD}!", "entry": "of a shell", "reason": "its own variable"}
    program = reports(*names, *given)
    (tmp_path / "instructrl/launcher.yaml").write_text(f"tpu: {{environment: [{','.join(names)}]}}")
    words = [
        "run",
        f"run=secret-{detach}",
        f"detach={detach}",
        "--",
        *(f"{name}={value}" for name, value in given.items()),
        "-c",
        program,
    ]
    with command_lines_watched() as found:
        output = tpu(*words)
        if detach == "true":
            output = tpu("logs", f"run=secret-{detach}")
    lines = expected(
        {**dict(zip(names, (KEY, PASSWORD, CREDENTIALS), strict=True)), **given},
        files=names[2:],
    )
    for address in hosts.daemons:
        assert [line for line in lines if f"[{address}] {line}\n" not in output] == [], output
        private = [path for path in hosts.home(address).rglob("*") if "private" in path.name]
        assert not private, "the copies of files are removed"
    assert not [line for line in found if "-m launchers.tpu run " not in line], "only the line that the user typed"
    assert not readable_by_others(hosts.folder)
    for word in (f"wandb.entity={KEY}", f"data.dir=s3://me:{PASSWORD}@bucket"):
        output = tpu("run", "dry_run=true", "--", "train.py", word, code=2)
        assert output.startswith("error: run: found a password or a token in the command") and "marker" not in output


SWEEP = """
import json, sys
from instructrl.errors import report_user_errors
from instructrl.config.launcher import LauncherConfig, TpuConfig
from launchers.job import JobSpec
from launchers.sweep.runner import run_sweep

given = json.load(sys.stdin)
resources = LauncherConfig(name="tpu", kind="tpu", sweep="study", tpu=TpuConfig(**given["tpu"]))
with report_user_errors():
    spec = JobSpec(("-c", given["program"]), "/mnt/disk/x", "one", ("job=one",), resources, True)
    raise SystemExit(run_sweep([spec], "study", command="sweep"))
"""


@needs_sshd
def test_a_sweep_on_hosts_passes_on_environment_and_set_up(
    hosts: Pod, tmp_path: Path, variables: dict[str, str]
) -> None:
    code = copy_of_checkout(tmp_path / "suite", more_setup="echo proxy ${#HTTPS_PROXY}")
    tpu = dict(word.split("=", 1) for word in hosts.words) | {"setup": SETUP_LINES}
    given = json.dumps({"tpu": tpu, "program": reports("WANDB_API_KEY")})
    environment = {**os.environ, **variables, "XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)}
    with command_lines_watched() as found:
        line = [sys.executable, "-c", SWEEP]
        ran = subprocess.run(line, cwd=code, env=environment, input=given, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    log = (code / "multirun/study/logs/001.log").read_text()
    for address in hosts.daemons:
        assert f"[{address}] proxy {len(PROXY)}" in log and f"[{address}] WANDB_API_KEY {len(KEY)}" in log
    assert not found and not readable_by_others(tmp_path) and not readable_by_others(hosts.folder)
