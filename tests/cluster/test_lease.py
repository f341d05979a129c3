"""Leases: one holder per folder across machines; a live holder is named, an expired lease is taken over."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from instructrl.config.environment import DataConfig
from instructrl.errors import InputError, RunError
from instructrl.evaluation.results.comparability import cautions, training_record
from instructrl.storage.file_lock import exclusive_lock
from instructrl.storage.lease import NAME, LeaseHolder, LeaseRecord, current_process, exclusive_lease
from instructrl.storage.paths import StoragePath, storage_path
from tests.fakes import emulators

OPTIONS: dict[str, Any] = {
    "activity": "trains",
    "busy_hint": "add name=...",
    "write_hint": "choose another output_dir",
    "heartbeat": 0.1,
    "timeout": 1.0,
}
HOLD = """
import sys, time
from pathlib import Path
from instructrl.storage.lease import exclusive_lease
with exclusive_lease(Path(sys.argv[1]), activity="trains", busy_hint="wait", write_hint="-"):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def foreign_process() -> LeaseHolder:
    """Describe a process on another machine."""
    return replace(current_process(), host="elsewhere", boot="other")


def write_foreign_lease(folder: Path) -> None:
    """Write the lease of a process on another machine."""
    folder.mkdir(exist_ok=True)
    LeaseRecord(folder).write(foreign_process())


def seconds(folder: StoragePath, **options: Any) -> float:
    """Take the lease, and return how long it took."""
    begun = time.monotonic()
    with exclusive_lease(folder, **{**OPTIONS, **options}):
        return time.monotonic() - begun


def test_a_living_owner_is_named_and_a_killed_one_is_followed_at_once(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        with pytest.raises(InputError, match=rf"another process \(process {process.pid} on .* since .*\) trains here"):
            seconds(tmp_path)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert (tmp_path / NAME).exists()
        assert seconds(tmp_path) < 0.5
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_the_disk_knows_no_locks_the_record_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def unknown(handle: int, how: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", unknown)
    with holder(tmp_path) as process, pytest.raises(InputError, match=f"process {process.pid} on "):
        seconds(tmp_path)
    assert seconds(tmp_path) < 0.5


def test_an_owner_elsewhere_lives_as_long_as_it_gives_signs_of_life(tmp_path: Path) -> None:
    write_foreign_lease(tmp_path)
    end = threading.Event()

    def live() -> None:
        while not end.wait(0.1):
            os.utime(tmp_path / NAME)

    thread = threading.Thread(target=live)
    thread.start()
    with pytest.raises(InputError, match="on elsewhere since"):
        seconds(tmp_path)
    end.set()
    thread.join()
    assert 0.5 < seconds(tmp_path) < 5, "when it has been silent for long enough"


def test_an_owner_elsewhere_whose_clock_is_wrong_is_watched(tmp_path: Path) -> None:
    write_foreign_lease(tmp_path)
    for hours in (-5, 5):
        write_foreign_lease(tmp_path)
        os.utime(tmp_path / NAME, (time.time() + hours * 3600,) * 2)
        assert 0.14 < seconds(tmp_path) < 5


def test_an_owner_elsewhere_that_leaves_is_followed_at_once(tmp_path: Path) -> None:
    write_foreign_lease(tmp_path)
    threading.Timer(0.3, (tmp_path / NAME).unlink).start()
    assert seconds(tmp_path, timeout=60.0) < 10


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 1}'])
def test_a_damaged_record_is_followed_when_nobody_confirms_it(tmp_path: Path, content: str) -> None:
    (tmp_path / NAME).write_text(content)
    assert seconds(tmp_path) < 5


def test_one_that_was_taken_for_dead_writes_no_more(tmp_path: Path) -> None:
    with exclusive_lease(tmp_path, **OPTIONS) as lease:
        lease.check()
        write_foreign_lease(tmp_path)
        end = time.monotonic() + 10
        while lease.taken_over_by is None and time.monotonic() < end:
            time.sleep(0.02)
        with pytest.raises(RunError, match=r"taken over by process .* on elsewhere"):
            lease.check()
    assert json.loads((tmp_path / NAME).read_text())["host"] == "elsewhere", (
        "the record of another holder is not removed"
    )


def test_the_lock_names_the_owner(tmp_path: Path) -> None:
    with exclusive_lease(tmp_path, **OPTIONS), pytest.raises(InputError, match=f"process {os.getpid()} on"):
        seconds(tmp_path)
    with (
        exclusive_lock(tmp_path, activity="trains", busy_hint="wait"),
        pytest.raises(InputError, match="another process trains"),
    ):
        seconds(tmp_path)


@pytest.mark.parametrize("kind", ["gs", "s3"])
def test_an_evaluation_sees_a_training_whose_run_is_in_a_bucket(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the lease in the bucket: the local copy of the run has none."""
    (tmp_path / "copy" / "checkpoints" / "2").mkdir(parents=True)
    with emulators.store(kind) as store:
        for key, value in store.environment.items():
            monkeypatch.setenv(key, value)
        location = storage_path(f"{store.root}/run", DataConfig(cache_dir=None))
        with exclusive_lease(location, **OPTIONS, holder=foreign_process()) as lease:
            during = training_record(tmp_path / "copy", location, epochs=3, validate_every=1)
            assert during["process"] == str(lease.holder)
        after = training_record(tmp_path / "copy", location, epochs=3, validate_every=1)
    assert cautions({"training": during}) == [
        f"The run was still in training ({lease.holder}): its agent may become another one."
    ]
    assert after["process"] == "" and cautions({"training": after}) == []


@pytest.mark.parametrize("kind", ["gs", "s3"])
def test_a_folder_in_a_bucket_has_one_owner_on_all_machines(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with emulators.store(kind) as store:
        for key, value in store.environment.items():
            monkeypatch.setenv(key, value)
        first, second = (
            storage_path(f"{store.root}/run", DataConfig(cache_dir=str(tmp_path / machine)))
            for machine in ("one", "two")
        )
        with exclusive_lease(first, **OPTIONS, holder=foreign_process()) as lease:
            with pytest.raises(InputError, match=rf"process {os.getpid()} on elsewhere since .* trains here"):
                seconds(second, timeout=60.0)
            lease.check()
        assert seconds(second, timeout=60.0) < 5
