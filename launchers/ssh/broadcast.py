"""Runs a command on all hosts of a pod for as long as this process lives.

Each host's output is shown line by line with its name. The first failure stops all. The remote commands end when this
process ends, for whatever reason: `hold.sh` runs there and monitors the connection. `background.py` runs commands that
outlive it.
"""

import codecs
import io
import resource
import secrets
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from instructrl.errors import RunError
from launchers.ssh.host import NO_ANSWER, Host, HostError, LostHostError, kill_group, telling_line
from launchers.ssh.variables import LOAD, encode_variables

HOLD = LOAD + (Path(__file__).parent / "hold.sh").read_text(encoding="utf-8")
HEARTBEAT = 3.0  # seconds between heartbeats to a host
HOLD_TIMEOUT = 60  # seconds without a heartbeat after which a host ends its command
GRACE = 3  # seconds until the others are killed after a failure; they wait for the failed one, and cannot save
LOST_GRACE = 1  # the same after a host was lost, which takes 12 seconds to be noticed
SAVE_SECONDS = 60  # seconds to save after ctrl-C
INTERRUPT_SECONDS = 60  # seconds within which all hosts must end when one was interrupted
EXIT_POLL = 0.05  # seconds between looks at processes whose output has ended
READ_BYTES = 65_536
RECENT_LINES = 20  # among which the reason of a failure is looked for
SPARE_HANDLES = 8  # for what is opened meanwhile
INTERRUPTED = 75  # EX_TEMPFAIL: the same command resumes


