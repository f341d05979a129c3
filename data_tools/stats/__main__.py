"""python -m data_tools.stats FILE_OR_FOLDER...: counts, ranges, coverage, images, outliers and duplicates.

Prints them, and writes them to one page with plots. Exit code 1 if there are duplicate episodes: within a file, or in
both training and validation data.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data_tools.stats.duplicates import (
    EpisodeDigests,
    duplicate_lines,
    duplicates,
    other_split_files,
    raise_if_duplicates,
)
from data_tools.stats.measures import Measures, measure
from data_tools.stats.page import page
from instructrl.cli.args import Parser
from instructrl.cli.table import align
from instructrl.errors import InputError, report_user_errors
from instructrl.storage.atomic import write_atomically
from instructrl.storage.paths import StoragePath, list_files, real_path, storage_path
from instructrl.storage.writable import check_writable_file

MAX_SHOWN = 8  # instructions, variations and outliers per file; the page has more
HINT = "choose another --out"
TEXT_COLUMNS = 3  # left-aligned columns of the table


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(prog="python -m data_tools.stats", description=__doc__)
    parser.add_argument(
        "paths",
        type=storage_path,
        nargs="+",
        metavar="FILE_OR_FOLDER",
        help=".hdf5 files of demonstrations, or folders of them, local or in a bucket",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PAGE.html",
        help="the page (default: stats.html next to them; for a bucket, in the working directory)",
    )
    return parser.parse_args(argv)


def expand_folders(paths: Sequence[StoragePath]) -> list[StoragePath]:
    """List the given files and those in the given folders, each once, without parts of unfinished files.

    Raises:
        InputError: a folder contains none.
    """
    found: dict[StoragePath, StoragePath] = {}
    for given in paths:
        inside: list[StoragePath] = [given]
        if given.suffix != ".hdf5" and given.is_dir():
            inside = [path for path in list_files(given, ".hdf5", recursive=True) if path.parent.suffix != ".parts"]
            if not inside:
                raise InputError(f"{given}: no .hdf5 file in this folder; give a folder of demonstrations")
        for path in inside:
            found.setdefault(real_path(path), path)
    return list(found.values())


def sibling_files(sets: Sequence[Measures]) -> tuple[list[EpisodeDigests], list[str]]:
    """Find files of the other split next to the measured ones, and list errors of unreadable files."""
    digests, unknown = {real_path(one.path): one.digests for one in sets}, set()
    for one in sets:
        others, lines = other_split_files(one.path, one.header, digests)
        digests |= {real_path(other.path): other for other in others}
        unknown |= set(lines)
    return list(digests.values())[len(sets) :], sorted(unknown)


def overview(sets: Sequence[Measures]) -> list[str]:
    """Table with a row per file."""
    rows = [
        ("file", "task", "split", "episodes", "frames", "keyframes", "variations", "sentences", "workspace", "outliers")
    ]
    for one in sets:
        lengths = f"{one.lengths.min()} to {one.lengths.max()}, {one.lengths.mean():.1f}"
        rows.append(
            (str(one.path), one.header.task, one.header.split, f"{len(one.lengths)}", f"{one.frames.sum()}", lengths)
            + (f"{len(one.variations)}", f"{len(one.sentences)}", f"{one.coverage:.1%}", f"{len(one.outliers)}")
        )  # fmt: skip
    return align(rows, right=range(TEXT_COLUMNS, len(rows[0])))


def details(one: Measures) -> list[str]:
    """Statistics of a file that are not in the table."""
    header = one.header
    cameras = f"{', '.join(header.cameras)} at {header.image_size}x{header.image_size}"
    lines = ["", f"{one.path}: {header.task}, {header.split}, {one.size / 1e6:.1f} MB, {cameras}"]
    lines.append(labelled("keyframes", histogram(Counter(one.lengths.tolist()))))
    lines.append(
        labelled("frames", f"{one.frames.min()} to {one.frames.max()} an episode, on average {one.frames.mean():.1f}")
    )
    lines.append(labelled("variations", histogram(one.variations)))
    lines.append(labelled("seeds", f"{one.seeds} distinct"))
    for name, (least, mean, deviation, largest) in zip(one.number_names, one.actions.T, strict=True):
        unit = " m" if name in "xyz" else ""
        lines.append(
            labelled(name, f"{least:z.3f} to {largest:z.3f}{unit}, mean {mean:z.3f}, deviation {deviation:.3f}")
        )
    outside = f", {one.outside} keyframes outside" if one.outside else ""
    lines.append(labelled("workspace", f"{(one.reached > 0).sum()} of {one.reached.size} cells reached{outside}"))
    for camera, mean, deviation in zip(header.cameras, *one.pixels, strict=True):
        both = (
            f"{name} {m:.1f} +- {d:.1f}" for name, m, d in zip(("red", "green", "blue"), mean, deviation, strict=True)
        )
        lines.append(labelled(camera, ", ".join(both)))
    lines += list_entries("sentences", [f"{count:>6}  {sentence}" for sentence, count in one.sentences])
    return lines + list_entries("outliers", [f"{one.path}: {other}" for other in one.outliers])


def labelled(name: str, line: str) -> str:
    """Format a line with its label."""
    return f"  {name:<15} {line}"


def list_entries(name: str, entries: Sequence[str]) -> list[str]:
    """Format the first entries, one per line."""
    lines = [
        labelled(name, f"{len(entries)}" if entries else "none"),
        *(f"    {entry}" for entry in entries[:MAX_SHOWN]),
    ]
    return lines + ([f"    ... and {len(entries) - MAX_SHOWN} more"] if len(entries) > MAX_SHOWN else [])


def histogram(counts: dict[int, int]) -> str:
    """Format the first counts of a histogram."""
    shown = ", ".join(f"{value}: {count}" for value, count in sorted(counts.items())[:MAX_SHOWN])
    return shown + (f", and {len(counts) - MAX_SHOWN} others" if len(counts) > MAX_SHOWN else "")


def stats(options: argparse.Namespace) -> None:
    """Print the statistics, write the page, and fail if there are duplicates."""
    paths, first = expand_folders(options.paths), options.paths[0]
    beside_them = Path() if not isinstance(first, Path) else first if first.is_dir() else first.parent
    out = options.out or beside_them / "stats.html"
    check_writable_file(out, hint=HINT)
    sets = [measure(path) for path in paths]
    others, unknown = sibling_files(sets)
    together = [*(one.digests for one in sets), *others]
    compared, found = [one.path for one in together], duplicates(together)
    lines = [*overview(sets), *(line for one in sets for line in details(one)), ""]
    lines += [f"duplicates      {line}" for line in duplicate_lines(found, compared)]
    lines += [f"not compared    {line}" for line in unknown]
    write_atomically(out, page(sets, found, compared), hint=HINT)
    print("\n".join([*lines, f"page            {out}"]), flush=True)
    raise_if_duplicates(found)


def main() -> None:
    """Run the command."""
    with report_user_errors():
        stats(arguments())


if __name__ == "__main__":
    main()
