"""Files and folders in buckets: emulated GCS and S3, each behind a proxy that records and injects faults."""

import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

from instructrl.config.environment import DataConfig
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.demonstrations.reader import read
from instructrl.data.demonstrations.schema import Header
from instructrl.data.demonstrations.writer import Writer
from instructrl.errors import InputError, RunError
from instructrl.storage import object_store, synced_dir
from instructrl.storage.object_cache import is_unlocked
from instructrl.storage.paths import BucketPath, StoragePath, storage_path
from instructrl.storage.synced_dir import SyncedDir, working_dir
from tests.fakes import emulators
from tests.fakes.emulators import Store
from tests.fixtures.demonstrations import HEADER, assert_equal, demonstration, write
from tests.paths import ROOT

SOME = [demonstration(seed, steps=3, between=2) for seed in range(12)]


@pytest.fixture(scope="module", params=["gs", "s3"])
def running(request: pytest.FixtureRequest) -> Iterator[Store]:
    with emulators.store(request.param) as store:
        yield store


@pytest.fixture
def store(running: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> Store:
    """Provide a separate folder in the bucket, an environment with its endpoint, and short retry delays."""
    for key, value in running.environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(object_store, "FIRST_WAIT", 0.01)  # seconds before a retry
    running.root = f"{running.kind}://{emulators.BUCKET}/{tmp_path.name}"
    running.proxy.restore()
    running.proxy.reset()
    return running


@pytest.fixture
def nothing_is_left_to_hdf5() -> Iterator[None]:
    """Check that a failed read leaks no file: HDF5 would free it after interpreter shutdown, and crash."""
    yield
    gc.collect()
    assert not [one for one in gc.get_objects() if isinstance(one, object_store.RangeReader)]


def settings(folder: Path, name: str | None = "cache", **more: object) -> DataConfig:
    return DataConfig(cache_dir=None if name is None else str(folder / name), **more)  # type: ignore[arg-type]


def address(store: Store, data: DataConfig, name: str = "a folder/train.hdf5") -> StoragePath:
    return storage_path(f"{store.root}/{name}", data)


def copies(folder: Path, name: str = "cache") -> list[Path]:
    return sorted((folder / name / "files").glob("*"))


def refused(path: StoragePath) -> str:
    with pytest.raises(InputError) as error:
        read(path)
    line = str(error.value)
    assert "\n" not in line and line.startswith(f"{path}: ")
    return line


def larger(path: Path, *, frames: int = 240, size: int = 128) -> int:
    """Write a file of frames of 49 kB that barely compress; return its size in bytes."""
    header = Header("reach_target", "train", ("front",), size, HEADER.provenance)
    rng = np.random.default_rng(0)
    with Writer(path, header) as writer:
        for seed in range(frames // 3):
            small = demonstration(seed, steps=2)
            images = rng.integers(0, 256, (3, 1, size, size, 3), dtype=np.uint8)
            one = small._replace(images=images, intrinsics=small.intrinsics[:, :1], extrinsics=small.extrinsics[:, :1])
            writer.add(one)
    return path.stat().st_size


@pytest.mark.parametrize("cache", ["cache", None])
@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_what_is_written_to_a_bucket_is_read_from_it(
    store: Store, tmp_path: Path, cache: str | None, compression: str
) -> None:
    path = address(store, settings(tmp_path, cache), f"{cache} {compression}.hdf5")
    local = write(tmp_path / "local.hdf5", SOME)
    with Writer(path, HEADER, compression=compression) as writer:
        for one in SOME:
            writer.add(one)
    with DemonstrationDataset(path) as found, DemonstrationDataset(local) as expected:
        assert found.digest() == expected.digest()
        assert read(path)[0] == read(local)[0]
        for index in range(len(SOME)):
            assert_equal(found.demonstration(index), expected.demonstration(index))
    assert not list((tmp_path / "cache").glob("staging/*"))


@pytest.mark.parametrize("cache", ["cache", None])
def test_an_epoch_reads_hardly_more_than_the_file_and_the_next_one_nothing(
    store: Store, tmp_path: Path, cache: str | None
) -> None:
    local = tmp_path / "local.hdf5"
    size = larger(local)
    assert size > object_store.CACHED_BLOCKS * object_store.SMALL_BLOCK
    path = address(store, settings(tmp_path, cache), f"{cache}.hdf5")
    object_store.upload(local, str(path))
    store.proxy.reset()
    order = np.random.default_rng(0)
    with DemonstrationDataset(path) as episodes:
        for index in order.permutation(len(episodes)):
            episodes.episode(int(index))
        assert store.proxy.sent <= 1.2 * size
        assert len(store.proxy.requests) <= (4 if cache else 2 * len(episodes) + 25), (
            "one for a frame, and HDF5's tables"
        )
        if not cache:
            return  # range requests in each epoch
        store.proxy.reset()
        for index in order.permutation(len(episodes)):
            episodes.episode(int(index))
        assert store.proxy.requests == []
    with DemonstrationDataset(path) as episodes:
        episodes.episode(0)
    assert len(store.proxy.requests) == 2 and store.proxy.sent == 0, "it is asked whether the object is still the same"


def test_a_file_just_written_is_its_own_copy(store: Store, tmp_path: Path) -> None:
    path = write_at(address(store, settings(tmp_path)))
    store.proxy.reset()
    read(path)
    assert store.proxy.sent == 0


def write_at(path: StoragePath, demonstrations: list = SOME) -> StoragePath:  # type: ignore[type-arg]
    with Writer(path, HEADER) as writer:
        for one in demonstrations:
            writer.add(one)
    return path


@pytest.mark.parametrize("harm", ["flipped", "truncated", "removed", "note"])
def test_a_damaged_copy_is_fetched_again(store: Store, tmp_path: Path, harm: str) -> None:
    path = write_at(address(store, settings(tmp_path)))
    [copy] = copies(tmp_path)
    before = copy.read_bytes()
    if harm == "flipped":
        copy.write_bytes(before[:5000] + bytes([before[5000] ^ 255]) + before[5001:])
    elif harm == "truncated":
        os.truncate(copy, 1000)
    elif harm == "removed":
        copy.unlink()
    else:
        next((tmp_path / "cache" / "notes").glob("*.json")).write_text("{")
    read(path)
    assert copies(tmp_path) == [copy] and copy.read_bytes() == before


def test_a_replaced_object_is_fetched_again_and_who_reads_the_old_one_goes_on(store: Store, tmp_path: Path) -> None:
    path, other = write_at(address(store, settings(tmp_path))), settings(tmp_path, "other")
    with DemonstrationDataset(path) as episodes:
        episodes.episode(0)
        write_at(address(store, other), SOME[:3])
        assert len(read(path)[1].seed) == 3
        assert_equal(episodes.demonstration(5), SOME[5])
    others = [demonstration(seed, steps=3, between=2) for seed in range(100, 103)]
    write_at(address(store, other), others)
    with DemonstrationDataset(path) as episodes:  # of the same size
        assert_equal(episodes.demonstration(0), others[0])


def test_what_was_used_longest_ago_makes_room_unless_it_is_in_use(store: Store, tmp_path: Path) -> None:
    local = write(tmp_path / "local.hdf5", SOME)
    size = local.stat().st_size
    data = settings(tmp_path, cache_gb=2.5 * size / 1e9)
    a, b, c = (address(store, data, f"{name}.hdf5") for name in "abc")
    for one in (a, b, c):
        object_store.upload(local, str(one))
    read(a), read(b), read(a), read(c)
    assert {path.name[33:] for path in copies(tmp_path)} == {"a.hdf5", "c.hdf5"}
    with DemonstrationDataset(a) as first:
        first.episode(0)
        read(c), read(b)
        assert {path.name[33:] for path in copies(tmp_path)} == {"a.hdf5", "b.hdf5"}
        with DemonstrationDataset(b) as second:
            second.episode(0)
            assert "raise data.cache_gb" in refused(c)
            assert_equal(first.demonstration(1), SOME[1])
    read(c)
    assert sum(path.stat().st_size for path in copies(tmp_path)) <= 2.5 * size
    assert all(map(is_unlocked, copies(tmp_path)))


def test_a_file_larger_than_the_limit_is_one_line_and_nothing_is_removed(store: Store, tmp_path: Path) -> None:
    path = write_at(address(store, settings(tmp_path)))
    small = settings(tmp_path, cache_gb=1e-6)
    object_store.upload(write(tmp_path / "local.hdf5", SOME), str(address(store, small, "other.hdf5")))
    assert "raise data.cache_gb" in refused(address(store, small, "other.hdf5"))
    assert len(copies(tmp_path)) == 1
    read(path)


PROGRAM = """
import sys
from instructrl.config.environment import DataConfig
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.storage.paths import storage_path
with DemonstrationDataset(storage_path(sys.argv[1], DataConfig(cache_dir=sys.argv[2]))) as episodes:
    episodes.verify()
"""


def test_processes_share_the_copies(store: Store, tmp_path: Path) -> None:
    local = write(tmp_path / "local.hdf5", SOME)
    path = address(store, settings(tmp_path))
    object_store.upload(local, str(path))
    store.proxy.reset()
    command = [sys.executable, "-c", PROGRAM, str(path), str(tmp_path / "cache")]
    started = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    assert [one.wait(120) for one in started] == [0, 0]
    assert store.proxy.sent == local.stat().st_size


def test_who_wants_what_another_fetches_waits_for_it(store: Store, tmp_path: Path) -> None:
    local = write(tmp_path / "local.hdf5", SOME)
    path = address(store, settings(tmp_path))
    object_store.upload(local, str(path))
    store.proxy.reset()
    store.proxy.delay = 0.3
    with ThreadPoolExecutor(4) as pool:
        assert len({contents.seed.tobytes() for _, contents in pool.map(read, [path] * 4)}) == 1
    store.proxy.delay = 0
    assert store.proxy.sent == local.stat().st_size


@pytest.mark.parametrize("cache", ["cache", None])
@pytest.mark.parametrize("fault", [503, 429, "reset", "break"])
def test_passing_faults_are_survived(store: Store, tmp_path: Path, cache: str | None, fault: int | str) -> None:
    path = address(store, settings(tmp_path, cache), f"{cache} {fault}.hdf5")
    store.proxy.faults[:] = [fault]
    write_at(path)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    store.proxy.faults[:] = [None, fault]
    with DemonstrationDataset(path) as episodes:
        for index, one in enumerate(SOME):
            if index == 5:
                store.proxy.faults[:] = [fault]
            assert_equal(episodes.demonstration(index), one)


@pytest.mark.usefixtures("nothing_is_left_to_hdf5")
@pytest.mark.parametrize("cache", ["cache", None])
def test_a_store_that_keeps_failing_ends_in_one_line(
    store: Store, tmp_path: Path, cache: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_at(address(store, settings(tmp_path, cache), f"{cache}.hdf5"))
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    calls: list[int] = []

    def broken(*given: object, **named: object) -> bytes:
        calls.append(1)
        raise TimeoutError("timed out")

    monkeypatch.setattr(object_store.client(str(path)), "cat_file", broken)
    with pytest.raises(RunError, match=r"^[^\n]*object storage failed 6 times, last error: timed out[^\n]*$") as error:
        read(path)
    assert str(error.value).startswith(f"{path}: ") and len(calls) >= object_store.MAX_ATTEMPTS
    assert not copies(tmp_path) if cache else True


@pytest.mark.usefixtures("nothing_is_left_to_hdf5")
@pytest.mark.parametrize("cache", ["cache", None])
def test_what_is_forbidden_is_one_line_at_once(store: Store, tmp_path: Path, cache: str | None) -> None:
    path = write_at(address(store, settings(tmp_path, cache), f"{cache}.hdf5"))
    store.proxy.forbidden = "GET HEAD"
    store.proxy.reset()
    line = refused(path)
    assert "forbidden" in line and "log in with" in line
    assert len(store.proxy.requests) == 1
    store.proxy.forbidden = "PUT POST"
    with pytest.raises(InputError, match=r"^[^\n]*forbidden[^\n]*log in with[^\n]*$"):
        write_at(path, SOME[:2])
    assert not list(tmp_path.rglob("*.tmp"))
    store.proxy.forbidden = ""
    assert len(read(path)[1].seed) == len(SOME), "what was there is there"


def test_pixels_that_may_no_longer_be_read_are_one_line(store: Store, tmp_path: Path) -> None:
    path = address(store, settings(tmp_path, None))
    larger(tmp_path / "local.hdf5", frames=12)
    object_store.upload(tmp_path / "local.hdf5", str(path))
    with DemonstrationDataset(path) as episodes:
        episodes.episode(0)
        store.proxy.forbidden = "GET"
        with pytest.raises(InputError, match=r"forbidden"):
            episodes.episode(1)


def test_a_command_says_it_in_one_line(store: Store, tmp_path: Path) -> None:
    store.proxy.forbidden = "GET HEAD"
    path = f"{store.root}/x.hdf5"
    command = [sys.executable, "-m", "data_tools.inspect", path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"HOME": str(tmp_path)})
    assert done.returncode == 2 and done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: {path}: forbidden")


def test_what_is_not_there_is_one_line(store: Store, tmp_path: Path) -> None:
    assert "no such object or bucket" in refused(address(store, settings(tmp_path), "none.hdf5"))
    assert "no such object or bucket" in refused(storage_path(f"{store.kind}://nowhere/none.hdf5", settings(tmp_path)))
    with pytest.raises(InputError, match="no such object or bucket"):
        write_at(storage_path(f"{store.kind}://nowhere/none.hdf5", settings(tmp_path)))


def test_credentials_that_are_missing_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    line = refused(storage_path("s3://somewhere/x.hdf5", settings(tmp_path)))
    assert "no usable credentials" in line and "aws configure" in line


@pytest.mark.parametrize("text", ["gs://", "s3:///key"])
def test_an_address_without_a_bucket_is_one_line(text: str) -> None:
    with pytest.raises(InputError, match=r"found no bucket; write .*://BUCKET/FOLDER$"):
        storage_path(text)


def test_what_the_store_stored_wrongly_is_sent_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = address(store, settings(tmp_path))
    fs, sizes = object_store.client(str(path)), []
    plain = fs.put_file

    def torn(source: str, url: str, **options: object) -> None:
        sizes.append(Path(source).stat().st_size)
        if len(sizes) == 1:
            damaged = tmp_path / "damaged"
            damaged.write_bytes(Path(source).read_bytes()[::-1])
            source = str(damaged)
        plain(source, url, **options)

    monkeypatch.setattr(fs, "put_file", torn)
    write_at(path)
    assert len(sizes) == 2
    assert len(read(address(store, settings(tmp_path, None)))[1].seed) == len(SOME)


def test_large_files_are_sent_in_parts_and_compared(store: Store, tmp_path: Path) -> None:
    source, target = tmp_path / "large", tmp_path / "fetched"
    source.write_bytes(np.random.default_rng(0).bytes(20_000_000))
    part = 6 * 2**20
    found = object_store.upload(source, f"{store.root}/large", part=part)
    assert found.size == 20_000_000 and found.matches(source, part=part) is True
    assert sum(method in ("PUT", "POST") for method, _ in store.proxy.requests) >= 4
    store.proxy.reset()
    object_store.download(f"{store.root}/large", found, target, part=2**20)
    assert target.read_bytes() == source.read_bytes() and store.proxy.sent == 20_000_000
    assert sum(method == "GET" for method, _ in store.proxy.requests) == 20
    target.write_bytes(target.read_bytes()[:-1] + b"x")
    assert found.matches(target, part=part) is not True


def test_stores_without_checksums_are_read_back(store: Store, tmp_path: Path) -> None:
    store.proxy.checksums = False
    source = tmp_path / "file"
    source.write_bytes(b"content")
    found = object_store.upload(source, f"{store.root}/file")
    assert found.matches(source) is None and store.proxy.sent == 7
    store.proxy.damages = True
    with pytest.raises(RunError, match="the uploaded object differs from the file"):
        object_store.upload(source, f"{store.root}/file")


@pytest.mark.parametrize("content", [b"", b"\n", b"\r", b"\r\n", b"a\n\n--==0==--\r"])
def test_every_content_arrives(store: Store, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    found = object_store.upload(tmp_path / "file", f"{store.root}/file")
    object_store.download(f"{store.root}/file", found, tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == content


def test_crc32c_is_as_gcs_writes_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"123456789")
    assert object_store.crc32c(tmp_path / "file") == "4waSgw=="  # the check value of CRC-32C, 0xE3069283


# Compression.


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_compressed_file_is_smaller_and_has_the_same_checksum(tmp_path: Path, compression: str) -> None:
    flat = [one._replace(images=one.images // 64 * 64) for one in SOME]
    plain = write(tmp_path / "plain.hdf5", flat)
    paths = [tmp_path / "one.hdf5", tmp_path / "two.hdf5"]
    for path in paths:
        with Writer(path, HEADER, compression=compression) as writer:
            for one in flat:
                writer.add(one)
    with h5py.File(plain) as first, h5py.File(paths[0]) as second:
        assert first.attrs["checksum"] == second.attrs["checksum"]
        sizes = [file["frames/images"].id.get_storage_size() for file in (first, second)]
        assert sizes[1] < 0.8 * sizes[0]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    module = "instructrl.data.demonstrations.dataset"
    program = f"from {module} import DemonstrationDataset\nDemonstrationDataset({str(paths[0])!r}).verify()"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_damaged_compressed_file_is_one_line(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "file.hdf5"
    with Writer(path, HEADER, compression=compression) as writer:
        for one in SOME:
            writer.add(one)
    content = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        chunk = file["frames/images"].id.get_chunk_info(4)
    content[chunk.byte_offset + 20 : chunk.byte_offset + 60] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"frames/images: damaged pixels|pixels cannot be read"):
        DemonstrationDataset(path).verify()


# Folders.


def folder(store: Store, tmp_path: Path, name: str) -> tuple[BucketPath, Path]:
    path = address(store, settings(tmp_path), f"{name}/run")
    assert isinstance(path, BucketPath)
    return path, tmp_path / name


def put(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def held(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def checkpoint(step: int) -> dict[str, str]:
    return {f"checkpoints/{step}/{name}": f"{step} {name}" for name in ("d/a", "b", synced_dir.MARKER)}


def test_a_folder_comes_back_as_it_was_sent(store: Store, tmp_path: Path) -> None:
    path, here = folder(store, tmp_path, "one")
    files = {"config.yaml": "a", "eval/videos/x.mp4": "b", "empty": "", **checkpoint(3)}
    put(here, {**files, ".lock": "", "checkpoints/4.orbax-checkpoint-tmp/b": "half"})
    sender = SyncedDir(path, here)
    sender.push()
    SyncedDir(path, tmp_path / "there").pull()
    assert held(tmp_path / "there") == files
    store.proxy.reset()
    sender.push()
    assert store.proxy.requests == [], "nothing changed"
    put(here, {"config.yaml": "longer", **checkpoint(6)})
    shutil.rmtree(here / "checkpoints/3")
    sender.push()
    SyncedDir(path, tmp_path / "later").pull()
    expected = {key: value for key, value in files.items() if key not in checkpoint(3)}
    assert held(tmp_path / "later") == {**expected, "config.yaml": "longer", **checkpoint(6)}


def test_a_checkpoint_counts_when_its_marker_is_there(store: Store, tmp_path: Path) -> None:
    """A push that ends after any number of requests leaves one complete checkpoint, the former one or the next."""
    path, here = folder(store, tmp_path, "one")
    put(here, {"config.yaml": "a", **checkpoint(3)})
    sender = SyncedDir(path, here)
    sender.push()
    put(here, checkpoint(6))
    shutil.rmtree(here / "checkpoints/3")
    seen, ended = [], False
    while not ended:
        store.proxy.writes_left = 1
        try:
            sender.push()
            ended = True
        except InputError as error:
            assert "forbidden" in str(error)
        SyncedDir(path, tmp_path / f"seen {len(seen)}").pull()
        seen.append(held(tmp_path / f"seen {len(seen)}"))
    both = {"config.yaml": "a", **checkpoint(3), **checkpoint(6)}
    assert {"config.yaml": "a", **checkpoint(3)} in seen and both in seen
    assert seen[-1] == {"config.yaml": "a", **checkpoint(6)}
    assert all(files in (seen[0], both, seen[-1]) for files in seen)


def test_a_checkpoint_that_is_written_again_does_not_count_meanwhile(store: Store, tmp_path: Path) -> None:
    path, here = folder(store, tmp_path, "one")
    put(here, checkpoint(3))
    sender = SyncedDir(path, here)
    sender.push()
    put(here, {name: f"{text} again" for name, text in checkpoint(3).items()})
    store.proxy.writes_left = 2  # the removal of the marker, and one file
    with pytest.raises(InputError, match="forbidden"):
        sender.push()
    SyncedDir(path, tmp_path / "seen").pull()
    assert held(tmp_path / "seen") == {}


def test_what_others_put_there_stays(store: Store, tmp_path: Path) -> None:
    path, here = folder(store, tmp_path, "one")
    put(here, {"a": "1"})
    sender = SyncedDir(path, here)
    sender.push()
    put(tmp_path / "other", {"eval/b": "2"})
    SyncedDir(path, tmp_path / "other").push()
    (here / "a").unlink()
    sender.push()
    assert set(object_store.list_objects(str(path))) == {"eval/b"}


def test_names_that_lead_outside_are_left_alone() -> None:
    assert synced_dir.complete(["a", "../b", "c/../../d", "/e", "f//g", "h/i"]) == ["a", "h/i"]


def test_a_workshop_sends_after_an_error_and_names_the_bucket(store: Store, tmp_path: Path) -> None:
    path, _ = folder(store, tmp_path, "one")
    with pytest.raises(RunError) as error, working_dir(path, exclusive=True) as work_dir:
        put(work_dir.folder, {"a": "1"})
        raise RunError(f"{work_dir.folder}/a: bad")
    assert str(error.value) == f"{path}/a: bad"
    assert set(object_store.list_objects(str(path))) == {"a"} and not work_dir.folder.exists()
    refusal = pytest.raises(InputError, match=r"another process \(process \d+ on .*\) trains")
    with working_dir(path, exclusive=True), refusal, working_dir(path, exclusive=True):
        pass
    with working_dir(tmp_path / "local", exclusive=True) as work_dir:
        assert (work_dir.folder, work_dir.push) == (tmp_path / "local", None)
    assert not (tmp_path / "local").exists()


def test_local_commands_do_not_load_the_stores(tmp_path: Path) -> None:
    path = write(tmp_path / "x.hdf5", SOME)
    program = (
        "import sys\nfrom instructrl.data.demonstrations.dataset import DemonstrationDataset\n"
        "from instructrl.storage.synced_dir import working_dir\n"
        f"DemonstrationDataset({str(path)!r}).verify()\n"
        "print([name for name in ('fsspec', 'gcsfs', 's3fs', 'hdf5plugin', 'aiohttp') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.replace("'", '"')) == []
