"""TPU pods: creation, deletion, and commands on all of their hosts.

python -m launchers.tpu create launcher=tpu_v4_32 pod=study project=PROJECT zone=us-central2-b
python -m launchers.tpu wait pod=study                       until it is ready; with create's settings, requested again
python -m launchers.tpu copy pod=study                       copy this checkout, with uncommitted files
python -m launchers.tpu setup pod=study                      install its dependencies on each host
python -m launchers.tpu run pod=study -- train.py task=reach_target hardware=tpu hardware.coordinator=auto
python -m launchers.tpu run pod=study detach=true -- train.py ...
python -m launchers.tpu status pod=study                     the pod's state, and all runs; run=NAME: one run
python -m launchers.tpu logs pod=study run=NAME
python -m launchers.tpu stop pod=study run=NAME
python -m launchers.tpu list                                 all resources in the zone
python -m launchers.tpu delete pod=study

run shows each host's lines with its name and ends when one host fails, which stops the others. When it ends itself, for
whatever reason, it stops the run on all hosts. With detach=true the run continues in the background; logs, status and
stop find it again, and logs stops it when it fails on one host. With create=true it first creates and sets up the pod,
and after a preemption requests the pod and runs the command again.

Settings of all pods, such as project and zone, may be given in ~/.config/instructrl/launcher.yaml, as
tpu: {project: ..., zone: ...}. Instead of pod=, addresses=A,B,... selects existing hosts. In a command, {process},
{processes} and {first} are replaced by each host's index, the number of hosts, and the first one's address; NAME=VALUE
before the command sets a variable. Variables such as WANDB_API_KEY, HF_TOKEN and the others of environment= are passed
on from this machine. No command line on the hosts shows the value of a variable.
"""

import shlex
import signal
import sys
from collections.abc import Callable, Sequence

from instructrl.cli.help import tool_help
from instructrl.config.fields import format_value
from instructrl.errors import InputError, RunError, report_user_errors
from instructrl.preemption import handle_signals
from instructrl.redaction import is_confidential, redact_words
from launchers.job import checkout
from launchers.ssh import background
from launchers.ssh.broadcast import INTERRUPTED, print_line, run_on_all
from launchers.ssh.host import Host
from launchers.ssh.sync_code import copy_code
from launchers.ssh.variables import FILE_PREFIX, passed_variables
from launchers.tpu import pod
from launchers.tpu.request import describe_request
from launchers.tpu.run import command_of, ready_hosts, run_with_recreation, set_up, split_variables
from launchers.tpu.settings import PROG, PodConfig, read, required_run, run_name


def run_create(config: PodConfig) -> None:
    """Request a pod."""
    if config.dry_run:
        print(describe_request(config))
        return
    pod.create(pod.cloud_of(config), config)


def run_wait(config: PodConfig) -> None:
    """Wait until a pod is ready; with the settings of its request, request it again if its queued resource fails.

    Raises:
        RunError: it fails, and the settings do not say what to request.
    """
    cloud = pod.cloud_of(config)
    try:
        node = pod.wait(cloud, config)
    except pod.UnservedRequestError as error:
        if config.accelerator is None:
            raise RunError(f"{error}; with the settings of {PROG} create, wait requests it again") from None
        print(f"{error}; requesting it again", flush=True)
        node = pod.obtain(cloud, config)
    for host in pod.hosts_of(config, node):
        print(f"{host.name}: {host.address}")


def run_copy(config: PodConfig) -> None:
    """Copy the code to the hosts."""
    code = checkout()
    hosts = ready_hosts(config)
    files, megabytes = copy_code(hosts, code, config.folder, force=config.force)
    print(f"copied {files} files ({megabytes:.1f} MB) to {len(hosts)} hosts")


def run_setup(config: PodConfig) -> None:
    """Install the code's dependencies."""
    set_up(ready_hosts(config), config, show=print_line)


