"""python -m data_tools.inspect FILE: summarizes a file of demonstrations and draws a contact sheet of it.

With --verify the exit code is 1 if there are duplicate episodes, within the file or in the other split next to it.
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

from data_tools.contact_sheet import contact_sheet
from data_tools.stats.duplicates import (
    Duplicate,
    duplicate_lines,
    duplicates,
    episode_digests,
    other_split_files,
    raise_if_duplicates,
)
from data_tools.stats.measures import varied_episodes
from instructrl.cli.args import Parser
from instructrl.cli.progress import stopwatch
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.demonstrations.schema import VERSION, checksum
from instructrl.data.demonstrations.writer import write_error
from instructrl.errors import InputError, report_user_errors
from instructrl.storage.paths import file_size
from instructrl.storage.writable import check_writable_file

SHOWN_EPISODES, SHOWN_SENTENCES = 6, 24


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(prog="python -m data_tools.inspect", description=__doc__)
    parser.add_argument("file", help="an .hdf5 file of demonstrations, local or in a bucket")
    parser.add_argument("--episode", type=int, nargs="+", metavar="I", help="episodes on the sheet (default: a sample)")
    parser.add_argument("--verify", action="store_true", help="read all pixels, compare checksums, find duplicates")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PNG",
        help="the contact sheet (default: FILE with .png; for a bucket, in the working directory)",
    )
    return parser.parse_args(argv)


def summary(episodes: DemonstrationDataset) -> list[str]:
    """Summarize a file, one line per property."""
    header, contents = episodes.header, episodes.contents
    size = f"{header.image_size}x{header.image_size}"
    per_variation = Counter(contents.variation.tolist())
    lines = {
        "file": f"{episodes.path} ({file_size(episodes.path) / 1e6:.1f} MB, format version {VERSION})",
        "task": f"{header.task}, split {header.split}",
        "cameras": f"{', '.join(header.cameras)} at {size}",
        "episodes": f"{len(episodes)} with {len(contents.state)} frames",
        "keyframes": f"{len(contents.keyframe)}; {count_range(contents.keyframes)} an episode",
        "variations": f"{len(per_variation)}; {count_range(np.array([*per_variation.values()]))} episodes each",
        "seeds": f"{contents.seed.min()} to {contents.seed.max()}, {len(set(contents.seed.tolist()))} distinct",
        "positions": "; ".join(f"{axis} {value_range(contents.action[:, index])}" for index, axis in enumerate("xyz"))
        + " m",
        "rotations": "; ".join(
            f"q{axis} {value_range(contents.action[:, 3 + index])}" for index, axis in enumerate("xyzw")
        ),
        "gripper": f"open in {contents.action[:, 7].mean():.0%} of the actions",
        "provenance": ", ".join(f"{key} {value}" for key, value in header.provenance.items() if value),
        "checksum": checksum(header, contents),
    }
    sentences = Counter(contents.text).most_common()
    rows = [f"{name:12}{line}" for name, line in lines.items()]
    rows.append(f"{'sentences':12}{len(sentences)} distinct of {len(contents.text)}")
    rows += [f"{number:>10}  {sentence}" for sentence, number in sentences[:SHOWN_SENTENCES]]
    if len(sentences) > SHOWN_SENTENCES:
        rows.append(f"{'':12}... and {len(sentences) - SHOWN_SENTENCES} more")
    return rows


def count_range(counts: np.ndarray) -> str:
    """Format minimum, maximum and mean of counts."""
    return f"{counts.min()} to {counts.max()}, on average {counts.mean():.1f}"


def value_range(values: np.ndarray) -> str:
    """Format minimum and maximum of values."""
    return f"{values.min():.3f} to {values.max():.3f}"


def find_duplicates(episodes: DemonstrationDataset) -> list[Duplicate]:
    """Find duplicates in a file and in the other split next to it, and print them."""
    others, unknown = other_split_files(episodes.path, episodes.header)
    together = [episode_digests(episodes.path, episodes.header, episodes.contents), *others]
    found = duplicates(together)
    print("\n".join(f"{'duplicates':12}{line}" for line in duplicate_lines(found, [one.path for one in together])))
    for line in unknown:
        print(f"{'not compared':14}{line}")
    return found


def inspect(options: argparse.Namespace) -> None:
    """Print the summary, verify the file if requested, and draw the contact sheet."""
    found: list[Duplicate] = []
    with DemonstrationDataset(options.file) as episodes:
        chosen = options.episode or varied_episodes(episodes.contents.variation, SHOWN_EPISODES)
        outside = [number for number in chosen if not 0 <= number < len(episodes)]
        if outside:
            raise InputError(f"--episode: found {outside[0]}; allowed for {options.file}: 0 to {len(episodes) - 1}")
        path = episodes.path
        out = options.out or (path if isinstance(path, Path) else Path(path.name)).with_suffix(".png")
        check_writable_file(out, hint="choose another --out")
        print("\n".join(summary(episodes)), flush=True)
        if options.verify:
            with stopwatch("comparing all pixels with their checksums"):
                episodes.verify()
            print(f"{'verified':12}all contents and pixels match their checksums")
            found = find_duplicates(episodes)
        sheet = contact_sheet([(number, episodes.demonstration(number)) for number in chosen], episodes.cameras)
        try:
            sheet.save(out, format="PNG")
        except OSError as error:
            raise write_error(out, error, setting="--out") from None
        print(f"{'sheet':12}{out}", flush=True)
    raise_if_duplicates(found)


def main() -> None:
    """Run the command."""
    with report_user_errors():
        inspect(arguments())


if __name__ == "__main__":
    main()
