"""Resumable, verified downloads: the target file appears atomically, once its checksum is right."""

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import requests
from tqdm import tqdm

from instructrl.errors import InputError
from instructrl.redaction import redact
from instructrl.retries import attempts
from instructrl.storage.atomic import commit

TIMEOUT = 30  # seconds without data
MAX_FAILURES = 5  # consecutive attempts without progress
CHUNK = 1 << 18
BACKOFF = 1.0  # seconds before an attempt after one without progress, doubled each time


class Remote(NamedTuple):
    """A file on the network.

    Attributes:
        url: its address.
        digest: SHA-256, or git's blob hash of a small file (SHA-1 of its length and content); empty: unknown.
        version: recorded in the converted file as its source.
    """

    url: str
    digest: str = ""
    version: str = ""


class RemoteFileMissingError(Exception):
    """The server has no such file."""


class UnreachableError(InputError):
    """The server does not answer."""


def hub_address(repository: str, name: str) -> str:
    """Address of a file in a Hugging Face repository; HF_ENDPOINT names another hub."""
    import huggingface_hub

    return huggingface_hub.hf_hub_url(repository, name, endpoint=os.environ.get("HF_ENDPOINT", "").rstrip("/") or None)


def hub_file(repository: str, name: str) -> Remote:
    """Look up a file of a Hugging Face repository and its checksum.

    Raises:
        GoneError: the repository has no such file.
        InputError: the hub cannot be reached or refuses the request.
    """
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    url = hub_address(repository, name)
    try:
        metadata = huggingface_hub.get_hf_file_metadata(url, timeout=TIMEOUT)
    except EntryNotFoundError:
        raise RemoteFileMissingError from None
    except HfHubHTTPError as error:
        raise InputError(f"{url}: the server answers {error.response.status_code}") from None
    except Exception as error:  # depends on its network library
        raise UnreachableError(f"{url}: cannot be reached ({type(error).__name__})") from None
    return Remote(url, (metadata.etag or "").lower(), f"{repository}@{metadata.commit_hash}/{name}")


def hub_headers() -> dict[str, str]:
    """Request headers for the hub, with the user's token if there is one."""
    from huggingface_hub.utils import build_hf_headers

    return build_hf_headers()


def download(remote: Remote, path: Path, *, headers: Mapping[str, str] = MappingProxyType({})) -> None:
    """Download a file to `path`; resumes a partial download (`.part`).

    Raises:
        GoneError: the server has no such file.
        InputError: the download fails, its checksum is wrong, or the file cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        download_all(remote, part, headers)
        check_digest(remote, part)
        commit(part, path)
    except OSError as error:
        raise InputError(f"{part}: cannot be written ({error.strerror}); make room or choose another out=") from None
    finally:
        if not part.exists():
            with suppress(OSError):
                origin_path(part).unlink()


def download_all(remote: Remote, part: Path, headers: Mapping[str, str]) -> None:
    """Request the missing bytes of a file until it is complete."""
    tries = attempts(MAX_FAILURES, first_wait=BACKOFF)
    while True:
        before, last = file_size(part), next(tries)
        try:
            return request_rest(remote, part, headers)
        except requests.RequestException as error:
            if isinstance(error, requests.ConnectionError) and not file_size(part):
                raise UnreachableError(f"{remote.url}: cannot be reached ({type(error).__name__})") from None
            if file_size(part) > before:
                tries = attempts(MAX_FAILURES, first_wait=BACKOFF)
            elif last:
                raise InputError(
                    f"{remote.url}: interrupted after {file_size(part) / 1e6:.1f} MB ({type(error).__name__}); "
                    "the same command resumes it"
                ) from None


def request_rest(remote: Remote, part: Path, headers: Mapping[str, str]) -> None:
    """Send one request for the missing bytes of a file.

    Raises:
        requests.RequestException: a transient failure.
    """
    start, tag = file_size(part), stored_tag(remote, part)
    request_headers = {**headers, "Accept-Encoding": "identity"}  # byte ranges refer to the encoded content
    if start and tag:
        request_headers |= {"Range": f"bytes={start}-"} | ({} if remote.digest else {"If-Range": tag})
    else:
        start = 0
    with requests.get(remote.url, headers=request_headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == 416 and response.headers.get("Content-Range") == f"bytes */{start}":
            return  # nothing is missing
        if response.status_code == 416:
            part.unlink()
            raise requests.HTTPError("range beyond the end")
        check_response(remote, response, start)
        start = start if response.status_code == 206 else 0
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else None
        etag = response.headers.get("ETag", "")
        validator = response.headers.get("Last-Modified", "") if etag.startswith("W/") else etag
        origin_path(part).write_text(f"{redact(remote.url)}\n{remote.digest or validator}", encoding="utf-8")
        metadata: dict[str, Any] = {"total": total, "initial": start, "unit": "B", "unit_scale": True, "disable": None}
        with part.open("ab" if start else "wb") as file, tqdm(desc=part.stem, **metadata) as bar:
            for chunk in response.iter_content(CHUNK):
                bar.update(file.write(chunk))


def check_response(remote: Remote, response: requests.Response, start: int) -> None:
    """Raise unless the server sends the file from the requested byte on."""
    status = response.status_code
    if status in (404, 410):
        raise RemoteFileMissingError(remote.url)
    if status == 429 or status >= 500:
        raise requests.HTTPError(f"{status}")
    if status not in (200, 206):
        raise InputError(f"{remote.url}: the server answers {status}")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise InputError(
            f"{remote.url}: found a page instead of a file; give the direct link (of Dropbox: the file's, with dl=1)"
        )
    if status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        raise InputError(f"{remote.url}: the server sends another part of the file than the requested one")


def origin_path(part: Path) -> Path:
    """Path of the file that records the source and version of a partial download."""
    return part.with_name(f"{part.name}.from")


def stored_tag(remote: Remote, part: Path) -> str:
    """Version tag of a partial download; empty if it may belong to another file."""
    if not origin_path(part).is_file():
        return ""
    url, _, tag = origin_path(part).read_text(encoding="utf-8").partition("\n")
    return tag if url == redact(remote.url) and (not remote.digest or tag == remote.digest) else ""


def file_size(path: Path) -> int:
    """Size of a file in bytes; 0 if it does not exist."""
    return path.stat().st_size if path.exists() else 0


def check_digest(remote: Remote, part: Path) -> None:
    """Delete the file and raise InputError if its checksum is wrong."""
    if len(remote.digest) == 64:
        found = sha256(part)
    elif len(remote.digest) == 40:
        found = hashlib.sha1(b"blob %d\0" % file_size(part) + part.read_bytes(), usedforsecurity=False).hexdigest()
    else:
        return
    if found != remote.digest:
        part.unlink()
        raise InputError(
            f"{remote.url}: the download has the checksum {found[:12]}..., expected {remote.digest[:12]}...; "
            "it was deleted; try again"
        )


def sha256(path: Path) -> str:
    """SHA-256 checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
