"""TPU pods from their request to their end, and commands on all of their hosts.

python -m launchers.tpu create launcher=tpu_v4_32 pod=study project=PROJECT zone=us-central2-b
python -m launchers.tpu wait pod=study                       until it is ready
python -m launchers.tpu copy pod=study                       this checkout, also what is not committed
python -m launchers.tpu setup pod=study                      what it needs, on each host
python -m launchers.tpu run pod=study -- train.py task=reach_target hardware=tpu hardware.coordinator=auto
python -m launchers.tpu run pod=study detach=true -- train.py ...
python -m launchers.tpu status pod=study                     what the cloud says, and all runs; run=NAME: one run
python -m launchers.tpu logs pod=study run=NAME
python -m launchers.tpu stop pod=study run=NAME
python -m launchers.tpu list                                 all that exists in the zone
python -m launchers.tpu delete pod=study

run shows each host's lines with its name and ends when one host fails, which stops the others. It stops the run on all
hosts when it ends itself, however that happens. With detach=true the run goes on by itself; logs, status and stop find
it again, and logs stops it when it fails on one host. With create=true it does all that is needed before, and when the
cloud takes the pod away, asks for it again and gives the same command again.

Settings that hold for all pods, like project and zone, may stand in ~/.config/instructrl/launcher.yaml, as
tpu: {project: ..., zone: ...}. Instead of pod=, addresses=A,B,... names hosts that are there. In a command, {process},
{processes} and {first} become each host's number, how many there are, and the first one's address; NAME=VALUE before it
sets a variable.
"""

import signal
import sys
from collections.abc import Callable, Sequence

from instructrl.command import table
from instructrl.errors import InputError, one_line_errors
from instructrl.schema import allowed, leaves, shown
from launchers import detached, pods
from launchers.code import copy_code
from launchers.description import ROOT
from launchers.fanout import INTERRUPTED, run_on_all, say
from launchers.hosts import Host
from launchers.pod_run import command_of, hosts_now, keep_running, set_up, split_variables
from launchers.pod_settings import PROG, PodConfig, needed_run, read, run_name


def run_create(asked: PodConfig) -> None:
    """Ask for a pod."""
    if asked.dry_run:
        print(pods.request_shown(asked))
        return
    pods.create(pods.cloud_of(asked), asked)


def run_wait(asked: PodConfig) -> None:
    """Wait until a pod is ready."""
    for host in pods.hosts_of(asked, pods.wait(pods.cloud_of(asked), asked)):
        print(f"{host.name}: {host.address}")


def run_copy(asked: PodConfig) -> None:
    """Bring the code to the hosts."""
    hosts = hosts_now(asked)
    files, megabytes = copy_code(hosts, ROOT, asked.folder, force=asked.force)
    print(f"copied {files} files ({megabytes:.1f} MB) to {len(hosts)} hosts")


def run_setup(asked: PodConfig) -> None:
    """Install what the code needs."""
    set_up(hosts_now(asked), asked, show=say)


def run_run(asked: PodConfig, words: Sequence[str]) -> int:
    """Run a command on all hosts; returns its exit code.

    Raises:
        InputError: no command, or settings that do not go together.
    """
    if not words:
        raise InputError(f"run: found no command; write {PROG} run pod=NAME -- train.py ...")
    if asked.detach and asked.create:
        raise InputError("detach: found true with create=true, which watches the pod; leave out one of them")
    name = run_name(asked, words)
    words, variables = split_variables(words)
    if asked.dry_run:
        host = Host("", "{first}")
        print(f"run {name}: {command_of(words, host, [host], asked, **variables)}")
        return 0
    if asked.create:
        return watched(
            asked, lambda: keep_running(asked, words, name, show=say, environment=variables, alone=asked.alone)
        )
    hosts = hosts_now(asked)[: 1 if asked.alone else None]
    commands = [command_of(words, host, hosts, asked, **variables) for host in hosts]
    if not asked.detach:
        return watched(asked, lambda: run_on_all(hosts, commands, name))
    detached.start(hosts, name, commands)
    print(f"run {name} goes on by itself on {len(hosts)} hosts; {PROG} logs|status|stop run={name} finds it again")
    return 0


