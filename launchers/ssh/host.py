"""Hosts reached by ssh, and short commands on all of them. `broadcast.py` runs long ones."""

import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from instructrl.config.fields import format_value
from instructrl.config.launcher import ADDRESS
from instructrl.errors import InputError, RunError

NO_ANSWER = 255  # exit code of ssh itself


class HostError(RunError):
    """A command failed on a host; `code` is its exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code


class LostHostError(RunError):
    """A host does not answer, or the connection was lost."""


@dataclass(frozen=True)
class Host:
    """A machine reached by ssh. `known` is its known_hosts file; a new node with the same address has another key."""

    name: str
    address: str
    port: int = 22
    user: str | None = None
    key: str | None = None
    known: str | None = None

    def ssh(self, command: str) -> list[str]:
        """Return the local command line that runs `command` in the host's shell."""
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "10",
            "ServerAliveInterval": "3",  # with the next option: a lost host is detected within 9 seconds
            "ServerAliveCountMax": "3",
            "StrictHostKeyChecking": "accept-new",
            "LogLevel": "ERROR",
        }
        if self.known:
            options["UserKnownHostsFile"] = self.known
        if self.key and Path(self.key).exists():  # else the agent's keys or those of ~/.ssh/config
            options |= {"IdentityFile": self.key, "IdentitiesOnly": "yes"}
        words = ["ssh", "-p", str(self.port)]
        for name, value in options.items():
            words += ["-o", f"{name}={value}"]
        return [*words, f"{self.user}@{self.address}" if self.user else self.address, command]


def read_hosts(text: str, *, user: str | None = None, key: str | None = None, known: str | None = None) -> list[Host]:
    """Parse hosts from `[USER@]ADDRESS[:PORT],...`; their names are their addresses.

    Raises:
        InputError: the text has another form, or a host is duplicated.
    """
    found = []
    for part in text.split(","):
        own_user, _, where = part.strip().rpartition("@")
        address, _, port = where.partition(":")
        if not re.fullmatch(ADDRESS, part.strip()) or not 0 < int(port or 22) < 2**16:
            raise InputError(
                f"addresses: found {format_value(part)}; allowed: [USER@]ADDRESS[:PORT], separated by commas"
            )
        found.append(Host(address, address, int(port or 22), own_user or user, key, known))
    duplicates = {host.name for host in found if sum(other.name == host.name for other in found) > 1}
    if duplicates:
        raise InputError(f"addresses: {sorted(duplicates)[0]} is duplicated; list each host once")
    return found


def query_all(
    hosts: Sequence[Host], commands: Sequence[str], *, timeout: float = 120.0, data: bytes | None = None
) -> list[str]:
    """Run a short command per host, concurrently, and return their outputs.

    Raises:
        HostError: a command failed.
        LostHostError: a host does not answer.
    """
    running = []
    for host, command in zip(hosts, commands, strict=True):
        words = host.ssh(shlex.join(["bash", "-c", command]))
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        running.append(subprocess.Popen(words, start_new_session=True, **pipes))  # type: ignore[call-overload]
    outputs: dict[int, tuple[bytes, bytes]] = {}

    def communicate(index: int) -> None:
        try:
            outputs[index] = running[index].communicate(data, timeout=timeout)
        except subprocess.TimeoutExpired:
            running[index].kill()
            running[index].communicate()
            outputs[index] = (b"", f"not finished within {timeout:g} seconds".encode())

    threads = [Thread(target=communicate, args=(index,), daemon=True) for index in range(len(running))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, process in enumerate(running):
        text = outputs[index][1].decode(errors="replace").strip().splitlines()
        why = f" ({text[-1]})" if text else ""
        if process.returncode == NO_ANSWER or process.returncode < 0:
            raise LostHostError(f"{hosts[index].name}: the host does not answer{why}")
        if process.returncode:
            raise HostError(f"{hosts[index].name}: ended with code {process.returncode}{why}", process.returncode)
    return [outputs[index][0].decode(errors="replace") for index in range(len(running))]
