"""What a feature cache is made of, in words: `index.json`, and the key that names the folder.

`.checked.json` says how the files stood when every row was last read and found right, so that a start need not read
all of a cache that nobody touched.
"""

import dataclasses
import hashlib
import json
import os
import textwrap
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from instructrl.batch import FeatureSizes
from instructrl.config import differences
from instructrl.data.episodes import Episodes
from instructrl.data.layout import Layout

FORMAT, VERSION = "instructrl features", 1
INDEX, CHECKED = "index.json", ".checked.json"
SETTLED = 2.0  # seconds; of a younger file a change may show in neither time, for clocks of file systems are coarse
Standing = dict[str, list[int]]  # size, time of change of content and of the file itself (ns), by the file's name


def describe(episodes: Episodes, layout: Layout, sizes: FeatureSizes, identity: Mapping[str, str]) -> dict[str, Any]:
    """What `index.json` says: all that decides the features, and the key made of it."""
    words: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "demonstrations": {
            "task": episodes.task,
            "split": episodes.header.split,
            "episodes": len(episodes),
            "digest": layout.digest,
            "steps": digest(episodes.lengths, *(episodes.frames(index) for index in range(len(episodes)))),
            "cameras": list(episodes.cameras),
            "image_size": episodes.image_size,
        },
        "encoder": dict(identity),
        "sizes": dataclasses.asdict(sizes),
        "joint": layout.joint,
    }
    if layout.joint or layout.texts:  # else no sentence is read
        sentences = layout.sentences
        words["sentences"] = {
            "distinct": sentences.distinct,
            "of_episodes": digest(sentences.counts, sentences.rows),
            "tokens": digest(sentences.tokens, sentences.padding),
            "text_length": int(sentences.tokens.shape[1]),
        }
    words = json.loads(json.dumps(words, sort_keys=True))
    return words | {"key": hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()}


def digest(*arrays: np.ndarray) -> str:
    """SHA-256 of the bytes of arrays, one after another."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def read_index(folder: Path) -> Any:
    """What a folder's index says; None if there is none, or none that can be read."""
    try:
        return json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_index(folder: Path, index: dict[str, Any]) -> None:
    """Write `index.json` as a whole."""
    write_json(folder / INDEX, index, temporary=folder / f"{INDEX}.tmp")


def write_json(path: Path, content: Any, *, temporary: Path) -> None:
    """Write a file as a whole, by way of another one."""
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, sort_keys=True, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def standing(files: Iterable[Path]) -> Standing:
    """How files stand: it differs from before wherever one was written to, replaced or copied.

    Raises:
        OSError: one is not there.
    """
    stats = {path.name: path.stat() for path in files}
    return {name: [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for name, stat in stats.items()}


def was_checked(folder: Path, found: Standing) -> bool:
    """Whether the files stood as they are found now when all of them were found right."""
    try:
        return bool(json.loads((folder / CHECKED).read_text(encoding="utf-8")) == found)
    except (OSError, ValueError):
        return False


def note_checked(folder: Path, found: Standing) -> None:
    """Note that files are right that stood like this before they were read; not where that cannot be written."""
    if time.time() - max(changed for _, *times in found.values() for changed in times) / 1e9 < SETTLED:
        return
    with suppress(OSError):
        write_json(folder / CHECKED, found, temporary=folder / f"{CHECKED}.{os.getpid()}")


def forget_checked(folder: Path) -> None:
    """Let the next start read everything."""
    with suppress(OSError):
        (folder / CHECKED).unlink()


def nearest(folder: Path, index: dict[str, Any]) -> str | None:
    """The cache beside a folder that differs least from `index`, and in what; None if there is no other."""
    others = []
    for path in sorted(folder.parent.glob(f"*/{INDEX}")):
        other = read_index(path.parent)
        if path.parent != folder and isinstance(other, dict):
            others.append((differences(other | {"key": ""}, index | {"key": ""}), path.parent))
    if not others:
        return None
    lines, place = min(others, key=lambda other: len(other[0]))
    what = "; ".join(textwrap.shorten(line, 100, placeholder=" ...") for line in lines[:4])
    return f"{place}: {what}"
