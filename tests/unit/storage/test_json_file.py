"""JSON that is too deep, too large or ambiguous is refused with the reason, in every file that is read."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instructrl.errors import InputError
from instructrl.evaluation.compare.sweep_runs import load_sweep
from instructrl.evaluation.results.existing import check_existing
from instructrl.storage import json_file
from instructrl.storage.json_file import JsonError, parse_json, read_json
from instructrl.training.checkpointing.integrity import INVENTORY, MARKER, find_damage
from instructrl.training.run_dir import read_data
from launchers.exit_status import read_exit_code
from launchers.job_table import read_table

DEEP = [
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"[" * 65 + b"]" * 65,
    b'{"jobs": ' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"jobs": ' + b'{"a": ' * 900 + b"1" + b"}" * 900 + b"}",
]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *((text, "found more than 64 levels") for text in DEEP),
        (b"", "found '', which is no JSON"),
        (b'{"a": 1', 'found {"a": 1, which is no JSON'),
        (b'{"a": 1, "b": {"c": 2, "c": 3}}', "found c twice"),
        (b'{"a": "\xff"}', "found bytes that are not UTF-8"),
        (b"9" * 5000, "found a number of thousands of digits"),
        (b'{"a": ["\\ud83d\\ude00", "\\udc00"]}', "found half a character"),
        (b'{"\\ud800": 1}', "found half a character"),
    ],
    ids=range(12),
)
def test_json_of_no_use_is_refused_with_the_reason(text: bytes, reason: str) -> None:
    with pytest.raises(JsonError) as error:
        parse_json(text)
    assert str(error.value) == reason


def test_other_json_is_read_as_it_is(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, True, "\U0001f600 红 \\ud800"], "b": {"c": [[]]}}
    for ascii_only in (True, False):
        (tmp_path / "file").write_text(json.dumps(value, ensure_ascii=ascii_only), encoding="utf-8")
        assert read_json(tmp_path / "file") == value
    depth: Any = 3
    for _ in range(json_file.MAX_DEPTH):
        depth = [depth]
    assert parse_json(json.dumps(depth)) == depth


def test_what_is_no_file_or_too_large_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "zero"):
        with pytest.raises(OSError, match="no regular file"):
            read_json(path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none")
    monkeypatch.setattr(json_file, "MAX_BYTES", 2**20)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(JsonError, match="found more than 1 MB"):
        read_json(tmp_path / "large")


READERS: dict[str, Callable[[Path], object]] = {
    "data.json": read_data,
    "jobs.json": read_table,
    "results.json": lambda folder: check_existing(folder / "results.json", {"protocol": {}, "tasks": []}),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("text", DEEP, ids=range(len(DEEP)))
def test_deep_files_are_damaged_ones(name: str, text: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text)
    with pytest.raises(InputError, match=f"^{tmp_path}/{name}: (missing or )?damaged; "):
        READERS[name](tmp_path)
    if name == "jobs.json":
        with pytest.raises(InputError, match=f"^{tmp_path}/{name}: damaged; "):
            load_sweep(tmp_path, protocol=None)


@pytest.mark.parametrize("text", DEEP, ids=range(len(DEEP)))
def test_deep_records_of_checkpoints_and_jobs_are_damaged_ones(text: bytes, tmp_path: Path) -> None:
    (tmp_path / MARKER).write_bytes(text)
    assert find_damage(tmp_path, contents=False) == f"{MARKER} is damaged"
    (tmp_path / MARKER).write_text(json.dumps({"commit_timestamp_nsecs": 1}))
    (tmp_path / INVENTORY).write_bytes(text)
    assert find_damage(tmp_path, contents=False) == f"{INVENTORY} is damaged"
    (tmp_path / "exit").write_bytes(text)
    assert read_exit_code(tmp_path / "exit") is None
