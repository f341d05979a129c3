"""Single-node SLURM cluster on this machine: Debian's daemons as child processes, without munge or database."""

import os
import re
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
MISSING = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
UNFIT = f"needs SLURM's {', '.join(MISSING)}" if MISSING else "" if ROOT else "needs root, as slurmd does"
CPUS = 4
CONFIG = """
ClusterName=tests
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
SlurmUser=root
SlurmdUser=root
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
MaxArraySize={array_size}
KillWait=5
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=3000
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0,bf_interval=1
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=localhost CPUs={cpus} RealMemory=16000 {gpus}State=UNKNOWN
PartitionName=usual Nodes=localhost Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=60 State=UP
PartitionName=urgent Nodes=localhost PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=short Nodes=localhost MaxTime=60 State=UP
PartitionName=closed Nodes=localhost AllowAccounts=others State=UP
"""


@dataclass
class Cluster:
    """Environment of the cluster's commands, and queries."""

    folder: Path
    environment: Mapping[str, str]

    def run(self, *words: str) -> str:
        """Run one of SLURM's commands and return its output."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def jobs(self, name: str) -> list[dict[str, str]]:
        """Return the controller's records of the jobs with a name, in order of their IDs."""
        lines = self.run("scontrol", "-o", "show", "job").splitlines()
        found = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines]
        matching = [job for job in found if job.get("JobName") == name]
        return sorted(
            matching,
            key=lambda job: (
                int(job.get("ArrayJobId", job["JobId"])),
                int(re.split(r"\D", job.get("ArrayTaskId", "0"))[0]),
            ),
        )

    def occupy(self, seconds: float) -> None:
        """Submit an urgent job that needs the complete node."""
        words = ["--partition=urgent", f"--cpus-per-task={CPUS}", "--output=/dev/null", "--job-name=urgent"]
        self.run("sbatch", *words, f"--wrap=sleep {seconds}")


@contextmanager
def cluster(folder: Path, *, gpus: int = 0, array_size: int = 1001) -> Iterator[Cluster]:
    """Context manager for a running cluster.

    Args:
        folder: for its state and logs.
        gpus: number of GPUs, copies of /dev/null, which SLURM hands out like others.
        array_size: its MaxArraySize.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    probes = [socket.socket() for _ in range(2)]
    for probe in probes:
        probe.bind(("", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    config = CONFIG.format(
        folder=folder,
        ports=ports,
        cpus=max(CPUS, gpus),
        gpus=f"Gres=gpu:{gpus} " if gpus else "",
        array_size=array_size,
    )
    (folder / "slurm.conf").write_text(config + ("GresTypes=gpu\n" if gpus else ""))
    for number in range(gpus):
        os.mknod(folder / f"gpu{number}", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    (folder / "gres.conf").write_text(f"NodeName=localhost Name=gpu File={folder}/gpu[0-{gpus - 1}]\n" if gpus else "")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
    environment |= {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    running, daemons = Cluster(folder, environment), []
    try:
        for words in (["slurmctld", "-D"], ["slurmd", "-D", "-N", "localhost"]):
            log = (folder / f"{words[0]}.log").open("ab")
            daemons.append(subprocess.Popen(words, env=environment, stdout=log, stderr=log))
        wait_for_node(running, daemons)
        yield running
    finally:
        end_jobs(running)
        for daemon in daemons:  # SIGTERM would take long
            daemon.kill()
            daemon.wait()


def end_jobs(running: Cluster) -> None:
    """Cancel all jobs and wait for their end: they would survive the daemons."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        subprocess.run(["scancel", "--user=root"], env=running.environment, capture_output=True, timeout=30)
        result = subprocess.run(["squeue", "-h"], env=running.environment, capture_output=True, text=True, timeout=30)
        if not result.stdout.strip():
            return
        time.sleep(0.5)


def wait_for_node(running: Cluster, daemons: Sequence[subprocess.Popen]) -> None:
    """Wait until the node accepts jobs."""
    deadline = time.monotonic() + 60
    while True:
        result = subprocess.run(["sinfo", "-h", "-o", "%t"], env=running.environment, capture_output=True, text=True)
        if result.stdout.split()[:1] == ["idle"]:
            return
        if time.monotonic() > deadline or any(daemon.poll() is not None for daemon in daemons):
            logs = "".join(path.read_text() for path in running.folder.glob("*.log"))
            raise RuntimeError(f"SLURM does not start: {result.stderr}\n{logs[-4000:]}")
        time.sleep(0.1)
