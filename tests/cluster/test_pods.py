"""Pod commands as used by a user, against hosts on this machine and a fake cloud."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from instructrl.config.launcher import LauncherConfig, TpuConfig
from launchers.job import JobSpec
from launchers.tpu.__main__ import main
from launchers.tpu.launcher import TpuBackend
from tests import paths
from tests.fakes.cloud import PROJECT, QUOTA, ZONE, FakeCloud, cloud
from tests.fakes.pods import ADDRESSES, SSHD, Pod, copy_of_checkout, pod
from tests.fixtures import tiny
from tests.fixtures.commands import run_main
from tests.fixtures.xla_flags import QUICK_COMPILATION

GOLDEN = paths.GOLDEN / "tpu_dry_run.txt"
TEXTS = ("pod", "accelerator", "runtime", "project", "zone", "key", "user")  # settings with string values
needs_sshd = pytest.mark.skipif(SSHD is None, reason="needs openssh-server")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with a fake set-up script."""
    return copy_of_checkout(tmp_path_factory.mktemp("checkout") / "suite")


@pytest.fixture(scope="module")
def running_pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    with pod(tmp_path_factory.mktemp("pod")) as hosts:
        yield hosts


@pytest.fixture
def server() -> Iterator[FakeCloud]:
    with cloud(*ADDRESSES) as fake:
        yield fake


class Commands:
    """Runs python -m launchers.tpu for a pod of the cloud or for existing hosts.

    Commands that need the code of the checkout, and those that are interrupted, run in a process of their own.
    """

    def __init__(self, checkout: Path, words: list[str], server: FakeCloud | None = None) -> None:
        self.checkout, self.words = checkout, words
        self.environment = {**os.environ, "XDG_CONFIG_HOME": str(checkout), "HOME": str(checkout.parent)}
        if server:
            self.environment["TPU_EMULATOR_HOST"] = server.url

    def begin(self, verb: str, *words: str) -> subprocess.Popen:
        own, command = (words[: words.index("--")], words[words.index("--") :]) if "--" in words else (words, ())
        line = [sys.executable, "-m", "launchers.tpu", verb, *self.words, *own, *command]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, "text": True}
        return subprocess.Popen(line, cwd=self.checkout, env=self.environment, **pipes)

    def __call__(self, verb: str, *words: str, code: int = 0) -> str:
        if verb in ("copy", "run"):
            running = self.begin(verb, *words)
            try:
                out, err = running.communicate(timeout=120)
            finally:
                running.kill()
            ended = subprocess.CompletedProcess(words, running.returncode, out, err)
        else:
            with pytest.MonkeyPatch.context() as patch:
                for name, value in self.environment.items():
                    patch.setenv(name, value)
                ended = run_main(main, verb, *self.words, *words)
        assert ended.returncode == code and "Traceback" not in ended.stderr, f"{ended.stdout}\n{ended.stderr}"
        return ended.stdout + ended.stderr


def cloud_commands(checkout: Path, running_pod: Pod, server: FakeCloud, *more: str) -> Commands:
    key = running_pod.folder / "key"
    words = [
        "pod=study",
        "accelerator=v9-24",  # of a generation that is too new to be known
        "runtime=v2-alpha-tpuv9",
        "hosts=3",
        f"project={PROJECT}",
        f"zone={ZONE}",
        f"key={key}",
        "user=root",
    ]
    return Commands(checkout, [*words, f"ssh_port={running_pod.port}", "poll_seconds=0.05", *more], server)


def wait_for(running: subprocess.Popen, text: str, seconds: float = 180) -> list[str]:
    """Collect the lines of a process until one contains the text."""
    lines: list[str] = []
    assert running.stdout is not None
    deadline = time.monotonic() + seconds
    for line in running.stdout:
        lines.append(line)
        if text in line:
            return lines
        assert time.monotonic() < deadline, lines
    raise AssertionError("".join(lines) + (running.stderr.read() if running.stderr else ""))


