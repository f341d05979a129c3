"""Settings of jobs that SkyPilot starts on clouds, Kubernetes and SLURM clusters."""

from dataclasses import dataclass
from typing import Any

from instructrl.config.fields import number, one_of, pairs, setting, word, word_list
from instructrl.config.patterns import IMAGE, PART, READ_ONLY, VARIABLE_VALUE, variable_except

NAME = r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?"
ACCELERATORS = rf"{NAME}(:[1-9]\d{{0,2}})?"
INFRA = rf"(\*|[A-Za-z0-9]+)(/(\*|{PART}))*"
MOUNT = rf"/[A-Za-z0-9_.+-]+(/[A-Za-z0-9_.+-]+)*:([a-z][a-z0-9]*://)?{NAME}"
VARIABLE = variable_except("PYTHONUNBUFFERED", r"SKYPILOT_\w+", READ_ONLY)
OWN_VARIABLES = "SKYPILOT_*, PYTHONUNBUFFERED, and those that bash keeps, like UID"
SECRETS = (
    "WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
)  # fmt: skip


@dataclass
class SkyPilotConfig:
    """Resources of one managed job of SkyPilot; null leaves a choice to SkyPilot, which takes the cheapest."""

    infra: str | None = word(
        INFRA,
        "CLOUD, CLOUD/REGION or CLOUD/REGION/ZONE, like gcp, aws/us-east-1, k8s/CONTEXT or slurm/CLUSTER",
        help="where to look for machines, as CLOUD[/REGION[/ZONE]]",
    )
    accelerators: str | None = word(
        ACCELERATORS,
        "NAME or NAME:COUNT, like H100:8 or tpu-v5litepod-8",
        help="accelerators of a node as SkyPilot names them, like H100:8; null: none",
    )
    runtime: str | None = word(
        NAME, "letters, digits and ._-, like v2-alpha-tpuv5-lite", help="runtime version (system image) of TPU hosts"
    )
    nodes: int = number(1, low=1, high=10_000, help="nodes that train together, with a process each")
    spot: bool = setting(
        False, help="preemptible nodes: cheaper; started again after a preemption, and the run resumes"
    )
    recovery: str | None = one_of(
        "FAILOVER",
        "EAGER_NEXT_REGION",
        default=None,
        help="where SkyPilot looks first after a preemption: the same region, or another one",
    )
    restarts: int = number(0, low=0, high=100_000, help="restarts of a job that failed by itself")
    cpus: int | None = number(None, low=1, high=1024, help="vCPUs of a node, at least")
    memory_gb: int | None = number(None, low=1, high=100_000, help="memory of a node in GB, at least")
    disk_gb: int | None = number(None, low=1, high=100_000, help="system disk of a node in GB")
    image: str | None = word(
        IMAGE,
        "an image of the cloud, or docker:IMAGE",
        help="system image of the nodes, or container as docker:IMAGE",
    )
    mounts: list[str] = word_list(
        pattern=MOUNT,
        allowed="PATH:SCHEME://BUCKET and PATH:VOLUME, like /mnt/disk:gs://BUCKET",
        help="buckets, and volumes of SkyPilot, each as PATH:SOURCE with the folder in which nodes see it",
    )
    secrets: list[str] = word_list(
        *SECRETS,
        pattern=VARIABLE,
        allowed=f"names of variables, none that SkyPilot or the launcher sets ({OWN_VARIABLES})",
        help="variables of this machine that jobs get, if they are set, as secrets of SkyPilot",
    )
    environment: dict[str, Any] = pairs(
        keys=VARIABLE,
        pattern=VARIABLE_VALUE,
        allowed=f"variables with texts or numbers, none that SkyPilot or the launcher sets ({OWN_VARIABLES})",
        help="variables of the jobs, like {NCCL_DEBUG: INFO}",
    )
    setup: list[str] | None = setting(None, help="shell lines on each node before ours, without passwords")
