"""Previews of launchers with one line per command, and folders of settings that reach the machines of jobs."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from instructrl.config.launcher import LauncherConfig, SlurmConfig, TpuConfig
from instructrl.config.skypilot import SkyPilotConfig
from instructrl.errors import InputError
from launchers.job import JobSpec, shell_line
from launchers.job_table import merge_jobs
from launchers.local import Local
from launchers.skypilot.launcher import SkyPilot
from launchers.skypilot.task import task_yaml
from launchers.slurm import Slurm
from launchers.tpu.launcher import TpuBackend
from tests.paths import ROOT

BREAKS = ("task.tasks=[a,\nreboot]", "a\r b", "it's \\n\t", "x\u2028y\x85z", "\x1b[2J", "é $(x) `y` \udcff\n")


def spec(kind: str, *words: str, entry: tuple[str, ...] = ("train.py",), **settings: object) -> JobSpec:
    resources = LauncherConfig(name=kind, kind=kind, sweep="study", **settings)  # type: ignore[arg-type]
    return JobSpec((*entry, *words), "/mnt/disk/outputs/x", "001-x", words, resources, distributed=True)


def in_bash(line: str) -> list[bytes]:
    """The words that bash reads in a command line."""
    return subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True).stdout.split(b"\0")[:-1]


def test_a_command_is_one_line_of_which_bash_reads_the_words_as_they_were_given() -> None:
    line = shell_line(BREAKS)
    assert len(line.splitlines()) == 1 and line.isprintable()
    assert in_bash(line) == list(map(os.fsencode, BREAKS))
    assert shell_line(["a b", "c=d"]) == "'a b' c=d"


def test_a_script_of_slurm_has_each_command_in_a_comment_of_one_line(tmp_path: Path) -> None:
    job = spec("slurm", *BREAKS)
    script = Slurm(tmp_path, job.resources).preview([job])
    *_, last = script.splitlines()
    assert last.startswith("# job 1: ") and "\nreboot" not in script
    assert [word.decode("utf-8", "surrogateescape") for word in in_bash(last.removeprefix("# job 1: "))][2:] == [
        *BREAKS
    ]
    assert len(Local(tmp_path, job.resources).preview([job, job]).splitlines()) == 2


OUTSIDE = r"--config-dir: found {folder}, which the machines of launcher={kind} do not have; allowed: a folder in the "


@pytest.mark.parametrize("kind", ["skypilot", "tpu"])
def test_a_folder_of_settings_travels_with_the_code_or_is_refused(kind: str, tmp_path: Path) -> None:
    tpu = {"tpu": TpuConfig(accelerator="v4-8")}
    backend = {"skypilot": SkyPilot, "tpu": TpuBackend}[kind](tmp_path / "sweep", spec(kind, **tpu).resources)
    flags = ("--config-dir", str(ROOT / "conf"), "--config-dir", str(ROOT / "examples"))
    for entry in (("train.py",), ("-m", "instructrl.commands.train")):
        shown = backend.preview([spec(kind, "seed=0", entry=(*entry, *flags), **tpu)])
        assert f"{' '.join(entry)} --config-dir conf --config-dir examples seed=0" in shown
    outside = spec(kind, "seed=0", entry=("train.py", *flags, "--config-dir", str(tmp_path)), **tpu)
    line = "^" + re.escape(OUTSIDE.format(folder=tmp_path, kind=kind))
    with pytest.raises(InputError, match=line):
        backend.preview([outside])
    with pytest.raises(InputError, match=line):
        backend.submit([(merge_jobs([], [outside])[0], outside)], lambda: None)
    assert not list(tmp_path.iterdir())


def test_folders_that_git_ignores_are_refused_and_those_in_mounts_stay(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for name in ("mine/policy/wide.yaml", "outputs/policy/wide.yaml"):
        (checkout / name).parent.mkdir(parents=True)
        (checkout / name).touch()
    (checkout / ".gitignore").write_text("outputs/\n")
    subprocess.run(["git", "init", "-q", str(checkout)], check=True)
    settings = {"skypilot": SkyPilotConfig(mounts=["/mnt/disk:shared"])}

    def run_script(*folders: object) -> str:
        flags = [word for folder in folders for word in ("--config-dir", str(folder))]
        job = spec("skypilot", "seed=0", entry=("train.py", *flags), **settings)
        return yaml.safe_load(task_yaml(job, "x", checkout))["run"]

    begin = "set -- train.py --config-dir mine --config-dir /mnt/disk/conf seed=0"
    assert run_script(checkout / "mine", "/mnt/disk/conf").startswith(begin)
    for folder in (checkout / "outputs", checkout / "empty", "/mnt/disk2"):
        with pytest.raises(InputError, match=rf"^--config-dir: found {folder}, .* or one in the mounts /mnt/disk; "):
            run_script(folder)


@pytest.mark.parametrize("runtime", ["apptainer", "pyxis"])
def test_a_container_of_slurm_gets_the_folder_of_settings(runtime: str, tmp_path: Path) -> None:
    slurm = SlurmConfig(container="/images/jax.sif", container_runtime=runtime)
    job = spec("slurm", "seed=0", entry=("train.py", "--config-dir", "/home/me/conf"), slurm=slurm)
    shown = Slurm(tmp_path, job.resources).preview([job])
    assert {"apptainer": " --bind=/home/me/conf ", "pyxis": ",/home/me/conf:/home/me/conf"}[runtime] in shown
