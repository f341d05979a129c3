"""A trained agent by its place: a run directory or an exported folder, here, in object storage or on a hub."""

from pathlib import Path

from instructrl.config.environment import DataConfig
from instructrl.config.training import HardwareConfig
from instructrl.errors import InputError, format_value
from instructrl.inference.hub import SCHEME, download
from instructrl.storage.paths import storage_path
from instructrl.storage.synced_dir import working_dir
from instructrl.training.distributed.platform import select_platform
from instructrl.training.parameters.load_agent import LoadedAgent, load_agent

CHECKPOINTS = ("best", "last")


def load_trained(
    run: str | Path,
    *,
    checkpoint: str = "best",
    hardware: HardwareConfig | None = None,
    data: DataConfig | None = None,
) -> LoadedAgent:
    """Load settings, tokenizer and parameters of a run directory or of a folder written by `Agent.save`.

    Args:
        run: the directory that train.py printed, or the folder, or hf://USER/NAME[@REVISION].
        checkpoint: "best" by validation loss, or "last"; ignored for a folder.
        hardware: device and precision; None: jax's default device, and float32.
        data: settings of the local cache for object storage.

    Raises:
        InputError: the run or its checkpoint does not exist, or a file is missing, damaged or changed.
        RunError: the hub does not answer.
    """
    if checkpoint not in CHECKPOINTS:
        raise InputError(f"checkpoint: found {format_value(checkpoint)}; allowed: {', '.join(CHECKPOINTS)}")
    hardware = hardware or HardwareConfig("auto")
    select_platform(hardware)
    if str(run).startswith(SCHEME):
        return load_agent(download(str(run)), checkpoint=checkpoint, hardware=hardware)
    with working_dir(storage_path(run, data), exclusive=False) as work_dir:
        return load_agent(work_dir.folder, checkpoint=checkpoint, hardware=hardware)
