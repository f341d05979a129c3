"""Runs a command on all hosts of a pod for as long as this process lives.

Each host's output is shown line by line with its name. The first failure stops all. The remote commands end when this
process ends, for whatever reason: `hold.sh` runs there and monitors the connection. `background.py` runs commands that
outlive it.
"""

import queue
import secrets
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from types import MappingProxyType
from typing import IO

from launchers.ssh.host import NO_ANSWER, Host, HostError, LostHostError
from launchers.ssh.variables import LOAD, encode_variables

HOLD = LOAD + (Path(__file__).parent / "hold.sh").read_text(encoding="utf-8")
HEARTBEAT = 3.0  # seconds between heartbeats to a host
HOLD_TIMEOUT = 60  # seconds without a heartbeat after which a host ends its command
GRACE = 3  # seconds until the others are killed after a failure; they wait for the failed one, and cannot save
SAVE_SECONDS = 60  # seconds to save after ctrl-C
INTERRUPT_SECONDS = 60  # seconds within which all hosts must end when one was interrupted
INTERRUPTED = 75  # EX_TEMPFAIL: the same command resumes


@dataclass
class RemoteProcess:
    """The ssh process of one host, with its last output and its exit code."""

    host: Host
    process: subprocess.Popen[str]
    code: int | None = None
    last: str = ""
    errors: list[str] = field(default_factory=list)

    def send(self, message: str) -> None:
        """Send a message to the host; a broken connection is detected by the reader."""
        assert self.process.stdin is not None
        with suppress(OSError, ValueError):
            self.process.stdin.write(message + "\n")
            self.process.stdin.flush()

    def describe_exit(self) -> str:
        """Describe the exit of the process."""
        why = next((line for line in reversed(self.errors) if line.strip()), "").strip()
        if self.code == NO_ANSWER:
            return f"{self.host.name}: the host does not answer{f' ({why})' if why else ''}"
        code = self.code or 0
        if code == 128 + signal.SIGKILL:  # it had no time to say why
            return f"{self.host.name}: the command was killed by signal 9: out of memory, or manually"
        exit_text = f"was killed by signal {code - 128}" if 128 < code < 193 else f"ended with code {code}"
        return f"{self.host.name}: the command {exit_text}" + (f"; its last line: {self.last}" if self.last else "")


def print_line(host: Host, text: str) -> None:
    """Print one line of a host."""
    print(f"[{host.name}] {text}", flush=True)


