"""Typed launcher profiles of conf/launcher/: where a command runs and with which resources, never what it computes.

A profile is composed beside a run's settings, not into them: a run has the same directory on any machine.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instructrl.config.fields import (
    flatten,
    is_pairs,
    leaves,
    number,
    one_of,
    pairs,
    setting,
    shell_lines,
    subdict,
    word,
    word_list,
)
from instructrl.config.kubernetes import KubernetesConfig
from instructrl.config.patterns import READ_ONLY, VARIABLE_VALUE, variable_except
from instructrl.config.skypilot import SECRETS, SkyPilotConfig
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
SLURM_HOSTS = r"[A-Za-z0-9_][A-Za-z0-9_.,\[\]-]*"
SLURM_HOSTS_ALLOWED = "names of nodes, like gpu[1-4,7],big2"
DEPENDENCY = r"(after(any|ok|notok|corr|burstbuffer)?(:\d+(_\d+)?(\+\d+)?)+|singleton)"
MAIL_TYPES = (
    "NONE|BEGIN|END|FAIL|REQUEUE|ALL|INVALID_DEPEND|STAGE_OUT|TIME_LIMIT|TIME_LIMIT_90|TIME_LIMIT_80|TIME_LIMIT_50"
    "|ARRAY_TASKS"
)
OWN_OPTIONS = (  # of sbatch: those that a setting or the launcher gives; sbatch also reads their beginnings
    "account", "array", "chdir", "clusters", "comment", "constraint", "cpus-per-task", "dependency", "error", "exclude",
    "export", "export-file", "gpus", "gpus-per-node", "gres", "help", "hold", "input", "job-name",
    "kill-on-invalid-dep", "mail-type", "mail-user", "mem", "nice", "no-requeue", "nodelist", "nodes", "ntasks",
    "ntasks-per-node", "open-mode", "output", "parsable", "partition", "qos", "quiet", "requeue", "reservation",
    "signal", "test-only", "time", "uid", "gid", "usage", "verbose", "version", "wait", "wckey", "wrap",
)  # fmt: skip
OWN_BEGINNINGS = sorted({option[:count] for option in OWN_OPTIONS for count in range(2, len(option) + 1)})
EXTRA_KEYS = rf"(?!({'|'.join(OWN_BEGINNINGS)})$)[a-z][a-z0-9-]*[a-z0-9]"
EXTRA_VALUES = r"[A-Za-z0-9_/][A-Za-z0-9_./:,=@+*&|!()\[\]-]*"
SLURM_VARIABLE = variable_except(r"(SLURM|SLURMD|SBATCH|SRUN|SUBMITIT)_\w+", "PYTHONUNBUFFERED", "attempt", READ_ONLY)
FEATURES = r"[A-Za-z0-9_(\[!][A-Za-z0-9_.:,=&|*!()\[\]+-]*"
CLOUD_ID = r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?"
CLOUD_ID_ALLOWED = "at most 63 lower-case letters, digits and -, a letter first and no - last"
CLOUD_NAME = r"[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?"
CLOUD_NAME_ALLOWED = "letters, digits and ._:-, a letter or a digit first and last"
NETWORK = rf"(https://)?{CLOUD_NAME}(/{CLOUD_NAME})*"
NETWORK_ALLOWED = "a name, or projects/PROJECT/global/networks/NAME"
RESERVATION = rf"(projects/{CLOUD_NAME}/locations/{CLOUD_ID}/reservations/)?{CLOUD_ID}"
RESERVATION_ALLOWED = "a name, or projects/PROJECT/locations/ZONE/reservations/NAME"
DISK = rf"(projects/{CLOUD_NAME}/zones/{CLOUD_ID}/disks/)?{CLOUD_ID}(:r[ow])?"
DISK_ALLOWED = "names, or projects/PROJECT/zones/ZONE/disks/NAME, each maybe with :ro or :rw"
USER = r"[A-Za-z_][A-Za-z0-9_.-]*"
ADDRESS = rf"({USER}@)?[A-Za-z0-9_][A-Za-z0-9_.-]*(:\d{{1,5}})?"
SSH_PATH = r"[\w./~][\w./~+@=,:-]*"  # ssh splits its options at spaces, and replaces % and quotes in them
SSH_PATH_ALLOWED = "the path of a file, of letters, digits and ._/~+@=,:-"
MOUNTED = r"/[A-Za-z0-9_./+=@-]*"
CREDENTIALS = (*SECRETS, "AWS_SHARED_CREDENTIALS_FILE", "GOOGLE_APPLICATION_CREDENTIALS")
HOST_VARIABLE = variable_except("PYTHONUNBUFFERED", "RUN_MARK", "INSTRUCTRL_SETUP", READ_ONLY)
HOST_VARIABLE_ALLOWED = (
    "names of variables, none that the launcher sets (PYTHONUNBUFFERED, RUN_MARK, INSTRUCTRL_SETUP, and those that "
    "bash keeps, like UID)"
)
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
    nodelist: str | None = word(SLURM_HOSTS, SLURM_HOSTS_ALLOWED, help="nodes that a job must get")
    exclude: str | None = word(SLURM_HOSTS, SLURM_HOSTS_ALLOWED, help="nodes that no job may get")
    gres: str | None = word(
        r"[A-Za-z0-9_][A-Za-z0-9_.:,=-]*",
        "resources of a node, like NAME:COUNT or NAME:TYPE:COUNT, with commas between",
        help="further generic resources per node",
    )
    dependency: str | None = word(
        rf"{DEPENDENCY}([,?]{DEPENDENCY})*",
        "afterok:JOB, afterany:JOB:JOB, singleton and the like, with , (all) or ? (any) between",
        help="other jobs that must end first",
    )
    nice: int | None = number(None, low=-(2**31) + 3, high=2**31 - 3, help="a lower priority, by this number")
    comment: str | None = word(
        r"[A-Za-z0-9_][A-Za-z0-9_.,:=@+-]*",
        "letters, digits and ._,:=@+-, a letter, a digit or _ first",
        help="comment of the jobs, after the launcher's own",
    )
    mail_user: str | None = word(
        r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(@[A-Za-z0-9][A-Za-z0-9.-]*)?", "USER or USER@HOST", help="who gets mail"
    )
    mail_types: list[str] = word_list(
        "END", "FAIL", pattern=MAIL_TYPES, allowed=MAIL_TYPES.replace("|", ", "), help="events of mail to mail_user"
    )
    extra: dict[str, Any] = pairs(
        keys=EXTRA_KEYS,
        pattern=EXTRA_VALUES,
        allowed="sbatch's long options and their values, true for one without; none that has a setting of its own or "
        "that the launcher gives, and no spaces",
        help="further options of sbatch, like {hint: nomultithread, exclusive: user}",
    )
    environment: dict[str, Any] = pairs(
        keys=SLURM_VARIABLE,
        pattern=VARIABLE_VALUE,
        allowed="variables with texts or numbers, none that SLURM or the batch script sets (SLURM_*, SBATCH_*, SRUN_*, "
        "SLURMD_*, SUBMITIT_*, PYTHONUNBUFFERED, attempt, and those that bash keeps, like UID)",
        help="variables of the jobs, like {NCCL_SOCKET_IFNAME: ib0}",
    )
    container: str | None = word(
        r"[A-Za-z0-9_./][A-Za-z0-9_./:@#=+-]*",
        "an image's path or address, of letters, digits and _./:@#=+-",
        help="image in which the jobs run",
    )
    container_runtime: str = one_of("apptainer", "pyxis", default="apptainer", help="what runs the container")
    container_mounts: list[str] = word_list(
        pattern=rf"{MOUNTED}(:{MOUNTED}(:r[ow])?)?",
        allowed="FOLDER, or FOLDER:FOLDER_IN_CONTAINER[:ro]",
        help="folders of the nodes in the container, besides the working folder and the checkout",
    )
    container_python: str | None = word(
        r"[A-Za-z0-9_./][A-Za-z0-9_./+-]*",
        "the name or the path of a program",
        help="interpreter in the container, with the suite's requirements; null: that of this command",
    )
    setup: list[str] | None = shell_lines(help="shell lines before the command, like 'module load cuda'")


@dataclass
class TpuConfig:
    """A pod of TPU hosts in Google's cloud, or existing hosts that ssh reaches."""

    accelerator: str | None = word(
        CLOUD_NAME, CLOUD_NAME_ALLOWED, help="accelerator type as the cloud names it, like v4-32"
    )
    runtime: str | None = word(
        CLOUD_NAME,
        CLOUD_NAME_ALLOWED,
        help="runtime version (system image) of the hosts; null: that of the accelerator for JAX",
    )
    hosts: int | None = number(
        None, low=1, high=10_000, help="number of hosts, for accelerator types that are too new; null: from its name"
    )
    spot: bool = setting(
        False, help="preemptible pod: cheaper; requested again after a preemption, and the run resumes"
    )
    queued: bool = setting(False, help="request the pod as a queued resource and wait for capacity")
    valid_minutes: float | None = number(
        None, low=1, high=MAX_MINUTES, help="minutes in the queue after which a request fails; null: no limit"
    )
    guaranteed_minutes: float | None = number(
        None, low=1, high=MAX_MINUTES, help="guaranteed tier: only pods that the cloud keeps for so many minutes"
    )
    reservation: str | None = word(
        RESERVATION, RESERVATION_ALLOWED, help="reservation from which the pod is taken, by way of the queue"
    )
    disks: list[str] = word_list(
        pattern=DISK,
        allowed=DISK_ALLOWED,
        help="existing disks that are attached, read-only; with :rw on a single host also for writing",
    )
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
    iap_group: str | None = word(
        CLOUD_ID,
        CLOUD_ID_ALLOWED,
        help="destination group of the Identity-Aware Proxy, through which gcloud reaches internal addresses",
    )
    os_login: bool = setting(False, help="hosts accept the keys of OS Login, of tpu.user, instead of tpu.key's")
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
        pattern=HOST_VARIABLE,
        allowed=HOST_VARIABLE_ALLOWED,
        help="variables of this machine that the hosts get, if they are set; those that name credential files: a copy",
    )
    wait_minutes: float = number(60.0 * 24, above=0, high=MAX_MINUTES, help="maximum wait for the pod to be ready")
    delete_minutes: float = number(15.0, above=0, high=MAX_MINUTES, help="maximum wait for the pod to be deleted")
    poll_seconds: float = number(10.0, above=0, high=3600, help="interval of status requests to the cloud")
    requests: int = number(
        5, low=1, high=100_000, help="requests after which a pod is given up if its queued resource fails each time"
    )
    losses: int = number(100, low=0, high=100_000, help="preemptions after which a pod is given up")
    keep: bool = setting(True, help="keep the pod after a sweep; false: delete it if the sweep created it")


