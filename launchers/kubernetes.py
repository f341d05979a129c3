"""Jobs as JobSets of Kubernetes: shows their manifests, which kubectl applies.

A JobSet (https://jobset.sigs.k8s.io) has a process on each node, with names by which they find each other. It is
started again, without a limit, when a process was interrupted (exit code 75) or its node was drained or preempted.
"""

import hashlib
import json
import math
import posixpath
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from instructrl.config.kubernetes import KubernetesConfig
from instructrl.config.launcher import LauncherConfig
from instructrl.errors import InputError
from launchers.exit_status import INTERRUPTED
from launchers.job import JobSpec
from launchers.yaml_text import dump_yaml

PORT = 8476  # coordinator port of the first node
TPU = "google.com/tpu"
INDEX = "$(JOB_COMPLETION_INDEX)"  # of the node; Kubernetes replaces it in the arguments of a container
SHARED_MEMORY = "/dev/shm"
GROUP = "workers"  # of the JobSet's only replicated job


def jobset_manifests(specs: Sequence[JobSpec]) -> str:
    """Return the manifests of jobs as YAML documents, each with the job's choices in a comment.

    Raises:
        InputError: the jobs are to be submitted, a setting is missing or contradicts another one, the nodes do not
            have a folder of settings, or the output of a job would be lost with them.
    """
    resources = specs[0].resources
    check_settings(resources)
    documents = []
    for spec in specs:
        check_config_folders(spec)
        check_output(spec)
        text = dump_yaml(jobset(spec))
        documents.append(f"# {' '.join(map(in_comment, spec.overrides))}\n{text}")
    return "---\n".join(documents).rstrip()


def in_comment(word: str) -> str:
    """Return a word as it can stand in a comment, which a line break would end; YAML allows no control characters."""
    return word if word.isprintable() else json.dumps(word)


def jobset(spec: JobSpec) -> dict[str, Any]:
    """Return the manifest of a job."""
    settings = spec.resources.kubernetes
    name = name_of(spec)
    metadata = {
        "name": name,
        "namespace": settings.namespace,
        "labels": {"kueue.x-k8s.io/queue-name": settings.queue} if settings.queue else None,
    }
    nodes = settings.nodes if spec.distributed else 1
    job = {
        "completionMode": "Indexed",
        "completions": nodes,
        "parallelism": nodes,
        "backoffLimit": 0,  # the processes of a training start together
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [INTERRUPTED]}},
                {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
        "template": {"spec": pod(spec, name)},
    }
    resume = {
        "name": "resume",
        "action": "RestartJobSetAndIgnoreMaxRestarts",
        "onJobFailureReasons": ["PodFailurePolicy"],
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": without_empty(metadata),
        "spec": {
            "failurePolicy": {"maxRestarts": settings.restarts, "rules": [resume]},
            "replicatedJobs": [{"name": GROUP, "replicas": 1, "template": {"spec": job}}],
        },
    }


def pod(spec: JobSpec, name: str) -> dict[str, Any]:
    """Return the pod of each node.

    Args:
        spec: the job.
        name: of its JobSet.
    """
    settings = spec.resources.kubernetes
    claims = dict(mount.split(":", 1) for mount in settings.mounts)
    volumes = [
        {"name": f"volume-{number}", "persistentVolumeClaim": {"claimName": claim}}
        for number, claim in enumerate(claims.values())
    ]
    mounts = [{"name": f"volume-{number}", "mountPath": folder} for number, folder in enumerate(claims)]
    if settings.accelerators:  # GPUs of a node exchange data there; containers have 64 MB
        volumes.append({"name": "shared-memory", "emptyDir": {"medium": "Memory"}})
        mounts.append({"name": "shared-memory", "mountPath": SHARED_MEMORY})
    container = {
        "name": "job",
        "image": settings.image,
        "command": command(spec, name),
        "workingDir": settings.folder,
        "env": [{"name": key, "value": literal(value)} for key, value in variables(settings).items()],
        "envFrom": [{"secretRef": {"name": secret}} for secret in settings.secrets],
        "resources": without_empty({"requests": requests(settings), "limits": limits(settings)}),
        "volumeMounts": mounts,
    }
    return without_empty(
        {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": math.ceil(spec.resources.grace_seconds),
            "serviceAccountName": settings.service_account,
            "nodeSelector": dict(label.split(":", 1) for label in settings.node_selector),
            "containers": [without_empty(container)],
            "volumes": volumes,
        }
    )


def command(spec: JobSpec, name: str) -> list[str]:
    """Return the command of a node. It is the container's first process, so that signals reach it."""
    settings = spec.resources.kubernetes
    words = spec.command_line("python", Path(settings.code))
    added = {}
    if spec.distributed and settings.accelerators:
        added["hardware"] = "tpu" if settings.resource == TPU else "gpu"
    if spec.distributed and settings.nodes > 1 and not spec.sets("hardware.coordinator"):
        if settings.resource == TPU:
            added["hardware.coordinator"] = "auto"  # the nodes of a slice know each other
        else:
            added["hardware.coordinator"] = f"{name}-{GROUP}-0-0.{name}:{PORT}"
            added |= {"hardware.num_processes": str(settings.nodes), "hardware.process_id": INDEX}
    return [*map(literal, words), *(f"{key}={value}" for key, value in added.items() if not spec.sets(key))]


