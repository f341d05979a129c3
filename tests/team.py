"""Several processes of this machine that train one model."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    """A port that nobody listens on."""
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
    """Start `train.py`, in each process with so many devices; `alone`: further words of some of them."""
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ["XLA_FLAGS"])
    surroundings = {**os.environ, "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}"}
    meeting = [f"hardware.coordinator=localhost:{free_port()}", f"hardware.processes={processes}"]
    started = []
    for index in range(processes):
        own = [*meeting, f"hardware.process={index}"] if processes > 1 else []
        command = [sys.executable, str(ROOT / "train.py"), *words, *(alone or {}).get(index, ()), *own]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, cwd=cwd, env=surroundings, stdout=pipe, stderr=pipe, text=True))
    return started


def ended(started: Sequence[subprocess.Popen], *, timeout: float = 500) -> list[tuple[str, str, int]]:
    """What each process said on its two channels, and its exit code, when all are through."""
    try:
        return [(*process.communicate(timeout=timeout), process.returncode) for process in started]
    finally:
        for process in started:
            process.kill()
