"""Typed launcher profiles of conf/launcher/: where a command runs and with which resources, never what it computes.

A profile is composed beside a run's settings, not into them: a run has the same directory on any machine.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from instructrl.config.fields import flatten, number, one_of, setting, shell_lines, word, word_list
from instructrl.config.yaml_file import read_yaml
from instructrl.errors import InputError

MAX_MINUTES = 60 * 24 * 365

# Words of settings that reach a scheduler, a shell, ssh or the cloud, with what to say of each
FOLDER_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.,=+-]{0,199}"
FOLDER_NAME_ALLOWED = "at most 200 letters, digits and ._-=,+, a letter, a digit or _ first"
SLURM_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.:@+-]*"
SLURM_NAME_ALLOWED = "letters, digits and ._-:@+, a letter, a digit or _ first"
SLURM_NAMES = rf"{SLURM_NAME}(,{SLURM_NAME})*"
SLURM_NAMES_ALLOWED = f"one name, or several with commas between, of {SLURM_NAME_ALLOWED}"
FEATURES = r"[A-Za-z0-9_(\[!][A-Za-z0-9_.:,=&|*!()\[\]+-]*"
CLOUD_ID = r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?"
CLOUD_ID_ALLOWED = "at most 63 lower-case letters, digits and -, a letter first and no - last"
CLOUD_NAME = r"[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?"
CLOUD_NAME_ALLOWED = "letters, digits and ._:-, a letter or a digit first and last"
NETWORK = rf"(https://)?{CLOUD_NAME}(/{CLOUD_NAME})*"
NETWORK_ALLOWED = "a name, or projects/PROJECT/global/networks/NAME"
USER = r"[A-Za-z_][A-Za-z0-9_.-]*"
ADDRESS = rf"({USER}@)?[A-Za-z0-9_][A-Za-z0-9_.-]*(:\d{{1,5}})?"
SSH_PATH = r"[\w./~][\w./~+@=,:-]*"  # ssh splits its options at spaces, and replaces % and quotes in them
SSH_PATH_ALLOWED = "the path of a file, of letters, digits and ._/~+@=,:-"
VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
CREDENTIALS = (
    "WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN", "AWS_SHARED_CREDENTIALS_FILE", "GOOGLE_APPLICATION_CREDENTIALS",
)  # fmt: skip
HOME_FOLDER = r"(?!.*(^|/)\.{1,2}(/|$))[A-Za-z0-9_.][A-Za-z0-9_.+-]*(/[A-Za-z0-9_.+-]+)*"


@dataclass
class SlurmConfig:
    """Resources of one SLURM job; null leaves a choice to the cluster."""

    nodes: int = number(1, low=1, high=10_000, help="nodes")
    tasks_per_node: int = number(
        1, low=1, high=1024, help="processes per node, which divide its GPUs evenly; one may use all of them"
    )
    gpus_per_node: int | None = number(None, low=1, high=64, help="GPUs per node")
    gpu: str | None = word(SLURM_NAME, SLURM_NAME_ALLOWED, help="GPU type as the cluster names it, like a100")
    cpus_per_task: int | None = number(None, low=1, high=1024, help="CPU cores per process")
    memory_gb: float | None = number(None, above=0, high=1e6, help="memory per node in GB")
    minutes: int = number(60, low=1, high=MAX_MINUTES, help="time limit of a job, after which it is requeued")
    save_seconds: int = number(
        120, low=1, high=36_000, help="seconds before the time limit at which the job is signaled to save"
    )
    parallel: int = number(256, low=1, high=100_000, help="jobs of a sweep that run at a time")
    requeues: int = number(100, low=0, high=100_000, help="requeues after which an interrupted job is given up")
    partition: str | None = word(SLURM_NAMES, SLURM_NAMES_ALLOWED, help="partition")
    account: str | None = word(SLURM_NAME, SLURM_NAME_ALLOWED, help="account")
    qos: str | None = word(SLURM_NAME, SLURM_NAME_ALLOWED, help="quality of service")
    constraint: str | None = word(
        FEATURES, "names of features, joined by & | , * ! and brackets, without spaces", help="node features"
    )
    reservation: str | None = word(SLURM_NAMES, SLURM_NAMES_ALLOWED, help="reservation")
    setup: list[str] | None = shell_lines(help="shell lines before the command, like 'module load cuda'")


@dataclass
class TpuConfig:
    """A pod of TPU hosts in Google's cloud, or existing hosts that ssh reaches."""

    accelerator: str | None = word(
        CLOUD_NAME, CLOUD_NAME_ALLOWED, help="accelerator type as the cloud names it, like v4-32"
    )
    runtime: str = word(
        CLOUD_NAME,
        CLOUD_NAME_ALLOWED,
        default="tpu-ubuntu2204-base",
        help="runtime version (system image) of the hosts",
    )
    hosts: int | None = number(None, low=1, high=10_000, help="number of hosts of the accelerator")
    spot: bool = setting(
        False, help="preemptible pod: cheaper; requested again after a preemption, and the run resumes"
    )
    queued: bool = setting(False, help="request the pod as a queued resource and wait for capacity")
    pod: str | None = word(CLOUD_ID, CLOUD_ID_ALLOWED, help="name of the pod")
    project: str | None = word(CLOUD_NAME, CLOUD_NAME_ALLOWED, help="Google Cloud project")
    zone: str | None = word(CLOUD_ID, CLOUD_ID_ALLOWED, help="zone")
    network: str | None = word(NETWORK, NETWORK_ALLOWED, help="VPC network")
    subnetwork: str | None = word(NETWORK, NETWORK_ALLOWED, help="VPC subnetwork")
    service_account: str | None = word(
        rf"{CLOUD_NAME}@{CLOUD_NAME}",
        "NAME@PROJECT.iam.gserviceaccount.com",
        help="service account of the hosts, for access to buckets",
    )
    internal: bool = setting(False, help="reach the hosts by internal addresses, and give them no external ones")
    addresses: str | None = word(
        rf"{ADDRESS}(, ?{ADDRESS})*",
        "[USER@]ADDRESS[:PORT], separated by commas",
        help="existing hosts, as [USER@]ADDRESS[:PORT],..., instead of a pod in the cloud",
    )
    user: str | None = word(
        USER, "letters, digits and ._-, a letter or _ first", help="user on the hosts; null: the local user"
    )
    key: str = word(
        SSH_PATH,
        SSH_PATH_ALLOWED,
        default="~/.ssh/id_ed25519",
        help="private ssh key; its .pub file is installed on new hosts",
    )
    known_hosts: str | None = word(
        SSH_PATH, SSH_PATH_ALLOWED, help="known_hosts file for tpu.addresses; null: ssh's own"
    )
    ssh_port: int = number(22, low=1, high=65_535, help="ssh port of the hosts")
    folder: str = word(
        HOME_FOLDER,
        "a folder within the home directory, of letters, digits and ._+-, without . and .. in its path",
        default="instructrl",
        help="folder of the code on the hosts, in the home directory",
    )
    setup: list[str] | None = shell_lines(
        help="shell lines on each host before ours, like 'sudo mount SERVER:/DISK /mnt/disk'"
    )
    environment: list[str] = word_list(
        *CREDENTIALS,
        pattern=VARIABLE,
        allowed="names of variables",
        help="variables of this machine that the hosts get, if they are set; those that name credential files: a copy",
    )
    wait_minutes: float = number(60.0 * 24, above=0, high=MAX_MINUTES, help="maximum wait for the pod to be ready")
    delete_minutes: float = number(15.0, above=0, high=MAX_MINUTES, help="maximum wait for the pod to be deleted")
    poll_seconds: float = number(10.0, above=0, high=3600, help="interval of status requests to the cloud")
    losses: int = number(100, low=0, high=100_000, help="preemptions after which a pod is given up")
    keep: bool = setting(True, help="keep the pod after a sweep; false: delete it if the sweep created it")