def run_run(config: PodConfig, words: Sequence[str]) -> int:
    """Run a command on all hosts; returns its exit code.

    Raises:
        InputError: there is no command, or settings are inconsistent.
    """
    if not words:
        raise InputError(f"run: found no command; write {PROG} run pod=NAME -- train.py ...")
    if config.detach and config.create:
        raise InputError("detach: found true with create=true, which monitors the pod; leave one of them out")
    name = run_name(config, words)
    words, given = split_variables(words)
    if any(map(is_confidential, words)):
        raise InputError(
            f"run: found a password or a token in the command ({shlex.join(redact_words(words))[:80]}), which every "
            "user of the hosts could read; write NAME=VALUE before it, or export NAME and list it in environment="
        )
    variables = {**passed_variables(config.environment), **given}
    if config.dry_run:
        host = Host("", "{first}")
        print(f"run {name}: {command_of(words, host, [host], config)}")
        print(f"variables: {', '.join(name.removeprefix(FILE_PREFIX) for name in variables) or 'none'}")
        return 0
    if config.create:
        return with_final_report(
            config,
            lambda: run_with_recreation(config, words, name, show=print_line, environment=given, alone=config.alone),
        )
    hosts = ready_hosts(config)[: 1 if config.alone else None]
    commands = [command_of(words, host, hosts, config) for host in hosts]
    if not config.detach:
        return with_final_report(config, lambda: run_on_all(hosts, commands, name, variables=variables))
    background.start(hosts, name, commands, variables=variables)
    print(
        f"run {name} continues in the background on {len(hosts)} hosts; "
        f"manage it with {PROG} logs|status|stop run={name}"
    )
    return 0


def with_final_report(config: PodConfig, work: Callable[[], int]) -> int:
    """Call `work` with SIGTERM handled like ctrl-C, and finally print the existing, billed resources."""
    terminated = []

    def end(*_: object) -> None:
        terminated.append(True)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    try:
        return work()
    except KeyboardInterrupt:
        if terminated:
            return INTERRUPTED
        raise
    finally:
        if config.addresses is None:
            print(f"{config.pod}: {pod.describe_resources(pod.cloud_of(config), config)}", flush=True)


def run_status(config: PodConfig) -> None:
    """Print the pod's state and the runs on its hosts."""
    if config.addresses is None:
        status = pod.pod_status(pod.cloud_of(config), pod.pod_name(config))
        print(f"{config.pod}: {status.state} ({status.detail})")
        if status.state != "ready":
            return
    hosts = ready_hosts(config)
    if config.run is None:
        found = background.list_runs(hosts)
        for run in sorted(found):
            print(f"run {run}: " + ", ".join(f"{host.name} {state}" for host, state in found[run]))
        if not found:
            print("no runs")
        return
    for host, text in background.status(hosts, run_name(config, ())):
        print(f"{host.name}: {text}")


def run_logs(config: PodConfig) -> int:
    """Show the lines of a run until it ends; returns its exit code."""
    try:
        return background.follow(ready_hosts(config), required_run(config), lines=config.lines)
    except KeyboardInterrupt:
        print(f"the run continues; {PROG} stop run={config.run} stops it", flush=True)
        return 130


def run_stop(config: PodConfig) -> None:
    """Stop a run."""
    for host, text in background.stop(ready_hosts(config), required_run(config), seconds=config.seconds):
        print(f"{host.name}: {text}")


def run_delete(config: PodConfig) -> None:
    """Delete a pod, after confirmation.

    Raises:
        InputError: the deletion was not confirmed.
    """
    cloud, name = pod.cloud_of(config), pod.pod_name(config)
    status = pod.pod_status(cloud, name)
    if status.state != "absent" and not config.yes:
        if not sys.stdin.isatty():
            raise InputError(f"yes: not set; {name} ({status.detail}) is deleted with yes=true")
        if (
            input(f"{name} ({status.detail}) and all data on its disks will be deleted. Type its name to continue: ")
            != name
        ):
            raise InputError(f"{name}: not deleted; it exists, and may be billed")
    pod.delete(cloud, config)


def run_list(config: PodConfig) -> None:
    """List the resources in the zone."""
    rows = pod.list_resources(pod.cloud_of(config))
    print("\n".join(rows) if rows else f"no resources exist in {config.zone} of {config.project}")


VERBS: dict[str, Callable[[PodConfig], int | None]] = {
    "create": run_create,
    "wait": run_wait,
    "copy": run_copy,
    "setup": run_setup,
    "status": run_status,
    "logs": run_logs,
    "stop": run_stop,
    "list": run_list,
    "delete": run_delete,
}


def main() -> None:
    """Run the command line."""
    with report_user_errors(), handle_signals(working=False):
        words = sys.argv[1:]
        if not words or words[0] in ("-h", "--help"):
            print(tool_help(__doc__, {"": PodConfig}))
            return
        verb, rest = words[0], words[1:]
        command: list[str] = []
        if "--" in rest:
            at = rest.index("--")
            rest, command = rest[:at], rest[at + 1 :]
        if verb == "run":
            raise SystemExit(run_run(read(rest), command))
        if command:
            raise InputError(f"{format_value(verb)}: takes no command; only run does")
        if verb not in VERBS:
            raise InputError(f"{format_value(verb)}: allowed: run, {', '.join(VERBS)}; see {PROG} --help")
        raise SystemExit(VERBS[verb](read(rest)) or 0)


if __name__ == "__main__":
    main()
