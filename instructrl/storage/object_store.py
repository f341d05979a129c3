"""Requests to object storage: gs:// through gcsfs, s3:// through s3fs, which no other module imports.

Credentials are found as each provider's own tools find them, never from a setting. A request that fails transiently
(429, 5xx, a time-out, a broken connection) is retried with exponential backoff; a permanent error is reported in one
line that says what to do.
"""

import base64
import gc
import hashlib
import io
import logging
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from instructrl.errors import InputError, RunError, short_message
from instructrl.retries import attempts

SCHEMES = ("gs://", "s3://")
DOWNLOAD_PART = 16 * 2**20  # bytes of one request of a download
CONCURRENCY = 8  # simultaneous requests of a download
UPLOAD_PART = 64 * 2**20  # bytes of a part of a multipart upload to S3, and of one upload request to GCS
SMALL = 4 * 2**10  # bytes below which a read is small, see RangeReader
SMALL_BLOCK, CACHED_BLOCKS = 64 * 2**10, 128  # bytes of a block fetched for a small read; number of cached blocks
MAX_ATTEMPTS, FIRST_WAIT, LONGEST_WAIT = 6, 0.5, 30.0  # of a request; seconds before a retry, doubled each time
LIBRARIES = {"aiohttp", "aiobotocore", "botocore", "requests", "urllib3", "gcsfs", "google", "fsspec", "s3fs"}
CREDENTIALS = {
    "gs": "give these credentials the right, or log in with gcloud auth application-default login "
    "(or set GOOGLE_APPLICATION_CREDENTIALS)",
    "s3": "give these credentials the right, or log in with aws configure (or set AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)",
}

T = TypeVar("T")


class ObjectStat(NamedTuple):
    """Metadata of an object, as object storage reports it."""

    size: int  # bytes
    tag: str  # changes with the content
    md5: str | None  # hexadecimal; None if not reported
    crc32c: str | None  # base64; None if not reported

    def matches(self, path: Path, *, part: int = UPLOAD_PART) -> bool | None:
        """Return True if a local file has this content; None if no checksum is reported.

        `part`: bytes of a part, if it was uploaded in several.
        """
        if path.stat().st_size != self.size:
            return False
        if self.md5 is not None:
            return digests(path)[0] == self.md5
        if "-" in self.tag and digests(path, part=part)[1] == self.tag:
            return True  # otherwise it may have been uploaded in parts of another size
        return crc32c(path) == self.crc32c if self.crc32c is not None else None


@cache
def filesystem(scheme: str, endpoint: str | None) -> Any:
    """Return the client of a provider, one per process."""
    if scheme == "gs":
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # else gRPC is imported, but never used
        from gcsfs.core import GCSFileSystem

        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # its tracebacks are reported in one line instead
        token = "anon" if endpoint else None  # an emulator needs no credentials
        return GCSFileSystem(token=token, endpoint_url=endpoint, use_listings_cache=False, skip_instance_cache=True)
    from s3fs import S3FileSystem

    logging.getLogger("s3fs").setLevel(logging.CRITICAL)
    return S3FileSystem(endpoint_url=endpoint, use_listings_cache=False, skip_instance_cache=True)


def client(url: str) -> Any:
    """Return the client for a URL."""
    scheme = url.partition("://")[0]
    names = ("STORAGE_EMULATOR_HOST",) if scheme == "gs" else ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    endpoints = [value for name in names if (value := os.environ.get(name))]
    return filesystem(scheme, endpoints[0] if endpoints else None)


def with_retries(url: str, call: Callable[[], T]) -> T:
    """Return the result of a request, retried while it fails transiently.

    Raises:
        FileNotFoundError: there is no such object or bucket.
        InputError: it failed permanently.
        RunError: it failed `MAX_ATTEMPTS` times.
    """
    for last in attempts(MAX_ATTEMPTS, first_wait=FIRST_WAIT, longest_wait=LONGEST_WAIT):
        try:
            return call()
        except FileNotFoundError:
            raise
        except Exception as error:  # the libraries share no base class
            if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in LIBRARIES:
                status = 400 if str(error).startswith("Bad Request") else None  # gcsfs, as a ValueError
                if status is None:
                    raise
            raise_if_permanent(url, error)
            if last:
                raise RunError(
                    f"{url}: object storage failed {MAX_ATTEMPTS} times, last error: {short_message(error)}; "
                    "the same command resumes"
                ) from None
    raise AssertionError