def literal(text: str) -> str:
    """Return what stands for a text in a command or a variable: Kubernetes makes $ of $$, and replaces $(NAME)."""
    return text.replace("$", "$$")


def variables(settings: KubernetesConfig) -> dict[str, str]:
    """Return the variables of a job; null takes one away."""
    given = {"PYTHONUNBUFFERED": 1, **settings.environment}
    return {name: str(value) for name, value in given.items() if value is not None}


def requests(settings: KubernetesConfig) -> dict[str, Any]:
    """Return what a node must have free."""
    memory = f"{settings.memory_gb}G" if settings.memory_gb else None
    return without_empty({"cpu": settings.cpus, "memory": memory})


def limits(settings: KubernetesConfig) -> dict[str, Any]:
    """Return the accelerators that a job gets."""
    return {settings.resource: settings.accelerators} if settings.accelerators else {}


def folders(settings: KubernetesConfig) -> list[str]:
    """Return the folders of the claims."""
    return [mount.partition(":")[0] for mount in settings.mounts]


def name_of(spec: JobSpec) -> str:
    """Return the name of a job's JobSet: the same command has the same one, so that it is not started twice."""
    text = json.dumps([spec.run, *spec.command])
    return f"instructrl-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def without_empty(values: dict[str, Any]) -> dict[str, Any]:
    """Return the entries that have a value."""
    return {key: value for key, value in values.items() if value not in (None, {}, [])}


def check_settings(resources: LauncherConfig) -> None:
    """Raise InputError for settings that are missing or contradict each other."""
    prefix, settings = "launcher.kubernetes", resources.kubernetes
    if not resources.dry_run:
        raise no_submission(resources)
    if settings.image is None:
        raise InputError(
            f"{prefix}.image: found null; allowed: an image that the cluster can pull, made by "
            "docker build -f launchers/container/Dockerfile"
        )
    for key, items, allowed in (
        ("mounts", settings.mounts, "a different folder for each claim"),
        ("node_selector", settings.node_selector, "one value for each label"),
    ):
        names = [item.partition(":")[0] for item in items]
        if twice := [name for name in names if names.count(name) > 1]:
            raise InputError(f"{prefix}.{key}: found {twice[0]} twice; allowed: {allowed}")
    for folder in folders(settings):
        check_mount(folder, settings)


def check_mount(folder: str, settings: KubernetesConfig) -> None:
    """Raise InputError for a claim in a folder in which the container has something else."""
    occupied = {settings.code: "which has the code (launcher.kubernetes.code)"}
    if settings.accelerators:
        occupied[SHARED_MEMORY] = "in which the processes of a node with accelerators exchange data"
    for path, what in occupied.items():
        if PurePosixPath(folder).is_relative_to(path) or PurePosixPath(path).is_relative_to(folder):
            raise InputError(
                f"launcher.kubernetes.mounts: found {folder}; allowed: a folder that does not overlap with {path}, "
                f"{what}, like /work"
            )


def check_config_folders(spec: JobSpec) -> None:
    """Raise InputError for a folder of settings that only this machine has."""
    settings = spec.resources.kubernetes
    known = [settings.code, *folders(settings)]
    for folder in spec.config_folders:
        if not any(PurePosixPath(folder).is_relative_to(path) for path in known):
            raise InputError(
                f"--config-dir: found {folder}, which the nodes do not have; allowed: a folder with the same path here "
                f"and there, in one of launcher.kubernetes.mounts or in the image's launcher.kubernetes.code="
                f"{settings.code}; copy it there"
            )


def no_submission(resources: LauncherConfig) -> InputError:
    """Return the error of a command that would submit jobs."""
    return InputError(
        f"launcher: found {resources.name}, which shows the jobs of Kubernetes and does not submit them; allowed: "
        "--dry-run, and kubectl for its output: COMMAND --dry-run | kubectl apply -f -"
    )


def check_output(spec: JobSpec) -> None:
    """Raise InputError if a job's output would be lost with its nodes, or could not be shared by them."""
    settings = spec.resources.kubernetes
    several = spec.distributed and settings.nodes > 1
    if "://" in spec.run and several:
        raise InputError(
            f"{spec.run}: found a bucket, which several nodes cannot write to; choose a folder of a claim that they "
            "share, like output_dir=outputs with 'launcher.kubernetes.mounts=[/work:CLAIM]'"
        )
    if "://" in spec.run:
        return
    path = PurePosixPath(posixpath.normpath(posixpath.join(settings.folder, spec.run)))
    if not any(path.is_relative_to(folder) for folder in folders(settings)):
        raise InputError(
            f"{path}: found a folder that would be lost with the nodes; choose one of a persistent volume claim, like "
            f"'launcher.kubernetes.mounts=[{settings.folder}:CLAIM]'{'' if several else ', or a bucket'}"
        )
