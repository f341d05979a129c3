"""Runs a command on all hosts of a pod: sets the pod up, and recreates it after preemption."""

import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence

from instructrl.config.launcher import HOST_VARIABLE, HOST_VARIABLE_ALLOWED, TpuConfig
from instructrl.errors import InputError, RunError
from instructrl.redaction import redact
from launchers.job import checkout
from launchers.ssh.broadcast import INTERRUPTED, run_on_all
from launchers.ssh.host import Host, HostError, LostHostError, query_all, read_hosts
from launchers.ssh.sync_code import copy_code
from launchers.ssh.variables import passed_variables
from launchers.tpu.api import Cloud
from launchers.tpu.pod import cloud_of, hosts_of, obtain, pod_name, pod_status
from launchers.tpu.request import key_of

PYTHON = ".venv/bin/python"
SETUP = "launchers/setup/setup_tpu.sh"
BOOT_SECONDS = 300  # seconds until a new host must answer
LINES = "INSTRUCTRL_SETUP"  # variable with the lines of `setup`, which may contain passwords
PREEMPTION_POLLS = 12  # status polls after hosts were lost, until the cloud reports the reason


def ready_hosts(tpu: TpuConfig) -> list[Host]:
    """Return the hosts of a ready pod, or those of `addresses`.

    Raises:
        InputError: the settings name no pod.
        RunError: the pod is not ready.
    """
    if tpu.addresses is not None:
        return read_hosts(tpu.addresses, user=tpu.user, key=key_of(tpu), known=tpu.known_hosts)
    status = pod_status(cloud_of(tpu), pod_name(tpu))
    if status.state != "ready" or status.node is None:
        raise RunError(f"{tpu.pod}: {status.state}, {status.detail}; run python -m launchers.tpu create or wait first")
    return hosts_of(tpu, status.node)


def command_of(words: Sequence[str], host: Host, hosts: Sequence[Host], tpu: TpuConfig) -> str:
    """Return the command for a host's bash that runs the checkout's Python.

    `{process}`, `{processes}` and `{first}` in a word are replaced by the host's index, the number of hosts, and the
    address of the first.
    """
    values = {"process": str(hosts.index(host)), "processes": str(len(hosts)), "first": hosts[0].address}
    substituted = [re.sub(r"\{(process|processes|first)\}", lambda match: values[match[1]], word) for word in words]
    return f"cd {shlex.quote(tpu.folder)} && exec env {shlex.join(['PYTHONUNBUFFERED=1', PYTHON, *substituted])}"


def split_variables(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Split a command into its words and the leading NAME=VALUE variables.

    Raises:
        InputError: the launcher or bash sets one of them.
    """
    count = 0
    while count < len(words) and re.match(r"[A-Za-z_]\w*=", words[count]):
        count += 1
    variables = dict(word.split("=", 1) for word in words[:count])
    for name in variables:
        if re.fullmatch(HOST_VARIABLE, name) is None:
            raise InputError(f"run: found {name}= before the command; allowed: {HOST_VARIABLE_ALLOWED}; leave it out")
    return list(words[count:]), variables


def wait_for_ssh(hosts: Sequence[Host], *, seconds: float = BOOT_SECONDS) -> None:
    """Wait until all hosts answer.

    Raises:
        LostHostError: one does not answer in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            query_all(hosts, ["true"] * len(hosts), timeout=30)
            return
        except LostHostError:
            if time.monotonic() > deadline:
                raise
            time.sleep(3)


def set_up(hosts: Sequence[Host], tpu: TpuConfig, *, show: Callable[[Host, str], None]) -> None:
    """Install the code's dependencies on all hosts, keeping existing ones.

    Raises:
        HostError, LostHostError: as `run_on_all`.
    """
    lines = ["set -e", f'eval "${LINES}"', f"unset {LINES}", f"cd ~/{shlex.quote(tpu.folder)}", f"exec bash {SETUP}"]
    variables = {**passed_variables(tpu.environment), LINES: "\n".join(tpu.setup or [])}

    def show_redacted(host: Host, text: str) -> None:
        show(host, redact(text))  # a shell quotes the line that it cannot read

    command = "\n".join(lines)
    run_on_all(hosts, [command] * len(hosts), "set-up", variables=variables, save_seconds=5, show=show_redacted)


def ensure_ready(
    tpu: TpuConfig, cloud: Cloud | None, *, show: Callable[[Host, str], None], say: Callable[[str], None]
) -> list[Host]:
    """Create the pod if needed, copy the code and install its dependencies; returns the hosts.

    Raises:
        RunError: one of the steps fails.
    """
    code = checkout()  # before anything is asked for
    if cloud is None:
        hosts = ready_hosts(tpu)
    else:
        hosts = hosts_of(tpu, obtain(cloud, tpu, say))
        wait_for_ssh(hosts)
    files, megabytes = copy_code(hosts, code, tpu.folder)
    say(f"copied {files} files ({megabytes:.1f} MB) to {len(hosts)} hosts")
    set_up(hosts, tpu, show=show)
    return hosts


def run_with_recreation(
    tpu: TpuConfig,
    words: Sequence[str],
    run: str,
    *,
    show: Callable[[Host, str], None],
    say: Callable[[str], None] = print,
    environment: Mapping[str, str] | None = None,
    alone: bool = False,
) -> int:
    """Set up the pod and run a command, and repeat both whenever the pod is preempted.

    Args:
        tpu: the pod; hosts of `addresses` are never recreated.
        words: arguments of the interpreter.
        run: the run's name.
        show: called with each line of a host.
        say: called with each message about the pod.
        environment: variables of the command, beside those that the settings name.
        alone: on the first host only.

    Returns:
        0, or 75 if the command was interrupted and the same command resumes.

    Raises:
        RunError: the command failed, or the pod cannot be created or was lost too often.
    """
    variables = {**passed_variables(tpu.environment), **(environment or {})}
    cloud = None if tpu.addresses is not None else cloud_of(tpu)
    losses = 0
    while True:
        try:
            hosts = ensure_ready(tpu, cloud, show=show, say=say)[: 1 if alone else None]
            commands = [command_of(words, host, hosts, tpu) for host in hosts]
            code = run_on_all(hosts, commands, run, variables=variables, show=show)
            if code != INTERRUPTED or cloud is None or not was_preempted(cloud, tpu, patient=tpu.spot):
                return code
            reason = "the run was interrupted"
        except (HostError, LostHostError) as error:
            if cloud is None or not was_preempted(cloud, tpu, patient=tpu.spot or isinstance(error, LostHostError)):
                raise
            reason = str(error)
        losses += 1
        if losses > tpu.losses:
            raise RunError(f"{tpu.pod}: lost {losses} times, more than losses={tpu.losses}; last: {reason}")
        say(f"{tpu.pod}: preempted (loss {losses} of at most {tpu.losses}; {reason}); requesting it again")


def was_preempted(cloud: Cloud, tpu: TpuConfig, *, patient: bool) -> bool:
    """Return True if the pod was preempted; `patient` polls for a while, as the cloud may report it with a delay."""
    for attempt in range(PREEMPTION_POLLS if patient else 1):
        if attempt:
            time.sleep(tpu.poll_seconds)
        if pod_status(cloud, pod_name(tpu)).state in ("lost", "absent", "failed", "deleting"):
            return True
    return False