@dataclass
class LauncherConfig:
    """A launcher profile, and how the launcher behaves."""

    name: str = setting(help="label of the profile")
    kind: str = one_of("local", "slurm", "tpu", "skypilot", "kubernetes", help="where jobs run")
    jobs: int = number(1, low=1, high=1024, help="jobs that run at a time; local only")
    sweep: str | None = word(FOLDER_NAME, FOLDER_NAME_ALLOWED, help="name of the sweep; null: from its overrides")
    wait: bool = setting(True, help="wait until all jobs have ended; slurm and skypilot only")
    on_interrupt: str = one_of(
        "detach",
        "cancel",
        default="detach",
        help="on ctrl-C, leave the jobs running or cancel them; slurm and skypilot only",
    )
    grace_seconds: float = number(120.0, low=0, high=36_000, help="time to save when ctrl-C ends the jobs")
    poll_seconds: float = number(
        15.0, above=0, high=3600, help="interval of queries of the queue; slurm and skypilot only"
    )
    then: str | None = one_of(
        "eval", default=None, help="what follows each training that succeeds; local and slurm only"
    )
    then_settings: dict[str, Any] = pairs(
        keys=r"(?!(run|launcher)\b)[a-z][a-z0-9_.]*",
        pattern=".+",
        allowed="settings of eval.py without run and launcher, a list as a text",
        help="settings of what follows, like {episodes: 100, conditions: '[trained]'}",
    )
    dry_run: bool = setting(False, help="print commands and scripts, and submit nothing")
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    tpu: TpuConfig = field(default_factory=TpuConfig)
    skypilot: SkyPilotConfig = field(default_factory=SkyPilotConfig)
    kubernetes: KubernetesConfig = field(default_factory=KubernetesConfig)


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
    dicts = []
    for key in [key for key, entry in leaves(LauncherConfig).items() if is_pairs(entry)]:
        *names, name = key.split(".")
        group = subdict(values, names)
        if isinstance(group.get(name), dict):
            items = ", ".join(f"{one}: {json.dumps(value)}" for one, value in group.pop(name).items())
            dicts.append(f"launcher.{key}={{{items}}}")
    return [*(f"launcher.{key}={json.dumps(value)}" for key, value in flatten(values) if value != {}), *dicts]
