"""Backend that runs the jobs of a sweep on a TPU pod, one after another, each monitored by a local process."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

from instructrl.config.launcher import LauncherConfig, TpuConfig
from instructrl.errors import InputError, RunError
from launchers.config_folders import with_copied_folders
from launchers.job import JobSpec, checkout
from launchers.job_table import Job
from launchers.local import Local
from launchers.ssh.host import Host, read_hosts
from launchers.tpu import pod
from launchers.tpu.accelerator import slice_of
from launchers.tpu.request import describe_request, request_of
from launchers.tpu.run import SETUP, command_of
from launchers.tpu.settings import SETUP_VARIABLE

PORT = 8476  # coordinator port of process 0, for hosts of `addresses`


def derived_pod_name(sweep: str) -> str:
    """Derive a name that the cloud accepts for a pod from the end of a sweep's name."""
    return re.sub("[^a-z0-9]+", "-", f"instructrl-{sweep[-8:].lower()}").strip("-")


@contextmanager
def named_in_full() -> Iterator[None]:
    """Name the setting at fault as the command of a sweep has it: launcher.tpu.accelerator instead of accelerator."""
    try:
        yield
    except InputError as error:
        own = str(error).partition(":")[0] in [entry.name for entry in fields(TpuConfig)]
        raise InputError(f"launcher.tpu.{error}" if own else str(error)) from None


class TpuBackend(Local):
    """Runs jobs as `launchers.tpu run create=true`: each creates the pod if needed, and again after preemption."""

    def __init__(self, folder: Path, resources: LauncherConfig):
        """Check the settings.

        Raises:
            InputError: there are several jobs at a time, or the addresses are not those of different hosts.
        """
        if resources.jobs != 1:
            raise InputError(f"launcher.jobs: found {resources.jobs}; allowed: 1, a pod runs one job at a time")
        super().__init__(folder, resources)
        self.tpu = resources.tpu
        if self.tpu.pod is None and self.tpu.addresses is None:
            self.tpu = replace(self.tpu, pod=derived_pod_name(resources.sweep or folder.name))
        with named_in_full():
            if self.tpu.addresses is not None:
                read_hosts(self.tpu.addresses)  # refuses a host that is given twice, also in a dry run
        self.closed = False  # True once the end of all jobs was handled

    @named_in_full()
    def preview(self, specs: Sequence[JobSpec]) -> str:
        """Return the request for the pod and each job's command.

        Raises:
            InputError: there is no checkout whose code the pod would get, or it does not get a folder of settings.
        """
        code = checkout()
        lines = [] if self.tpu.addresses else [describe_request(self.tpu)]
        where = self.tpu.addresses or self.tpu.pod
        lines.append(f"on each host of {where}: the code into ~/{self.tpu.folder}, then bash {SETUP}")
        placeholder = [Host("", "{first}")]
        for spec in (with_copied_folders(spec, code) for spec in specs):
            overrides = [*spec.command, *self.hardware_overrides(spec)]
            lines.append(f"{spec.name}: {command_of(overrides, placeholder[0], placeholder, self.tpu)}")
        return "\n".join(lines)

    @named_in_full()
    def submit(self, pairs: Sequence[tuple[Job, JobSpec]], record: Callable[[], None]) -> None:
        """Submit jobs.

        Raises:
            InputError: their output would be lost with the pod, the pod is not specified, or it does not get the code
                or a folder of settings.
        """
        code = checkout()
        copied = [(job, with_copied_folders(spec, code)) for job, spec in pairs]
        if self.tpu.addresses is None:
            for _, spec in pairs:
                self.check_output(spec)
            request_of(self.tpu)
            pod.cloud_of(self.tpu)
        super().submit([(job, replace(spec, command=self.monitor_command(spec))) for job, spec in copied], record)

    def check_output(self, spec: JobSpec) -> None:
        """Raise InputError if a job's output would be lost with the pod, or could not be shared by its hosts."""
        shared = "a folder that all hosts share and that outlives them, like output_dir=/mnt/disk/outputs, which "
        shared += "launcher.tpu.setup mounts"
        shared_output = spec.distributed and self.is_multi_host
        if "://" in spec.run and shared_output:
            raise InputError(f"{spec.run}: found a bucket, which several hosts cannot write to; choose {shared}")
        if "://" not in spec.run and not spec.run.startswith("/"):
            bucket = "" if shared_output else "a bucket, or "
            raise InputError(f"{spec.run}: found a folder that would be lost with the pod; choose {bucket}{shared}")

    @property
    def is_multi_host(self) -> bool:
        """True if the pod has several hosts."""
        if self.tpu.addresses is not None:
            return "," in self.tpu.addresses
        return slice_of(self.tpu).hosts > 1

    def monitor_command(self, spec: JobSpec) -> tuple[str, ...]:
        """Return the local command that runs a job on the pod."""
        default = TpuConfig()
        given = {entry.name: getattr(self.tpu, entry.name) for entry in fields(TpuConfig) if entry.name != "setup"}
        overrides = [f"{key}={json.dumps(value)}" for key, value in given.items() if value != getattr(default, key)]
        command = [*spec.command, *self.hardware_overrides(spec)]
        overrides += [] if spec.distributed else ["alone=true"]
        return ("-m", "launchers.tpu", "run", "create=true", f"run={spec.name}", *overrides, "--", *command)

    def _variables(self) -> dict[str, str]:
        return {SETUP_VARIABLE: json.dumps(self.tpu.setup)} if self.tpu.setup else {}

    def hardware_overrides(self, spec: JobSpec) -> list[str]:
        """Return hardware overrides of a job that the user has not set."""
        given = {word.partition("=")[0] for word in spec.command}
        overrides: dict[str, object] = {}
        if self.tpu.addresses is None:
            overrides["hardware"] = "tpu"
        if self.is_multi_host and self.tpu.addresses is None:
            overrides["hardware.coordinator"] = "auto"  # the cloud provides the hosts' addresses
        elif self.is_multi_host and "hardware.coordinator" not in given:
            overrides |= {"hardware.coordinator": f"{{first}}:{PORT}", "hardware.num_processes": "{processes}"}
            overrides |= {"hardware.process_id": "{process}"}
        return [f"{key}={value}" for key, value in overrides.items() if spec.distributed and key not in given]

    def refresh(self, jobs: Sequence[Job]) -> None:
        """Update the states of jobs; when all have ended, delete the pod or report that it exists."""
        super().refresh(jobs)
        all_ended = any(job.id for job in jobs) and not any(job.active for job in jobs)
        if all_ended and self.tpu.addresses is None and not self.closed:
            self.closed = True
            self.close()

    def close(self) -> None:
        """Delete the pod unless it is to be kept, and report what exists."""
        try:
            cloud = pod.cloud_of(self.tpu)
            if not self.tpu.keep:
                pod.delete(cloud, self.tpu)
            print(f"{self.tpu.pod}: {pod.describe_resources(cloud, self.tpu)}", flush=True)
        except (RunError, InputError) as error:
            print(f"{self.tpu.pod}: may exist and be billed: {error}", flush=True)
