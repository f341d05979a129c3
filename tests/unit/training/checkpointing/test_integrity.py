"""The inventory of a checkpoint needs nothing that Orbax may still be writing."""

import json
from pathlib import Path

from instructrl.training.checkpointing.integrity import INVENTORY, MARKER, find_damage, write_inventory


def test_the_inventory_is_written_while_orbax_writes_its_metadata(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a").write_text("some bytes")
    (tmp_path / MARKER).touch()  # opened by Orbax, and not written yet
    progress = {"epoch": 3, "sums": {"loss": 0.1}}
    write_inventory(tmp_path, progress)
    marker = {"commit_timestamp_nsecs": 1, "custom_metadata": progress}
    (tmp_path / MARKER).write_text(json.dumps(marker))
    assert find_damage(tmp_path, contents=True) is None
    (tmp_path / MARKER).write_text(json.dumps(marker | {"custom_metadata": None}))
    assert find_damage(tmp_path, contents=True) == f"{MARKER} and {INVENTORY} differ"
    (tmp_path / MARKER).write_text(json.dumps(marker))
    (tmp_path / "d/a").write_text("same bytes")
    assert find_damage(tmp_path, contents=True) == "the content of d/a has changed"
