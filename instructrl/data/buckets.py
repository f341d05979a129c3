"""Requests to buckets: gs:// through gcsfs, s3:// through s3fs. Nothing else in the suite knows these libraries.

Credentials come from where each store's own tools look for them, never from a setting. A request that fails for a
passing reason (429, 5xx, a time-out, a connection that breaks) is made again, later each time; one that is refused
for good is a line that says what to do.
"""

import base64
import gc
import hashlib
import io
import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from instructrl.errors import InputError, RunError

SCHEMES = ("gs://", "s3://")
PIECE = 16 * 2**20  # bytes that one request of a download asks for
AT_ONCE = 8  # such requests
PART = 64 * 2**20  # bytes of the parts in which a large file is sent to S3, and of a request that sends to GCS
SMALL, SMALL_BLOCK = 4 * 2**10, 64 * 2**10  # bytes of a small read, and those fetched around it, see Blocks
BLOCKS = 128  # of these that are kept
TRIES, FIRST_WAIT, LONGEST_WAIT = 6, 0.5, 30.0  # of a request; seconds before it is made again, doubled each time
LIBRARIES = {"aiohttp", "aiobotocore", "botocore", "requests", "urllib3", "gcsfs", "google", "fsspec", "s3fs"}
CREDENTIALS = {
    "gs": "give these credentials the right, or log in with gcloud auth application-default login "
    "(or set GOOGLE_APPLICATION_CREDENTIALS)",
    "s3": "give these credentials the right, or log in with aws configure (or set AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)",
}

T = TypeVar("T")


class Found(NamedTuple):
    """What a store says of an object."""

    size: int  # bytes
    tag: str  # another one when the content is another
    md5: str | None  # hexadecimal, where the store knows it
    crc32c: str | None  # base64, where it knows that

    def fits(self, path: Path) -> bool | None:
        """Whether a local file has this content; None where the store says too little to tell."""
        if path.stat().st_size != self.size:
            return False
        if self.md5 is not None:
            return digests(path)[0] == self.md5
        if "-" in self.tag and digests(path)[1] == self.tag:
            return True  # else it may have come in parts of other sizes
        return crc32c(path) == self.crc32c if self.crc32c is not None else None


@cache
def filesystem(scheme: str, endpoint: str | None) -> Any:
    """The client of a store, the same for the whole process."""
    if scheme == "gs":
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # else gRPC is loaded, which we never use
        from gcsfs.core import GCSFileSystem

        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # its tracebacks are our one line
        token = "anon" if endpoint else None  # an emulator asks for nothing, and knows no credentials
        return GCSFileSystem(token=token, endpoint_url=endpoint, use_listings_cache=False, skip_instance_cache=True)
    from s3fs import S3FileSystem

    logging.getLogger("s3fs").setLevel(logging.CRITICAL)
    return S3FileSystem(endpoint_url=endpoint, use_listings_cache=False, skip_instance_cache=True)


def client(url: str) -> Any:
    """The client for an address."""
    scheme = url.partition("://")[0]
    names = ("STORAGE_EMULATOR_HOST",) if scheme == "gs" else ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    endpoints = [value for name in names if (value := os.environ.get(name))]
    return filesystem(scheme, endpoints[0] if endpoints else None)


def attempt(url: str, call: Callable[[], T]) -> T:
    """The answer of a request, made again while it fails for a passing reason.

    Raises:
        FileNotFoundError: there is no such object or bucket.
        InputError: it is refused for good.
        RunError: it failed too often.
    """
    for number in range(TRIES):
        try:
            return call()
        except FileNotFoundError:
            raise
        except Exception as error:  # the libraries have no class in common
            if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in LIBRARIES:
                status = 400 if str(error).startswith("Bad Request") else None  # gcsfs, as a ValueError
                if status is None:
                    raise
            refuse(url, error)
            if number == TRIES - 1:
                raise RunError(
                    f"{url}: the store failed {TRIES} times, at last: {essence(error)}; "
                    "the same command goes on from here"
                ) from None
        time.sleep(min(LONGEST_WAIT, FIRST_WAIT * 2**number) * random.uniform(0.5, 1))
    raise AssertionError


