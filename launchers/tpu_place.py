"""A sweep on a TPU pod: its jobs one after another, each watched by a process here that outlives this one."""

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from instructrl.errors import InputError, RunError
from instructrl.profiles import LauncherConfig, TpuConfig
from launchers import pods
from launchers.description import Launch
from launchers.hosts import Host
from launchers.local import Local
from launchers.pod_run import SETUP, command_of
from launchers.table import Job

PORT = 8476  # of process 0, on which those of `addresses` meet


class TpuPod(Local):
    """Jobs are `launchers.tpu run create=true`: the first makes the pod, and each makes it again when it is lost."""

    def __init__(self, folder: Path, resources: LauncherConfig):
        if resources.jobs != 1:
            raise InputError(f"launcher.jobs: found {resources.jobs}; allowed: 1, a pod runs one job at a time")
        super().__init__(folder, resources)
        self.tpu = resources.tpu
        if self.tpu.pod is None and self.tpu.addresses is None:
            self.tpu = replace(self.tpu, pod=f"instructrl-{(resources.sweep or folder.name)[-8:].lower()}")
        self.ended = False  # whether the end of all jobs was seen

    def shown(self, launches: Sequence[Launch]) -> str:
        """The request for the pod, and each job's command."""
        lines = [] if self.tpu.addresses else [pods.request_shown(self.tpu)]
        where = self.tpu.addresses or self.tpu.pod
        lines.append(f"on each host of {where}: the code into ~/{self.tpu.folder}, then bash {SETUP}")
        nobody = [Host("", "{first}")]
        for launch in launches:
            words = [*launch.command, *self.added(launch)]
            lines.append(f"{launch.name}: {command_of(words, nobody[0], nobody, self.tpu, **launch.environment)}")
        return "\n".join(lines)

    def submit(self, pairs: Sequence[tuple[Job, Launch]]) -> None:
        """Take jobs on.

        Raises:
            InputError: what they make would be lost with the pod; or nothing says which pod.
        """
        if self.tpu.addresses is None:
            for _, launch in pairs:
                self.check_place(launch)
            pods.request_of(self.tpu)
            pods.cloud_of(self.tpu)
        super().submit([(job, replace(launch, command=self.watcher(launch))) for job, launch in pairs])

    def check_place(self, launch: Launch) -> None:
        """Raise InputError if what a job makes would be lost with the pod, or several hosts could not share it."""
        shared = "a folder that all hosts share and that outlives them, like output_dir=/mnt/disk/outputs, which "
        shared += "launcher.tpu.setup mounts"
        joint = launch.together and self.several
        if "://" in launch.run and joint:
            raise InputError(f"{launch.run}: found a bucket, which several hosts cannot write together; take {shared}")
        if "://" not in launch.run and not launch.run.startswith("/"):
            bucket = "" if joint else "a bucket, or "
            raise InputError(f"{launch.run}: found a folder that would end with the pod; take {bucket}{shared}")

    @property
    def several(self) -> bool:
        """Whether the pod has several hosts."""
        return "," in self.tpu.addresses if self.tpu.addresses is not None else self.tpu.hosts != 1

    def watcher(self, launch: Launch) -> tuple[str, ...]:
        """The command here that runs a job there."""
        default = TpuConfig()
        given = {entry.name: getattr(self.tpu, entry.name) for entry in fields(TpuConfig)}
        words = [f"{key}={json.dumps(value)}" for key, value in given.items() if value != getattr(default, key)]
        variables = [f"{name}={value}" for name, value in launch.environment.items()]
        command = [*launch.command, *self.added(launch)]
        words += [] if launch.together else ["alone=true"]
        return ("-m", "launchers.tpu", "run", "create=true", f"run={launch.name}", *words, "--", *variables, *command)

    def added(self, launch: Launch) -> list[str]:
        """Words that say to a job where it runs, unless the user did."""
        given = {word.partition("=")[0] for word in launch.command}
        words: dict[str, object] = {}
        if self.tpu.addresses is None:
            words["hardware"] = "tpu"
        if self.several and self.tpu.addresses is None:
            words["hardware.coordinator"] = "auto"  # the cloud tells each host who the others are
        elif self.several and "hardware.coordinator" not in given:
            words |= {"hardware.coordinator": f"{{first}}:{PORT}", "hardware.processes": "{processes}"}
            words |= {"hardware.process": "{process}"}
        return [f"{key}={value}" for key, value in words.items() if launch.together and key not in given]

    def look(self, jobs: Sequence[Job]) -> None:
        """See how far they are; when all have ended, the pod is deleted or its existence said."""
        super().look(jobs)
        over = any(job.id for job in jobs) and not any(job.active for job in jobs)
        if over and self.tpu.addresses is None and not self.ended:
            self.ended = True
            self.close()

    def close(self) -> None:
        """Delete the pod if it is not to be kept; else say that it is there."""
        try:
            cloud = pods.cloud_of(self.tpu)
            if not self.tpu.keep:
                pods.delete(cloud, self.tpu)
            print(f"{self.tpu.pod}: {pods.left_over(cloud, self.tpu)}", flush=True)
        except (RunError, InputError) as error:
            print(f"{self.tpu.pod}: may exist and be billed: {error}", flush=True)
