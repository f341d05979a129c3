"""Feature cache: every row is of its own image and instruction, despite interruptions, damage and other processes."""

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instructrl.config.model import EncoderConfig
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.feature_cache.cache import FeatureCache, ensure_features
from instructrl.data.feature_cache.compute import READ_AHEAD, EncodePlan
from instructrl.data.loading.loader import Loader
from instructrl.data.text.tokenizer import Tokenizer, make_tokenizer
from instructrl.errors import InputError, RunError
from instructrl.types import Batch, Features, FeatureSizes, check_batch
from tests.fixtures.demonstrations import HEADER, SENTENCES, demonstration, write
from tests.paths import ROOT

LENGTHS = [1 + seed % 4 for seed in range(9)]
ASKED = [SENTENCES[: 1 + seed % 3] if seed % 2 else ("push it", *SENTENCES[seed % 3 :]) for seed in range(9)]
IDENTITY = {"weights": "sha256:abc", "precision": "float32"}
CAMERAS = len(HEADER.cameras)
JOINT = FeatureSizes(pooled=5, text=0, patches=(3, 4), dtype="float32")
APART = FeatureSizes(pooled=5, text=6, patches=None, dtype="bfloat16")
KINDS = [
    (JOINT, True),
    (replace(JOINT, patches=None, dtype="bfloat16"), True),
    (replace(JOINT, text=2), True),
    (APART, False),
    (replace(APART, patches=(2, 3), dtype="float32"), False),
    (replace(APART, text=0), False),
]
LAYOUTS = pytest.mark.parametrize(("sizes", "joint"), KINDS)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_tokenizer(EncoderConfig())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return demonstrations(tmp_path / "train.hdf5")


def demonstrations(path: Path, count: int = 9) -> Path:
    demonstrations = [
        demonstration(n, steps=LENGTHS[n % 9], between=n % 2, sentences=ASKED[n % 9]) for n in range(count)
    ]
    return write(path, demonstrations)


class Encoder:
    """Fake encoder: exact functions of each image and instruction; counts calls, and fails in one if configured."""

    def __init__(self, sizes: FeatureSizes, joint: bool, *, fails_at: int = -1, seconds: float = 0) -> None:
        self.sizes, self.joint, self.fails_at, self.seconds = sizes, joint, fails_at, seconds
        self.calls, self.shapes = 0, set()

    def __call__(self, images: np.ndarray, tokens: np.ndarray, padding: np.ndarray) -> Features:
        if self.calls == self.fails_at:
            raise RuntimeError("the device is gone")
        self.calls += 1
        self.shapes.add((images.shape, tokens.shape, padding.shape))
        time.sleep(self.seconds)
        return self.features(images, tokens, padding)

    def features(self, images: np.ndarray, tokens: np.ndarray, padding: np.ndarray) -> Features:
        assert images.dtype == np.uint8 and tokens.dtype == np.int32 and padding.dtype == np.float32
        assert np.array_equal(padding, tokens == 0)
        text = tokens.astype(np.int64).sum(1) + 1
        seen = images.reshape(*images.shape[:2], -1).astype(np.int64)
        seen = seen + (text[:, None, None] if self.joint else 0)
        patches = None
        if self.sizes.patches is not None:
            count, width = self.sizes.patches
            patches = self.mixed(seen, count * width, seed=1).reshape(*seen.shape[:2], count, width)
        return Features(
            self.mixed(seen, self.sizes.pooled, seed=0), self.mixed(text[:, None], self.sizes.text, seed=2), patches
        )

    def mixed(self, values: np.ndarray, width: int, *, seed: int) -> np.ndarray:
        weights = np.random.default_rng(seed).integers(-9, 9, (values.shape[-1], width))
        return ((values @ weights) % 1009 / 64).astype(self.sizes.numpy_dtype)