class RemoteGroup:
    """Commands that run on hosts, and the schedule of stop requests."""

    def __init__(
        self,
        hosts: Sequence[Host],
        commands: Sequence[str],
        mark: str,
        show: Callable[[Host, str], None],
        variables: Mapping[str, str],
    ):
        self.show = show
        first_line = encode_variables(variables)
        # Lines of text, and finally the exit code.
        self.events: queue.Queue[tuple[RemoteProcess, str | int]] = queue.Queue()
        token = secrets.token_hex(4)  # commands of the same name started by other processes must not be ended
        self.processes = [
            start_process(host, hold_command(command, f"{mark}:{host.name}:{token}"), self.events)
            for host, command in zip(hosts, commands, strict=True)
        ]
        self.send(first_line)
        self.failed: RemoteProcess | None = None
        self.interrupts = 0  # number of ctrl-C
        self.schedule: list[tuple[float, Callable[[], None]]] = []  # in order of time
        self.next_heartbeat = 0.0

    @property
    def running(self) -> list[RemoteProcess]:
        """Processes that have not ended."""
        return [remote for remote in self.processes if remote.code is None]

    def step(self) -> None:
        """Send due heartbeats and stop requests, and wait for the next event."""
        now = time.monotonic()
        if now >= self.next_heartbeat:
            self.next_heartbeat = now + HEARTBEAT
            self.send("")
        if self.schedule and now >= self.schedule[0][0]:
            self.schedule.pop(0)[1]()
        due = min([self.next_heartbeat, *(when for when, _ in self.schedule)])
        with suppress(queue.Empty):
            remote, event = self.events.get(timeout=max(0.0, due - now))
            if isinstance(event, int):
                remote.code = event
                self.on_exit(remote)
            else:
                remote.last = event.strip() or remote.last
                self.show(remote.host, event)

    def on_exit(self, remote: RemoteProcess) -> None:
        """Handle the exit of one process. A failure stops the others; an interruption usually reaches all."""
        if remote.code == INTERRUPTED and not self.schedule:
            self.schedule = [(time.monotonic() + INTERRUPT_SECONDS, lambda: self.stop(GRACE))]
        elif remote.code not in (0, INTERRUPTED) and self.failed is None and not self.interrupts:
            self.failed = remote
            others = "; stopping the others" if self.running else ""
            self.show(remote.host, remote.describe_exit() + others)
            self.stop(GRACE)

    def interrupt(self, save_seconds: int) -> None:
        """Handle ctrl-C. First: graceful stop with time to save. Second: kill."""
        self.interrupts += 1
        seconds = save_seconds if self.interrupts == 1 else 0
        if seconds:
            print(f"stopping all hosts, within {seconds} seconds; ctrl-C again: without saving", flush=True)
        self.stop(seconds)

    def stop(self, seconds: int) -> None:
        """Stop all within `seconds`, and kill the ssh of hosts that do not react."""
        self.send(f"stop {seconds}")
        end = time.monotonic() + seconds + GRACE
        self.schedule = [(end, lambda: self.send("stop 0")), (end + GRACE, self.kill_ssh)]

    def send(self, message: str) -> None:
        """Send a message to all running hosts."""
        for remote in self.running:
            remote.send(message)

    def kill_ssh(self) -> None:
        """Kill the ssh of hosts that have not ended."""
        for remote in self.running:
            remote.process.kill()

    def result(self) -> int:
        """Return or raise the result of `run_on_all`."""
        if self.interrupts:
            raise KeyboardInterrupt
        others = "; the others were stopped" if len(self.processes) > 1 else ""
        if self.failed is not None and self.failed.code == NO_ANSWER:
            raise LostHostError(self.failed.describe_exit() + others)
        if self.failed is not None:
            raise HostError(self.failed.describe_exit() + others, self.failed.code or 1)
        return INTERRUPTED if any(remote.code == INTERRUPTED for remote in self.processes) else 0


def run_on_all(
    hosts: Sequence[Host],
    commands: Sequence[str],
    mark: str,
    *,
    variables: Mapping[str, str] = MappingProxyType({}),
    save_seconds: int = SAVE_SECONDS,
    show: Callable[[Host, str], None] = print_line,
) -> int:
    """Run a command per host, show their output, and stop all when one fails or on ctrl-C.

    Args:
        hosts: the hosts.
        commands: one per host, for its bash.
        mark: a name that identifies the command's processes on the hosts.
        variables: of the command's environment, see `passed_variables`.
        save_seconds: seconds for the command to save and end after ctrl-C.
        show: called with each line.

    Returns:
        0, or 75 if the command was interrupted and the same command resumes.

    Raises:
        HostError: a command failed; names the first host on which it failed.
        LostHostError: a host does not answer.
        KeyboardInterrupt: after ctrl-C, once all have ended.
    """
    group = RemoteGroup(hosts, commands, mark, show, variables)
    while group.running:
        try:
            group.step()
        except KeyboardInterrupt:
            group.interrupt(save_seconds)
    return group.result()


def hold_command(command: str, mark: str) -> str:
    """Return the command line for a host's shell that runs `command` while the connection is held."""
    return shlex.join(["bash", "-c", HOLD, "hold", command, mark, str(HOLD_TIMEOUT)])


def start_process(host: Host, command: str, events: queue.Queue[tuple[RemoteProcess, str | int]]) -> RemoteProcess:
    """Start a host's ssh, and threads that forward its output."""
    process = subprocess.Popen(
        host.ssh(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # ctrl-C is handled here
    )
    remote = RemoteProcess(host, process)
    assert process.stdout is not None and process.stderr is not None

    def read_errors(pipe: IO[str]) -> None:
        remote.errors += [text.rstrip() for text in pipe]

    def read(pipe: IO[str]) -> None:
        for text in pipe:
            events.put((remote, text.rstrip()))
        error_reader.join()
        code = process.wait()
        events.put((remote, NO_ANSWER if code < 0 else code))  # ssh itself was killed

    error_reader = Thread(target=read_errors, args=(process.stderr,), daemon=True)
    error_reader.start()
    Thread(target=read, args=(process.stdout,), daemon=True).start()
    return remote
