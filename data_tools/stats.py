"""python -m data_tools.stats FILE_OR_FOLDER...: counts, ranges, coverage, pictures, outliers and duplicates.

Prints them, and writes them as one page with plots. Exit code 1 if an episode is there twice: in a file, or in one for
training and in one for validation.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data_tools.duplicates import Marked, beside, duplicates, refuse, told
from data_tools.measures import NUMBERS, Measures, measure
from data_tools.parser import Parser
from data_tools.stats_page import page
from instructrl.data.storage import Place, files_in, place
from instructrl.errors import InputError, one_line_errors
from instructrl.training.run_directory import write_atomically

SHOWN = 8  # sentences, variations and outliers of a file; the page has more
WORDS = 3  # columns of the table before its numbers


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="python -m data_tools.stats", description=__doc__)
    parser.add_argument(
        "places",
        type=place,
        nargs="+",
        metavar="FILE_OR_FOLDER",
        help=".hdf5 files of demonstrations, or folders of them, on disk or in a bucket",
    )
    parser.add_argument(
        "--out", type=Path, metavar="PAGE.html", help="the page (default: stats.html beside them; of a bucket, here)"
    )
    return parser.parse_args(given)


def files_of(places: Sequence[Place]) -> list[Place]:
    """The files named, and all in the folders named, each once; pieces of unfinished files are none.

    Raises:
        InputError: there is none in a folder.
    """
    found: dict[Place, Place] = {}
    for named in places:
        inside: list[Place] = [named]
        if named.suffix != ".hdf5" and named.is_dir():
            inside = [path for path in files_in(named, ".hdf5", below=True) if path.parent.suffix != ".parts"]
            if not inside:
                raise InputError(f"{named}: no .hdf5 file in this folder; name one of demonstrations")
        for path in inside:
            found.setdefault(path.resolve(), path)
    return list(found.values())


def neighbours(sets: Sequence[Measures]) -> tuple[list[Marked], list[str]]:
    """The files of the other split that lie beside those measured and were not asked for; and what cannot be told."""
    known, unknown = {one.path.resolve(): one.marked for one in sets}, set()
    for one in sets:
        others, lines = beside(one.path, one.header, known)
        known |= {other.path.resolve(): other for other in others}
        unknown |= set(lines)
    return list(known.values())[len(sets) :], sorted(unknown)


def overview(sets: Sequence[Measures]) -> list[str]:
    """A table with a row for each file."""
    rows = [
        ("file", "task", "split", "episodes", "frames", "keyframes", "variations", "sentences", "workspace", "outliers")
    ]
    for one in sets:
        lengths = f"{one.lengths.min()} to {one.lengths.max()}, {one.lengths.mean():.1f}"
        rows.append(
            (str(one.path), one.header.task, one.header.split, f"{len(one.lengths)}", f"{one.frames.sum()}", lengths)
            + (f"{len(one.variations)}", f"{len(one.sentences)}", f"{one.coverage:.1%}", f"{len(one.outliers)}")
        )  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < WORDS else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def details(one: Measures) -> list[str]:
    """What the table does not say of a file."""
    header = one.header
    cameras = f"{', '.join(header.cameras)} at {header.image_size}x{header.image_size}"
    lines = ["", f"{one.path}: {header.task}, {header.split}, {one.size / 1e6:.1f} MB, {cameras}"]
    lines.append(row("keyframes", histogram(Counter(one.lengths.tolist()))))
    lines.append(
        row("frames", f"{one.frames.min()} to {one.frames.max()} an episode, on average {one.frames.mean():.1f}")
    )
    lines.append(row("variations", histogram(one.variations)))
    lines.append(row("seeds", f"{one.seeds} distinct"))
    for name, (least, mean, deviation, largest) in zip(NUMBERS, one.actions.T, strict=True):
        unit = " m" if name in "xyz" else ""
        lines.append(row(name, f"{least:z.3f} to {largest:z.3f}{unit}, mean {mean:z.3f}, deviation {deviation:.3f}"))
    outside = f", {one.outside} keyframes outside" if one.outside else ""
    lines.append(row("workspace", f"{(one.reached > 0).sum()} of {one.reached.size} cells reached{outside}"))
    for camera, mean, deviation in zip(header.cameras, *one.pixels, strict=True):
        both = (
            f"{name} {m:.1f} +- {d:.1f}" for name, m, d in zip(("red", "green", "blue"), mean, deviation, strict=True)
        )
        lines.append(row(camera, ", ".join(both)))
    lines += listed("sentences", [f"{count:>6}  {sentence}" for sentence, count in one.sentences])
    return lines + listed("outliers", [f"{one.path}: {other}" for other in one.outliers])


def row(name: str, line: str) -> str:
    """A line with its name before it."""
    return f"  {name:<15} {line}"


def listed(name: str, entries: Sequence[str]) -> list[str]:
    """The first of some entries, each on a line."""
    lines = [row(name, f"{len(entries)}" if entries else "none"), *(f"    {entry}" for entry in entries[:SHOWN])]
    return lines + ([f"    ... and {len(entries) - SHOWN} more"] if len(entries) > SHOWN else [])


def histogram(counts: dict[int, int]) -> str:
    """How many there are of each, the first of them."""
    shown = ", ".join(f"{value}: {count}" for value, count in sorted(counts.items())[:SHOWN])
    return shown + (f", and {len(counts) - SHOWN} others" if len(counts) > SHOWN else "")


def stats(asked: argparse.Namespace) -> None:
    """Do what the command line asks."""
    sets = [measure(path) for path in files_of(asked.places)]
    others, unknown = neighbours(sets)
    together = [*(one.marked for one in sets), *others]
    compared, found = [one.path for one in together], duplicates(together)
    lines = [*overview(sets), *(line for one in sets for line in details(one)), ""]
    lines += [f"duplicates      {line}" for line in told(found, compared)]
    lines += [f"not compared    {line}" for line in unknown]
    first = asked.places[0]
    beside_them = Path() if not isinstance(first, Path) else first if first.is_dir() else first.parent
    out = asked.out or beside_them / "stats.html"
    write_atomically(out, page(sets, found, compared), elsewhere="choose another --out")
    print("\n".join([*lines, f"page            {out}"]), flush=True)
    refuse(found)


def main() -> None:
    """Run the command."""
    with one_line_errors():
        stats(arguments())


if __name__ == "__main__":
    main()