def ensure(
    path: Path, tokenizer: Tokenizer, sizes: FeatureSizes = JOINT, joint: bool = True, **options: Any
) -> tuple[FeatureCache, Any]:
    """Return a cache and the fake encoder that filled it."""
    encode = options.pop("encode", None) or Encoder(sizes, joint)
    given = {"identity": IDENTITY, "max_instructions": None, "folder": None, "batch_size": 4} | options
    given["plan"] = EncodePlan(given.pop("batch_size"), given.pop("devices", 1), given.pop("shard", (0, 1)))
    episodes = given.pop("episodes", None) or DemonstrationDataset(path)
    with episodes:
        return ensure_features(episodes, tokenizer, encode=encode, sizes=sizes, joint=joint, **given), encode


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a cache but its locks."""
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if not file.name.startswith(".")}


def expected(
    episodes: DemonstrationDataset, tokenizer: Tokenizer, encoder: Encoder, episode: int, choice: int
) -> Features:
    """Return the expected features of an episode: pooled [T,K,F], text [G], patches [T,K,P,D]."""
    steps = episodes.episode(episode)
    tokens, padding = tokenizer([steps.instructions[choice]] * len(steps.images))
    features = encoder.features(steps.images, tokens, padding)
    return features._replace(text=features.text[0])


def room(cache: FeatureCache, steps: int) -> Features:
    """Return arrays of sevens for one sequence."""
    sizes = cache.sizes
    patches = sizes.patches and np.full((steps, CAMERAS, *sizes.patches), 7, sizes.numpy_dtype)
    text = np.full(sizes.text, 7, sizes.numpy_dtype)
    return Features(np.full((steps, CAMERAS, sizes.pooled), 7, sizes.numpy_dtype), text, patches)


def assert_right(cache: FeatureCache, path: Path, tokenizer: Tokenizer, sentences: int | None = None) -> None:
    """Assert that every episode, with every instruction, has the features of its own images and that instruction."""
    encoder = Encoder(cache.sizes, cache.layout.joint)
    with DemonstrationDataset(path) as episodes:
        for episode in range(len(episodes)):
            for choice in range(len(episodes.instructions(episode)[:sentences])):
                out = room(cache, steps=5)
                cache.read(episode, choice, out=out)
                length = episodes.lengths[episode]
                right = expected(episodes, tokenizer, encoder, episode, choice)
                assert out.pooled[:length].tobytes() == right.pooled.tobytes()
                assert (out.pooled[length:] == 7).all()
                assert out.text.tobytes() == right.text.tobytes()
                if right.patches is not None:
                    assert out.patches[:length].tobytes() == right.patches.tobytes()
                    assert (out.patches[length:] == 7).all()


@LAYOUTS
@pytest.mark.parametrize("sentences", [None, 1, 2])
def test_every_row_is_of_its_own_image_and_sentence(
    path: Path, tokenizer: Tokenizer, sizes: FeatureSizes, joint: bool, sentences: int | None
) -> None:
    cache, encoder = ensure(path, tokenizer, sizes, joint, max_instructions=sentences)
    assert_right(cache, path, tokenizer, sentences)
    asked = [min(len(texts_of), sentences or 99) for texts_of in ASKED]
    views = sum(n * s for n, s in zip(LENGTHS, asked, strict=True)) if joint else sum(LENGTHS)
    texts = len({s for texts_of in ASKED for s in texts_of[:sentences]}) if sizes.text else 0
    assert encoder.calls == -(-(views + texts if joint else max(views, texts)) // 4)
    assert len(encoder.shapes) == 1, "so that it compiles once"
    assert cache.folder.parent == path.parent / "train.features"


@pytest.mark.parametrize(("batch_size", "devices"), [(1, 1), (3, 1), (100, 1), (4, 3), (1, 8), (50, 2)])
def test_batches_of_any_size_on_any_devices_give_the_same_cache(
    path: Path, tokenizer: Tokenizer, batch_size: int, devices: int
) -> None:
    first = contents(ensure(path, tokenizer)[0].folder)
    elsewhere = path.parent / "elsewhere" / "deep"
    cache, encoder = ensure(path, tokenizer, batch_size=batch_size, devices=devices, folder=elsewhere)
    assert {images[0] for images, *_ in encoder.shapes} == {batch_size * devices}
    assert cache.folder.parent == elsewhere / "train.features"
    assert contents(cache.folder) == first


def test_more_sentences_than_images(tmp_path: Path, tokenizer: Tokenizer) -> None:
    instructions = tuple("reach the red ball " + "now " * count for count in range(7))
    path = write(tmp_path / "train.hdf5", [demonstration(0, steps=2, sentences=instructions)])
    cache, encoder = ensure(path, tokenizer, APART, False)
    assert_right(cache, path, tokenizer)
    assert encoder.calls == 2


@LAYOUTS
def test_a_complete_cache_needs_neither_encoder_nor_images(
    path: Path, tokenizer: Tokenizer, sizes: FeatureSizes, joint: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure(path, tokenizer, sizes, joint)
    monkeypatch.setattr(DemonstrationDataset, "_images", lambda *_: pytest.fail("an image was read"))
    monkeypatch.setattr(os, "pwrite", lambda *_: pytest.fail("something was written"))
    _, encoder = ensure(path, tokenizer, sizes, joint)
    assert encoder.calls == 0


def test_a_cache_needs_no_jax(path: Path) -> None:
    program = (
        "import sys, pathlib; from tests.integration.test_features import *\n"
        "calls = [ensure(pathlib.Path(sys.argv[1]), make_tokenizer(EncoderConfig()), *kind)[1].calls > 0\n"
        "         for _ in range(2) for kind in KINDS]\n"
        "print(calls == [True] * 6 + [False] * 6, sorted({'jax', 'flax'} & set(sys.modules)))"
    )
    ran = python(program, path)
    assert ran.stdout.endswith("True []\n"), ran.stdout + ran.stderr


def test_features_that_are_zero_are_there(path: Path, tokenizer: Tokenizer) -> None:
    sizes = replace(APART, patches=(2, 3), dtype="float32")

    def encode(images: np.ndarray, tokens: np.ndarray, padding: np.ndarray) -> Features:
        return Features(
            *(np.zeros((len(images), *shape), np.float32) for shape in ((CAMERAS, 5), (6,), (CAMERAS, 2, 3)))
        )

    ensure(path, tokenizer, sizes, False, encode=encode)
    assert ensure(path, tokenizer, sizes, False)[1].calls == 0


@LAYOUTS
def test_a_failed_encoder_loses_nothing(path: Path, tokenizer: Tokenizer, sizes: FeatureSizes, joint: bool) -> None:
    undisturbed, full_encoder = ensure(path, tokenizer, sizes, joint)
    elsewhere = path.parent / "elsewhere"
    with pytest.raises(RuntimeError, match="the device is gone"):
        ensure(path, tokenizer, sizes, joint, folder=elsewhere, encode=Encoder(sizes, joint, fails_at=3))
    resumed, rest = ensure(path, tokenizer, sizes, joint, folder=elsewhere)
    assert rest.calls == full_encoder.calls - 3
    assert contents(resumed.folder) == contents(undisturbed.folder)


def python(program: str, *arguments: Any, **options: Any) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, **options)


DIES_AT = (1, 2, 3, 10, 25)  # writes of rows
KILLED = """
import os, signal, sys, pathlib
from tests.integration.test_features import *
path, folder, pwrite, fsync = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), os.pwrite, os.fsync
tokenizer = make_tokenizer(EncoderConfig())
ensure(path, tokenizer, folder=folder / "undisturbed")  # imports and compiles what the children need

