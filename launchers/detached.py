"""Runs on hosts that outlive the terminal: started, found again, followed, stopped. `runs.sh` does it on each host."""

import shlex
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from instructrl.errors import InputError, RunError
from launchers.fanout import run_on_all, say
from launchers.hosts import Host, HostError, LostHostError, ask_all

RUNS = (Path(__file__).parent / "runs.sh").read_text()
STOPPING = 10  # seconds that the others have after a failure


def script(host: Host, verb: str, run: str, *more: object) -> str:
    """The command for a host's bash that does something with a run."""
    return shlex.join(["bash", "-c", RUNS, "runs", verb, run, f"{run}:{host.name}", *map(str, more)])


def start(hosts: Sequence[Host], run: str, commands: Sequence[str]) -> None:
    """Start a run on all hosts; if one cannot, on none.

    Raises:
        InputError: a run of that name is running.
        RunError: it cannot be started.
    """
    there = [host.name for host, text in status(hosts, run) if text.startswith("running")]
    if there:
        raise InputError(f"run: {run} is running on {', '.join(there)}; follow it with logs, end it with stop")
    try:
        ask_all(hosts, [script(host, "start", run, command) for host, command in zip(hosts, commands, strict=True)])
    except RunError:
        end_what_answers(hosts, run)
        raise


def status(hosts: Sequence[Host], run: str) -> list[tuple[Host, str]]:
    """Each host's state of a run: `running PID`, `ended CODE`, `lost`, `absent`, or why it is not known."""

    def ask(host: Host) -> tuple[Host, str]:
        try:
            return host, ask_all([host], [script(host, "status", run)], timeout=30)[0].strip()
        except (HostError, LostHostError) as error:
            return host, str(error).removeprefix(f"{host.name}: ")

    with ThreadPoolExecutor(len(hosts)) as pool:
        return list(pool.map(ask, hosts))


def listed(hosts: Sequence[Host]) -> dict[str, list[tuple[Host, str]]]:
    """All runs of all hosts, by their names.

    Raises:
        LostHostError: a host does not answer.
    """
    found: dict[str, list[tuple[Host, str]]] = {}
    for host, text in zip(hosts, ask_all(hosts, [script(host, "list", "-") for host in hosts]), strict=True):
        for line in text.splitlines():
            run, _, state = line.partition(" ")
            found.setdefault(run, []).append((host, state))
    return found


def follow(hosts: Sequence[Host], run: str, *, lines: int = 20, show: Callable[[Host, str], None] = say) -> int:
    """Show a run's log until it has ended on all hosts. If it fails on one, it is stopped on all.

    Returns:
        As `run_on_all`.

    Raises:
        HostError, LostHostError: as `run_on_all`.
        KeyboardInterrupt: after ctrl-C; the run goes on.
    """
    there = [text for _, text in status(hosts, run)]
    if all(text == "absent" for text in there):
        raise InputError(f"run: found no {run} on these hosts; python -m launchers.tpu status lists what there is")
    try:
        commands = [script(host, "follow", run, lines) for host in hosts]
        return run_on_all(hosts, commands, f"follow {run}", saving=0, show=show)
    except (HostError, LostHostError):
        end_what_answers(hosts, run)
        raise


def stop(hosts: Sequence[Host], run: str, *, seconds: int) -> list[tuple[Host, str]]:
    """End a run on all hosts, which have so many seconds to save; returns their states.

    Raises:
        LostHostError: a host does not answer.
    """
    commands = [script(host, "stop", run, seconds) for host in hosts]
    said = ask_all(hosts, commands, timeout=seconds + 60)
    return [(host, text.strip()) for host, text in zip(hosts, said, strict=True)]


def end_what_answers(hosts: Sequence[Host], run: str) -> None:
    """End a run on those hosts that answer, soon."""

    def end(host: Host) -> None:
        with suppress(RunError):
            stop([host], run, seconds=STOPPING)

    with ThreadPoolExecutor(len(hosts)) as pool:
        list(pool.map(end, hosts))
