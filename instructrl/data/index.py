"""What a feature cache is made of, in words: `index.json`, and the key that names the folder."""

import dataclasses
import hashlib
import json
import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from instructrl.batch import FeatureSizes
from instructrl.config import differences
from instructrl.data.episodes import Episodes
from instructrl.data.layout import Layout

FORMAT, VERSION = "instructrl features", 1
INDEX = "index.json"


def describe(episodes: Episodes, layout: Layout, sizes: FeatureSizes, identity: Mapping[str, str]) -> dict[str, Any]:
    """What `index.json` says: all that decides the features, and the key made of it."""
    words: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "demonstrations": {
            "task": episodes.task,
            "split": episodes.header.split,
            "episodes": len(episodes),
            "digest": episodes.digest(),
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
            "of_episodes": digest(sentences.counts, *sentences.rows),
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
    except (OSError, ValueError, RecursionError):
        return None


def write_index(folder: Path, index: dict[str, Any]) -> None:
    """Write `index.json` as a whole."""
    temporary = folder / f"{INDEX}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(index, file, indent=2, sort_keys=True, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / INDEX)


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