def killed(name):
    if pid := os.fork():
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL, name
        return
    try:
        ensure(path, tokenizer, folder=folder / name)
    finally:
        os._exit(1)

for dies_at in DIES_AT:
    writes = 0
    def fatal(handle, data, offset):
        global writes
        writes += 1
        if writes == dies_at:
            pwrite(handle, data[: len(data) // 2], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        return pwrite(handle, data, offset)
    os.pwrite = fatal
    killed(f"write{dies_at}")
os.pwrite, os.fsync = pwrite, lambda *_: os.kill(os.getpid(), signal.SIGKILL)
killed("begins")
print("all killed")
"""


def test_a_killed_process_leaves_what_the_next_completes(
    path: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    undisturbed, full_encoder = ensure(path, tokenizer)
    ran = python(KILLED, path, path.parent)
    assert ran.stdout.endswith("all killed\n"), ran.stdout + ran.stderr
    for dies_at in DIES_AT:
        capsys.readouterr()
        resumed, rest = ensure(path, tokenizer, folder=path.parent / f"write{dies_at}")
        assert "damaged" not in capsys.readouterr().out
        assert contents(resumed.folder) == contents(undisturbed.folder)
        assert rest.calls == full_encoder.calls - (dies_at - 1) // 4  # four writes complete a batch
    begun, rest = ensure(path, tokenizer, folder=path.parent / "begins")
    assert rest.calls == full_encoder.calls and contents(begun.folder) == contents(undisturbed.folder)


FILES = ("pooled.bin", "pooled.crc32", "patches.bin", "patches.crc32", "text.bin", "text.crc32")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("position", [0, 0.37, 1])
def test_a_damaged_byte_is_found_and_repaired(
    path: Path, tokenizer: Tokenizer, name: str, position: float, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = replace(APART, patches=(2, 3))
    cache, _ = ensure(path, tokenizer, sizes, False)
    before = contents(cache.folder)
    damage(cache.folder / name, position)
    assert contents(cache.folder) != before
    capsys.readouterr()
    repaired, encoder = ensure(path, tokenizer, sizes, False)
    lines = capsys.readouterr().out.splitlines()
    assert f"{cache.folder}: recomputing 1 damaged row" in lines[0]
    assert encoder.calls == 1 and contents(repaired.folder) == before


def damage(path: Path, position: float) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[int(position * (len(data) - 1))] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("name", [*FILES[:4], "index.json"])
@pytest.mark.parametrize("how", ["shorter", "longer", "gone", "other"])
def test_files_that_do_not_fit_are_made_anew(
    path: Path, tokenizer: Tokenizer, name: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, full_encoder = ensure(path, tokenizer)
    before = contents(cache.folder)
    file = cache.folder / name
    data = file.read_bytes()
    if how == "gone":
        file.unlink()
    elif how == "other":
        if name != "index.json":
            return  # a damaged row: see above
        file.write_text(file.read_text().replace("abc", "abd"))
    else:
        file.write_bytes(data[:-1] if how == "shorter" else data + b"\0")
    capsys.readouterr()
    again, encoder = ensure(path, tokenizer)
    assert encoder.calls == (
        0 if (name, how) == ("index.json", "shorter") and data.endswith(b"\n") else full_encoder.calls
    )
    if (name, how) != ("index.json", "gone"):
        assert f"{cache.folder}: index.json or file sizes do not match; recomputing all rows" in capsys.readouterr().out
    assert contents(again.folder) == before


CHANGES = {
    "weights": {"identity": IDENTITY | {"weights": "sha256:other"}},
    "a new word": {"identity": IDENTITY | {"layers": "all"}},
    "one sentence": {"max_instructions": 1},
    "sizes": {"sizes": replace(JOINT, pooled=6)},
    "patches": {"sizes": replace(JOINT, patches=None)},
    "type": {"sizes": replace(JOINT, dtype="bfloat16")},
    "joint": {"joint": False},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_decides_the_numbers_decides_the_cache(
    path: Path, tokenizer: Tokenizer, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, _ = ensure(path, tokenizer)
    before = contents(first.folder)
    capsys.readouterr()
    other, encoder = ensure(path, tokenizer, **CHANGES[change])
    assert other.folder != first.folder and encoder.calls > 0
    assert contents(first.folder) == before and ensure(path, tokenizer)[1].calls == 0
    assert_right(other, path, tokenizer, CHANGES[change].get("max_instructions"))
    if change == "weights":
        assert f"the closest is {first.folder}: encoder.weights: sha256:abc -> sha256:other" in capsys.readouterr().out


def test_features_of_image_and_sentence_apart_are_not_those_of_both(path: Path, tokenizer: Tokenizer) -> None:
    sizes = replace(JOINT, text=2)
    first, second = ensure(path, tokenizer, sizes, True)[0], ensure(path, tokenizer, sizes, False)[0]
    assert first.folder != second.folder
    assert_right(second, path, tokenizer)


def test_another_tokenizer_or_text_length_is_another_cache(path: Path, tokenizer: Tokenizer) -> None:
    first, _ = ensure(path, tokenizer)
    words = sorted({word for texts in ASKED for sentence in texts for word in sentence.split()})
    others = [Tokenizer(["[PAD]", "[UNK]", *words], length=tokenizer.length)]
    others += [Tokenizer(["[PAD]", "[UNK]", *words], length=9)]
    folders = {first.folder} | {ensure(path, other)[0].folder for other in others}
    assert len(folders) == 3
    # If instructions are not encoded, none of it matters.
    sizes = replace(JOINT, text=0)
    assert len({ensure(path, other, sizes, False)[0].folder for other in (tokenizer, *others)}) == 1
    assert ensure(path, tokenizer, sizes, False, max_instructions=1)[1].calls == 0


def changed(number: int, part: str) -> list[Any]:
    """Return nine demonstrations that differ from `demonstrations` in one pixel, instruction, keyframe or length."""
    demonstrations = [demonstration(n, steps=LENGTHS[n], between=n % 2, sentences=ASKED[n]) for n in range(9)]
    one = demonstrations[number]
    if part == "pixel":
        one.images[0, 0, 0, 0, 0] ^= 1
    elif part == "sentence":
        demonstrations[number] = one._replace(instructions=("go there", *one.instructions[1:]))
    elif part == "keyframe":
        demonstrations[number] = one._replace(keyframes=one.keyframes - np.arange(len(one.keyframes)) % 2)
    return demonstrations


@pytest.mark.parametrize("part", ["pixel", "sentence", "keyframe"])
def test_changed_demonstrations_are_another_cache(path: Path, tokenizer: Tokenizer, part: str) -> None:
    first, _ = ensure(path, tokenizer)
    write(path, changed(3, part))
    second, encoder = ensure(path, tokenizer)
    assert second.folder != first.folder and encoder.calls > 0
    assert_right(second, path, tokenizer)


def test_appended_episodes_leave_the_cache_of_the_first(path: Path, tokenizer: Tokenizer) -> None:
    first, _ = ensure(path, tokenizer)
    demonstrations(path, count=11)
    same, encoder = ensure(path, tokenizer, episodes=DemonstrationDataset(path, limit=9))
    assert same.folder == first.folder and encoder.calls == 0
    more, encoder = ensure(path, tokenizer)
    assert more.folder != first.folder and encoder.calls > 0
    assert_right(more, path, tokenizer)


STALLED = """
import sys, pathlib
from tests.integration.test_features import *
path, plain, calls = pathlib.Path(sys.argv[1]), Encoder(JOINT, True), 0

def encode(*inputs):
    print("encoding", file=sys.stderr, flush=True)
    sys.stdin.readline()
    return plain(*inputs)

ensure(path, make_tokenizer(EncoderConfig()), encode=encode)
print("calls", plain.calls, file=sys.stderr)
"""


@pytest.mark.parametrize("killed", [False, True])
def test_processes_share_the_rows_and_one_completes_those_of_a_killed_one(
    path: Path, tokenizer: Tokenizer, killed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    undisturbed, alone = ensure(path, tokenizer, folder=path.parent / "elsewhere")
    capsys.readouterr()
    command, encoder = [sys.executable, "-c", STALLED, str(path)], Encoder(JOINT, True)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as other, ThreadPoolExecutor(1) as thread:
        try:
            assert other.stderr.readline() == "encoding\n"
            mine = thread.submit(ensure, path, tokenizer, encode=encoder)
            deadline = time.monotonic() + 60
            while encoder.calls < alone.calls - READ_AHEAD and time.monotonic() < deadline and not mine.done():
                time.sleep(0.02)
            assert encoder.calls == alone.calls - READ_AHEAD and not mine.done()
        finally:
            if killed:
                other.kill()
                other.communicate(timeout=60)
            else:
                said = other.communicate("\n" * alone.calls, timeout=60)[1]
        folder = mine.result()[0].folder
    assert contents(folder) == contents(undisturbed.folder)
    assert encoder.calls == (alone.calls if killed else alone.calls - READ_AHEAD)
    assert killed or said.endswith(f"calls {READ_AHEAD}\n")
    waiting = f"{folder}: another process computes the same features here; waiting for it\n"
    assert capsys.readouterr().out.count(waiting) == 1


def test_processes_that_begin_together_begin_with_their_own_share() -> None:
    missing = np.ones(10, bool)
    missing[4:6] = False
    assert EncodePlan(2).parts(missing) == [(0, 2), (2, 4), (6, 8), (8, 10)]
    assert EncodePlan(2, shard=(1, 2)).parts(missing) == [(6, 8), (8, 10), (0, 2), (2, 4)]
    assert EncodePlan(3, shard=(2, 3)).parts(missing) == [(6, 9), (9, 10), (0, 3), (3, 6)]


def test_too_small_a_disk_is_one_line_before_anything_is_computed(
    path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(path.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    encoder = Encoder(JOINT, True)
    with pytest.raises(InputError, match=r"features need 0\.\d MB, the disk has 0\.0 MB free") as error:
        ensure(path, tokenizer, encode=encoder)
    assert encoder.calls == 0 and "\n" not in str(error.value) and "features_dir" in str(error.value)
    assert list(path.parent.glob("train.features/*/*.bin")) == []
    # A nearly complete cache needs little space.
    monkeypatch.undo()
    cache, _ = ensure(path, tokenizer)
    damage(cache.folder / "pooled.bin", 0.5)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert ensure(path, tokenizer)[1].calls == 1


def test_a_disk_that_fills_up_loses_nothing(path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed, full_encoder = ensure(path, tokenizer)
    elsewhere, pwrite, writes = path.parent / "elsewhere", os.pwrite, []

    def full(handle: int, data: Any, offset: int) -> int:
        writes.append(offset)
        if len(writes) > 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(handle, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(InputError, match=r"No space left on device.*features_dir.*resumes") as error:
        ensure(path, tokenizer, folder=elsewhere)
    assert "\n" not in str(error.value)
    monkeypatch.undo()
    resumed, rest = ensure(path, tokenizer, folder=elsewhere)
    assert rest.calls == full_encoder.calls - 2
    assert contents(resumed.folder) == contents(undisturbed.folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 64 kB; requires root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_truly_full_disk(path: Path, tokenizer: Tokenizer, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = replace(JOINT, pooled=500)
    undisturbed, _ = ensure(path, tokenizer, sizes)
    with pytest.raises(InputError, match=r"the disk has 0\.1 MB free"):
        ensure(path, tokenizer, sizes, folder=small_disk)
    monkeypatch.setattr(
        "instructrl.data.feature_cache.cache.check_space", lambda *_: None
    )  # another process filled the disk since
    with pytest.raises(InputError, match="No space left on device"):
        ensure(path, tokenizer, sizes, folder=small_disk)
    subprocess.run(["mount", "-o", "remount,size=2m", str(small_disk)], check=True)
    resumed, encoder = ensure(path, tokenizer, sizes, folder=small_disk)
    assert 0 < encoder.calls < 12
    assert contents(resumed.folder) == contents(undisturbed.folder)


def test_a_folder_that_cannot_be_written(path: Path, tokenizer: Tokenizer, small_disk: Path) -> None:
    small = replace(JOINT, patches=None)
    ensure(path, tokenizer, small, folder=small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    cache, encoder = ensure(path, tokenizer, small, folder=small_disk)
    assert encoder.calls == 0
    assert_right(cache, path, tokenizer)
    with pytest.raises(InputError, match=r"cannot be written \(Read-only file system\).*features_dir") as error:
        ensure(path, tokenizer, JOINT, folder=small_disk)
    assert "\n" not in str(error.value)


def test_a_file_in_the_place_of_the_folder(path: Path, tokenizer: Tokenizer) -> None:
    (path.parent / "train.features").touch()
    with pytest.raises(InputError, match=r"train\.features.*cannot be written.*features_dir"):
        ensure(path, tokenizer)


@pytest.mark.parametrize(
    ("name", "where"), [("pooled", "episode 3, step 2"), ("patches", "episode 3, step 2"), ("text", "'push it'")]
)
def test_features_that_are_not_finite_name_their_episode(
    path: Path, tokenizer: Tokenizer, name: str, where: str
) -> None:
    sizes = replace(APART, patches=(2, 3))
    plain, sick = Encoder(sizes, False), DemonstrationDataset(path).episode(3).images[2]

    def encode(images: np.ndarray, tokens: np.ndarray, padding: np.ndarray) -> Features:
        features = plain(images, tokens, padding)
        broken = (images == sick).all((1, 2, 3, 4)) if name != "text" else [np.array_equal(t, push) for t in tokens]
        getattr(features, name)[np.flatnonzero(broken), ..., 1] = np.nan
        return features

    push = tokenizer(["push it"])[0][0]
    with pytest.raises(RunError, match=f"train.hdf5: {where}: the encoder's features .{name}. are not finite") as error:
        ensure(path, tokenizer, sizes, False, encode=encode)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "wrong", [replace(JOINT, pooled=6), replace(JOINT, dtype="bfloat16"), replace(JOINT, patches=(4, 3))]
)
def test_an_encoder_of_other_sizes_is_refused(path: Path, tokenizer: Tokenizer, wrong: FeatureSizes) -> None:
    with pytest.raises(ValueError, match=r"encode returned (pooled|patches) .*, expected float32\(4, 2, "):
        ensure(path, tokenizer, JOINT, encode=Encoder(wrong, True))


def test_an_encoder_that_leaves_something_out_is_refused(path: Path, tokenizer: Tokenizer) -> None:
    plain = Encoder(JOINT, True)

    def encode(images: np.ndarray, tokens: np.ndarray, padding: np.ndarray) -> Features:
        features = plain(images, tokens, padding)
        return features._replace(pooled=features.pooled[:3], patches=features.patches[:3])

    with pytest.raises(ValueError, match=r"encode returned pooled float32\(3, 2, 5\), expected float32\(4, 2, 5\)"):
        ensure(path, tokenizer, JOINT, encode=encode)


def test_reading_computing_and_writing_happen_at_once(
    path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first batch is still computed when the next is read, and still written when the next is computed."""
    plain, pwrite = Encoder(JOINT, True), os.pwrite
    encoding, reading, computing = threading.Event(), threading.Event(), threading.Event()

    class Episodes(DemonstrationDataset):
        def view_images(self, episode: int) -> np.ndarray:
            if encoding.wait(0.5):  # slow enough that all is not read before the first batch is encoded
                reading.set()
            return super().view_images(episode)

    def encode(*inputs: np.ndarray) -> Features:
        if encoding.is_set():
            computing.set()
        encoding.set()
        assert reading.wait(60), "nothing is read meanwhile"
        return plain(*inputs)

    def write(handle: int, data: Any, offset: int) -> int:
        assert computing.wait(60), "nothing is computed meanwhile"
        return pwrite(handle, data, offset)

    monkeypatch.setattr(os, "pwrite", write)
    cache, _ = ensure(path, tokenizer, encode=encode, episodes=Episodes(path))
    monkeypatch.undo()
    assert_right(cache, path, tokenizer)


def test_it_says_what_it_does(path: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    cache, _ = ensure(path, tokenizer)
    first, last = capsys.readouterr().out.splitlines()
    rows = cache.layout.views
    assert first.startswith(f"features: computing {rows} of {rows} rows (0.0 MB) into {cache.folder}")
    assert last.startswith(f"features: {rows} rows written in ") and "rows/s" in last
    index = json.loads((cache.folder / "index.json").read_text())
    assert index["encoder"] == IDENTITY and index["sizes"]["patches"] == [3, 4]
    assert index["demonstrations"]["cameras"] == list(HEADER.cameras) and index["key"].startswith(cache.folder.name)
    ensure(path, tokenizer)
    assert capsys.readouterr().out == ""


def test_shared_by_threads_and_pickled(path: Path, tokenizer: Tokenizer) -> None:
    cache, _ = ensure(path, tokenizer)
    with DemonstrationDataset(path) as episodes, ThreadPoolExecutor(8) as threads:
        right = [expected(episodes, tokenizer, Encoder(JOINT, True), episode, 0) for episode in range(9)]
        for one in (cache, pickle.loads(pickle.dumps(cache))):

            def read(episode: int, one: FeatureCache = one) -> Features:
                one.read(episode, 0, out=(out := room(one, LENGTHS[episode])))
                return out

            for episode, out in enumerate(threads.map(read, list(range(9)) * 20)):
                assert out.pooled.tobytes() == right[episode % 9].pooled.tobytes()
    assert len(pickle.dumps(cache)) < 20_000
    shutil.rmtree(cache.folder)
    with pytest.raises(InputError, match="cannot be read"):
        pickle.loads(pickle.dumps(cache)).read(0, 0, out=room(cache, 4))


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> tuple[Path, dict[Any, FeatureCache]]:
    path = demonstrations(tmp_path_factory.mktemp("loader") / "train.hdf5")
    return path, {
        (kind, sentences, intermediate): ensure(
            path, tokenizer, sizes, joint, max_instructions=sentences,
            episodes=DemonstrationDataset(path, intermediate=intermediate),
        )[0]
        for kind, (sizes, joint) in enumerate(KINDS)
        for sentences in (None, 1, 2)
        for intermediate in (False, True)
    }  # fmt: skip


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.integers(0, len(KINDS) - 1),
    sentences=st.sampled_from([None, 1, 2]),
    batch_size=st.integers(1, 12),
    seed=st.integers(0, 2**31 - 1),
    step=st.integers(0, 40),
    shuffle=st.booleans(),
    share=st.sampled_from([0.0, 0.5, 1.0]),
    window=st.sampled_from([None, 2]),
)
def test_a_cached_batch_is_the_live_one_with_features_for_images(
    caches: tuple[Path, dict], tokenizer: Tokenizer, kind: int, sentences: int | None, batch_size: int, seed: int,
    step: int, shuffle: bool, share: float, window: int | None,
) -> None:  # fmt: skip
    path, cache = caches[0], caches[1][kind, sentences, share > 0]
    episodes = DemonstrationDataset(path, intermediate=share > 0)
    options = {"batch_size": batch_size, "seed": seed, "steps": 5, "shuffle": shuffle, "max_instructions": sentences,
               "intermediate_share": share, "window": window}  # fmt: skip
    live = Loader([episodes], tokenizer, **options).batch(step)
    loader = pickle.loads(pickle.dumps(Loader([episodes], tokenizer, features=[cache], **options)))
    loader.files[0].episodes._images = lambda *_: pytest.fail("an image was read")
    cached = loader.batch(step)
    check_batch(cached, loader.sizes)
    assert cached.images is None and live.features is None
    for name in set(Batch._fields) - {"images", "features"}:
        one, other = getattr(cached, name), getattr(live, name)
        if one is None or other is None:
            assert one is other is None, name
        else:
            assert one.dtype == other.dtype and one.tobytes() == other.tobytes(), name
    sizes, joint = KINDS[kind]
    encoder = Encoder(sizes, joint)
    for row in range(batch_size):
        length = int(live.step_mask[row].sum())
        row_features = [part if part is None else part[row] for part in cached.features]
        if length:
            tokens, padding = (np.repeat(part[row : row + 1], 5, 0) for part in (live.tokens, live.text_padding_mask))
            right = encoder.features(live.images[row], tokens, padding)
            assert row_features[1].tobytes() == right.text[0].tobytes()
        for found, wanted in ((row_features[0], right.pooled), (row_features[2], right.patches)) if length else ():
            assert found is None if wanted is None else found[:length].tobytes() == wanted[:length].tobytes()
        assert not any(
            part[length if len(part) == 5 else 0 :].any()
            for part in (row_features[0], row_features[2])
            if part is not None
        )
        assert length or not row_features[1].any()


def test_a_loader_refuses_features_of_other_sentences_or_episodes(path: Path, tokenizer: Tokenizer) -> None:
    cache, _ = ensure(path, tokenizer, max_instructions=2)
    Loader([DemonstrationDataset(path)], tokenizer, batch_size=2, seed=0, max_instructions=2, features=[cache])
    for episodes, sentences in (
        (DemonstrationDataset(path), None),
        (DemonstrationDataset(path), 1),
        (DemonstrationDataset(path, limit=8), 2),
    ):
        with pytest.raises(ValueError, match="features of other episodes or instructions"):
            Loader([episodes], tokenizer, batch_size=2, seed=0, max_instructions=sentences, features=[cache])


def test_a_mixture_reads_each_files_own_features(path: Path, tokenizer: Tokenizer) -> None:
    other = write(
        path.with_name("other.hdf5"), [demonstration(50 + n, steps=1 + n, sentences=("lift it",)) for n in range(3)]
    )
    caches = [ensure(one, tokenizer)[0] for one in (path, other)]
    files, options = (
        [DemonstrationDataset(path), DemonstrationDataset(other)],
        {"batch_size": 5, "seed": 3, "weights": [1.0, 2.0]},
    )
    live, cached = Loader(files, tokenizer, **options), Loader(files, tokenizer, features=caches, **options)
    encoder, decoded = Encoder(JOINT, True), set()
    for step in range(2 * live.steps_per_epoch):
        one, two = live.batch(step), cached.batch(step)
        decoded |= {tokenizer.decode(row) for row in two.tokens}
        for name in set(Batch._fields) - {"images", "features"}:
            assert np.array_equal(getattr(one, name), getattr(two, name)), name
        lengths = one.step_mask.sum(1).astype(int).tolist()
        for row, length in [(row, length) for row, length in enumerate(lengths) if length]:
            words = (np.repeat(part[row : row + 1], length, 0) for part in (one.tokens, one.text_padding_mask))
            right = encoder.features(one.images[row, :length], *words)
            assert np.array_equal(two.features.pooled[row, :length], right.pooled)
            assert np.array_equal(two.features.patches[row, :length], right.patches)
    assert {"lift it", "push it", SENTENCES[0]} <= decoded
    with pytest.raises(ValueError, match="features of other episodes or instructions"):
        Loader(files, tokenizer, features=caches[::-1], **options)