def refuse(url: str, error: Exception) -> None:
    """Raise InputError for an error that will be the same next time."""
    status, text = status_of(error), essence(error)
    name = type(error).__name__
    if "rateLimitExceeded" in text:
        return
    unknown = name in ("NoCredentialsError", "DefaultCredentialsError", "RefreshError", "ProfileNotFound")
    if unknown or status in (401, 403) or isinstance(error, PermissionError) or text.startswith("Forbidden"):
        found = "no usable credentials" if unknown else "forbidden"
        raise InputError(f"{url}: {found} ({text}); {CREDENTIALS[url[:2]]}") from None
    broken = name in ("ParamValidationError", "InvalidURL", "InvalidRegionError") or text.startswith("Bad Request")
    if broken or (status is not None and 400 <= status < 500 and status not in (408, 429)):
        raise InputError(f"{url}: the store refuses this ({text}); check the address") from None


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an error, if it tells."""
    for one in (error, error.__cause__):
        answer = getattr(one, "response", None)
        found = answer.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(answer, dict) else None
        found = found or getattr(one, "code", None) or getattr(one, "status", None)
        if str(found).isdigit():
            return int(str(found))
    return None


def essence(error: Exception) -> str:
    """What an error says, on one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


def missing(url: str) -> InputError:
    """The error for an object that is not there."""
    return InputError(f"{url}: no such object or bucket; check the address")


def stat(url: str) -> Found | None:
    """What the store says of an object; None if it has none of this name."""
    fs, (bucket, _, key) = client(url), url.partition("://")[2].partition("/")
    try:
        if url.startswith("gs://"):
            return found_gs(attempt(url, lambda: fs.call("GET", "b/{}/o/{}", bucket, key, json_out=True)))
        told = attempt(url, lambda: fs.call_s3("head_object", Bucket=bucket, Key=key))
    except FileNotFoundError:
        return None
    tag = told["ETag"].strip('"')
    # With a key of the customer's or of KMS, the tag is no MD5.
    plain = told.get("ServerSideEncryption") in (None, "AES256") and "SSECustomerAlgorithm" not in told
    return Found(told["ContentLength"], tag, tag if plain and re.fullmatch(r"[0-9a-f]{32}", tag) else None, None)


def found_gs(told: dict[str, Any]) -> Found:
    """What GCS says of an object."""
    md5 = base64.b64decode(told["md5Hash"]).hex() if "md5Hash" in told else None
    return Found(int(told["size"]), told["etag"].strip('"'), md5, told.get("crc32c"))


def digests(path: Path) -> tuple[str, str]:
    """A file's MD5, and the tag that S3 gives it when it is sent in parts."""
    whole, parts = hashlib.md5(usedforsecurity=False), []
    with path.open("rb") as file:
        while block := file.read(PART):
            whole.update(block)
            parts.append(hashlib.md5(block, usedforsecurity=False).digest())
    return whole.hexdigest(), f"{hashlib.md5(b''.join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"


def crc32c(path: Path) -> str:
    """A file's CRC-32C as GCS writes it."""
    from google_crc32c import Checksum

    total = Checksum()
    with path.open("rb") as file:
        while block := file.read(PART):
            total.update(block)
    return base64.b64encode(total.digest()).decode()


def pieces(size: int) -> Iterator[tuple[int, int]]:
    """The first byte of each request of a download, and the one behind it."""
    return ((begin, min(begin + PIECE, size)) for begin in range(0, size, PIECE))


def fetch(url: str, begin: int, end: int) -> bytes:
    """Some bytes of an object, exactly as many as asked for."""
    fs = client(url)

    def whole() -> bytes:
        data = fs.cat_file(url, start=begin, end=end)
        if len(data) != end - begin:
            raise ConnectionError(f"{len(data)} of {end - begin} bytes came")
        return data

    return attempt(url, whole)


