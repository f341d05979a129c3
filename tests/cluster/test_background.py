"""Detached runs, which outlive the launcher and are found again; and copies of the code."""

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from instructrl.errors import InputError
from launchers.ssh import background
from launchers.ssh.broadcast import run_on_all
from launchers.ssh.host import HostError
from launchers.ssh.sync_code import copy_code
from tests.fakes.pods import ADDRESSES, SSHD, Pod, pod
from tests.fixtures.waiting import until
from tests.paths import ROOT

pytestmark = pytest.mark.skipif(SSHD is None, reason="needs openssh-server")


@pytest.fixture(scope="module")
def running_pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    with pod(tmp_path_factory.mktemp("pod")) as hosts:
        yield hosts


def states(running_pod: Pod, run: str) -> list[str]:
    return [text.split()[0] for _, text in background.status(running_pod.hosts, run)]


def test_a_run_goes_on_after_its_launcher_was_killed(running_pod: Pod) -> None:
    program = f"""
        import os, signal
        from pathlib import Path
        from launchers.ssh import background
        from tests.fakes.pods import ADDRESSES, Pod
        hosts = [Pod(Path({str(running_pod.folder)!r}), {running_pod.port}).host(address) for address in ADDRESSES]
        background.start(hosts, "long", ["for i in $(seq 3000); do echo step $i; sleep 0.1; done"] * 3)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, timeout=60)
    time.sleep(1)
    assert states(running_pod, "long") == ["running"] * 3
    assert {run: len(rows) for run, rows in background.list_runs(running_pod.hosts).items()}["long"] == 3
    with pytest.raises(InputError, match=r"^run: long is running on 127\.0\.0\.2, "):
        background.start(running_pod.hosts, "long", ["true"] * 3)
    printed: list[tuple[str, str]] = []

    class EnoughError(Exception):
        pass

    def show(host, text: str) -> None:
        printed.append((host.name, text))
        if {name for name, text in printed if text.startswith("step")} == set(ADDRESSES):
            raise EnoughError

    with pytest.raises(EnoughError):
        background.follow(running_pod.hosts, "long", lines=3, show=show)
    assert states(running_pod, "long") == ["running"] * 3  # ending the logs does not affect the run
    assert [text for _, text in background.stop(running_pod.hosts, "long", seconds=2)] == ["ended 143"] * 3
    assert running_pod.marked("long:") == []


def test_a_stopped_run_may_save_first(running_pod: Pod) -> None:
    saving = "trap 'sleep 1; echo saved; exit 75' TERM; for i in $(seq 3000); do sleep 0.1; done"
    background.start(running_pod.hosts, "saving", [saving] * 3)
    time.sleep(1)
    assert [text for _, text in background.stop(running_pod.hosts, "saving", seconds=20)] == ["ended 75"] * 3
    printed: list[str] = []
    assert background.follow(running_pod.hosts, "saving", show=lambda _, text: printed.append(text)) == 75
    assert printed == ["saved"] * 3


def test_an_exit_without_an_observer_is_reported_later(running_pod: Pod) -> None:
    commands = ["echo fine", "echo no card; exit 7", "sleep 300 & echo fine"]
    background.start(running_pod.hosts, "short", commands)
    time.sleep(2)
    assert [text for _, text in background.status(running_pod.hosts, "short")] == ["ended 0", "ended 7", "ended 0"]
    with pytest.raises(HostError, match=r"127\.0\.0\.3: the command ended with code 7; its last line: no card"):
        background.follow(running_pod.hosts, "short", show=lambda *_: None)
    assert running_pod.marked("short:") == []  # the failure also ended leftover processes
    with pytest.raises(InputError, match=r"^run: found no other on these hosts"):
        background.follow(running_pod.hosts, "other")


def test_an_exit_code_that_cannot_be_recorded_is_in_the_log(running_pod: Pod) -> None:
    for code in (0, 7, 0):
        command = f'mkdir "$HOME/.instructrl/runs/odd/exit.part"; printf "no end of line"; exit {code}'
        background.start(running_pod.hosts, "odd", [command] * 3)
        until(lambda: states(running_pod, "odd") == ["ended"] * 3, 20)
        assert {text for _, text in background.status(running_pod.hosts, "odd")} == {f"ended {code}"}
    assert background.follow(running_pod.hosts, "odd", show=lambda *_: None) == 0


def test_an_end_that_is_not_noted_yet_is_waited_for(running_pod: Pod) -> None:
    background.start(running_pod.hosts, "slow", ["exec sleep 300"] * 3)
    processes = running_pod.marked(f"slow:{ADDRESSES[1]}")
    [keeper] = {process.parent() for process in processes}
    keeper.suspend()
    later = threading.Timer(2, keeper.resume)
    later.start()
    assert [text for _, text in background.stop(running_pod.hosts, "slow", seconds=1)] == ["ended 143"] * 3
    later.join()


def test_a_host_whose_disk_is_full_says_so(running_pod: Pod, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "large").write_bytes(os.urandom(200_000))
    (tmp_path / "small").write_text("small")
    full = running_pod.home(ADDRESSES[1])
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", str(full)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("requires permission to mount a file system")
    try:
        with pytest.raises(HostError, match=rf"^{ADDRESSES[1]}: ended with code \d+ \(.*No space left on device"):
            copy_code(running_pod.hosts, tmp_path, "code")
        with pytest.raises(HostError, match=rf"^{ADDRESSES[1]}: ended with code \d+ \(.*No space left on device"):
            background.start(running_pod.hosts, "full", ["sleep 300"] * 3)
        assert running_pod.marked("full:") == []
        command = 'echo 1 >"$HOME/result"; echo "the results are missing"; [ -s "$HOME/result" ]'
        with pytest.raises(HostError, match=r"code 1; one of its last lines: .*No space left on device; the others"):
            run_on_all(running_pod.hosts, [command] * 3, "full", show=lambda *_: None)
        shown: list[tuple[str, str]] = []
        variables = {"file:NETRC": "x" * 40_000}
        with pytest.raises(
            HostError, match=r"its last line: error: NETRC: its copy cannot be written .*\(No space left"
        ):
            run_on_all(
                running_pod.hosts, ["echo ran"] * 3, "full", variables=variables,
                show=lambda host, text: shown.append((host.name, text)),
            )  # fmt: skip
        assert (ADDRESSES[1], "ran") not in shown, "without it, the command would fail later"
    finally:
        subprocess.run(["umount", "-l", str(full)], check=True)


def test_a_host_that_is_lost_is_shown_as_such(running_pod: Pod) -> None:
    background.start(running_pod.hosts, "cut", ["sleep 300"] * 3)
    for process in running_pod.marked(f"cut:{ADDRESSES[1]}"):
        process.parent().kill()  # as after a restart of the host
        process.kill()
    time.sleep(0.5)
    assert states(running_pod, "cut") == ["running", "lost", "running"]
    running_pod.kill(ADDRESSES[1])
    states_now = {host.name: text for host, text in background.status(running_pod.hosts, "cut")}
    assert states_now[ADDRESSES[1]].startswith("the host does not answer (") and states_now[ADDRESSES[0]].startswith(
        "running"
    )
    background.stop_reachable(running_pod.hosts, "cut")
    assert running_pod.marked("cut:") == []


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
    with pod(tmp_path / "pod") as running_pod:
        assert copy_code(running_pod.hosts, source, "code")[0] == 6
        (source / "changed.py").write_text("newer")
        (source / "gone.py").unlink()
        (source / "fresh.py").write_text("not committed")
        for address in ADDRESSES:
            (running_pod.home(address) / "code/outputs").mkdir()
        copy_code(running_pod.hosts, source, "code")
        for address in ADDRESSES:
            folder = running_pod.home(address) / "code"
            files = {path.name for path in folder.iterdir()}
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
            assert (folder / "changed.py").read_text() == "newer" and (folder / "run.sh").stat().st_mode & 0o111
        background.start(running_pod.hosts, "busy", ["sleep 300"] * 3)
        with pytest.raises(HostError, match="run busy is running from this code; stop it, or set force=true"):
            copy_code(running_pod.hosts, source, "code")
        copy_code(running_pod.hosts, source, "code", force=True)
        background.stop(running_pod.hosts, "busy", seconds=1)
    with pytest.raises(InputError, match="not a git checkout"):
        copy_code([], tmp_path, "code")
