"""One command on all hosts: labelled output, first failure, lost host, ctrl-C and a killed launcher."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from launchers.ssh.broadcast import run_on_all
from launchers.ssh.host import HostError, LostHostError, query_all, read_hosts
from tests.fakes.pods import ADDRESSES, SSHD, Pod, pod
from tests.fixtures.waiting import until
from tests.paths import ROOT

pytestmark = pytest.mark.skipif(SSHD is None, reason="needs openssh-server")


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    with pod(tmp_path_factory.mktemp("pod")) as running_pod:
        yield running_pod


def launcher(running_pod: Pod, mark: str, command: str) -> subprocess.Popen:
    """Start a separate process that runs a command on all hosts."""
    program = f"""
        from pathlib import Path
        from instructrl.errors import report_user_errors
        from launchers.ssh.broadcast import run_on_all
        from tests.fakes.pods import ADDRESSES, Pod
        hosts = [Pod(Path({str(running_pod.folder)!r}), {running_pod.port}).host(address) for address in ADDRESSES]
        with report_user_errors():
            raise SystemExit(run_on_all(hosts, [{command!r}] * 3, {mark!r}))
    """
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, text=True, **pipes)


def test_each_line_comes_with_its_host(hosts: Pod, capsys: pytest.CaptureFixture) -> None:
    commands = [f"echo out $HOME; echo err {n} >&2; printf 'no newline'" for n in range(3)]
    assert run_on_all(hosts.hosts, commands, "lines") == 0
    printed = capsys.readouterr().out.splitlines()
    for n, address in enumerate(ADDRESSES):
        own = [line for line in printed if line.startswith(f"[{address}] ")]
        assert own == [f"[{address}] out {hosts.home(address)}", f"[{address}] err {n}", f"[{address}] no newline"]


def test_the_first_failure_stops_all_and_is_named(hosts: Pod, capsys: pytest.CaptureFixture) -> None:
    stubborn = (
        "trap '' TERM; setsid sleep 300 & for i in $(seq 300); do sleep 1; done"  # also a process in another session
    )
    started = time.monotonic()
    with pytest.raises(
        HostError, match=r"127\.0\.0\.3: the command ended with code 7; its last line: no card; "
    ) as error:
        run_on_all(hosts.hosts, [stubborn, "sleep 1; echo no card; exit 7", stubborn], "first")
    assert error.value.exit_code == 7 and time.monotonic() - started < 15
    assert hosts.marked("first:") == []


@pytest.mark.parametrize(("codes", "expected"), [((75, 75, 75), 75), ((0, 75, 0), 75), ((0, 0, 0), 0)])
def test_an_interrupted_command_differs_from_a_failed_one(hosts: Pod, codes: tuple[int, ...], expected: int) -> None:
    commands = [f"sleep 0.{n}; exit {code}" for n, code in enumerate(codes)]
    assert run_on_all(hosts.hosts, commands, "codes", show=lambda *_: None) == expected


def test_a_commands_own_255_is_no_lost_host(hosts: Pod) -> None:
    with pytest.raises(HostError, match="ended with code 254"):
        run_on_all(hosts.hosts[:1], ["exit 255"], "own", show=lambda *_: None)


def test_a_host_that_does_not_answer_is_one_line(hosts: Pod) -> None:
    absent = read_hosts("127.0.0.9:1", key=str(hosts.folder / "key"))
    with pytest.raises(
        LostHostError, match=r"^127\.0\.0\.9: the host does not answer \(.*Connection refused.*others were stopped$"
    ):
        run_on_all([*hosts.hosts[:1], *absent], ["sleep 300"] * 2, "absent", show=lambda *_: None)
    assert hosts.marked("absent:") == []
    with pytest.raises(LostHostError, match=r"^127\.0\.0\.9: the host does not answer \("):
        query_all(absent, ["true"])


@pytest.mark.parametrize("depth", [0, 9])
def test_commands_that_follow_each_other_share_a_connection_which_ends_with_their_process(
    hosts: Pod, depth: int
) -> None:
    """Unless the path of the temporary folder is too long for a socket."""
    program = f"""
        from pathlib import Path
        from launchers.ssh.host import HostError, query_all
        from tests.fakes.pods import ADDRESSES, Pod
        hosts = [Pod(Path({str(hosts.folder)!r}), {hosts.port}).host(address) for address in ADDRESSES]
        for n in range(3):
            print(query_all(hosts, [f"cat; echo {{n}} {{m}}" for m in range(3)], data=b"x" * 200_000) == [
                "x" * 200_000 + f"{{n}} {{m}}\\n" for m in range(3)
            ])
        try:
            query_all(hosts, ["echo no card >&2; exit 7"] * 3)
        except HostError as error:
            print(error.exit_code, error)
    """
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        folder = Path(short, *["a-long-name"] * depth)
        folder.mkdir(parents=True, exist_ok=True)
        before = logins(hosts)
        words = [sys.executable, "-c", textwrap.dedent(program)]
        environment = {**os.environ, "TMPDIR": str(folder)}
        ran = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.splitlines() == ["True"] * 3 + ["7 127.0.0.2: ended with code 7 (no card)"]
        counts = [after - one for one, after in zip(before, logins(hosts), strict=True)]
        assert counts == [4 if depth else 1] * 3
        assert not any(folder.iterdir())
        until(lambda: not [one for one in psutil.process_iter(["cmdline"]) if short in str(one.info["cmdline"])])


def logins(running_pod: Pod) -> list[int]:
    """Return the number of connections that each host has accepted."""
    logs = [running_pod.folder / f"{address}.log" for address in ADDRESSES]
    return [log.read_text().count("Accepted publickey") for log in logs]


def test_ctrl_c_lets_the_command_save(hosts: Pod) -> None:
    saving = "trap 'sleep 1; echo saved; exit 75' TERM; echo began; for i in $(seq 3000); do sleep 0.1; done"
    running = launcher(hosts, "ctrlc", saving)
    assert running.stdout is not None
    began = sorted(running.stdout.readline().strip() for _ in ADDRESSES)  # from now on, the hosts hear the signal
    assert began == [f"[{a}] began" for a in ADDRESSES]
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130 and "Traceback" not in err
    assert sorted(line for line in out.splitlines() if "saved" in line) == [f"[{a}] saved" for a in ADDRESSES]
    assert hosts.marked("ctrlc:") == []


@pytest.mark.parametrize("command", ["sleep 300", "trap '' TERM; while true; do echo on; sleep 0.1; done"])
def test_a_killed_launcher_leaves_nothing_behind(hosts: Pod, command: str) -> None:
    running = launcher(hosts, "killed", command)
    until(lambda: len(hosts.marked("killed:")) >= 3, 20)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    until(lambda: hosts.marked("killed:") == [], 15)


def test_a_lost_host_stops_all(tmp_path: Path) -> None:
    """Uses a separate pod, so it is last in the file."""
    with pod(tmp_path / "pod") as running_pod:
        running = launcher(running_pod, "lost", "sleep 300")
        until(lambda: len(running_pod.marked("lost:")) >= 3, 20)
        time.sleep(0.5)
        running_pod.kill("127.0.0.3")
        started = time.monotonic()
        _, err = running.communicate(timeout=30)
        assert time.monotonic() - started < 15 and running.returncode == 1
        assert err.startswith("error: 127.0.0.3: the host does not answer") and len(err.splitlines()) == 1
        assert running_pod.marked("lost:") == []