@dataclass
class RemoteProcess:
    """The ssh process of one host, with its last lines and its exit code.

    Its standard input and output are one socket, and its errors a file: a process has about a thousand file handles.
    """

    host: Host
    process: subprocess.Popen[bytes]
    socket: socket.socket
    errors: Path
    code: int | None = None
    recent: deque[str] = field(default_factory=lambda: deque(maxlen=RECENT_LINES))
    rest: str = ""  # the beginning of the next line
    decoder: io.IncrementalNewlineDecoder = field(
        default_factory=lambda: io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")("replace"), True)
    )

    def send(self, message: str) -> None:
        """Send a message to the host; a broken connection is detected by the reader."""
        with suppress(OSError):
            self.socket.send(f"{message}\n".encode())

    def read(self) -> list[str] | None:
        """Return the lines that have arrived; None at the end of the output."""
        try:
            content = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return []
        except OSError:  # the process ended without reading what was sent
            content = b""
        *lines, self.rest = (self.rest + self.decoder.decode(content, final=not content)).split("\n")
        if not content and not lines and not self.rest:
            return None
        if not content:
            lines, self.rest = [*lines, self.rest], ""
        return [line.rstrip() for line in lines]

    def describe_exit(self) -> str:
        """Describe the exit of the process."""
        why = telling_line(self.errors.read_text(encoding="utf-8", errors="replace").splitlines())
        if self.code == NO_ANSWER:
            return f"{self.host.name}: the host does not answer{f' ({why})' if why else ''}"
        code = self.code or 0
        if code == 128 + signal.SIGKILL:  # it had no time to say why
            return f"{self.host.name}: the command was killed by signal 9: out of memory, or manually"
        exit_text = f"was killed by signal {code - 128}" if 128 < code < 193 else f"ended with code {code}"
        line = telling_line(self.recent)
        where = "its last line" if self.recent and line == self.recent[-1] else "one of its last lines"
        return f"{self.host.name}: the command {exit_text}" + (f"; {where}: {line}" if line else "")


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
        self.failed: RemoteProcess | None = None
        self.interrupts = 0  # number of ctrl-C
        self.schedule: list[tuple[float, Callable[[], None]]] = []  # in order of time
        self.next_heartbeat = 0.0
        self.processes: list[RemoteProcess] = []
        self.running: list[RemoteProcess] = []  # those that have not ended
        self.silent: list[RemoteProcess] = []  # those among them whose output has ended
        first_line = encode_variables(variables)
        token = secrets.token_hex(4)  # commands of the same name started by other processes must not be ended
        reserve_handles(len(hosts))
        self.selector = selectors.DefaultSelector()
        self.folder = Path(tempfile.mkdtemp(prefix="instructrl-"))
        try:
            for host, command in zip(hosts, commands, strict=True):
                self.start(host, hold_command(command, f"{mark}:{host.name}:{token}"), first_line)
        except BaseException:
            self.close()
            raise

    def start(self, host: Host, command: str, first_line: str) -> None:
        """Start a host's ssh."""
        own, other = socket.socketpair()
        errors = self.folder / str(len(self.processes))
        with other, errors.open("wb") as file:
            process = subprocess.Popen(
                host.ssh(command),
                stdin=other.fileno(),
                stdout=other.fileno(),
                stderr=file,
                start_new_session=True,  # ctrl-C is handled here
            )
        own.setblocking(False)
        remote = RemoteProcess(host, process, own, errors)
        self.processes.append(remote)
        self.running.append(remote)
        self.selector.register(own, selectors.EVENT_READ, remote)
        remote.send(first_line)

    def close(self) -> None:
        """Kill what has not ended, and free all handles."""
        for remote in self.running:
            kill_group(remote.process.pid)
        for remote in self.processes:
            remote.process.wait()
            remote.socket.close()
        self.selector.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def step(self) -> None:
        """Send due heartbeats and stop requests, and wait for the next output or exit."""
        now = time.monotonic()
        if now >= self.next_heartbeat:
            self.next_heartbeat = now + HEARTBEAT
            self.send("")
        if self.schedule and now >= self.schedule[0][0]:
            self.schedule.pop(0)[1]()
        due = min([self.next_heartbeat, *(when for when, _ in self.schedule)])
        if self.silent:
            due = min(due, now + EXIT_POLL)
        for key, _ in self.selector.select(max(0.0, due - now)):
            self.receive(key.data)
        for remote in [remote for remote in self.silent if remote.process.poll() is not None]:
            self.silent.remove(remote)
            self.running.remove(remote)
            code = remote.process.returncode
            remote.code = NO_ANSWER if code < 0 else code  # ssh itself was killed
            self.on_exit(remote)

    def receive(self, remote: RemoteProcess) -> None:
        """Show the lines of a host that have arrived."""
        lines = remote.read()
        if lines is None:
            self.selector.unregister(remote.socket)
            self.silent.append(remote)
        for line in lines or ():
            if line.strip():
                remote.recent.append(line.strip())
            self.show(remote.host, line)

    def on_exit(self, remote: RemoteProcess) -> None:
        """Handle the exit of one process. A failure stops the others; an interruption usually reaches all."""
        if remote.code == INTERRUPTED and not self.schedule:
            self.schedule = [(time.monotonic() + INTERRUPT_SECONDS, lambda: self.stop(GRACE))]
        elif remote.code not in (0, INTERRUPTED) and self.failed is None and not self.interrupts:
            self.failed = remote
            others = "; stopping the others" if self.running else ""
            self.show(remote.host, remote.describe_exit() + others)
            self.stop(LOST_GRACE if remote.code == NO_ANSWER else GRACE)

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
            kill_group(remote.process.pid)

    def result(self) -> int:
        """Return or raise the result of `run_on_all`."""
        if self.interrupts:
            raise KeyboardInterrupt
        others = "; the others were stopped" if len(self.processes) > 1 else ""
        if self.failed is not None and self.failed.code == NO_ANSWER:
            raise LostHostError(self.failed.describe_exit() + others, self.failed.host.name)
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
    with closing(group):
        while group.running:
            try:
                group.step()
            except KeyboardInterrupt:
                group.interrupt(save_seconds)
        return group.result()


def hold_command(command: str, mark: str) -> str:
    """Return the command line for a host's shell that runs `command` while the connection is held."""
    return shlex.join(["bash", "-c", HOLD, "hold", command, mark, str(HOLD_TIMEOUT)])


def reserve_handles(hosts: int) -> None:
    """Raise this process's limit of open files if it is too low for a connection to each host.

    Raises:
        RunError: the system does not allow it.
    """
    needed = len(list(Path("/dev/fd").iterdir())) + hosts + SPARE_HANDLES
    limit, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or needed <= limit:
        return
    if allowed != resource.RLIM_INFINITY and needed > allowed:
        raise RunError(
            f"ulimit -n: found {allowed} open files at most, but {hosts} hosts need {needed}; raise it (limits.conf)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, allowed))
