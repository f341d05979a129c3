"""Settings of jobs on a Kubernetes cluster, of which --dry-run shows the JobSet."""

from dataclasses import dataclass
from typing import Any

from instructrl.config.fields import number, pairs, word, word_list
from instructrl.config.patterns import IMAGE, VARIABLE_VALUE, variable_except

LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
SUBDOMAIN = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*"
SUBDOMAIN_ALLOWED = "lower-case letters, digits, - and ., a letter or a digit first, last and beside each ."
OBJECT = rf"(?!.{{254}}){SUBDOMAIN}"
OBJECT_ALLOWED = f"at most 253 {SUBDOMAIN_ALLOWED}"
QUEUE = rf"(?!.{{64}}){SUBDOMAIN}"  # also the value of a label
QUEUE_ALLOWED = f"at most 63 {SUBDOMAIN_ALLOWED}"
FOLDER = r"(/(?!\.{1,2}(/|$))[A-Za-z0-9_.+-]+)+"
NAME = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
NAME_ALLOWED = "at most 63 letters, digits and ._-, a letter or a digit first and last"
SELECTOR = rf"((?![^/]{{254}}){SUBDOMAIN}/)?{NAME}:({NAME})?"
# Kubernetes keeps kubernetes.io for itself, and quotas put requests. in front of a domain, of at most 253 characters.
RESOURCE = rf"(?!requests\.|[^/]*kubernetes\.io/|[^/]{{245}}){SUBDOMAIN}/{NAME}"
# Kubernetes sets those of its services, the index of the node, and on GKE the place in a slice of TPU chips.
VARIABLE = variable_except("PYTHONUNBUFFERED", "JOB_COMPLETION_INDEX", r"KUBERNETES_\w+", r"TPU_WORKER_\w+")


@dataclass
class KubernetesConfig:
    """Resources of one job of Kubernetes; null leaves a choice to the cluster."""

    image: str | None = word(
        IMAGE,
        "a container image, like REGISTRY/instructrl:gpu",
        help="container image with the code, made by launchers/container/Dockerfile; required",
    )
    namespace: str | None = word(
        LABEL,
        "at most 63 lower-case letters, digits and -, a letter or a digit first and last",
        help="namespace of the jobs",
    )
    nodes: int = number(1, low=1, high=10_000, help="nodes that train together, with a process each")
    accelerators: int | None = number(None, low=1, high=64, help="accelerators of a node; null: none")
    resource: str = word(
        RESOURCE,
        f"DOMAIN/NAME as the cluster's nodes list it, like nvidia.com/gpu or google.com/tpu: a domain of lower-case "
        f"letters, none of kubernetes.io, and {NAME_ALLOWED}",
        default="nvidia.com/gpu",
        help="name of the accelerators as a resource of the cluster",
    )
    cpus: int | None = number(None, low=1, high=1024, help="CPUs that a node must have free")
    memory_gb: int | None = number(None, low=1, high=100_000, help="memory that a node must have free, in GB")
    node_selector: list[str] = word_list(
        pattern=SELECTOR,
        allowed="LABEL:VALUE, like cloud.google.com/gke-tpu-topology:4x4: maybe a lower-case domain and /, then for "
        f"the label's name and for its value {NAME_ALLOWED}",
        help="labels that the nodes must have, each as LABEL:VALUE",
    )
    mounts: list[str] = word_list(
        pattern=rf"{FOLDER}:{OBJECT}",
        allowed=f"FOLDER:CLAIM, like /work:shared: an absolute path of letters, digits and _.+-, and {OBJECT_ALLOWED}",
        help="persistent volume claims, each as FOLDER:CLAIM with the folder in which jobs see it",
    )
    folder: str = word(
        FOLDER,
        "an absolute path of letters, digits and _.+-",
        default="/work",
        help="working folder of the jobs, from which relative paths count",
    )
    code: str = word(
        FOLDER,
        "an absolute path of letters, digits and _.+-",
        default="/opt/instructrl",
        help="folder of the code in the image",
    )
    secrets: list[str] = word_list(
        pattern=OBJECT,
        allowed=f"names of secrets: {OBJECT_ALLOWED}",
        help="secrets whose entries are variables of the jobs",
    )
    environment: dict[str, Any] = pairs(
        keys=VARIABLE,
        pattern=VARIABLE_VALUE,
        allowed="variables with texts or numbers, none that Kubernetes or the launcher sets (KUBERNETES_*, "
        "JOB_COMPLETION_INDEX, TPU_WORKER_*, PYTHONUNBUFFERED)",
        help="variables of the jobs, like {NCCL_DEBUG: INFO}",
    )
    service_account: str | None = word(OBJECT, OBJECT_ALLOWED, help="service account of the jobs")
    queue: str | None = word(QUEUE, QUEUE_ALLOWED, help="local queue of Kueue, which starts the jobs in turn")
    restarts: int = number(0, low=0, high=100_000, help="restarts of a job that failed by itself")
