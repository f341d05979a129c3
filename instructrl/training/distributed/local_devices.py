"""The devices of this process among those of its node, as `jax.distributed.initialize` wants them. Imports no jax.

Left alone, jax takes the device numbered SLURM_LOCALID: one of eight for the only task of a node, and one that does not
exist for a task that sees only its own.
"""

import os
import warnings
from collections.abc import Sequence

from instructrl.config.training import HardwareConfig
from instructrl.errors import InputError
from instructrl.local_gpus import gpu_share, local_task

GPU_PLATFORMS = {"cuda", "rocm", "gpu"}  # as JAX_PLATFORMS names them


def local_device_ids(config: HardwareConfig) -> Sequence[int] | None:
    """The GPUs of this process, counted among those that it sees; [] for all, None to leave the choice to jax.

    Warns, in the first task of a node, of GPUs that no task uses.

    Raises:
        InputError: there are more tasks on this node than GPUs.
    """
    task = local_task()
    if task is None or not _may_use_gpus(config) or not _is_scheduled(config):
        return None
    try:
        share = gpu_share()
    except InputError as error:
        raise InputError(f"hardware.coordinator: {error}") from None
    if share is None:
        return [] if task.count == 1 else None  # none, or some that the scheduler does not know of
    if share.idle and task.index == 0 and config.local_devices is None:
        each = f"{task.count} task{'s' * (task.count > 1)} of {len(share.used)} GPU{'s' * (len(share.used) > 1)}"
        node = os.environ.get("SLURMD_NODENAME", "this node")
        warnings.warn(f"{share.idle} of {node} stay idle, beside {each} each", stacklevel=2)
    return share.used


def _may_use_gpus(config: HardwareConfig) -> bool:
    """Return True unless the settings, or jax's own variables, choose other devices or say which."""
    named = set(os.environ.get("JAX_PLATFORMS", "").split(",")) - {""}
    chosen = config.platform == "gpu" or (config.platform == "auto" and (not named or bool(named & GPU_PLATFORMS)))
    return chosen and "JAX_LOCAL_DEVICE_IDS" not in os.environ


def _is_scheduled(config: HardwareConfig) -> bool:
    """Return True if the scheduler's tasks are the processes of the settings, not what a script starts by itself."""
    if config.coordinator == "auto":
        return True
    found = [os.environ.get(name) for name in ("SLURM_PROCID", "SLURM_NTASKS")]
    return "SLURM_STEP_NODELIST" in os.environ and found == [str(config.process_id), str(config.num_processes)]