@dataclass
class LauncherConfig:
    """A launcher profile, and how the launcher behaves."""

    name: str = setting(help="label of the profile")
    kind: str = one_of("local", "slurm", "tpu", help="where jobs run")
    jobs: int = number(1, low=1, high=1024, help="jobs that run at a time; local only")
    sweep: str | None = word(FOLDER_NAME, FOLDER_NAME_ALLOWED, help="name of the sweep; null: from its overrides")
    wait: bool = setting(True, help="wait until all jobs have ended; slurm only")
    on_interrupt: str = one_of(
        "detach", "cancel", default="detach", help="on ctrl-C, leave the jobs running or cancel them; slurm only"
    )
    grace_seconds: float = number(120.0, low=0, high=36_000, help="time to save when ctrl-C ends the jobs")
    poll_seconds: float = number(15.0, above=0, high=3600, help="interval of queries of the queue; slurm only")
    dry_run: bool = setting(False, help="print commands and scripts, and submit nothing")
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    tpu: TpuConfig = field(default_factory=TpuConfig)


@dataclass
class LaunchConfig:
    """The `launcher` settings of every command."""

    launcher: LauncherConfig = field(default_factory=LauncherConfig)


def user_config_file() -> Path:
    """The file of one user's settings for all launches: account, partition, zone, project and the like."""
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "instructrl" / "launcher.yaml"


def user_overrides() -> list[str]:
    """The settings of the user's file as overrides; none without the file.

    Raises:
        InputError: the file cannot be read.
    """
    path = user_config_file()
    if not (path.exists() or path.is_symlink()):
        return []
    values = read_yaml(path).values
    if not values:
        raise InputError(f"{path}: found no settings; write them as in conf/launcher/, like slurm: {{account: NAME}}")
    return [f"launcher.{key}={json.dumps(value)}" for key, value in flatten(values)]
