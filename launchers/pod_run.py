"""A command on all hosts of a pod: the pod is made ready, and made again when the cloud took it away."""

import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence

from instructrl.errors import RunError
from instructrl.profiles import TpuConfig
from launchers.cloud import Cloud
from launchers.code import copy_code
from launchers.description import ROOT
from launchers.fanout import INTERRUPTED, run_on_all
from launchers.hosts import Host, HostError, LostHostError, ask_all, read_hosts
from launchers.pods import cloud_of, create, hosts_of, key_of, look, pod_name, wait

PYTHON = ".venv/bin/python"
SETUP = "launchers/setup_tpu.sh"
BOOT = 300  # seconds until a new host answers
LOOKS = 12  # at the cloud, after hosts were lost, until it says why


def hosts_now(tpu: TpuConfig) -> list[Host]:
    """The hosts of a pod that is ready, or those that `addresses` names.

    Raises:
        InputError: the settings name none.
        RunError: the pod is not ready.
    """
    if tpu.addresses is not None:
        return read_hosts(tpu.addresses, user=tpu.user, key=key_of(tpu), known=tpu.known_hosts)
    seen = look(cloud_of(tpu), pod_name(tpu))
    if seen.word != "ready" or seen.node is None:
        raise RunError(f"{tpu.pod}: {seen.word}, {seen.detail}; python -m launchers.tpu create or wait comes first")
    return hosts_of(tpu, seen.node)


def command_of(words: Sequence[str], host: Host, hosts: Sequence[Host], tpu: TpuConfig, **environment: str) -> str:
    """The line for a host's bash that runs our Python there.

    `{process}`, `{processes}` and `{first}` in a word become the host's number, how many there are, and the address of
    the first.
    """
    values = {"process": str(hosts.index(host)), "processes": str(len(hosts)), "first": hosts[0].address}
    filled = [re.sub(r"\{(process|processes|first)\}", lambda match: values[match[1]], word) for word in words]
    variables = [f"{name}={value}" for name, value in {"PYTHONUNBUFFERED": "1", **environment}.items()]
    return f"cd {shlex.quote(tpu.folder)} && exec env {shlex.join([*variables, PYTHON, *filled])}"


def split_variables(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The command without the NAME=VALUE before it, and these."""
    count = 0
    while count < len(words) and re.match(r"[A-Za-z_]\w*=", words[count]):
        count += 1
    return list(words[count:]), dict(word.split("=", 1) for word in words[:count])


def wait_for_ssh(hosts: Sequence[Host], *, seconds: float = BOOT) -> None:
    """Wait until all hosts answer.

    Raises:
        LostHostError: one does not within the time.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            ask_all(hosts, ["true"] * len(hosts), timeout=30)
            return
        except LostHostError:
            if time.monotonic() > end:
                raise
            time.sleep(3)


def set_up(hosts: Sequence[Host], tpu: TpuConfig, *, show: Callable[[Host, str], None]) -> None:
    """Install on all hosts what the code needs; what is there is kept.

    Raises:
        HostError, LostHostError: as `run_on_all`.
    """
    command = "\n".join(["set -e", *(tpu.setup or []), f"cd ~/{shlex.quote(tpu.folder)}", f"exec bash {SETUP}"])
    run_on_all(hosts, [command] * len(hosts), "set-up", saving=5, show=show)


def made_ready(
    tpu: TpuConfig, cloud: Cloud | None, *, show: Callable[[Host, str], None], say: Callable[[str], None]
) -> list[Host]:
    """A pod with our code and what it needs.

    Raises:
        RunError: it cannot be had.
    """
    if cloud is None:
        hosts = hosts_now(tpu)
    else:
        create(cloud, tpu, say)
        hosts = hosts_of(tpu, wait(cloud, tpu, say))
        wait_for_ssh(hosts)
    files, megabytes = copy_code(hosts, ROOT, tpu.folder)
    say(f"copied {files} files ({megabytes:.1f} MB) to {len(hosts)} hosts")
    set_up(hosts, tpu, show=show)
    return hosts


def keep_running(
    tpu: TpuConfig,
    words: Sequence[str],
    run: str,
    *,
    show: Callable[[Host, str], None],
    say: Callable[[str], None] = print,
    environment: Mapping[str, str] | None = None,
    alone: bool = False,
) -> int:
    """Make the pod ready and run a command; when the cloud takes the pod away, do so again.

    Args:
        tpu: which pod; with `addresses`, hosts that nobody makes again.
        words: what follows the interpreter.
        run: the run's name.
        show: takes each line of a host.
        say: takes what happens to the pod.
        environment: variables of the command.
        alone: on the first host only.

    Returns:
        0, or 75 when the command was interrupted and the same command goes on.

    Raises:
        RunError: the command failed, or the pod cannot be had or was lost too often.
    """
    cloud = None if tpu.addresses is not None else cloud_of(tpu)
    losses = 0
    while True:
        try:
            hosts = made_ready(tpu, cloud, show=show, say=say)[: 1 if alone else None]
            commands = [command_of(words, host, hosts, tpu, **(environment or {})) for host in hosts]
            code = run_on_all(hosts, commands, run, show=show)
            if code != INTERRUPTED or cloud is None or not taken(cloud, tpu, patient=tpu.spot):
                return code
            reason = "the run was interrupted"
        except (HostError, LostHostError) as error:
            if cloud is None or not taken(cloud, tpu, patient=tpu.spot or isinstance(error, LostHostError)):
                raise
            reason = str(error)
        losses += 1
        if losses > tpu.losses:
            raise RunError(f"{tpu.pod}: lost {losses} times, more than losses={tpu.losses}; last: {reason}")
        say(f"{tpu.pod}: the cloud took it away (loss {losses} of at most {tpu.losses}; {reason}); asking again")


def taken(cloud: Cloud, tpu: TpuConfig, *, patient: bool) -> bool:
    """Whether the cloud took the pod away; it may say so a little later than the hosts show it."""
    for attempt in range(LOOKS if patient else 1):
        if attempt:
            time.sleep(tpu.poll_seconds)
        if look(cloud, pod_name(tpu)).word in ("lost", "absent", "failed", "deleting"):
            return True
    return False
