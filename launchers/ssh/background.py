"""Detached runs on hosts, which outlive the terminal: start, list, follow, stop. `runs.sh` implements it per host."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from instructrl.errors import InputError, RunError
from launchers.ssh.broadcast import LOST_GRACE, print_line, run_on_all
from launchers.ssh.host import Host, HostError, LostHostError, outputs, query_all, query_each
from launchers.ssh.variables import LOAD, encode_variables

RUNS = LOAD + (Path(__file__).parent / "runs.sh").read_text(encoding="utf-8")
SAVE_SECONDS = 10  # seconds to save on the other hosts after a failure
STOP_TIMEOUT = 60  # seconds for a host to answer, beyond those to save


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
    answers = query_each(hosts, [script(host, "status", run) for host in hosts], timeout=30)
    return [(host, str(text).removeprefix(f"{host.name}: ").strip()) for host, text in zip(hosts, answers, strict=True)]


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
    except LostHostError as error:
        stop_each([host for host in hosts if host.name != error.host], run, seconds=LOST_GRACE)
        raise
    except HostError:
        stop_reachable(hosts, run)
        raise


def stop(hosts: Sequence[Host], run: str, *, seconds: int) -> list[tuple[Host, str]]:
    """Stop a run on all hosts, with `seconds` to save; returns their states.

    Raises:
        LostHostError: a host does not answer.
    """
    answers = stop_each(hosts, run, seconds=seconds)
    return [(host, text.strip()) for host, text in zip(hosts, outputs(answers), strict=True)]


def stop_reachable(hosts: Sequence[Host], run: str) -> None:
    """Stop a run on all reachable hosts, ignoring errors."""
    stop_each(hosts, run, seconds=SAVE_SECONDS)


def stop_each(hosts: Sequence[Host], run: str, *, seconds: int) -> list[str | RunError]:
    """Stop a run; returns each host's state, or its error.

    All are signaled first: hosts that train together also save together, and not all are reached at the same time.
    """
    answers = query_each(hosts, [script(host, "terminate", run) for host in hosts], timeout=STOP_TIMEOUT)
    reached = [host for host, answer in zip(hosts, answers, strict=True) if not isinstance(answer, LostHostError)]
    scripts = [script(host, "finish", run, seconds) for host in reached]
    states = dict(zip(reached, query_each(reached, scripts, timeout=seconds + STOP_TIMEOUT), strict=True))
    return [states.get(host, answer) for host, answer in zip(hosts, answers, strict=True)]