def download(url: str, found: Found, target: Path) -> None:
    """Fetch an object into a local file, and compare it with what the store says.

    Raises:
        FileNotFoundError: it is gone.
        InputError, RunError: it cannot be read, or is being replaced.
        OSError: the disk is full or fails.
    """
    handle = os.open(target, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        os.ftruncate(handle, found.size)

        def place(bounds: tuple[int, int]) -> None:
            data, written = memoryview(fetch(url, *bounds)), 0
            while written < len(data):
                written += os.pwrite(handle, data[written:], bounds[0] + written)

        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="download") as pool:
            for _ in pool.map(place, pieces(found.size)):
                pass
        os.fsync(handle)
    finally:
        os.close(handle)
    fits = found.fits(target)
    if fits is None:
        now = stat(url)
        fits = now is not None and now.tag == found.tag
    if not fits:
        raise RunError(f"{url}: what came is not what the store describes; the same command tries again")


def upload(source: Path, url: str) -> Found:
    """Send a local file; the object is there whole, as read from the disk, or not at all.

    Raises:
        InputError, RunError: the store refuses it, or what it stored differs.
    """
    fs, options = client(url), {"chunksize": PART}

    def send() -> Found:
        fs.put_file(str(source), url, **options)
        found = stat(url)
        if found is None or not (same(source, url, found) if (fits := found.fits(source)) is None else fits):
            raise ConnectionError("what the store reports is not what was sent")
        return found

    try:
        return attempt(url, send)
    except FileNotFoundError:
        raise missing(url) from None


def same(source: Path, url: str, found: Found) -> bool:
    """Whether an object is the same as a local file, told by reading it back: for stores that report no checksum."""
    digest = hashlib.md5(usedforsecurity=False)
    for begin, end in pieces(found.size):
        digest.update(fetch(url, begin, end))
    return digest.hexdigest() == digests(source)[0]


def remove(url: str) -> None:
    """Remove an object, if it is there."""
    fs = client(url)
    try:
        attempt(url, lambda: fs.rm_file(url))
    except FileNotFoundError:
        return


def listing(url: str) -> dict[str, str]:
    """All objects below a folder: the rest of their names, and their tags."""
    fs, root = client(url), url.rstrip("/") + "/"
    try:
        found = attempt(url, lambda: fs.find(root, detail=True))
    except FileNotFoundError:
        return {}
    start = len(root.partition("://")[2])
    tags = {name[start:]: str(entry.get("etag") or entry.get("ETag")).strip('"') for name, entry in found.items()}
    return {name: tag for name, tag in tags.items() if name and not name.endswith("/")}


@contextmanager
def uncollected() -> Iterator[None]:
    """Without garbage collection, in any thread.

    Whoever reads through HDF5 holds h5py's lock while it waits for a thread that asks the store. If that thread came
    to collect an h5py object, which needs the same lock, both would wait for ever.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Blocks(io.RawIOBase):
    """An object as a file for HDF5, read in requests: the way without a local copy.

    Small reads (HDF5's own tables, which lie at both ends) come from an fsspec `blockcache` of 64 KiB blocks; large
    ones (a frame's pixels) are one request of exactly their bytes. HDF5 corrupts the process's memory when a read fails
    (a segmentation fault at its end), so a failed read gives zeros, and `error` says why.
    """

    def __init__(self, url: str, found: Found) -> None:
        from fsspec.caching import BlockCache

        self.url, self.size, self._place = url, found.size, 0
        self.error: InputError | RunError | None = None
        fetcher = partial(fetch, url)
        self._small = BlockCache(
            SMALL_BLOCK, lambda begin, end: fetcher(begin, min(end, found.size)), found.size, BLOCKS
        )

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.size}[whence] + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        end = min(self._place + len(view), self.size)
        count = max(end - self._place, 0)
        if count:
            view[:count] = self._read(self._place, end)
        self._place += count
        return count

    def _read(self, begin: int, end: int) -> bytes:
        if self.error is not None:
            return bytes(end - begin)
        try:
            with uncollected():
                return self._small._fetch(begin, end) if end - begin < SMALL else fetch(self.url, begin, end)
        except FileNotFoundError:
            self.error = missing(self.url)
        except (InputError, RunError) as error:
            self.error = copy(error)
        return bytes(end - begin)
