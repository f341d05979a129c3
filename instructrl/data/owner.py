"""A folder that belongs to one process, also where others on other machines can reach it.

The owner leaves a record in it, and a sign of life every few seconds. The lock of this machine (see `lock`) is quicker
and comes first; the record counts where that does not reach: on a network disk and in a bucket.
"""

import json
import os
import secrets
import shlex
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from instructrl.data import buckets
from instructrl.data.lock import only_process
from instructrl.data.storage import Place
from instructrl.errors import InputError, RunError
from instructrl.interruption import LOOK, stop_if_asked

NAME = ".owner.json"
BEAT = 10.0  # seconds between two signs of life
SILENCE = 60.0  # seconds without one after which an owner on another machine counts as dead


@dataclass(frozen=True)
class Owner:
    """Who works in a folder."""

    host: str
    boot: str  # which start of that machine
    pid: int
    since: str
    started: float  # of the process, by the clock of its machine
    command: str
    token: str  # no two owners have the same

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"

    def is_here(self) -> bool:
        """Whether it is, or was, a process of this machine."""
        return (self.host, self.boot) == (socket.gethostname(), boot())

    def lives_here(self) -> bool:
        """Whether the process is still there, and not another one that got its number."""
        try:
            return abs(psutil.Process(self.pid).create_time() - self.started) < 2
        except psutil.Error:
            return False


class Record:
    """The record in a folder. What it says and its last sign of life make up its `state`."""

    def __init__(self, folder: Place) -> None:
        self.path = folder / NAME

    def state(self) -> tuple[bytes, float] | None:
        """What is written and when it was confirmed last; None if nothing is."""
        if isinstance(self.path, Path):
            try:
                with self.path.open("rb") as file:  # opening makes a network disk look again
                    return file.read(), os.fstat(file.fileno()).st_mtime
            except FileNotFoundError:
                return None
        found = buckets.stat(str(self.path))
        if found is None:
            return None
        with suppress(FileNotFoundError, ValueError):
            content = json.loads(buckets.fetch(str(self.path), 0, found.size))
            return json.dumps(content["owner"]).encode(), float(content["beat"])
        return b"", 0.0

    def owner(self) -> Owner | None:
        """Who is written there; None if nobody, or nothing that can be read."""
        state = self.state()
        try:
            return None if state is None else Owner(**json.loads(state[0]))
        except (ValueError, TypeError):
            return None

    def write(self, owner: Owner) -> None:
        """Put an owner there."""
        if isinstance(self.path, Path):
            temporary = self.path.with_name(f"{NAME}.{owner.token}")
            temporary.write_text(json.dumps(asdict(owner)))
            temporary.replace(self.path)
        else:
            self._send(owner)

    def confirm(self, owner: Owner) -> None:
        """Give a sign of life; on a disk it takes no room, which may have run out."""
        if isinstance(self.path, Path):
            os.utime(self.path)
        else:
            self._send(owner)

    def _send(self, owner: Owner) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump({"owner": asdict(owner), "beat": time.time()}, file)
            file.flush()
            buckets.upload(Path(file.name), str(self.path))

    def remove(self) -> None:
        """Nobody works there any more."""
        if isinstance(self.path, Path):
            self.path.unlink(missing_ok=True)
        else:
            buckets.remove(str(self.path))


class Hold:
    """What an owner has: signs of life by a thread, and whether the folder is still its own."""

    def __init__(self, record: Record, owner: Owner) -> None:
        self.record, self.owner = record, owner
        self.lost: Owner | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._live, name="owner", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise RunError if another process took the folder over, because this one was silent for too long."""
        if self.lost is not None:
            raise RunError(
                f"{self.record.path.parent}: taken over by {self.lost} while this process gave no sign of life; "
                "this one ends and saves nothing more"
            )

    def _live(self) -> None:
        while not self._end.wait(BEAT):
            with suppress(OSError, InputError, RunError):  # the next beat may come through
                found = self.record.owner()
                if found is not None and found != self.owner:
                    self.lost = found
                    return
                self.record.confirm(self.owner)

    def release(self) -> None:
        """Leave the folder to others."""
        self._end.set()
        self._thread.join()
        with suppress(OSError, InputError, RunError):
            if self.record.owner() == self.owner:
                self.record.remove()


@contextmanager
def only_owner(folder: Place, *, does: str, remedy: str, elsewhere: str) -> Iterator[Hold]:
    """Own the folder, created if need be, against other processes here and on other machines.

    What a process of this machine left that is no more is taken over at once; what one elsewhere left, when it has been
    silent for `SILENCE` seconds.

    Raises:
        InputError: another process owns it, and `remedy` says what to do; or the folder cannot be
            written, and `elsewhere` says how to name another.
    """
    record = Record(folder)
    with only_process(folder, does=does, remedy=remedy, elsewhere=elsewhere, who=record.owner):
        await_death(record, does=does, remedy=remedy)
        owner = this_process()
        try:
            record.write(owner)
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be written ({error.strerror}); free space there or {elsewhere}"
            ) from None
        hold = Hold(record, owner)
        try:
            yield hold
        finally:
            hold.release()


def await_death(record: Record, *, does: str, remedy: str) -> None:
    """Return when nobody owns the folder; what looks dead is watched, since clocks of machines differ.

    Raises:
        InputError: the owner lives.
    """
    state, owner = record.state(), record.owner()
    if state is None:
        return
    if owner is not None and owner.is_here():
        if owner.lives_here() and owner.pid != os.getpid():
            raise refusal(record, owner, does=does, remedy=remedy)
        return
    age = max(time.time() - state[1], 0.0)
    patience = max(SILENCE - age, 1.5 * BEAT)
    name = owner or "another process"
    print(f"{record.path.parent}: {name} worked here; waiting up to {patience:.0f} s for a sign of life", flush=True)
    end = time.monotonic() + patience
    while time.monotonic() < end:
        stop_if_asked()
        time.sleep(min(LOOK, BEAT / 2))
        now = record.state()
        if now is None:
            return
        if now != state:
            raise refusal(record, record.owner() or owner, does=does, remedy=remedy)


def refusal(record: Record, owner: Owner | None, *, does: str, remedy: str) -> InputError:
    """The error for a folder that has an owner."""
    named = "" if owner is None else f" ({owner})"
    return InputError(f"{record.path.parent}: another process{named} {does} here; wait for it or {remedy}")


def this_process() -> Owner:
    """This process as an owner."""
    return Owner(
        host=socket.gethostname(),
        boot=boot(),
        pid=os.getpid(),
        since=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        started=psutil.Process().create_time(),
        command=shlex.join(sys.argv)[:200],
        token=secrets.token_hex(8),
    )


def boot() -> str:
    """Which start of this machine, where it says."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
