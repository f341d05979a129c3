"""Pod on this machine: an sshd per loopback address, each with a separate home directory."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from launchers.ssh.host import Host
from launchers.ssh.sync_code import checkout_files
from tests.paths import ROOT

SSHD = shutil.which("sshd") or shutil.which("/usr/sbin/sshd")
ADDRESSES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
SETUP = f"""#!/bin/sh
# Stand-in for the installation.
echo "set up in $PWD"
mkdir -p .venv/bin
printf '#!/bin/sh\\nexec {sys.executable} "$@"\\n' >.venv/bin/python
chmod +x .venv/bin/python
"""
CONFIG = """
ListenAddress {address}:{port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile {folder}/{address}.pid
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
KexAlgorithms curve25519-sha256
MaxStartups 100
ForceCommand cd {home} && HOME={home} bash -c "$SSH_ORIGINAL_COMMAND"
"""


@dataclass
class Pod:
    """Hosts that can be killed."""

    folder: Path
    port: int
    daemons: dict[str, subprocess.Popen] = field(default_factory=dict)

    @property
    def hosts(self) -> list[Host]:
        return [self.host(address) for address in self.daemons]

    @property
    def words(self) -> list[str]:
        """Settings by which a command finds the hosts."""
        hosts = ",".join(f"{address}:{self.port}" for address in self.daemons)
        return [f"addresses={hosts}", f"key={self.folder / 'key'}", f"known_hosts={self.folder / 'known'}"]

    def host(self, address: str) -> Host:
        key, known = str(self.folder / "key"), str(self.folder / "known")
        return Host(address, address, self.port, None, key, known)

    def home(self, address: str) -> Path:
        return self.folder / address

    def kill(self, address: str) -> None:
        """Kill a host and all of its processes."""
        daemon = psutil.Process(self.daemons[address].pid)
        for process in [daemon, *daemon.children(recursive=True), *self.marked(address)]:
            with suppress(psutil.NoSuchProcess):  # ended with its parent
                process.kill()
        self.daemons[address].wait()

    def marked(self, text: str) -> list[psutil.Process]:
        """Find processes on the hosts by the mark in their environment; other pods may run the same commands."""
        found = []
        for process in psutil.process_iter():
            try:
                variables = process.environ()
            except psutil.Error:
                continue
            marks = (variables.get(name, "") for name in ("HELD_BY", "RUN_MARK"))
            if variables.get("HOME", "").startswith(f"{self.folder}/") and any(text in mark for mark in marks):
                found.append(process)
        return found


@contextmanager
def pod(folder: Path, *, addresses: Sequence[str] = ADDRESSES) -> Iterator[Pod]:
    """Context manager for running hosts."""
    folder.mkdir(parents=True, exist_ok=True)
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host_key", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    with socket.socket() as probe:
        probe.bind((ADDRESSES[0], 0))
        running = Pod(folder, probe.getsockname()[1])
    try:
        for address in addresses:
            start(running, address)
        yield running
    finally:
        for address in running.daemons:
            if running.daemons[address].poll() is None:
                running.kill(address)


def start(running: Pod, address: str) -> None:
    running.home(address).mkdir(exist_ok=True)
    config = running.folder / f"{address}.conf"
    config.write_text(
        CONFIG.format(address=address, port=running.port, folder=running.folder, home=running.home(address))
    )
    assert SSHD is not None
    log = (running.folder / f"{address}.log").open("ab")
    running.daemons[address] = subprocess.Popen([SSHD, "-D", "-e", "-f", config], stderr=log, stdout=log)
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex((address, running.port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"sshd does not start: {(running.folder / f'{address}.log').read_text()}")


def give_python(running: Pod, code: str = "instructrl") -> None:
    """Install the environment that set-up would install on each host."""
    for address in running.daemons:
        folder = running.home(address) / code / ".venv/bin"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (folder / "python").chmod(0o755)


def copy_of_checkout(folder: Path, *, more_setup: str = "") -> Path:
    """Copy this checkout, with a stand-in for the script that installs its dependencies."""
    for name in checkout_files(ROOT):
        if not name.startswith(("tests/", ".github/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (folder / "launchers/setup/setup_tpu.sh").write_text(f"{SETUP}{more_setup}\n")
    subprocess.run(["git", "init", "-q", folder], check=True)
    return folder
