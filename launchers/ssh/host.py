"""Hosts reached by ssh, and short commands on all of them. `broadcast.py` runs long ones."""

import asyncio
import os
import re
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from instructrl.config.fields import format_value
from instructrl.config.launcher import ADDRESS
from instructrl.errors import MACHINE_ERRORS, InputError, RunError
from launchers.ssh.connections import shared_connection

NO_ANSWER = 255  # exit code of ssh itself
MAX_QUERIES = 64  # ssh processes of short commands at a time
CHUNK = 65_536  # bytes written at a time


class HostError(RunError):
    """A command failed on a host; `code` is its exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code


class LostHostError(RunError):
    """A host does not answer, or the connection was lost; `host` is its name."""

    def __init__(self, message: str, host: str) -> None:
        super().__init__(message)
        self.host = host


@dataclass(frozen=True)
class Host:
    """A machine reached by ssh.

    `known` is its known_hosts file; a new node with the same address has another key. `proxy` is ssh's ProxyCommand.
    """

    name: str
    address: str
    port: int = 22
    user: str | None = None
    key: str | None = None
    known: str | None = None
    proxy: str | None = None

    def ssh(self, command: str, *, shared: bool = False) -> list[str]:
        """Return the local command line that runs `command` in the host's shell, in a shared connection if asked to."""
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
        if self.proxy:
            options["ProxyCommand"] = self.proxy
        if shared:
            options |= shared_connection(self)
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
    hosts: Sequence[Host], commands: Sequence[str], *, timeout: float = 120.0, data: bytes = b""
) -> list[str]:
    """Run a short command per host, many at a time, and return their outputs. After a failure no more are started.

    Args:
        hosts: the hosts.
        commands: one per host, for its bash.
        timeout: seconds for each.
        data: standard input of each.

    Raises:
        HostError: a command failed.
        LostHostError: a host does not answer.
    """
    return outputs(query_each(hosts, commands, timeout=timeout, data=data, all_or_none=True))


def outputs(answers: Sequence[str | RunError]) -> list[str]:
    """Return the outputs of all hosts, or raise the first error."""
    for answer in answers:
        if isinstance(answer, RunError):
            raise answer
    return [str(answer) for answer in answers]


def query_each(
    hosts: Sequence[Host],
    commands: Sequence[str],
    *,
    timeout: float = 120.0,
    data: bytes = b"",
    all_or_none: bool = False,
) -> list[str | RunError]:
    """Run a short command per host, many at a time, and return each one's output or error; arguments as `query_all`.

    With `all_or_none`, no more are started after a failure, and the list ends with it. No ssh is left when it ends, but
    those that hold the connections of a few hosts for the next command.
    """

    async def run() -> list[str | RunError]:
        places = asyncio.Semaphore(MAX_QUERIES)
        failed = asyncio.Event()

        async def one(host: Host, command: str) -> str | RunError | None:
            async with places:
                if all_or_none and failed.is_set():
                    return None
                answer = await query(host, command, timeout=timeout, data=data, shared=len(hosts) <= MAX_QUERIES)
                if isinstance(answer, RunError):
                    failed.set()
                return answer

        answers = await asyncio.gather(*map(one, hosts, commands))
        return [answer for answer in answers if answer is not None]

    return asyncio.run(run())


async def query(host: Host, command: str, *, timeout: float, data: bytes, shared: bool) -> str | RunError:
    """Run a short command on a host; returns its output, or the error."""
    words = host.ssh(shlex.join(["bash", "-c", command]), shared=shared)
    with tempfile.TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            *words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
        try:
            output, code = await asyncio.wait_for(exchange(process, data), timeout)
        except TimeoutError:
            output, code = b"", NO_ANSWER
            errors.write(f"not finished within {timeout:g} seconds".encode())
        finally:
            if process.returncode is None:
                kill_group(process.pid)
                await process.wait()
        errors.seek(0)
        line = telling_line(errors.read().decode(errors="replace").splitlines())
    why = f" ({line})" if line else ""
    if code == NO_ANSWER or code < 0:
        return LostHostError(f"{host.name}: the host does not answer{why}", host.name)
    if code:
        return HostError(f"{host.name}: ended with code {code}{why}", code)
    return output.decode(errors="replace")


async def exchange(process: asyncio.subprocess.Process, data: bytes) -> tuple[bytes, int]:
    """Write to a process and read from it until it ends; returns its output and its exit code."""
    assert process.stdin is not None and process.stdout is not None
    async with asyncio.TaskGroup() as group:
        group.create_task(feed(process.stdin, data))
        reading = group.create_task(process.stdout.read())
    return reading.result(), await process.wait()


async def feed(pipe: asyncio.StreamWriter, data: bytes) -> None:
    """Write all data, without a copy of it per host, and close the pipe; a host may read no further."""
    with suppress(BrokenPipeError, ConnectionResetError):
        for start in range(0, len(data), CHUNK):
            pipe.write(memoryview(data)[start : start + CHUNK])
            await pipe.drain()
    pipe.close()


def telling_line(lines: Iterable[str]) -> str:
    """Return the line that says why a command failed: the refusal of the machine, like a full disk, or the last."""
    found = [line.strip() for line in lines if line.strip()]
    refusals = [line for line in found if any(os.strerror(code) in line for code in MACHINE_ERRORS)]
    return (refusals or found or [""])[-1]


def kill_group(leader: int) -> None:
    """Kill the processes that an ssh of its own session has started, like a ProxyCommand, and itself."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