def watched(asked: PodConfig, work: Callable[[], int]) -> int:
    """Do work that SIGTERM ends as ctrl-C does, and say at the end what exists and is billed."""
    ended = []

    def end(*_: object) -> None:
        ended.append(True)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    try:
        return work()
    except KeyboardInterrupt:
        if ended:
            return INTERRUPTED
        raise
    finally:
        if asked.addresses is None:
            print(f"{asked.pod}: {pods.left_over(pods.cloud_of(asked), asked)}", flush=True)


def run_status(asked: PodConfig) -> None:
    """Say what the cloud knows, and what runs on the hosts."""
    if asked.addresses is None:
        seen = pods.look(pods.cloud_of(asked), pods.pod_name(asked))
        print(f"{asked.pod}: {seen.word} ({seen.detail})")
        if seen.word != "ready":
            return
    hosts = hosts_now(asked)
    if asked.run is None:
        found = detached.listed(hosts)
        for run in sorted(found):
            print(f"run {run}: " + ", ".join(f"{host.name} {state}" for host, state in found[run]))
        if not found:
            print("no runs")
        return
    for host, text in detached.status(hosts, run_name(asked, ())):
        print(f"{host.name}: {text}")


def run_logs(asked: PodConfig) -> int:
    """Show the lines of a run until it ends; returns its exit code."""
    try:
        return detached.follow(hosts_now(asked), needed_run(asked), lines=asked.lines)
    except KeyboardInterrupt:
        print(f"the run goes on; {PROG} stop run={asked.run} ends it", flush=True)
        return 130


def run_stop(asked: PodConfig) -> None:
    """End a run."""
    for host, text in detached.stop(hosts_now(asked), needed_run(asked), seconds=asked.seconds):
        print(f"{host.name}: {text}")


def run_delete(asked: PodConfig) -> None:
    """Delete a pod, after a question.

    Raises:
        InputError: nobody said yes.
    """
    cloud, name = pods.cloud_of(asked), pods.pod_name(asked)
    seen = pods.look(cloud, name)
    if seen.word != "absent" and not asked.yes:
        if not sys.stdin.isatty():
            raise InputError(f"yes: not set; {name} ({seen.detail}) is deleted with yes=true")
        if input(f"{name} ({seen.detail}) and all on its disks will be deleted. Type its name to go on: ") != name:
            raise InputError(f"{name}: not deleted; it exists, and may be billed")
    pods.delete(cloud, asked)


def run_list(asked: PodConfig) -> None:
    """Say what exists in the zone."""
    rows = pods.listing(pods.cloud_of(asked))
    print("\n".join(rows) if rows else f"nothing exists in {asked.zone} of {asked.project}")


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


def usage() -> str:
    """The help."""
    rows = table({key: allowed(entry) for key, entry in leaves(PodConfig).items()})
    return "\n".join([(__doc__ or "").strip(), "", "key=value (what is allowed)", *rows])


def main() -> None:
    """Do what the command line asks."""
    with one_line_errors():
        words = sys.argv[1:]
        if not words or words[0] in ("-h", "--help"):
            print(usage())
            return
        verb, rest = words[0], words[1:]
        command: list[str] = []
        if "--" in rest:
            at = rest.index("--")
            rest, command = rest[:at], rest[at + 1 :]
        if verb == "run":
            raise SystemExit(run_run(read(rest), command))
        if command:
            raise InputError(f"{shown(verb)}: takes no command; only run does")
        if verb not in VERBS:
            raise InputError(f"{shown(verb)}: allowed: run, {', '.join(VERBS)}; see {PROG} --help")
        raise SystemExit(VERBS[verb](read(rest)) or 0)


if __name__ == "__main__":
    main()