def nothing_left(hosts: Pod, mark: str, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while left := hosts.marked(mark):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


@needs_sshd
def test_a_pod_from_create_to_delete(checkout: Path, running_pod: Pod, server: FakeCloud) -> None:
    tpu = cloud_commands(checkout, running_pod, server, "queued=true")
    assert "error: study: absent" in tpu("copy", code=1)
    assert "billed until it is deleted" in tpu("create")
    assert "study-2: 127.0.0.4" in tpu("wait")
    assert "to 3 hosts" in tpu("copy")
    output = tpu("setup")
    assert all(
        f"[study-{n}] set up in {running_pod.home(address)}/instructrl" in output for n, address in enumerate(ADDRESSES)
    )
    program = "import time, sys; print('began', *sys.argv[1:], flush=True); time.sleep(300)"
    output = tpu("run", "run=long", "detach=true", "--", "-c", program, "{process}/{processes}", "{first}")
    assert "run long continues in the background on 3 hosts" in output
    output = tpu("status")
    assert "study: ready (queued resource ACTIVE, node READY)" in output and "run long: study-0 running" in output
    assert tpu("status", "run=long").count("running") == 3
    following = tpu.begin("logs", "run=long")
    lines = set()
    while len(lines) < 3:
        lines.add(wait_for(following, "began", 60)[-1])
    assert lines == {f"[study-{n}] began {n}/3 127.0.0.2\n" for n in range(3)}
    following.send_signal(signal.SIGINT)
    assert "the run continues" in following.communicate(timeout=60)[0]
    assert tpu("stop", "run=long", "seconds=9").count("ended 143") == 3
    assert running_pod.marked("long:") == []
    assert "yes: not set; study (queued resource ACTIVE, node READY) is deleted with yes=true" in tpu("delete", code=2)
    assert server.nodes and "v9-24" in tpu("list")
    assert "no resource with this name is left" in tpu("delete", "yes=true") and not server.nodes
    assert "no resources exist in" in tpu("list")


@needs_sshd
def test_a_run_survives_the_loss_of_its_pod(
    checkout: Path, running_pod: Pod, server: FakeCloud, tmp_path: Path
) -> None:
    tpu = cloud_commands(
        checkout, running_pod, server, "spot=true", "create=true", f"setup=[echo mounted >>{tmp_path}/setups]"
    )
    program = f"""
import pathlib, sys, time
note = pathlib.Path({str(tmp_path)!r}) / sys.argv[1]
resumed = note.exists()
note.touch()
print("resumed" if resumed else "began", flush=True)
time.sleep(0 if resumed else 300)
"""
    running = tpu.begin("run", "run=spot", "--", "-c", program, "{process}")
    began: set[str] = set()
    while len(began) < 3:
        began |= {line for line in wait_for(running, "began") if "began" in line}
    server.preempt("study")
    for process in running_pod.marked("spot:study-1"):
        process.kill()
    out, err = running.communicate(timeout=120)
    assert running.returncode == 0, out + err
    assert "preempted (loss 1 of at most 100; study-1: the command was killed by signal 9" in out
    assert out.count("resumed") == 3 and server.created == 2
    assert "exists and may be billed: python -m launchers.tpu delete pod=study" in out.splitlines()[-1]
    assert (tmp_path / "setups").read_text().count("mounted") == 6  # on each host of both pods


@needs_sshd
def test_a_failure_on_a_pod_that_is_there_is_not_tried_again(
    checkout: Path, running_pod: Pod, server: FakeCloud
) -> None:
    tpu = cloud_commands(checkout, running_pod, server, "spot=true", "create=true", "poll_seconds=0.02")
    output = tpu("run", "--", "-c", "raise SystemExit('no data' if {process} == 2 else 0)", code=1)
    assert "error: study-2: the command ended with code 1; its last line: no data; the others were stopped" in output
    assert server.created == 1 and "may be billed" in output


@needs_sshd
def test_a_watcher_that_is_asked_to_end_lets_the_run_save(checkout: Path, running_pod: Pod, server: FakeCloud) -> None:
    tpu = cloud_commands(checkout, running_pod, server, "create=true")
    program = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(75)); print('began', flush=True)"
    program += "; time.sleep(300)"
    running = tpu.begin("run", "run=asked", "--", "-c", program)
    began: set[str] = set()
    while len(began) < 3:
        began |= {line for line in wait_for(running, "began") if "began" in line}
    running.send_signal(signal.SIGTERM)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 75 and "may be billed" in out and "Traceback" not in err
    assert running_pod.marked("asked:") == []