def raise_if_permanent(url: str, error: Exception) -> None:
    """Raise InputError for an error that a retry would not fix."""
    status, text = http_status(error), short_message(error)
    name = type(error).__name__
    if "rateLimitExceeded" in text:
        return
    no_credentials = name in ("NoCredentialsError", "DefaultCredentialsError", "RefreshError", "ProfileNotFound")
    if no_credentials or status in (401, 403) or isinstance(error, PermissionError) or text.startswith("Forbidden"):
        found = "no usable credentials" if no_credentials else "forbidden"
        raise InputError(f"{url}: {found} ({text}); {CREDENTIALS[url[:2]]}") from None
    invalid = name in ("ParamValidationError", "InvalidURL", "InvalidRegionError") or text.startswith("Bad Request")
    if invalid or (status is not None and 400 <= status < 500 and status not in (408, 429)):
        raise InputError(f"{url}: object storage rejects the request ({text}); check the address") from None


def http_status(error: BaseException) -> int | None:
    """Return the HTTP status of an error, if it has one."""
    for one in (error, error.__cause__):
        answer = getattr(one, "response", None)
        found = answer.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(answer, dict) else None
        found = found or getattr(one, "code", None) or getattr(one, "status", None)
        if str(found).isdigit():
            return int(str(found))
    return None


def not_found_error(url: str) -> InputError:
    """Build the error for an object that does not exist."""
    return InputError(f"{url}: no such object or bucket; check the address")


def stat(url: str) -> ObjectStat | None:
    """Return the metadata of an object; None if it does not exist."""
    fs, (bucket, _, key) = client(url), url.partition("://")[2].partition("/")
    try:
        if url.startswith("gs://"):
            return stat_from_gcs(with_retries(url, lambda: fs.call("GET", "b/{}/o/{}", bucket, key, json_out=True)))
        response = with_retries(url, lambda: fs.call_s3("head_object", Bucket=bucket, Key=key))
    except FileNotFoundError:
        return None
    tag = response["ETag"].strip('"')
    # With a customer-provided or KMS key, the ETag is not the MD5.
    is_md5 = response.get("ServerSideEncryption") in (None, "AES256") and "SSECustomerAlgorithm" not in response
    return ObjectStat(
        response["ContentLength"], tag, tag if is_md5 and re.fullmatch(r"[0-9a-f]{32}", tag) else None, None
    )


def stat_from_gcs(response: dict[str, Any]) -> ObjectStat:
    """Parse the metadata that GCS reports of an object."""
    md5 = base64.b64decode(response["md5Hash"]).hex() if "md5Hash" in response else None
    return ObjectStat(int(response["size"]), response["etag"].strip('"'), md5, response.get("crc32c"))


def digests(path: Path, *, part: int = UPLOAD_PART) -> tuple[str, str]:
    """Return a file's MD5, and the ETag that S3 gives it after a multipart upload in parts of this size."""
    total, parts = hashlib.md5(usedforsecurity=False), []
    with path.open("rb") as file:
        while block := file.read(part):
            total.update(block)
            parts.append(hashlib.md5(block, usedforsecurity=False).digest())
    return total.hexdigest(), f"{hashlib.md5(b''.join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"


def crc32c(path: Path) -> str:
    """Return a file's CRC-32C in base64, as GCS reports it."""
    from google_crc32c import Checksum

    total = Checksum()
    with path.open("rb") as file:
        while block := file.read(2**20):  # small enough to stay in the processor's cache
            total.update(block)
    return base64.b64encode(total.digest()).decode()


def byte_ranges(size: int, part: int = DOWNLOAD_PART) -> Iterator[tuple[int, int]]:
    """Yield the byte range [begin, end) of each request of a download."""
    return ((begin, min(begin + part, size)) for begin in range(0, size, part))


def fetch(url: str, begin: int, end: int) -> bytes:
    """Return the bytes [begin, end) of an object; a short response is retried."""
    fs = client(url)

    def read_range() -> bytes:
        data = fs.cat_file(url, start=begin, end=end)
        if len(data) != end - begin:
            raise ConnectionError(f"{len(data)} of {end - begin} bytes received")
        return data

    return with_retries(url, read_range)


