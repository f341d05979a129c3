"""Downloads resume where they were interrupted, and end with the right file or a one-line error."""

import hashlib
import socket

import pytest

from data_tools.weights import download as module
from data_tools.weights.download import Remote, RemoteFileMissingError, UnreachableError, download, hub_file
from instructrl.errors import InputError
from tests.fakes.file_server import COMMIT, serving

CONTENT = bytes(range(256)) * 4096  # 1 MiB: several chunks
DIGEST = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "BACKOFF", 0.001)
    monkeypatch.setattr(module, "CHUNK", 1 << 12)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server():
    with serving() as server:
        server.files["/file"] = CONTENT
        yield server


def starts(server):
    """First byte of each request."""
    return [start for method, _, start in server.requests if method == "GET"]


def only(folder, *names):
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


@pytest.mark.parametrize("digest", ["", DIGEST])
def test_a_file_comes_whole(server, tmp_path, digest):
    download(Remote(f"{server.url}/file", digest), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT
    only(tmp_path, "x")
    assert starts(server) == [0]


def test_an_empty_file_too(server, tmp_path):
    server.files["/file"] = b""
    download(Remote(f"{server.url}/file"), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b""


@pytest.mark.parametrize("digest", ["", DIGEST])
def test_a_broken_connection_is_taken_up_again_at_once(server, tmp_path, digest):
    server.break_after = [HALF, 10_000]
    server.errors = [503]
    download(Remote(f"{server.url}/file", digest), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert starts(server)[0] == 0 and starts(server)[-1] > HALF - 10_000 and len(starts(server)) == 4


@pytest.mark.parametrize("digest", ["", DIGEST])
def test_a_later_command_goes_on_where_an_earlier_one_broke_off(server, tmp_path, digest):
    server.break_after = [HALF, *[0] * 20]
    with pytest.raises(InputError, match=r"interrupted after 0\.5 MB.*the same command resumes it") as caught:
        download(Remote(f"{server.url}/file", digest), tmp_path / "x")
    assert "\n" not in str(caught.value)
    present = (tmp_path / "x.part").stat().st_size
    assert HALF - 10_000 < present <= HALF
    server.break_after, server.requests = [], []
    download(Remote(f"{server.url}/file", digest), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert starts(server) == [present]
    only(tmp_path, "x")


def part(folder, server, content, *, tag, url=None):
    (folder / "x.part").write_bytes(content)
    (folder / "x.part.from").write_text(f"{url or server.url + '/file'}\n{tag}")


@pytest.mark.parametrize(
    "case", ["another version", "another address", "no mark", "no ranges", "no validator", "too much"]
)
def test_what_may_be_of_another_file_is_fetched_anew(server, tmp_path, case):
    tag, url = f'"{server.etag("/file")}"', None
    if case == "another version":
        tag = '"other"'
    elif case == "another address":
        url = f"{server.url}/other"
    elif case == "no ranges":
        server.ranges = False
    elif case == "no validator":
        server.validators, tag = False, ""
    part(tmp_path, server, b"z" * (HALF if case != "too much" else len(CONTENT) + 1), tag=tag, url=url)
    if case == "no mark":
        (tmp_path / "x.part.from").unlink()
    download(Remote(f"{server.url}/file"), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT
    only(tmp_path, "x")


def test_a_part_that_has_all_is_not_asked_for_again(server, tmp_path):
    part(tmp_path, server, CONTENT, tag=f'"{server.etag("/file")}"')
    download(Remote(f"{server.url}/file"), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT and starts(server) == [len(CONTENT)]


def test_another_content_than_expected_is_thrown_away(server, tmp_path):
    (tmp_path / "x").write_bytes(b"before")
    with pytest.raises(InputError, match=rf"the download has the checksum {DIGEST[:12]}\.\.\., expected 0000"):
        download(Remote(f"{server.url}/file", "0" * 64), tmp_path / "x")
    only(tmp_path, "x")
    assert (tmp_path / "x").read_bytes() == b"before"


def test_a_mixture_of_two_files_does_not_pass(server, tmp_path):
    part(tmp_path, server, b"z" * HALF, tag=DIGEST)
    with pytest.raises(InputError, match="it was deleted"):
        download(Remote(f"{server.url}/file", DIGEST), tmp_path / "x")
    download(Remote(f"{server.url}/file", DIGEST), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT


@pytest.mark.parametrize("status", [401, 403, 301])
def test_a_permanent_error_is_reported(server, tmp_path, status):
    server.errors = [status]
    with pytest.raises(InputError, match=f"{server.url}/file: the server answers {status}"):
        download(Remote(f"{server.url}/file"), tmp_path / "x")
    assert len(server.requests) == 1


def test_a_file_that_is_not_there(server, tmp_path):
    with pytest.raises(RemoteFileMissingError):
        download(Remote(f"{server.url}/missing"), tmp_path / "x")
    only(tmp_path)


def test_a_page_is_no_file(server, tmp_path):
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(InputError, match="found a page instead of a file; give the direct link"):
        download(Remote(f"{server.url}/file"), tmp_path / "x")
    only(tmp_path)


def test_a_server_that_keeps_failing_is_given_up(server, tmp_path):
    server.errors = [500] * 100
    with pytest.raises(InputError, match=r"interrupted after 0\.0 MB"):
        download(Remote(f"{server.url}/file"), tmp_path / "x")
    assert len(server.requests) == module.MAX_FAILURES


def closed_port():
    """Address of a closed port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_no_network(tmp_path, monkeypatch):
    url = closed_port()
    with pytest.raises(UnreachableError, match=f"{url}/file: cannot be reached"):
        download(Remote(f"{url}/file"), tmp_path / "x")
    monkeypatch.setenv("HF_ENDPOINT", url)
    with pytest.raises(UnreachableError, match=f"{url}/a/b/resolve/main/c: cannot be reached"):
        hub_file("a/b", "c")


def test_a_place_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"x\.part: cannot be written"):
        download(Remote(f"{server.url}/file"), tmp_path / "file/x")


def test_the_hub_says_what_a_file_is(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    server.files |= {"/a/b/resolve/main/model.bin": CONTENT, "/a/b/resolve/main/small.json": b"{}"}
    large, small = hub_file("a/b", "model.bin"), hub_file("a/b", "small.json")
    assert large == Remote(f"{server.url}/a/b/resolve/main/model.bin", DIGEST, f"a/b@{COMMIT}/model.bin")
    assert len(small.digest) == 40
    download(small, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"{}"
    server.files["/a/b/resolve/main/small.json"] = b"[]"
    with pytest.raises(InputError, match="it was deleted"):
        download(small, tmp_path / "y")
    with pytest.raises(RemoteFileMissingError):
        hub_file("a/b", "missing")
