"""The jobs of sweeps, wherever they run: on this machine, on SLURM or on pods.

python -m launchers.jobs list                                all sweeps in multirun/
python -m launchers.jobs list sweep=NAME watch=true          its jobs, with epoch, loss and time left
python -m launchers.jobs logs sweep=NAME job=3               the last lines; lines=null: all
python -m launchers.jobs follow sweep=NAME job=seed=1        further lines too, until the job ends
python -m launchers.jobs cancel sweep=NAME job=3             without job=: all that wait or run
python -m launchers.jobs retry sweep=NAME                    what failed, was cancelled or interrupted, once more

It reads the files of the sweeps alone, and works beside the command that launches them, after it and without it.
cancel lets a job save first. retry does what the sweep's command would do again, with jobs of which none was changed;
settings such as launcher.slurm.memory_gb=64 replace those of that command. An evaluation that follows its training, or
another job that follows some, is started again with them, and waits for them.
"""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.live import Live

from instructrl.cli.help import tool_help
from instructrl.cli.option_files import suggest
from instructrl.config.fields import format_value
from instructrl.errors import InputError, report_user_errors
from instructrl.preemption import handle_signals
from launchers.jobs import control, logs
from launchers.jobs.settings import PROG, JobsConfig, read
from launchers.jobs.sweep import TABLE, Sweep, enter, sweep_folder, sweep_names
from launchers.jobs.table import SWEEP_COLUMNS, Content, Row, jobs_content, sweep_row


def run_list(config: JobsConfig, folder: Path) -> int:
    """Show the jobs of a sweep, or all sweeps; with `watch` until all jobs have ended.

    Raises:
        InputError: there is no such sweep, or its table is damaged.
    """
    if config.job is not None:
        raise InputError(f"job: found {format_value(config.job)}; list shows all jobs of a sweep, leave it out")
    if config.sweep is None:
        look = all_sweeps(folder)
    else:
        sweep = Sweep(sweep_folder(folder, config.sweep))
        look = refreshed(sweep)
    content, code = watch(look, config.poll_seconds) if config.watch else (look(), 0)
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(content.fitted(console.width))
    else:
        print(content.lines())
    return code


def refreshed(sweep: Sweep) -> Callable[[], Content]:
    """Return a function that looks at a sweep once more, except for the first time."""
    seen: list[bool] = []

    def look() -> Content:
        if seen:
            sweep.refresh()
        seen.append(True)
        return jobs_content(sweep)

    return look


def all_sweeps(folder: Path) -> Callable[[], Content]:
    """Return a function that looks at all sweeps."""
    known: dict[str, Sweep] = {}

    def row(name: str) -> Row:
        try:
            if name in known:
                known[name].refresh()
            else:
                known[name] = Sweep(folder / name)
        except InputError as error:
            known.pop(name, None)
            return Row((name, "-", "damaged", "-"), "failed", str(error))
        return sweep_row(known[name], changed=(folder / name / TABLE).stat().st_mtime)

    def look() -> Content:
        rows = [row(name) for name in sweep_names(folder)]
        active = any(job.active for sweep in known.values() for job in sweep.jobs)
        return Content(f"sweeps in {folder.absolute()}: {len(rows)}", SWEEP_COLUMNS, rows, active)

    return look


def watch(look: Callable[[], Content], seconds: float) -> tuple[Content, int]:
    """Show a table until no job is active or ctrl-C; returns the last one, and 130 for ctrl-C, else 0."""
    console = Console(highlight=False)
    content = look()
    with ExitStack() as stack:
        live = None
        if console.is_terminal:
            live = stack.enter_context(Live(console=console, auto_refresh=False, transient=True))
        try:
            while content.active:
                if live is not None:
                    live.update(content.fitted(console.width, console.height), refresh=True)
                time.sleep(seconds)
                content = look()
        except KeyboardInterrupt:
            return content, 130
    return content, 0


def run_logs(config: JobsConfig, folder: Path) -> int:
    """Print the last lines of the logs of a job."""
    sweep = Sweep(sweep_folder(folder, config.sweep))
    logs.print_logs(sweep.find_job(config.job), lines=config.lines)
    return 0


def run_follow(config: JobsConfig, folder: Path) -> int:
    """Print the logs of a job until it ends."""
    sweep = Sweep(sweep_folder(folder, config.sweep))
    job = sweep.find_job(config.job)
    return logs.follow(sweep, job, lines=config.lines, poll_seconds=config.poll_seconds)


def run_cancel(config: JobsConfig, folder: Path) -> int:
    """End jobs."""
    sweep = Sweep(sweep_folder(folder, config.sweep), grace_seconds=config.seconds)
    jobs = sweep.jobs if config.job is None else [sweep.find_job(config.job)]
    return control.cancel(sweep, [job.number for job in jobs], seconds=config.seconds)


def run_retry(config: JobsConfig, folder: Path, words: Sequence[str] = ()) -> int:
    """Start jobs again."""
    sweep = Sweep(sweep_folder(folder, config.sweep))
    jobs = sweep.jobs if config.job is None else [sweep.find_job(config.job)]
    return control.retry(sweep, jobs, words)


VERBS: dict[str, Callable[[JobsConfig, Path], int]] = {
    "list": run_list,
    "logs": run_logs,
    "follow": run_follow,
    "cancel": run_cancel,
    "retry": run_retry,
}


def main() -> None:
    """Run the command line."""
    with report_user_errors(), handle_signals(working=False):
        words = sys.argv[1:]
        if not words or {"-h", "--help"} & set(words):
            print(tool_help(__doc__, {"": JobsConfig}))
            return
        verb, *rest = words
        if verb not in VERBS:
            raise InputError(f"{format_value(verb)}: no such command; {suggest(verb, set(VERBS))}; see {PROG} --help")
        config, launcher = read(rest)
        if launcher and verb != "retry":
            raise InputError(f"{launcher[0].partition('=')[0]}: no setting of {verb}; only retry has the launcher's")
        folder = enter(config.folder)
        raise SystemExit(run_retry(config, folder, launcher) if verb == "retry" else VERBS[verb](config, folder))


if __name__ == "__main__":
    main()
