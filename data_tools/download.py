"""Files from the network: broken off, they go on where they were; a file is there whole and as it should be, or not."""

import hashlib
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import requests
from tqdm import tqdm

from instructrl.errors import InputError

TIMEOUT = 30  # seconds without a byte
TRIES = 5  # in a row that bring nothing
CHUNK = 1 << 18
PAUSE = 0.5  # seconds, doubled with each failure


class Remote(NamedTuple):
    """A file on the network.

    Attributes:
        url: where it is.
        digest: SHA-256, or as git names a small file: SHA-1 of its length and content; empty: not known.
        version: said with what was made of it.
    """

    url: str
    digest: str = ""
    version: str = ""


class GoneError(Exception):
    """The server has no such file."""


class UnreachableError(InputError):
    """Nobody answers."""


def hub_address(repository: str, name: str) -> str:
    """Where a file of a Hugging Face repository is; HF_ENDPOINT names another hub."""
    import huggingface_hub

    return huggingface_hub.hf_hub_url(repository, name, endpoint=os.environ.get("HF_ENDPOINT", "").rstrip("/") or None)


def hub_file(repository: str, name: str) -> Remote:
    """A file of a Hugging Face repository, with the checksum that the hub gives.

    Raises:
        GoneError: the repository has no such file.
        InputError: the hub cannot be asked.
    """
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    url = hub_address(repository, name)
    try:
        about = huggingface_hub.get_hf_file_metadata(url, timeout=TIMEOUT)
    except EntryNotFoundError:
        raise GoneError from None
    except HfHubHTTPError as error:
        raise InputError(f"{url}: the server answers {error.response.status_code}") from None
    except Exception as error:  # of whatever library it uses for the network
        raise UnreachableError(f"{url}: cannot be reached ({type(error).__name__})") from None
    return Remote(url, (about.etag or "").lower(), f"{repository}@{about.commit_hash}/{name}")


def hub_headers() -> dict[str, str]:
    """What the hub wants to know of us; with the user's token, if there is one."""
    from huggingface_hub.utils import build_hf_headers

    return build_hf_headers()


def download(remote: Remote, path: Path, *, headers: Mapping[str, str] = MappingProxyType({})) -> None:
    """Bring a file to `path`. What came of it before, beside it as .part, is not asked for again.

    Raises:
        GoneError: the server has no such file.
        InputError: it cannot be had, is another one than expected, or cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        bring(remote, part, headers)
        check_digest(remote, part)
        part.replace(path)
    except OSError as error:
        raise InputError(f"{part}: cannot be written ({error.strerror}); make room or choose another out=") from None
    finally:
        if not part.exists():
            with suppress(OSError):
                origin(part).unlink()


def bring(remote: Remote, part: Path, headers: Mapping[str, str]) -> None:
    """Ask for what is missing of a file until all is there."""
    failures = 0
    while True:
        before = size(part)
        try:
            return transfer(remote, part, headers)
        except requests.RequestException as error:
            failures = 1 if size(part) > before else failures + 1
            never = isinstance(error, requests.ConnectionError) and not size(part)
            if never:
                raise UnreachableError(f"{remote.url}: cannot be reached ({type(error).__name__})") from None
            if failures >= TRIES:
                raise InputError(
                    f"{remote.url}: broke off after {size(part) / 1e6:.1f} MB ({type(error).__name__}); "
                    "the same command goes on from there"
                ) from None
        time.sleep(PAUSE * 2**failures)


def transfer(remote: Remote, part: Path, headers: Mapping[str, str]) -> None:
    """One request for what is missing of a file.

    Raises:
        requests.RequestException: something that may go better another time.
    """
    start, tag = size(part), known_tag(remote, part)
    asked = {**headers, "Accept-Encoding": "identity"}  # ranges count the bytes that are sent
    if start and tag:
        asked |= {"Range": f"bytes={start}-"} | ({} if remote.digest else {"If-Range": tag})
    else:
        start = 0
    with requests.get(remote.url, headers=asked, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == 416 and answer.headers.get("Content-Range") == f"bytes */{start}":
            return  # nothing is missing
        if answer.status_code == 416:
            part.unlink()
            raise requests.HTTPError("more than there is")
        check_answer(remote, answer, start)
        start = start if answer.status_code == 206 else 0
        length = answer.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else None
        etag = answer.headers.get("ETag", "")
        validator = answer.headers.get("Last-Modified", "") if etag.startswith("W/") else etag
        origin(part).write_text(f"{remote.url}\n{remote.digest or validator}", encoding="utf-8")
        about: dict[str, Any] = {"total": total, "initial": start, "unit": "B", "unit_scale": True, "disable": None}
        with part.open("ab" if start else "wb") as file, tqdm(desc=part.stem, **about) as bar:
            for chunk in answer.iter_content(CHUNK):
                bar.update(file.write(chunk))


def check_answer(remote: Remote, answer: requests.Response, start: int) -> None:
    """Raise unless a server begins to send the file, from the byte that was asked for."""
    status = answer.status_code
    if status in (404, 410):
        raise GoneError(remote.url)
    if status == 429 or status >= 500:
        raise requests.HTTPError(f"{status}")
    if status not in (200, 206):
        raise InputError(f"{remote.url}: the server answers {status}")
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        raise InputError(
            f"{remote.url}: found a page instead of a file; give the direct link (of Dropbox: the file's, with dl=1)"
        )
    if status == 206 and not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        raise InputError(f"{remote.url}: the server sends another part of the file than it was asked for")


def origin(part: Path) -> Path:
    """Beside a file that is not there whole: from where it comes, and which version of it."""
    return part.with_name(f"{part.name}.from")


def known_tag(remote: Remote, part: Path) -> str:
    """By what the version of an unfinished file is known; empty if it may be that of another one."""
    if not origin(part).is_file():
        return ""
    url, _, tag = origin(part).read_text(encoding="utf-8").partition("\n")
    return tag if url == remote.url and (not remote.digest or tag == remote.digest) else ""


def size(path: Path) -> int:
    """Bytes that are there."""
    return path.stat().st_size if path.exists() else 0


def check_digest(remote: Remote, part: Path) -> None:
    """Raise InputError, and throw the file away, if its content is another one."""
    if len(remote.digest) == 64:
        found = sha256(part)
    elif len(remote.digest) == 40:
        found = hashlib.sha1(b"blob %d\0" % size(part) + part.read_bytes(), usedforsecurity=False).hexdigest()
    else:
        return
    if found != remote.digest:
        part.unlink()
        raise InputError(
            f"{remote.url}: what came has the checksum {found[:12]}..., expected {remote.digest[:12]}...; "
            "it was thrown away; try again"
        )


def sha256(path: Path) -> str:
    """The checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
