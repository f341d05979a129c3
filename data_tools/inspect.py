"""python -m data_tools.inspect FILE: prints what a file of demonstrations holds and draws a contact sheet of it.

With --verify the exit code is 1 if an episode is there twice, also in the other split beside the file.
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

from data_tools.duplicates import Duplicate, beside, duplicates, marked, refuse, told
from data_tools.parser import Parser
from data_tools.sheet import contact_sheet
from instructrl.data.episodes import Episodes
from instructrl.data.format import VERSION, checksum
from instructrl.data.storage import size_of
from instructrl.data.writer import unwritable
from instructrl.errors import InputError, one_line_errors

SHOWN_EPISODES, SHOWN_SENTENCES = 6, 24


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="python -m data_tools.inspect", description=__doc__)
    parser.add_argument("file", help="a .hdf5 file of demonstrations, on disk or in a bucket")
    parser.add_argument("--episode", type=int, nargs="+", metavar="I", help="episodes on the sheet (default: some)")
    parser.add_argument("--verify", action="store_true", help="read all pixels, compare checksums, find duplicates")
    parser.add_argument(
        "--out", type=Path, metavar="PNG", help="the contact sheet (default: FILE with .png; of one in a bucket, here)"
    )
    return parser.parse_args(given)


def summary(episodes: Episodes) -> list[str]:
    """Lines that say what is in a file."""
    header, contents = episodes.header, episodes.contents
    size = f"{header.image_size}x{header.image_size}"
    per_variation = Counter(contents.variation.tolist())
    lines = {
        "file": f"{episodes.path} ({size_of(episodes.path) / 1e6:.1f} MB, format version {VERSION})",
        "task": f"{header.task}, split {header.split}",
        "cameras": f"{', '.join(header.cameras)} at {size}",
        "episodes": f"{len(episodes)} with {len(contents.state)} frames",
        "keyframes": f"{len(contents.keyframe)}; {spread(contents.keyframes)} an episode",
        "variations": f"{len(per_variation)}; {spread(np.array([*per_variation.values()]))} episodes each",
        "seeds": f"{contents.seed.min()} to {contents.seed.max()}, {len(set(contents.seed.tolist()))} distinct",
        "positions": "; ".join(f"{axis} {ends(contents.action[:, place])}" for place, axis in enumerate("xyz")) + " m",
        "rotations": "; ".join(f"q{axis} {ends(contents.action[:, 3 + place])}" for place, axis in enumerate("xyzw")),
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


def spread(counts: np.ndarray) -> str:
    """Least, most and mean of some counts."""
    return f"{counts.min()} to {counts.max()}, on average {counts.mean():.1f}"


def ends(values: np.ndarray) -> str:
    """Least and largest of some values."""
    return f"{values.min():.3f} to {values.max():.3f}"


def some_episodes(variation: np.ndarray) -> list[int]:
    """A few episodes, of variations as different as there are."""
    places = np.linspace(0, len(variation) - 1, min(SHOWN_EPISODES, len(variation))).round().astype(int)
    return np.argsort(variation, kind="stable")[places].tolist()


def twice(episodes: Episodes) -> list[Duplicate]:
    """Look for duplicates in a file and in those of the other split beside it, and say what was found."""
    others, unknown = beside(episodes.path, episodes.header)
    together = [marked(episodes.path, episodes.header, episodes.contents), *others]
    found = duplicates(together)
    print("\n".join(f"{'duplicates':12}{line}" for line in told(found, [one.path for one in together])))
    for line in unknown:
        print(f"{'not compared':14}{line}")
    return found


def inspect(asked: argparse.Namespace) -> None:
    """Do what the command line asks."""
    found: list[Duplicate] = []
    with Episodes(asked.file) as episodes:
        chosen = asked.episode or some_episodes(episodes.contents.variation)
        outside = [number for number in chosen if not 0 <= number < len(episodes)]
        if outside:
            raise InputError(f"--episode: found {outside[0]}; allowed for {asked.file}: 0 to {len(episodes) - 1}")
        print("\n".join(summary(episodes)), flush=True)
        if asked.verify:
            episodes.verify()
            print(f"{'verified':12}all contents and pixels are as they were written")
            found = twice(episodes)
        path = episodes.path
        out = asked.out or (path if isinstance(path, Path) else Path(path.name)).with_suffix(".png")
        sheet = contact_sheet([(number, episodes.demonstration(number)) for number in chosen], episodes.cameras)
        try:
            sheet.save(out, format="PNG")
        except OSError as error:
            raise unwritable(out, error, setting="--out") from None
        print(f"{'sheet':12}{out}", flush=True)
    refuse(found)


def main() -> None:
    """Run the command."""
    with one_line_errors():
        inspect(arguments())


if __name__ == "__main__":
    main()
