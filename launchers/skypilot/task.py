"""Task of SkyPilot for a job: the YAML file, and the checks of the settings in it."""

import os
import re
import shlex
from pathlib import Path
from typing import Any

from instructrl.config.skypilot import SkyPilotConfig
from instructrl.errors import InputError, format_value
from launchers.config_folders import with_copied_folders
from launchers.exit_status import INTERRUPTED
from launchers.job import JobSpec
from launchers.ssh.variables import FILES
from launchers.yaml_text import dump_yaml

PORT = 8476  # coordinator port of the first node
PYTHON = ".venv/bin/python"
CPU_SETUP = "bash -euo pipefail -c 'source launchers/setup/environment.sh; make_environment requirements.txt'"
END = "instructrl: exit code"  # in a node's log: the queue shows no exit codes
HOST_CHIPS = 8  # TPU accelerators of a larger size have several hosts, as tpu-v5litepod-16


def task_yaml(spec: JobSpec, name: str, code: Path) -> str:
    """Return the task of a job as YAML.

    Args:
        spec: the job.
        name: of the managed job, unique among all.
        code: the checkout, which SkyPilot copies to the nodes without what git ignores.

    Raises:
        InputError: the nodes do not have a folder of settings.
    """
    settings = spec.resources.skypilot
    sources = dict(mount.split(":", 1) for mount in settings.mounts)
    spec = with_copied_folders(spec, code, mounted=list(sources))
    buckets = {path: {"source": source, "mode": "MOUNT"} for path, source in sources.items() if "://" in source}
    task = {
        "name": name,
        "workdir": str(code),
        "num_nodes": settings.nodes if spec.distributed else 1,
        "resources": resources(settings),
        "file_mounts": buckets,
        "volumes": {path: source for path, source in sources.items() if path not in buckets},
        "envs": {"PYTHONUNBUFFERED": "1", **variables(settings)},
        "secrets": dict.fromkeys(passed_secrets(settings)),  # `sky` fills in their values
        "setup": "\n".join(["set -e", *(settings.setup or []), setup_command(settings), ""]),
        "run": run_script(spec),
    }
    found = {key: value for key, value in task.items() if value != {}}
    return dump_yaml(found)


def resources(settings: SkyPilotConfig) -> dict[str, Any]:
    """Return the resources of a node, and when SkyPilot starts the job again."""
    recovery = {"strategy": settings.recovery, "max_restarts_on_errors": settings.restarts}
    found = {
        "infra": settings.infra,
        "accelerators": settings.accelerators,
        "accelerator_args": {"runtime_version": settings.runtime} if settings.runtime else None,
        "cpus": f"{settings.cpus}+" if settings.cpus else None,
        "memory": f"{settings.memory_gb}+" if settings.memory_gb else None,
        "disk_size": settings.disk_gb,
        "image_id": settings.image,
        "use_spot": settings.spot,
        "job_recovery": {key: value for key, value in recovery.items() if value is not None}
        | {"recover_on_exit_codes": [INTERRUPTED]},
    }
    return {key: value for key, value in found.items() if value is not None}


def variables(settings: SkyPilotConfig) -> dict[str, str]:
    """Return the variables that the settings name."""
    return {name: str(value) for name, value in settings.environment.items() if value is not None}


def passed_secrets(settings: SkyPilotConfig) -> list[str]:
    """Return the variables that the job gets: those that are set."""
    return [name for name in settings.secrets if os.environ.get(name)]


def has_tpu(settings: SkyPilotConfig) -> bool:
    """Return True if the accelerators are TPU chips."""
    return (settings.accelerators or "").lower().startswith("tpu-")


def has_several_hosts(settings: SkyPilotConfig) -> bool:
    """Return True if a training runs on several machines: nodes, or the hosts of a TPU slice."""
    size = re.search(r"-(\d+)(:\d+)?$", settings.accelerators or "") if has_tpu(settings) else None
    return settings.nodes > 1 or (size is not None and int(size[1]) > HOST_CHIPS)


def setup_command(settings: SkyPilotConfig) -> str:
    """Return the command that installs the dependencies of a node."""
    if settings.accelerators is None:
        return CPU_SETUP
    return f"bash launchers/setup/setup_{'tpu' if has_tpu(settings) else 'gpu'}.sh"


def run_script(spec: JobSpec) -> str:
    """Return the script of every node: it runs the job, of which the nodes are processes, and says how it ended."""
    words = shlex.join([*spec.command, *hardware_overrides(spec)])
    lines = [f"set -- {words}"]
    if not spec.distributed:
        lines.append('[ "${SKYPILOT_NODE_RANK:-0}" = 0 ] || exit 0  # of a TPU slice, one host')
    elif not spec.sets("hardware.coordinator"):
        lines += [
            'if [ "${SKYPILOT_NUM_NODES:-1}" -gt 1 ]; then',
            f'  set -- "$@" "hardware.coordinator=$(echo "$SKYPILOT_NODE_IPS" | head -n 1):{PORT}" \\',
            '    "hardware.num_processes=$SKYPILOT_NUM_NODES" "hardware.process_id=$SKYPILOT_NODE_RANK"',
            "fi",
        ]
    return "\n".join([*lines, f'{PYTHON} "$@"', "code=$?", f'echo "{END} $code"', "exit $code", ""])


def hardware_overrides(spec: JobSpec) -> list[str]:
    """Return the override of a training's hardware that the user has not set."""
    settings = spec.resources.skypilot
    if not spec.distributed or settings.accelerators is None or spec.sets("hardware"):
        return []
    return [f"hardware={'tpu' if has_tpu(settings) else 'gpu'}"]


def check_settings(settings: SkyPilotConfig) -> None:
    """Raise InputError for settings that contradict each other."""
    prefix = "launcher.skypilot"
    if settings.runtime is not None and not has_tpu(settings):
        raise InputError(
            f"{prefix}.runtime: found {settings.runtime} with accelerators={format_value(settings.accelerators)}; "
            f"allowed: null, or {prefix}.accelerators=tpu-NAME, as only TPU hosts have a runtime version"
        )
    if files := [name for name in settings.secrets if name in FILES]:
        raise InputError(
            f"{prefix}.secrets: found {files[0]}, which names a file of this machine; allowed: variables with the "
            "secret itself (SkyPilot gives its machines the cloud's credentials)"
        )
    paths = [mount.partition(":")[0] for mount in settings.mounts]
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise InputError(f"{prefix}.mounts: found {twice[0]} twice; allowed: a different folder for each source")


def check_output(spec: JobSpec) -> None:
    """Raise InputError if a job's output would be lost with its nodes, or could not be shared by them."""
    settings = spec.resources.skypilot
    several = spec.distributed and has_several_hosts(settings)
    mounted = dict(mount.split(":", 1) for mount in settings.mounts)
    source = next((mounted[path] for path in mounted if f"{spec.run}/".startswith(f"{path}/")), "")
    volume = (
        "a volume of SkyPilot, like output_dir=/mnt/disk/outputs with 'launcher.skypilot.mounts=[/mnt/disk:VOLUME]'"
    )
    if several and ("://" in spec.run or "://" in source):
        raise InputError(f"{spec.run}: found a bucket, which several nodes cannot write to; choose {volume}")
    if "://" not in spec.run and not spec.run.startswith("/"):
        bucket = "" if several else "a bucket, like output_dir=gs://BUCKET/outputs, or "
        raise InputError(f"{spec.run}: found a folder that would be lost with the nodes; choose {bucket}{volume}")
