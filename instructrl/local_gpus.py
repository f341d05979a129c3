"""The GPUs of a process among the tasks of its node, from the environment that SLURM or Open MPI gives it. No jax here.

Tasks see either all GPUs of their job on the node (--gpus-per-node) or GPUs of their own (--gpus-per-task, --gpu-bind).
SLURM counts those of the job in SLURM_GPUS_ON_NODE; what a task sees is in CUDA_VISIBLE_DEVICES.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from instructrl.errors import InputError

# Lists of visible devices, the first one that is set; HIP, which also reads the first, counts among those of ROCR
VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


@dataclass(frozen=True)
class LocalTask:
    """This process among the `count` tasks of its node."""

    index: int
    count: int


class GpuShare(NamedTuple):
    """The GPUs of a process.

    Attributes:
        visible: those that the process sees, as the environment names them.
        used: indices into `visible` of those that are its own.
        idle: what no task of the node uses, for a sentence; empty if nothing.
        task: the process.
    """

    visible: tuple[str, ...]
    used: tuple[int, ...]
    idle: str
    task: LocalTask


def gpu_share(environ: Mapping[str, str] = os.environ) -> GpuShare | None:
    """Divide the GPUs of a node evenly among its tasks.

    None if nothing in the environment tells of GPUs, or if neither SLURM nor Open MPI started this process.

    Raises:
        InputError: there are more tasks than GPUs that they see.
    """
    task, visible = local_task(environ), visible_gpus(environ)
    if task is None or not visible:
        return None
    seen, on_node = len(visible), _number(environ, "SLURM_GPUS_ON_NODE")
    if _sees_its_own(environ, task, seen=seen, on_node=on_node):
        left = (on_node or 0) - seen * task.count
        idle = f"{left} of the {on_node} GPUs" if left > 0 else ""
        return GpuShare(visible, tuple(range(seen)), idle, task)
    if task.count > seen:
        whole = f" of the job's {on_node}" if on_node and on_node > seen else ""
        raise InputError(
            f"found {task.count} tasks on this node, which all see {seen} GPU{'s' * (seen > 1)}{whole} "
            f"({', '.join(visible)}); allowed: at most {seen}; start fewer tasks per node, give each a GPU of its own "
            "with --gpus-per-task=1, or use hardware=cpu"
        )
    each = seen // task.count
    first, end = task.index * each, each * task.count
    idle = f"GPU{'s' * (seen - end > 1)} {', '.join(visible[end:])}" if end < seen else ""
    return GpuShare(visible, tuple(range(first, first + each)), idle, task)


class OwnGpu(NamedTuple):
    """A GPU of this process, by its name in the environment and by CUDA's number for it."""

    name: str
    number: int


def own_gpu(environ: Mapping[str, str] = os.environ) -> OwnGpu | None:
    """The first GPU of this process; tasks that have to share GPUs take them in turn. None if none is known of."""
    visible, task = visible_gpus(environ), local_task(environ)
    if not visible:
        return None
    try:
        share = gpu_share(environ)
        index = 0 if share is None else share.used[0]
    except InputError:
        index = 0 if task is None else task.index % len(visible)
    return OwnGpu(visible[index], index)


def _sees_its_own(environ: Mapping[str, str], task: LocalTask, *, seen: int, on_node: int | None) -> bool:
    """Return True if no other task of the node sees the GPUs that this one does."""
    if task.count == 1:
        return True
    if seen == _gpus_per_task(environ):
        return True
    if on_node is None:
        return seen == 1  # several tasks that see one GPU: far more often one each than the same
    return seen < on_node and seen * task.count <= on_node


def _gpus_per_task(environ: Mapping[str, str]) -> int | None:
    """The number in --gpus-per-task, such as 2, a100:2 or, with other resources, cpu=8,gres/gpu:a100=2."""
    found = re.search(r"(?:^|[:=])(\d+)$", environ.get("SLURM_GPUS_PER_TASK", ""))
    found = found or re.search(r"\bgpu(?::[A-Za-z]\w*)?[:=](\d+)", environ.get("SLURM_TRES_PER_TASK", ""))
    return int(found[1]) if found else None


def visible_gpus(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The GPUs that a process sees, as indices or UUIDs in the order in which CUDA counts them; empty if unknown."""
    listed = next((environ[name] for name in VISIBLE if name in environ), None)
    if listed is None:
        listed = environ.get("SLURM_STEP_GPUS", "")
        count = _number(environ, "SLURM_GPUS_ON_NODE") or 0
        return tuple(listed.split(",")) if listed else tuple(map(str, range(count)))
    names: list[str] = []
    for name in map(str.strip, listed.split(",")):
        if not re.fullmatch(r"\d+|(GPU|MIG)-.+", name):
            break  # CUDA ignores all from the first invalid one on, as in -1 and NoDevFiles
        names.append(name)
    return tuple(names[:1] if names and names[0].startswith("MIG") else names)  # a process has one part of a GPU


def local_task(environ: Mapping[str, str] = os.environ) -> LocalTask | None:
    """This process among the tasks of its node; None if neither Open MPI nor SLURM started it."""
    index, count = _number(environ, "OMPI_COMM_WORLD_LOCAL_RANK"), _number(environ, "OMPI_COMM_WORLD_LOCAL_SIZE")
    if index is None or count is None:  # under mpirun, SLURM's variables describe its daemon
        index, count = _number(environ, "SLURM_LOCALID"), _tasks_on_node(environ)
    return None if index is None else LocalTask(index, max(count, index + 1))


def _tasks_on_node(environ: Mapping[str, str]) -> int:
    """The number of SLURM's tasks on this node, by the most exact variable that is set."""
    counts = [
        int(count)
        for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
        for _ in range(int(times or 1))
    ]
    node, total = _number(environ, "SLURM_NODEID") or 0, _number(environ, "SLURM_NTASKS") or 1
    if node < len(counts):
        return counts[node]
    if per_node := _number(environ, "SLURM_NTASKS_PER_NODE"):
        return min(per_node, total)  # of the job; a step may have fewer
    nodes = _number(environ, "SLURM_STEP_NUM_NODES") or _number(environ, "SLURM_NNODES") or 1
    return -(-total // nodes)


def _number(environ: Mapping[str, str], name: str) -> int | None:
    """A variable that is a number; None if it is absent or something else."""
    value = environ.get(name, "")
    return int(value) if value.isascii() and value.isdigit() else None
