"""Metadata of a feature cache: `index.json`, and the key that names its folder."""

import dataclasses
import hashlib
import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from instructrl.config.resolve import differences
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.feature_cache.row_layout import RowLayout
from instructrl.storage.atomic import atomic_path
from instructrl.storage.json_file import read_json
from instructrl.types import FeatureSizes

FORMAT, VERSION = "instructrl features", 1
INDEX = "index.json"


def index_content(
    episodes: DemonstrationDataset, layout: RowLayout, sizes: FeatureSizes, identity: Mapping[str, str]
) -> dict[str, Any]:
    """Return the content of `index.json`: everything that determines the features, and its hash as key."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "demonstrations": {
            "task": episodes.task,
            "split": episodes.header.split,
            "episodes": len(episodes),
            "digest": episodes.digest(),
            "steps": digest(episodes.view_counts, *(episodes.views(index) for index in range(len(episodes)))),
            "cameras": list(episodes.cameras),
            "image_size": episodes.image_size,
        },
        "encoder": dict(identity),
        "sizes": dataclasses.asdict(sizes),
        "joint": layout.joint,
    }
    if layout.joint or layout.texts:  # otherwise no instruction is read
        instructions = layout.instructions
        content["sentences"] = {
            "distinct": instructions.distinct,
            "of_episodes": digest(instructions.counts, *instructions.rows),
            "tokens": digest(instructions.tokens, instructions.padding),
            "text_length": int(instructions.tokens.shape[1]),
        }
    content = json.loads(json.dumps(content, sort_keys=True))
    return content | {"key": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


def digest(*arrays: np.ndarray) -> str:
    """Return the SHA-256 of the concatenated bytes of arrays."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def read_index(folder: Path) -> Any:
    """Read a folder's index; None if it does not exist or cannot be parsed."""
    try:
        return read_json(folder / INDEX)
    except (OSError, ValueError):
        return None


def write_index(folder: Path, index: dict[str, Any]) -> None:
    """Write `index.json` atomically."""
    with atomic_path(folder / INDEX, exclusive=True) as temporary:
        temporary.write_text(json.dumps(index, indent=2, sort_keys=True, ensure_ascii=False), encoding="utf-8")


def closest_cache(folder: Path, index: dict[str, Any]) -> str | None:
    """Return the sibling cache that differs least from `index`, and the differences; None if there is no other."""
    others = []
    for path in sorted(folder.parent.glob(f"*/{INDEX}")):
        other = read_index(path.parent)
        if path.parent != folder and isinstance(other, dict):
            others.append((differences(other | {"key": ""}, index | {"key": ""}), path.parent))
    if not others:
        return None
    lines, path = min(others, key=lambda other: len(other[0]))
    summary = "; ".join(textwrap.shorten(line, 100, placeholder=" ...") for line in lines[:4])
    return f"{path}: {summary}"
