"""Runs that outlive the launcher, found again by others; and the code that they run."""

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from instructrl.errors import InputError
from launchers import detached
from launchers.code import copy_code
from launchers.hosts import HostError
from tests.pods import ADDRESSES, SSHD, Pod, marked, pod

pytestmark = pytest.mark.skipif(SSHD is None, reason="needs openssh-server")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    with pod(tmp_path_factory.mktemp("pod")) as hosts:
        yield hosts


def states(made: Pod, run: str) -> list[str]:
    return [text.split()[0] for _, text in detached.status(made.hosts, run)]


def test_a_run_goes_on_after_its_launcher_was_killed(made: Pod) -> None:
    program = f"""
        import os, signal
        from pathlib import Path
        from launchers import detached
        from tests.pods import ADDRESSES, Pod
        hosts = [Pod(Path({str(made.folder)!r}), {made.port}).host(address) for address in ADDRESSES]
        detached.start(hosts, "long", ["for i in $(seq 3000); do echo step $i; sleep 0.1; done"] * 3)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, timeout=60)
    time.sleep(1)
    assert states(made, "long") == ["running"] * 3
    assert {run: len(rows) for run, rows in detached.listed(made.hosts).items()}["long"] == 3
    with pytest.raises(InputError, match=r"^run: long is running on 127\.0\.0\.2, "):
        detached.start(made.hosts, "long", ["true"] * 3)
    said: list[tuple[str, str]] = []

    class EnoughError(Exception):
        pass

    def show(host, text: str) -> None:
        said.append((host.name, text))
        if {name for name, text in said if text.startswith("step")} == set(ADDRESSES):
            raise EnoughError

    with pytest.raises(EnoughError):
        detached.follow(made.hosts, "long", lines=3, show=show)
    assert states(made, "long") == ["running"] * 3  # logs that end leave the run alone
    assert [text for _, text in detached.stop(made.hosts, "long", seconds=2)] == ["ended 143"] * 3
    assert marked("long:") == []


def test_a_stopped_run_may_save_first(made: Pod) -> None:
    saving = "trap 'sleep 1; echo saved; exit 75' TERM; for i in $(seq 3000); do sleep 0.1; done"
    detached.start(made.hosts, "saving", [saving] * 3)
    time.sleep(1)
    assert [text for _, text in detached.stop(made.hosts, "saving", seconds=20)] == ["ended 75"] * 3
    said: list[str] = []
    assert detached.follow(made.hosts, "saving", show=lambda _, text: said.append(text)) == 75
    assert said == ["saved"] * 3


def test_what_ends_while_nobody_looks_is_told_later(made: Pod) -> None:
    commands = ["echo fine", "echo no card; exit 7", "sleep 300 & echo fine"]
    detached.start(made.hosts, "short", commands)
    time.sleep(2)
    assert [text for _, text in detached.status(made.hosts, "short")] == ["ended 0", "ended 7", "ended 0"]
    with pytest.raises(HostError, match=r"127\.0\.0\.3: the command ended with code 7; its last line: no card"):
        detached.follow(made.hosts, "short", show=lambda *_: None)
    assert marked("short:") == []  # the failure ended also what was left behind
    with pytest.raises(InputError, match=r"^run: found no other on these hosts"):
        detached.follow(made.hosts, "other")


def test_an_end_that_is_not_noted_yet_is_waited_for(made: Pod) -> None:
    detached.start(made.hosts, "slow", ["exec sleep 300"] * 3)
    processes = marked(f"slow:{ADDRESSES[1]}")
    [keeper] = {process.parent() for process in processes}
    keeper.suspend()
    later = threading.Timer(2, keeper.resume)
    later.start()
    assert [text for _, text in detached.stop(made.hosts, "slow", seconds=1)] == ["ended 143"] * 3
    later.join()


def test_a_host_that_is_lost_is_shown_as_such(made: Pod) -> None:
    detached.start(made.hosts, "cut", ["sleep 300"] * 3)
    for process in marked(f"cut:{ADDRESSES[1]}"):
        process.parent().kill()  # as a restart of the host does it
        process.kill()
    time.sleep(0.5)
    assert states(made, "cut") == ["running", "lost", "running"]
    made.kill(ADDRESSES[1])
    told = {host.name: text for host, text in detached.status(made.hosts, "cut")}
    assert told[ADDRESSES[1]].startswith("the host does not answer (") and told[ADDRESSES[0]].startswith("running")
    detached.end_what_answers(made.hosts, "cut")
    assert marked("cut:") == []


def test_code_arrives_as_git_knows_it(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()

    def git(*words: str) -> None:
        subprocess.run(["git", "-C", source, "-c", "user.name=x", "-c", "user.email=x@x", *words], check=True)

    git("init", "-q")
    (source / ".gitignore").write_text("data\n")
    (source / "data").mkdir()
    (source / "data/secret").write_text("large")
    for name in ("kept.py", "changed.py", "gone.py", "with space.py"):
        (source / name).write_text(name)
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o755)
    git("add", ".")
    git("commit", "-qm", "all")
    with pod(tmp_path / "pod") as made:
        assert copy_code(made.hosts, source, "code")[0] == 6
        (source / "changed.py").write_text("newer")
        (source / "gone.py").unlink()
        (source / "fresh.py").write_text("not committed")
        for address in ADDRESSES:
            (made.home(address) / "code/outputs").mkdir()
        copy_code(made.hosts, source, "code")
        for address in ADDRESSES:
            there = made.home(address) / "code"
            files = {path.name for path in there.iterdir()}
            assert files == {
                ".copied",
                ".gitignore",
                "kept.py",
                "changed.py",
                "with space.py",
                "run.sh",
                "fresh.py",
                "outputs",
            }
            assert (there / "changed.py").read_text() == "newer" and (there / "run.sh").stat().st_mode & 0o111
        detached.start(made.hosts, "busy", ["sleep 300"] * 3)
        with pytest.raises(HostError, match="run busy is running from this code; stop it, or say force=true"):
            copy_code(made.hosts, source, "code")
        copy_code(made.hosts, source, "code", force=True)
        detached.stop(made.hosts, "busy", seconds=1)
    with pytest.raises(InputError, match="not a checkout of git"):
        copy_code([], tmp_path, "code")