def download(url: str, found: ObjectStat, target: Path, *, part: int = DOWNLOAD_PART) -> None:
    """Download an object into a local file, in requests of `part` bytes, and verify its checksum.

    Raises:
        FileNotFoundError: the object no longer exists.
        InputError, RunError: it cannot be read, or is being replaced.
        OSError: the file system is full or fails.
    """
    handle = os.open(target, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        os.ftruncate(handle, found.size)

        def fetch_part(bounds: tuple[int, int]) -> None:
            data, written = memoryview(fetch(url, *bounds)), 0
            while written < len(data):
                written += os.pwrite(handle, data[written:], bounds[0] + written)

        with ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="download") as pool:
            for _ in pool.map(fetch_part, byte_ranges(found.size, part)):
                pass
        os.fsync(handle)
    finally:
        os.close(handle)
    matches = found.matches(target)
    if matches is None:
        now = stat(url)
        matches = now is not None and now.tag == found.tag
    if not matches:
        raise RunError(f"{url}: the download does not match its checksum or size; the same command tries again")


def upload(source: Path, url: str, *, part: int = UPLOAD_PART) -> ObjectStat:
    """Upload a local file atomically, a large one in requests of `part` bytes, and verify the object's checksum.

    Raises:
        InputError, RunError: object storage rejects it, or the stored object differs.
    """
    fs, options = client(url), {"chunksize": part}

    def send() -> ObjectStat:
        fs.put_file(str(source), url, **options)
        found = stat(url)
        if found is None or not (
            content_equals(source, url, found) if (matches := found.matches(source, part=part)) is None else matches
        ):
            raise ConnectionError("the uploaded object differs from the file")
        return found

    try:
        return with_retries(url, send)
    except FileNotFoundError:
        raise not_found_error(url) from None


def content_equals(source: Path, url: str, found: ObjectStat) -> bool:
    """Return True if an object, read back, equals a local file: for providers that report no checksum."""
    digest = hashlib.md5(usedforsecurity=False)
    for begin, end in byte_ranges(found.size):
        digest.update(fetch(url, begin, end))
    return digest.hexdigest() == digests(source)[0]


def remove(url: str) -> None:
    """Remove an object, if it exists."""
    fs = client(url)
    try:
        with_retries(url, lambda: fs.rm_file(url))
    except FileNotFoundError:
        return


def list_objects(url: str) -> dict[str, str]:
    """Return the ETags of all objects below a folder, by name relative to it."""
    fs, root = client(url), url.rstrip("/") + "/"
    try:
        found = with_retries(url, lambda: fs.find(root, detail=True))
    except FileNotFoundError:
        return {}
    start = len(root.partition("://")[2])
    tags = {name[start:]: str(entry.get("etag") or entry.get("ETag")).strip('"') for name, entry in found.items()}
    return {name: tag for name, tag in tags.items() if name and not name.endswith("/")}


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Pause garbage collection in all threads.

    A thread that reads through HDF5 holds h5py's lock while it waits for the thread of a request. If that one collected
    an h5py object, which needs the same lock, the two would deadlock.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class RangeReader(io.RawIOBase):
    """File-like object for HDF5 that reads an object by range requests, without a local copy.

    Small reads (HDF5's own tables, at both ends of the file) use an fsspec `blockcache` of 64 KiB blocks; a large one
    (a frame's pixels) is one request of exactly its bytes. HDF5 corrupts the process's memory when a read fails
    (a segmentation fault at its end), so a failed read returns zeros and stores the exception in `error`.
    """

    def __init__(self, url: str, found: ObjectStat) -> None:
        from fsspec.caching import BlockCache

        self.url, self.size, self._position = url, found.size, 0
        self.error: InputError | RunError | None = None
        fetcher = partial(fetch, url)
        self._small = BlockCache(
            SMALL_BLOCK, lambda begin, end: fetcher(begin, min(end, found.size)), found.size, CACHED_BLOCKS
        )

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence] + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        end = min(self._position + len(view), self.size)
        count = max(end - self._position, 0)
        if count:
            view[:count] = self._read(self._position, end)
        self._position += count
        return count

    def read_range(self, begin: int, end: int) -> bytes:
        """Return bytes without moving the position, which HDF5 uses in another thread; zeros after a failed read."""
        return self._read(begin, max(begin, min(end, self.size)))

    def _read(self, begin: int, end: int) -> bytes:
        if self.error is not None:
            return bytes(end - begin)
        try:
            with garbage_collection_paused():
                return self._small._fetch(begin, end) if end - begin < SMALL else fetch(self.url, begin, end)
        except FileNotFoundError:
            self.error = not_found_error(self.url)
        except (InputError, RunError) as error:
            self.error = copy(error)
        return bytes(end - begin)
