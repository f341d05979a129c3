"""Multi-process trainings on this machine."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    """An unused port."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


def team_of(
    words: Sequence[str],
    *,
    cwd: Path,
    processes: int = 1,
    devices: int = 1,
    alone: Mapping[int, Iterable[str]] | None = None,
) -> list[subprocess.Popen]:
    """Start `train.py` in several processes with `devices` devices each; `alone`: settings of single processes."""
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ["XLA_FLAGS"])
    environment = {**os.environ, "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}"}
    settings = [f"hardware.coordinator=localhost:{free_port()}", f"hardware.num_processes={processes}"]
    started = []
    for index in range(processes):
        own = [*settings, f"hardware.process_id={index}"] if processes > 1 else []
        command = [sys.executable, str(ROOT / "train.py"), *words, *(alone or {}).get(index, ()), *own]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, cwd=cwd, env=environment, stdout=pipe, stderr=pipe, text=True))
    return started


def ended(started: Sequence[subprocess.Popen], *, timeout: float = 500) -> list[tuple[str, str, int]]:
    """Wait for all processes; returns standard output, standard error and exit code of each."""
    try:
        return [(*process.communicate(timeout=timeout), process.returncode) for process in started]
    finally:
        for process in started:
            process.kill()
