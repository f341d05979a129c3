"""One command on all hosts of a pod, for as long as this process lives.

Each host's output is shown line by line with its name. The first failure stops all. What runs on the hosts ends when
this process ends, however it ends: `hold.sh` runs there and watches the line. `detached.py` is for what shall outlive
it.
"""

import queue
import secrets
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import IO

from launchers.hosts import NO_ANSWER, Host, HostError, LostHostError

HOLD = (Path(__file__).parent / "hold.sh").read_text()
BEAT = 3.0  # seconds between two lines to a host
PATIENCE = 60  # seconds without one after which a host ends what it runs
GRACE = 3  # seconds that the others have to end after a failure; they wait for the one that failed, and cannot save
SAVING = 60  # seconds to save after ctrl-C
TOGETHER = 60  # seconds within which all hosts end when one was interrupted
INTERRUPTED = 75  # EX_TEMPFAIL: the same command goes on


@dataclass
class Line:
    """The ssh process of one host, what it said last, and how it ended."""

    host: Host
    process: subprocess.Popen[str]
    code: int | None = None
    last: str = ""
    complaints: list[str] = field(default_factory=list)

    def tell(self, word: str) -> None:
        """Send a word to the host; that it is gone is noticed elsewhere."""
        assert self.process.stdin is not None
        with suppress(OSError, ValueError):
            self.process.stdin.write(word + "\n")
            self.process.stdin.flush()

    def ending(self) -> str:
        """How it ended, in words."""
        why = next((line for line in reversed(self.complaints) if line.strip()), "").strip()
        if self.code == NO_ANSWER:
            return f"{self.host.name}: the host does not answer{f' ({why})' if why else ''}"
        code = self.code or 0
        how = f"was ended by signal {code - 128}" if 128 < code < 193 else f"ended with code {code}"
        return f"{self.host.name}: the command {how}" + (f"; its last line: {self.last}" if self.last else "")


def say(host: Host, text: str) -> None:
    """One line of a host."""
    print(f"[{host.name}] {text}", flush=True)


class Fanout:
    """Commands that run on hosts, and what is to happen to them and when."""

    def __init__(self, hosts: Sequence[Host], commands: Sequence[str], mark: str, show: Callable[[Host, str], None]):
        self.show = show
        self.events: queue.Queue[tuple[Line, str | int]] = queue.Queue()  # a line of text, or at last the exit code
        own = secrets.token_hex(4)  # what others run under the same name on the same hosts is not ours to end
        self.lines = [
            open_line(host, held(command, f"{mark}:{host.name}:{own}"), self.events)
            for host, command in zip(hosts, commands, strict=True)
        ]
        self.failed: Line | None = None
        self.asked = 0  # how often ctrl-C was pressed
        self.plan: list[tuple[float, Callable[[], None]]] = []  # the next first
        self.next_beat = 0.0

    @property
    def running(self) -> list[Line]:
        """The hosts that have not ended."""
        return [line for line in self.lines if line.code is None]

    def turn(self) -> None:
        """Wait for what happens next, and do what is due."""
        now = time.monotonic()
        if now >= self.next_beat:
            self.next_beat = now + BEAT
            self.tell("")
        if self.plan and now >= self.plan[0][0]:
            self.plan.pop(0)[1]()
        due = min([self.next_beat, *(when for when, _ in self.plan)])
        with suppress(queue.Empty):
            line, event = self.events.get(timeout=max(0.0, due - now))
            if isinstance(event, int):
                line.code = event
                self.ended(line)
            else:
                line.last = event.strip() or line.last
                self.show(line.host, event)

    def ended(self, line: Line) -> None:
        """One host ended. A failure ends the others; an interruption reaches them by itself, or nearly so."""
        if line.code == INTERRUPTED and not self.plan:
            self.plan = [(time.monotonic() + TOGETHER, lambda: self.stop(GRACE))]
        elif line.code not in (0, INTERRUPTED) and self.failed is None and not self.asked:
            self.failed = line
            others = "; stopping the others" if self.running else ""
            self.show(line.host, line.ending() + others)
            self.stop(GRACE)

    def interrupt(self, saving: int) -> None:
        """Ctrl-C: the command may save first; the second time it may not."""
        self.asked += 1
        seconds = saving if self.asked == 1 else 0
        if seconds:
            print(f"stopping all hosts, within {seconds} seconds; ctrl-C again: without saving", flush=True)
        self.stop(seconds)

    def stop(self, seconds: int) -> None:
        """End all within these seconds; and ssh itself where a host does nothing any more."""
        self.tell(f"stop {seconds}")
        end = time.monotonic() + seconds + GRACE
        self.plan = [(end, lambda: self.tell("stop 0")), (end + GRACE, self.hang_up)]

    def tell(self, word: str) -> None:
        """Send a word to all hosts that run."""
        for line in self.running:
            line.tell(word)

    def hang_up(self) -> None:
        """End the ssh of hosts that do not end."""
        for line in self.running:
            line.process.kill()

    def verdict(self) -> int:
        """What `run_on_all` returns or raises."""
        if self.asked:
            raise KeyboardInterrupt
        others = "; the others were stopped" if len(self.lines) > 1 else ""
        if self.failed is not None and self.failed.code == NO_ANSWER:
            raise LostHostError(self.failed.ending() + others)
        if self.failed is not None:
            raise HostError(self.failed.ending() + others, self.failed.code or 1)
        return INTERRUPTED if any(line.code == INTERRUPTED for line in self.lines) else 0


def run_on_all(
    hosts: Sequence[Host],
    commands: Sequence[str],
    mark: str,
    *,
    saving: int = SAVING,
    show: Callable[[Host, str], None] = say,
) -> int:
    """Run each host's command, show what they say, and stop all when one fails or ctrl-C is pressed.

    Args:
        hosts: where.
        commands: of each host, for its bash.
        mark: a name by which the command's processes are known there.
        saving: seconds that the command has to end after ctrl-C.
        show: takes each line.

    Returns:
        0, or 75 when the command was interrupted and the same command goes on.

    Raises:
        HostError: a command failed; names the first host on which it did.
        LostHostError: a host does not answer.
        KeyboardInterrupt: after ctrl-C, when all have ended.
    """
    fanout = Fanout(hosts, commands, mark, show)
    while fanout.running:
        try:
            fanout.turn()
        except KeyboardInterrupt:
            fanout.interrupt(saving)
    return fanout.verdict()


def held(command: str, mark: str) -> str:
    """The command line for a host's shell that runs `command` for as long as the line is held."""
    return shlex.join(["bash", "-c", HOLD, "hold", command, mark, str(PATIENCE)])


def open_line(host: Host, command: str, events: queue.Queue[tuple[Line, str | int]]) -> Line:
    """Start a host's ssh, and threads that hand on what it says."""
    process = subprocess.Popen(
        host.ssh(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # ctrl-C is ours to hand on
    )
    line = Line(host, process)
    assert process.stdout is not None and process.stderr is not None

    def complain(pipe: IO[str]) -> None:
        line.complaints += [text.rstrip() for text in pipe]

    def read(pipe: IO[str]) -> None:
        for text in pipe:
            events.put((line, text.rstrip()))
        complaining.join()
        code = process.wait()
        events.put((line, NO_ANSWER if code < 0 else code))  # an ssh that was killed

    complaining = Thread(target=complain, args=(process.stderr,), daemon=True)
    complaining.start()
    Thread(target=read, args=(process.stdout,), daemon=True).start()
    return line
