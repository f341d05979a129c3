"""Where a command runs: the typed profiles of conf/launcher/. They hold resources, and nothing of what is computed.

A profile is composed beside a run's settings, not into them: the same run has the same directory on any machine.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from instructrl.errors import InputError
from instructrl.schema import number, one_of

MOST_MINUTES = 60 * 24 * 365


@dataclass
class SlurmConfig:
    """What one job asks of a SLURM cluster. `null` leaves a choice to the cluster."""

    nodes: int = number(1, low=1, high=10_000)
    tasks_per_node: int = number(1, low=1, high=1024)  # processes; each sees all GPUs of its node and takes one
    gpus_per_node: int | None = number(None, low=1, high=64)
    gpu: str | None = None  # a kind that the cluster names, like a100
    cpus_per_task: int | None = number(None, low=1, high=1024)
    memory_gb: float | None = number(None, above=0, high=1e6)  # of each node
    minutes: int = number(60, low=1, high=MOST_MINUTES)  # that it may take before it is queued again
    save_seconds: int = number(120, low=1, high=36_000)  # before these end: it is told to save
    parallel: int = number(256, low=1, high=100_000)  # jobs of a sweep at a time
    requeues: int = number(100, low=0, high=100_000)  # after which an interrupted job is given up
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    setup: list[str] | None = None  # lines of shell before the command, like 'module load cuda'


@dataclass
class TpuConfig:
    """A pod of TPU hosts in Google's cloud, or hosts that ssh reaches already."""

    accelerator: str | None = None  # as the cloud names it: v4-32
    runtime: str = "tpu-ubuntu2204-base"  # the hosts' system
    hosts: int | None = number(None, low=1, high=10_000)  # how many the accelerator has
    spot: bool = False  # cheaper, may be taken away; asked for again, and the run goes on
    queued: bool = False  # wait in line until there is room
    pod: str | None = None  # its name
    project: str | None = None
    zone: str | None = None
    network: str | None = None
    subnetwork: str | None = None
    service_account: str | None = None  # of the hosts, for their buckets
    internal: bool = False  # reach the hosts by their internal addresses, and give them no others
    addresses: str | None = None  # [USER@]ADDRESS[:PORT],... of hosts that are there, instead of a pod of the cloud
    user: str | None = None  # on the hosts; null: as here
    key: str = "~/.ssh/id_ed25519"  # the private ssh key; its .pub beside it goes to new hosts
    known_hosts: str | None = None  # file of the keys of `addresses`; null: ssh's own
    ssh_port: int = number(22, low=1, high=65_535)
    folder: str = "instructrl"  # of the code on the hosts, below the home directory
    setup: list[str] | None = None  # lines of shell on each host before ours, like 'sudo mount SERVER:/DISK /mnt/disk'
    wait_minutes: float = number(60.0 * 24, above=0, high=MOST_MINUTES)  # until the pod is ready
    delete_minutes: float = number(15.0, above=0, high=MOST_MINUTES)
    poll_seconds: float = number(10.0, above=0, high=3600)  # between looks at the cloud
    losses: int = number(100, low=0, high=100_000)  # after which a pod is given up
    keep: bool = True  # after a sweep; false: delete what it made


@dataclass
class LauncherConfig:
    """A profile, and how the launcher behaves."""

    name: str = MISSING
    kind: str = one_of("local", "slurm", "tpu")
    jobs: int = number(1, low=1, high=1024)  # local: at a time
    sweep: str | None = None  # the sweep's name; null: from the choices
    wait: bool = True  # slurm: until all have ended
    on_interrupt: str = one_of("detach", "cancel", default="detach")  # ctrl-C: slurm's jobs go on, or end
    grace_seconds: float = number(120.0, low=0, high=36_000)  # for saving, when ctrl-C ends the jobs
    poll_seconds: float = number(15.0, above=0, high=3600)  # between looks at slurm's jobs
    dry_run: bool = False  # show commands and scripts, submit nothing
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    tpu: TpuConfig = field(default_factory=TpuConfig)


@dataclass
class LaunchConfig:
    """The `launcher` words of every command."""

    launcher: LauncherConfig = field(default_factory=LauncherConfig)


def private_file() -> Path:
    """What holds for all launches of one person: account, partition, zone, project and the like."""
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "instructrl" / "launcher.yaml"


def private_words() -> list[str]:
    """The settings of the private file, as words of a command line; none without the file.

    Raises:
        InputError: it cannot be read.
    """
    path = private_file()
    if not path.is_file():
        return []
    try:
        values = OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, OSError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise InputError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: found no settings; write them as in conf/launcher/, like slurm: {{account: NAME}}")
    return [f"launcher.{key}={json.dumps(value)}" for key, value in flat(values)]


def flat(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dicts by their dotted keys."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
