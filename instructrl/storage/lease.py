"""A lease on a folder, held by one process and respected across machines.

The holder writes a record into the folder and renews it every few seconds. The file lock (see `file_lock`) is faster
and is taken first; the lease covers what that cannot: network file systems and object storage.
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

from instructrl.errors import InputError, RunError
from instructrl.preemption import POLL_INTERVAL, sleep
from instructrl.redaction import redact_words
from instructrl.storage import object_store
from instructrl.storage.atomic import atomic_path
from instructrl.storage.file_lock import exclusive_lock
from instructrl.storage.json_file import parse_json
from instructrl.storage.paths import StoragePath

NAME = ".owner.json"
HEARTBEAT = 10.0  # seconds between two renewals
TIMEOUT = 60.0  # seconds without renewal after which the lease of a process on another machine expires


@dataclass(frozen=True)
class LeaseHolder:
    """The process that holds a lease."""

    host: str
    boot: str  # boot id of that machine
    pid: int
    since: str
    started: float  # start time of the process, by the clock of its machine
    command: str
    token: str  # unique to the lease

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"

    def is_local(self) -> bool:
        """Return True if it is, or was, a process of this machine since its last boot."""
        return (self.host, self.boot) == (socket.gethostname(), boot_id())

    def is_running(self) -> bool:
        """Return True if the process still runs, and its id was not reused by another one."""
        try:
            return abs(psutil.Process(self.pid).create_time() - self.started) < 2
        except psutil.Error:
            return False


class LeaseRecord:
    """The record of a lease in a folder. Its content and last renewal make up its `state`."""

    def __init__(self, folder: StoragePath) -> None:
        self.path = folder / NAME

    def state(self) -> tuple[bytes, float] | None:
        """Return the content and the time of the last renewal; None if there is no record."""
        if isinstance(self.path, Path):
            try:
                with self.path.open("rb") as file:  # opening makes a network file system revalidate its cache
                    return file.read(), os.fstat(file.fileno()).st_mtime
            except FileNotFoundError:
                return None
        found = object_store.stat(str(self.path))
        if found is None:
            return None
        with suppress(FileNotFoundError, ValueError):
            content = parse_json(object_store.fetch(str(self.path), 0, found.size))
            return json.dumps(content["owner"]).encode(), float(content["beat"])
        return b"", 0.0

    def holder(self) -> LeaseHolder | None:
        """Return the holder; None if there is no record or it cannot be parsed."""
        state = self.state()
        try:
            return None if state is None else LeaseHolder(**parse_json(state[0]))
        except (ValueError, TypeError):
            return None

    def write(self, holder: LeaseHolder) -> None:
        """Write the record of a new holder."""
        if isinstance(self.path, Path):
            with atomic_path(self.path) as temporary:
                temporary.write_text(json.dumps(asdict(holder)), encoding="utf-8")
        else:
            self._send(holder)

    def renew(self, holder: LeaseHolder) -> None:
        """Renew the lease; on a file system this needs no free space."""
        if isinstance(self.path, Path):
            os.utime(self.path)
        else:
            self._send(holder)

    def _send(self, holder: LeaseHolder) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump({"owner": asdict(holder), "beat": time.time()}, file)
            file.flush()
            object_store.upload(Path(file.name), str(self.path))

    def remove(self) -> None:
        """Remove the record."""
        if isinstance(self.path, Path):
            self.path.unlink(missing_ok=True)
        else:
            object_store.remove(str(self.path))


class Lease:
    """A held lease: renewed by a thread, which also notices if another process took it over."""

    def __init__(self, record: LeaseRecord, holder: LeaseHolder, *, heartbeat: float = HEARTBEAT) -> None:
        self.record, self.holder, self._heartbeat = record, holder, heartbeat
        self.taken_over_by: LeaseHolder | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise RunError if another process took over the lease because this one did not renew it in time."""
        if self.taken_over_by is not None:
            raise RunError(
                f"{self.record.path.parent}: taken over by {self.taken_over_by} while this process did not renew its "
                "lease; this one ends and saves nothing more"
            )

    def _keep_renewing(self) -> None:
        while not self._stop.wait(self._heartbeat):
            with suppress(OSError, InputError, RunError):  # the next renewal may succeed
                found = self.record.holder()
                if found is not None and found != self.holder:
                    self.taken_over_by = found
                    return
                self.record.renew(self.holder)

    def release(self) -> None:
        """Release the lease."""
        self._stop.set()
        self._thread.join()
        with suppress(OSError, InputError, RunError):
            if self.record.holder() == self.holder:
                self.record.remove()


