"""Detached runs on hosts, which outlive the terminal: start, list, follow, stop. `runs.sh` implements it per host."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from instructrl.errors import InputError, RunError
from launchers.ssh.broadcast import print_line, run_on_all
from launchers.ssh.host import Host, HostError, LostHostError, query_all
from launchers.ssh.variables import LOAD, encode_variables

RUNS = LOAD + (Path(__file__).parent / "runs.sh").read_text(encoding="utf-8")
SAVE_SECONDS = 10  # seconds to save on the other hosts after a failure


def script(host: Host, verb: str, run: str, *more: object) -> str:
    """Return the command for a host's bash that applies a verb to a run."""
    return shlex.join(["bash", "-c", RUNS, "runs", verb, run, f"{run}:{host.name}", *map(str, more)])


def start(
    hosts: Sequence[Host], run: str, commands: Sequence[str], *, variables: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Start a run with these environment variables on all hosts, or on none if one fails.

    Raises:
        InputError: a run with that name is active.
        RunError: it cannot be started.
    """
    states = [host.name for host, text in status(hosts, run) if text.startswith("running")]
    if states:
        raise InputError(f"run: {run} is running on {', '.join(states)}; follow it with logs, end it with stop")
    data = f"{encode_variables(variables)}\n".encode()
    scripts = [script(host, "start", run, command) for host, command in zip(hosts, commands, strict=True)]
    try:
        query_all(hosts, scripts, data=data)
    except RunError:
        stop_reachable(hosts, run)
        raise


def status(hosts: Sequence[Host], run: str) -> list[tuple[Host, str]]:
    """State of a run per host: `running PID`, `ended CODE`, `lost`, `absent`, or an error message."""

    def query(host: Host) -> tuple[Host, str]:
        try:
            return host, query_all([host], [script(host, "status", run)], timeout=30)[0].strip()
        except (HostError, LostHostError) as error:
            return host, str(error).removeprefix(f"{host.name}: ")

    with ThreadPoolExecutor(len(hosts)) as pool:
        return list(pool.map(query, hosts))


def list_runs(hosts: Sequence[Host]) -> dict[str, list[tuple[Host, str]]]:
    """List the runs of all hosts, by name.

    Raises:
        LostHostError: a host does not answer.
    """
    found: dict[str, list[tuple[Host, str]]] = {}
    for host, text in zip(hosts, query_all(hosts, [script(host, "list", "-") for host in hosts]), strict=True):
        for line in text.splitlines():
            run, _, state = line.partition(" ")
            found.setdefault(run, []).append((host, state))
    return found


def follow(hosts: Sequence[Host], run: str, *, lines: int = 20, show: Callable[[Host, str], None] = print_line) -> int:
    """Show a run's log until it has ended on all hosts. If it fails on one, it is stopped on all.

    Returns:
        The exit code, as `run_on_all`.

    Raises:
        HostError, LostHostError: as `run_on_all`.
        KeyboardInterrupt: after ctrl-C; the run continues.
    """
    states = [text for _, text in status(hosts, run)]
    if all(text == "absent" for text in states):
        raise InputError(f"run: found no {run} on these hosts; python -m launchers.tpu status lists the runs")
    try:
        commands = [script(host, "follow", run, lines) for host in hosts]
        return run_on_all(hosts, commands, f"follow {run}", save_seconds=0, show=show)
    except (HostError, LostHostError):
        stop_reachable(hosts, run)
        raise


def stop(hosts: Sequence[Host], run: str, *, seconds: int) -> list[tuple[Host, str]]:
    """Stop a run on all hosts, with `seconds` to save; returns their states.

    Raises:
        LostHostError: a host does not answer.
    """
    commands = [script(host, "stop", run, seconds) for host in hosts]
    outputs = query_all(hosts, commands, timeout=seconds + 60)
    return [(host, text.strip()) for host, text in zip(hosts, outputs, strict=True)]


def stop_reachable(hosts: Sequence[Host], run: str) -> None:
    """Stop a run on all reachable hosts, ignoring errors."""

    def end(host: Host) -> None:
        with suppress(RunError):
            stop([host], run, seconds=SAVE_SECONDS)

    with ThreadPoolExecutor(len(hosts)) as pool:
        list(pool.map(end, hosts))
