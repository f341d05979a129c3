"""Tables of sweeps and of the jobs of one: lines for a pipe, and a table that fits a terminal."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from instructrl.cli.table import align
from instructrl.errors import shorten
from instructrl.redaction import redact
from launchers.job import EVALUATION
from launchers.job_table import STATES, Job, distinguishing_overrides, tails
from launchers.jobs.progress import Progress, read_progress
from launchers.jobs.sweep import Sweep

JOB_COLUMNS = ("job", "id", "state", "epoch", "loss", "left", "choices")
SWEEP_COLUMNS = ("sweep", "launcher", "jobs", "changed")
RIGHT = ("epoch", "loss", "left")
LONG = ("choices", "sweep", "jobs")  # columns of which a narrow terminal shows a part, or several lines
MIN_LONG = 10  # characters of such a column at least
WIDE = 100  # characters of a terminal that also shows the IDs of jobs
MAX_LINE = 200  # characters of a log's last line
COLORS = {"done": "green", "running": "cyan", "failed": "red", "lost": "red", "refused": "red"}
COLORS |= {"waiting": "dim", "interrupted": "yellow", "cancelled": "yellow"}
FIRST_SHOWN = ("running", "failed", "lost", "refused", "interrupted", "cancelled", "waiting", "new", "done")


@dataclass(frozen=True)
class Row:
    """A row of a table: its cells, the state that colors it, and a line below the table."""

    cells: tuple[str, ...]
    state: str = ""
    note: str = ""


@dataclass(frozen=True)
class Content:
    """Title and rows of the table of a sweep, or of all sweeps."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Row]
    active: bool = False

    def lines(self) -> str:
        """Return it as text without a limit of width."""
        right = [place for place, name in enumerate(self.columns) if name in RIGHT]
        table = align([self.columns, *(row.cells for row in self.rows)], right=right)
        return "\n".join([self.title, *table, *(row.note for row in self.rows if row.note)])

    def fitted(self, width: int, height: int | None = None) -> RenderableType:
        """Return it for a terminal; with a height one line for each row and note, without those that matter least."""
        fixed = height is not None
        shown = list(self.rows) if height is None else most_important(self.rows, room=max(1, height - 4))
        columns = [name for name in self.columns if name != "id" or width >= WIDE]
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name, column_width in self.widths(columns, shown, width).items():
            wrapped = name in LONG and not fixed
            table.add_column(name, no_wrap=not wrapped, overflow="fold" if wrapped else "ellipsis", width=column_width)
            table.columns[-1].justify = "right" if name in RIGHT else "left"
        for row in shown:
            cells = [Text(cell) for name, cell in zip(self.columns, row.cells, strict=True) if name in columns]
            table.add_row(*cells, style=COLORS.get(row.state))
        missing = len(self.rows) - len(shown)
        noted = [row for row in shown if row.note]
        notes = [
            Text(row.note, COLORS.get(row.state, ""), no_wrap=fixed, overflow="ellipsis" if fixed else "fold")
            for row in noted
        ]
        more = [Text(f"and {missing} more", style="dim")] if missing else []
        return Group(Text(self.title), table, *more, *notes)

    def widths(self, columns: Sequence[str], rows: Sequence[Row], total: int) -> dict[str, int]:
        """Return the widths of columns; the long ones share what the others leave of a total."""
        needed = {
            name: max(map(len, [name, *(row.cells[self.columns.index(name)] for row in rows)])) for name in columns
        }
        long = {name: needed[name] for name in columns if name in LONG}
        room = total - 2 * (len(columns) - 1) - sum(needed.values()) + sum(long.values())
        for name, length in long.items():
            left = max(room - sum(long.values()) + length, room // len(long), MIN_LONG)
            needed[name] = min(length, left)
        return needed


def most_important(rows: Sequence[Row], *, room: int) -> list[Row]:
    """Return the rows that fit into some lines with their notes: running ones first, done ones last."""
    kept: list[int] = []
    states = [*FIRST_SHOWN, *STATES, ""]
    for place in sorted(range(len(rows)), key=lambda place: states.index(rows[place].state)):
        room -= 1 + bool(rows[place].note)
        if room < 0 and kept:
            break
        kept.append(place)
    return [rows[place] for place in sorted(kept)]


def jobs_content(sweep: Sweep) -> Content:
    """Return the table of the jobs of a sweep."""
    rows = [job_row(job, sweep.jobs) for job in sweep.jobs]
    title = "; ".join([f"sweep {sweep.folder}: {count_states(sweep.jobs)}", *sweep.doubts])
    return Content(title, JOB_COLUMNS, rows, any(job.active for job in sweep.jobs))


def job_row(job: Job, jobs: Sequence[Job]) -> Row:
    """Return the row of a job, with the progress of its training, or the last line of its log in place of that."""
    evaluates = bool(EVALUATION & set(job.entry))  # its run is the evaluated training's
    progress = Progress() if evaluates or "://" in job.run else read_progress(Path(job.run))
    left = progress.seconds_left if job.state == "running" else None
    cells = (
        str(job.number),
        job.id.partition("@")[0] or "-",
        job.state,
        format_epoch(progress),
        "-" if progress.loss is None else f"{progress.loss:.4g}",
        "-" if left is None else tqdm.format_interval(left),
        distinguishing_overrides(job, jobs),
    )
    return Row(cells, job.state, redact(note_of(job, progress)))


def note_of(job: Job, progress: Progress) -> str:
    """Return the line below the table on a job: its error with its log, or what a running one without metrics says."""
    if job.error:
        return f"job {job.number} {job.state}: {job.error}" + (f"  [{job.log}]" if job.log else "")
    if job.state != "running" or progress.epoch is not None:
        return ""
    last = next((lines[-1] for lines in tails(job.log) if lines), "")
    return f"job {job.number}: {shorten(' '.join(last.split()), MAX_LINE)}" if last else ""


def format_epoch(progress: Progress) -> str:
    """Format the epoch and the number of epochs."""
    if progress.epoch is None:
        return "-"
    done = f"{progress.epoch:.1f}".removesuffix(".0")
    return done if progress.epochs is None else f"{done}/{progress.epochs}"


def count_states(jobs: Sequence[Job]) -> str:
    """Return how many jobs are in each state."""
    counts = Counter(job.state for job in jobs)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]) or "no jobs"


def sweep_row(sweep: Sweep, *, changed: float) -> Row:
    """Return the row of a sweep; `changed` is when its table was written, in seconds since 1970."""
    kinds = sorted({job.launcher for job in sweep.jobs if job.launcher})
    states = [state for state in FIRST_SHOWN if any(job.state == state for job in sweep.jobs)]
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(changed))
    cells = (sweep.folder.name, ", ".join(kinds) or "-", count_states(sweep.jobs), when)
    return Row(cells, states[0] if states else "", "; ".join(sweep.doubts))
