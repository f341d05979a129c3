"""Whatever happens to a file: what is read is what was written, or one line says where it is not; never a hang."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.fixtures.fuzz import ATTRIBUTES, DATASETS
from tests.paths import ROOT

SECONDS = 240  # for all cases of a process; they take a few


def outcomes(kind: str, folder: Path, begin: int, end: int) -> list[dict]:
    """What cases came to; fails where one hangs or dies."""
    command = [sys.executable, "-m", "tests.fixtures.fuzz", kind, str(folder), str(begin), str(end)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as expired:
        pytest.fail(f"{kind}: hangs at {last(bytes(expired.stdout or b'').decode())}")
    assert done.returncode == 0, f"{kind}: died ({done.returncode}) at {last(done.stdout)}: {done.stderr[-1000:]}"
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [one["case"] for one in found] == list(range(begin, end))
    for one in found:
        assert not one["fault"], f"{kind}: case {one['case']} ({one['how']}): {one['fault']}"
    return found


def last(printed: str) -> str:
    lines = [line for line in printed.splitlines() if line.startswith("case")]
    return lines[-1] if lines else "its beginning"


def refusals(found: list[dict], folder: Path) -> list[dict]:
    """The cases that were refused, each in one line that names the file."""
    refused = [one for one in found if one["found"] != "equal"]
    for one in refused:
        assert one["found"].startswith(str(folder)) and "\n" not in one["found"], one
    return refused


@pytest.mark.parametrize("begin", [0, 150, 300])
def test_damaged_bytes(tmp_path: Path, begin: int) -> None:
    found = outcomes("bytes", tmp_path, begin, begin + 150)
    refused = refusals(found, tmp_path / "damaged.hdf5")
    assert len(refused) > 100  # the rest was appended or hit bytes that nothing reads
    met = Counter(one["how"] for one in refused)
    assert {"cut", "flip", "zero", "noise", "copy", "insert", "remove"} <= set(met)
    assert all(one["how"] != "cut" for one in found if one["found"] == "equal")


@pytest.mark.parametrize("begin", [0, 150])
def test_wrong_fields_are_named(tmp_path: Path, begin: int) -> None:
    found = outcomes("fields", tmp_path, begin, begin + 150)
    path = tmp_path / "damaged.hdf5"
    refused = refusals(found, path)
    for one in found:
        if one["found"] == "equal":  # the very value that was there, or a number in its place
            assert one["how"].startswith("attribute") and not one["how"].endswith("missing"), one
    for one in refused:
        said = one["found"].removeprefix(str(path))
        if one["how"].startswith("attribute"):
            assert any(key in said for key in (*ATTRIBUTES, "another format", "checksum", "frames/")), one
        else:
            assert any(name in said for name in DATASETS), one
            name, _, how = one["how"].partition(" ")
            if how not in ("shorter", "longer", "without entries", "reversed", "another", "huge", "flat", "deeper"):
                assert name in said, one
            if how == "one changed":
                assert ": episode " in said or name.startswith("episodes/") or name == "sentences", one
    assert len({one["how"].partition(" ")[2] for one in found}) > 30


def test_damaged_features_are_computed_again(tmp_path: Path) -> None:
    found = outcomes("features", tmp_path, 0, 100)
    assert {one["found"] for one in found} == {"equal"}
    assert len({one["how"] for one in found}) > 20