@contextmanager
def exclusive_lease(
    folder: StoragePath,
    *,
    activity: str,
    busy_hint: str,
    write_hint: str,
    holder: LeaseHolder | None = None,
    heartbeat: float = HEARTBEAT,
    timeout: float = TIMEOUT,
) -> Iterator[Lease]:
    """Hold a lease on the folder (created if missing) against processes of this and other machines.

    A lease that a dead process of this machine left is taken over at once; one that a process of another machine left,
    when it has not been renewed for `timeout` seconds.

    Args:
        folder: the folder to lease.
        activity: what the process does there, third person ("trains"), for messages of other processes.
        busy_hint: next action in the error if another process holds the lease.
        write_hint: next action in the error if the folder cannot be written.
        holder: the process that takes the lease; None: this one.
        heartbeat: seconds between two renewals.
        timeout: seconds without renewal after which the lease of a process on another machine expires.

    Raises:
        InputError: another process holds the lease, or the folder cannot be written.
    """
    record = LeaseRecord(folder)
    with exclusive_lock(folder, activity=activity, busy_hint=busy_hint, write_hint=write_hint, holder=record.holder):
        wait_for_expiry(record, activity=activity, busy_hint=busy_hint, heartbeat=heartbeat, timeout=timeout)
        holder = holder or current_process()
        try:
            record.write(holder)
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be written ({error.strerror}); free space there or {write_hint}"
            ) from None
        lease = Lease(record, holder, heartbeat=heartbeat)
        try:
            yield lease
        finally:
            lease.release()


def wait_for_expiry(
    record: LeaseRecord, *, activity: str, busy_hint: str, heartbeat: float = HEARTBEAT, timeout: float = TIMEOUT
) -> None:
    """Block until the lease is free. A stale one is observed for a while, since clocks of machines differ.

    Raises:
        InputError: its holder is alive.
    """
    state, holder = record.state(), record.holder()
    if state is None:
        return
    if holder is not None and holder.is_local():
        if holder.is_running() and holder.pid != os.getpid():
            raise in_use_error(record, holder, activity=activity, busy_hint=busy_hint)
        return
    age = max(time.time() - state[1], 0.0)
    wait = max(timeout - age, 1.5 * heartbeat)
    name = holder or "another process"
    print(f"{record.path.parent}: {name} worked here; waiting up to {wait:.0f} s for it to renew its lease", flush=True)
    end = time.monotonic() + wait
    while time.monotonic() < end:
        sleep(min(POLL_INTERVAL, heartbeat / 2))
        now = record.state()
        if now is None:
            return
        if now != state:
            raise in_use_error(record, record.holder() or holder, activity=activity, busy_hint=busy_hint)


def active_holder(folder: StoragePath) -> LeaseHolder | None:
    """The process that works in a folder, as far as its lease tells at once; None if it is free or was left behind."""
    record = LeaseRecord(folder)
    try:
        state, holder = record.state(), record.holder()
    except OSError:  # of a process of another user
        return None
    if state is None or holder is None:
        return None
    active = holder.is_running() if holder.is_local() else time.time() - state[1] < TIMEOUT
    return holder if active else None


def in_use_error(record: LeaseRecord, holder: LeaseHolder | None, *, activity: str, busy_hint: str) -> InputError:
    """Build the error for a folder that is leased by another process."""
    named = "" if holder is None else f" ({holder})"
    return InputError(f"{record.path.parent}: another process{named} {activity} here; wait for it or {busy_hint}")


def current_process() -> LeaseHolder:
    """Return this process as a lease holder."""
    return LeaseHolder(
        host=socket.gethostname(),
        boot=boot_id(),
        pid=os.getpid(),
        since=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        started=psutil.Process().create_time(),
        command=shlex.join(redact_words(sys.argv))[:200],
        token=secrets.token_hex(8),
    )


def boot_id() -> str:
    """Return the boot id of this machine, or "" if it has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return ""
