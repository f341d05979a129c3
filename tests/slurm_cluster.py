"""A SLURM cluster of one node on this machine: Debian's daemons as children of a test, without munge or database."""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
MISSING = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
UNFIT = f"needs SLURM's {', '.join(MISSING)}" if MISSING else "" if ROOT else "needs root, whom slurmd asks for"
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
NodeName=localhost CPUs={cpus} RealMemory=16000 State=UNKNOWN
PartitionName=usual Nodes=localhost Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=60 State=UP
PartitionName=urgent Nodes=localhost PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=short Nodes=localhost MaxTime=60 State=UP
PartitionName=closed Nodes=localhost AllowAccounts=others State=UP
"""


@dataclass
class Cluster:
    """What its commands need, and questions to it."""

    folder: Path
    environment: Mapping[str, str]

    def ask(self, *words: str) -> str:
        """What one of SLURM's commands prints."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def jobs(self, name: str) -> list[dict[str, str]]:
        """What the controller knows of the jobs of a name, in the order of their numbers."""
        lines = self.ask("scontrol", "-o", "show", "job").splitlines()
        found = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines]
        mine = [job for job in found if job.get("JobName") == name]
        return sorted(mine, key=lambda job: (int(job.get("ArrayJobId", job["JobId"])), int(job.get("ArrayTaskId", 0))))

    def occupy(self, seconds: float) -> None:
        """An urgent job that needs the whole node."""
        words = ["--partition=urgent", f"--cpus-per-task={CPUS}", "--output=/dev/null", "--job-name=urgent"]
        self.ask("sbatch", *words, f"--wrap=sleep {seconds}")


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """The cluster, until the block ends."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    probes = [socket.socket() for _ in range(2)]
    for probe in probes:
        probe.bind(("", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    (folder / "slurm.conf").write_text(CONFIG.format(folder=folder, ports=ports, cpus=CPUS))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
    environment |= {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    made, daemons = Cluster(folder, environment), []
    try:
        for words in (["slurmctld", "-D"], ["slurmd", "-D", "-N", "localhost"]):
            log = (folder / f"{words[0]}.log").open("ab")
            daemons.append(subprocess.Popen(words, env=environment, stdout=log, stderr=log))
        wait_for_node(made, daemons)
        yield made
    finally:
        end_jobs(made)
        for daemon in daemons:  # asked politely, they take long
            daemon.kill()
            daemon.wait()


def end_jobs(made: Cluster) -> None:
    """Cancel what is there, and wait for its end: the daemons' end would not be its own."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        subprocess.run(["scancel", "--user=root"], env=made.environment, capture_output=True, timeout=30)
        asked = subprocess.run(["squeue", "-h"], env=made.environment, capture_output=True, text=True, timeout=30)
        if not asked.stdout.strip():
            return
        time.sleep(0.5)


def wait_for_node(made: Cluster, daemons: Sequence[subprocess.Popen]) -> None:
    """Wait until the node takes jobs."""
    end = time.monotonic() + 60
    while True:
        asked = subprocess.run(["sinfo", "-h", "-o", "%t"], env=made.environment, capture_output=True, text=True)
        if asked.stdout.split()[:1] == ["idle"]:
            return
        if time.monotonic() > end or any(daemon.poll() is not None for daemon in daemons):
            logs = "".join(path.read_text() for path in made.folder.glob("*.log"))
            raise RuntimeError(f"SLURM does not start: {asked.stderr}\n{logs[-4000:]}")
        time.sleep(0.1)