def test_a_wait_for_a_pod_that_is_asked_to_end_says_so(checkout: Path, server: FakeCloud, tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text("ssh-ed25519 AAAA me\n")
    words = ["pod=study", f"project={PROJECT}", f"zone={ZONE}", f"key={tmp_path}/key", "launcher=tpu_v4_32"]
    server.full = True  # it is never ready
    tpu = Commands(checkout, [*words, "queued=true", "poll_seconds=0.05"], server)
    tpu("create")
    running = tpu.begin("wait")
    wait_for(running, "study")
    running.terminate()
    assert running.communicate(timeout=60)[1] == "interrupted by SIGTERM: the same command resumes\n"
    assert running.returncode == 75


def test_refusals_are_one_line(checkout: Path, server: FakeCloud, tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text("ssh-ed25519 AAAA me\n")
    words = ["pod=study", f"project={PROJECT}", f"zone={ZONE}", f"key={tmp_path}/key"]
    tpu = Commands(checkout, words, server)
    server.faults = [("POST", 429, QUOTA)]
    output = tpu("create", "launcher=tpu_v4_32", code=1)
    assert output.startswith("error: cloud: 429 for ") and QUOTA in output and len(output.splitlines()) == 1
    for verb, more, line in [
        ("create", [], "accelerator: not set"),
        ("create", ["launcher=tpu_v9"], "launcher: found tpu_v9; allowed: tpu_v3_8, tpu_v4_32, tpu_v5e_256_spot"),
        ("create", ["launcher=tpu_v3_8", "key=/nowhere/key"], "key: no public key in /nowhere/key.pub; run ssh-keygen"),
        ("create", ["accelerator=nonsense"], "accelerator: found nonsense; allowed: v2-8|32|128|256|512; v3-"),
        ("create", ["launcher=tpu_v4_32", "hosts=3"], "hosts: found 3, but v4-32 has 4; leave hosts= out"),
        ("create", ["accelerator=v6e-8", "runtime=v2-alpha-tpuv5"], "runtime: found v2-alpha-tpuv5, an image of v5p; "),
        ("create", ["zon=x"], "zon: no such setting; did you mean zone?"),
        ("logs", ["addresses=127.0.0.9:1"], "run: not set"),
        ("run", [], "run: found no command"),
        ("run", ["run=../x", "--", "train.py"], "run: found ../x; allowed: at most 200 letters"),
        ("run", ["detach=true", "create=true", "--", "train.py"], "detach: found true with create=true"),
        ("grow", [], "grow: allowed: run, create"),
        ("delete", ["--", "train.py"], "delete: takes no command"),
    ]:
        output = tpu(verb, *more, code=2)
        assert output.startswith(f"error: {line}") and len(output.splitlines()) == 1
    assert not server.nodes and not server.queued


def test_the_private_file_holds_for_all_pods(checkout: Path, server: FakeCloud, tmp_path: Path) -> None:
    tpu = Commands(checkout, [], server)
    tpu.environment["XDG_CONFIG_HOME"] = str(tmp_path)
    (tmp_path / "instructrl").mkdir()
    (tmp_path / "instructrl/launcher.yaml").write_text(f"tpu: {{project: {PROJECT}, zone: {ZONE}}}\n")
    assert f"no resources exist in {ZONE} of {PROJECT}" in tpu("list")


def test_a_dry_run_shows_what_a_sweep_would_do(checkout: Path) -> None:
    words = [
        "experiment=quickstart",
        "launcher=tpu_v5e_256_spot",
        "launcher.tpu.user=me",
        "output_dir=/mnt/disk/outputs",
    ]
    line = [sys.executable, "train.py", *words, "seed=0,1", "--multirun", "--dry-run"]
    environment = {**os.environ, "XDG_CONFIG_HOME": str(checkout)}
    ran = subprocess.run(line, cwd=checkout, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == GOLDEN.read_text()


def test_the_hosts_of_a_sweep_follow_from_its_accelerator(checkout: Path, tmp_path: Path) -> None:
    """The job gets as many processes as the accelerator has hosts, whatever the profile names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(checkout)
        for accelerator, coordinator in (("v4-64", True), ("v6e-8", False)):
            tpu = LauncherConfig(name="tpu", kind="tpu", tpu=TpuConfig(accelerator=accelerator))
            spec = JobSpec(("train.py",), "/mnt/disk/x", "one", (), tpu, True)
            assert ("hardware.coordinator=auto" in TpuBackend(tmp_path, tpu).preview([spec])) == coordinator


SWEEP = """
import sys
from instructrl.errors import report_user_errors
from instructrl.config.launcher import LauncherConfig, TpuConfig
from launchers.job import JobSpec
from launchers.sweep.runner import run_sweep

tpu = TpuConfig({settings})
resources = LauncherConfig(name="tpu", kind="tpu", sweep="study", tpu=tpu, poll_seconds=0.1)
programs = dict(fine="import sys; print(sys.argv[1:])", bad="print('no data'); raise SystemExit(3)")
specs = []
for name, program in programs.items():
    specs.append(JobSpec(("-c", program), sys.argv[1], name, (f"job={{name}}",), resources, True))
with report_user_errors():
    raise SystemExit(run_sweep(specs, "study", command="sweep"))
"""


@needs_sshd
def test_a_sweep_makes_a_pod_and_deletes_it(checkout: Path, running_pod: Pod, server: FakeCloud) -> None:
    settings = cloud_commands(checkout, running_pod, server, "keep=False").words
    quoted = [
        f"{key}={value!r}" if key in TEXTS else f"{key}={value}" for key, value in (w.split("=") for w in settings)
    ]
    program = SWEEP.format(settings=", ".join(quoted))
    environment = cloud_commands(checkout, running_pod, server).environment

    def sweep(run: str) -> subprocess.CompletedProcess:
        words = [sys.executable, "-c", program, run]
        return subprocess.run(words, cwd=checkout, env=environment, capture_output=True, text=True, timeout=120)

    for run, line in (
        ("outputs/x", "found a folder that would be lost with the pod"),
        ("gs://b/x", "found a bucket, which "),
    ):
        ran = sweep(run)
        assert ran.returncode == 2 and ran.stderr.startswith(f"error: {run}: {line}") and not server.requests
    ran = sweep("/mnt/disk/x")
    assert ran.returncode == 1, ran.stdout + ran.stderr
    jobs = json.loads((checkout / "multirun/study/jobs.json").read_text())["jobs"]
    assert [(job["state"], job["exit_code"]) for job in jobs] == [("done", 0), ("failed", 3)]
    assert ": the command ended with code 3; its last line: no data; the others were stopped" in jobs[1]["error"]
    log = (checkout / jobs[0]["log"]).read_text()
    assert all(f"[study-{n}] ['hardware=tpu', 'hardware.coordinator=auto']" in log for n in range(3))
    assert server.created == 1 and not server.nodes and "study: no resources exist" in ran.stdout


@needs_sshd
def test_hosts_train_together(checkout: Path, tmp_path: Path) -> None:
    with pod(tmp_path / "pod", addresses=ADDRESSES[:2]) as hosts:
        tpu = Commands(checkout, hosts.words)
        tpu("copy")
        tpu("setup")

        def training(name: str, epochs: int) -> list[str]:
            words = tiny.overrides(tmp_path, f"training.epochs={epochs}", "training.batch_size=6", f"name={name}")
            words += [f"hardware.coordinator={{first}}:{hosts.port - 7}", "hardware.num_processes={processes}"]
            words += ["hardware.process_id={process}", f"hardware.compilation_cache={tmp_path}/compiled"]
            return ["--", "JAX_PLATFORMS=cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS=true", f"XLA_FLAGS={QUICK_COMPILATION}",
                    "train.py", *words]  # fmt: skip

        # Training continues without an observer, and the run is found again.
        tpu("run", "run=short", "detach=true", *training("short", 2))
        assert tpu("status", "run=short").count("running") == 2
        assert "[127.0.0.2] run: " in tpu("logs", "run=short")
        assert tpu("status", "run=short").count("ended 0") == 2
        lines = [json.loads(line) for line in (tmp_path / "outputs/short/metrics.jsonl").read_text().splitlines()]
        assert max(line["epoch"] for line in lines if "epoch" in line) == 2

        # A host is lost.
        running = tpu.begin("run", "run=lost", *training("lost", 5000))
        wait_for(running, "epoch    1", 500)
        hosts.kill(ADDRESSES[1])
        began = time.monotonic()
        out, err = running.communicate(timeout=60)
        assert time.monotonic() - began < 15 and running.returncode == 1
        assert f"error: {ADDRESSES[1]}: the host does not answer" in err, out + err
        nothing_left(hosts, "lost:127", 1)
