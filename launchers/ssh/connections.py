"""Connections that short commands of this process share, so that only the first one to a host has to log in.

ssh does the work: the first command leaves a process behind that holds the connection, and further ones reach it by a
socket. It ends with this process, or by itself if that is killed.
"""

import atexit
import shutil
import subprocess
import tempfile
from collections.abc import Hashable
from functools import cache
from pathlib import Path

IDLE_SECONDS = 60  # after which an unused connection ends by itself
MAX_PATH = 85  # bytes of a socket's path, of the 103 that all systems allow; ssh appends 17 while it makes one

_numbers: dict[Hashable, int] = {}


def shared_connection(host: Hashable) -> dict[str, str]:
    """Return the options of ssh by which commands to a host share a connection; none if the path would be too long."""
    path = socket_folder() / str(_numbers.setdefault(host, len(_numbers)))
    if len(str(path).encode()) > MAX_PATH:
        return {}
    return {"ControlMaster": "auto", "ControlPath": str(path), "ControlPersist": str(IDLE_SECONDS)}


@cache
def socket_folder() -> Path:
    """Return the folder of the sockets, which this process removes at its end."""
    folder = Path(tempfile.mkdtemp(prefix="instructrl-"))
    atexit.register(close_connections, folder)
    return folder


def close_connections(folder: Path) -> None:
    """End the connections of a folder, and remove it."""
    words = [
        ["ssh", "-o", f"ControlPath={path}", "-O", "exit", "host"] for path in folder.glob("*") if path.is_socket()
    ]
    closing = [subprocess.Popen(each, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for each in words]
    for process in closing:
        process.wait()
    shutil.rmtree(folder, ignore_errors=True)
