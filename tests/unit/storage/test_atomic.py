"""Files that are replaced atomically: what a failing writer leaves, and what a reader sees meanwhile."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from instructrl.errors import InputError
from instructrl.storage.atomic import atomic_path, write_atomically


@pytest.fixture(params=[None, b"former"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file that exists, or does not yet."""
    path = tmp_path / "file.bin"
    if request.param is not None:
        path.write_bytes(request.param)
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_written_file_replaces_the_former_one(path: Path, exclusive: bool) -> None:
    before = content(path.parent)
    with atomic_path(path, exclusive=exclusive) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == path.parent and temporary.name.startswith(".") and temporary.suffix == ".tmp"
        assert content(path.parent) == before | {temporary.name: b"new"}
    assert content(path.parent) == {path.name: b"new"}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("wrong"), KeyboardInterrupt()])
@pytest.mark.parametrize("written", [True, False])
def test_a_failing_writer_leaves_the_former_file_and_nothing_else(
    path: Path, error: BaseException, written: bool
) -> None:
    before = content(path.parent)
    with pytest.raises(type(error)), atomic_path(path) as temporary:
        if written:
            temporary.write_bytes(b"half")
        raise error
    assert content(path.parent) == before


@pytest.mark.parametrize("call", ["fsync", "open"])
def test_a_file_that_does_not_reach_the_disk_replaces_none(
    path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(path.parent)

    def failing(*_: object) -> int:
        raise OSError(5, "Input/output error")

    with (
        monkeypatch.context() as patch,
        pytest.raises(OSError, match="Input/output error"),
        atomic_path(path) as temporary,
    ):
        temporary.write_bytes(b"new")
        patch.setattr(os, call, failing)
    assert content(path.parent) == before


def test_content_and_name_are_synced_before_and_after_the_replacement(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []

    def record(handle: int) -> None:
        found = os.fstat(handle)
        inodes = {entry.stat().st_ino: entry for entry in (path.parent, *path.parent.iterdir())}
        synced.append(inodes[found.st_ino].name.partition(".bin.")[0])

    monkeypatch.setattr(os, "fsync", record)
    write_atomically(path, b"new")
    assert synced == [".file", path.parent.name]


def test_writers_at_the_same_time_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([letter]) * 100_000 for letter in b"abcdefgh"]

    def write(one: bytes) -> bytes:
        write_atomically(path, one)
        return path.read_bytes()

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(write, contents * 4)) <= {*contents}
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("content", ["Grüße\n", b"\0\xff"])
def test_text_and_bytes_are_written_into_a_new_folder(tmp_path: Path, content: str | bytes) -> None:
    write_atomically(tmp_path / "a/b/file", content)
    expected = content if isinstance(content, bytes) else content.encode()
    assert (tmp_path / "a/b/file").read_bytes() == expected


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"/file/x: cannot be written \(.*\); make room or choose another --out"):
        write_atomically(tmp_path / "file/x", "text", hint="choose another --out")
