"""Features on the devices: batches have the bytes of those that are read from the files, on any number of devices."""

from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from instructrl.config.model import EncoderConfig
from instructrl.config.training import HardwareConfig
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.feature_cache.cache import FeatureCache
from instructrl.data.loading.loader import Loader, prefetch
from instructrl.data.text.tokenizer import Tokenizer, make_tokenizer
from instructrl.training import resident_features
from instructrl.training.distributed.mesh import global_batch, make_mesh
from instructrl.types import FeatureSizes
from tests.fixtures.demonstrations import demonstration, write
from tests.integration.test_features import APART, JOINT, demonstrations, ensure


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_tokenizer(EncoderConfig())


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("resident")
    others = [demonstration(50 + n, steps=1 + n, sentences=("lift it", "raise it")) for n in range(3)]
    return [demonstrations(folder / "train.hdf5"), write(folder / "other.hdf5", others)]


def hardware(**more: Any) -> HardwareConfig:
    return HardwareConfig(name="cpu", **more)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize(
    ("sizes", "joint"),
    [
        (JOINT, True),
        (replace(APART, text=3, patches=(3, 5)), False),  # bfloat16, in rows of half words
        (replace(APART, text=0), False),
    ],
)
def test_batches_from_the_devices_have_the_bytes_of_those_from_the_files(
    paths: list[Path],
    tokenizer: Tokenizer,
    sizes: FeatureSizes,
    joint: bool,
    devices: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resident_features, "CHUNK_BYTES", 300)  # several rows at a time, of many
    caches = [ensure(path, tokenizer, sizes, joint)[0] for path in paths]
    files = [DemonstrationDataset(path) for path in paths]
    mesh = make_mesh(hardware(local_devices=devices))
    resident = resident_features.ResidentFeatures(caches, mesh)
    make = partial(Loader, tokenizer=tokenizer, batch_size=8, steps=5)
    for loader in (
        make(files, features=caches, seed=3),
        make(files[1:], features=caches[1:], seed=0, shuffle=False),  # as for validation
        make(files, features=caches, seed=3, window=2, weights=[1.0, 3.0]),
        make(files, features=caches, seed=3, lengths=(1, 2, 3)),
    ):
        start, stop = loader.steps_per_epoch - 1, 2 * loader.steps_per_epoch + 1  # as after an interruption
        put = partial(global_batch, mesh=mesh)
        with (
            closing(prefetch(loader, start, stop, depth=2, put=put)) as read,
            closing(resident.batches(loader, start, stop, depth=2)) as gathered,
        ):
            for expected, found in zip(read, gathered, strict=True):
                assert jax.tree.structure(found) == jax.tree.structure(expected)
                for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
                    assert (one.shape, one.dtype) == (other.shape, other.dtype)
                    assert one.sharding.is_equivalent_to(other.sharding, one.ndim)
                    assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def test_each_device_holds_its_part_of_the_rows(paths: list[Path], tokenizer: Tokenizer) -> None:
    caches = [ensure(path, tokenizer)[0] for path in paths]
    files = [cache.rows["patches"] for cache in caches]
    table = resident_features.load_table(files, make_mesh(hardware(local_devices=8)))
    parts = [shard.data.nbytes for shard in table.addressable_shards]
    rows = sum(file.count for file in files)
    assert len(parts) == 8 and set(parts) == {-(-rows // 8) * files[0].row_bytes}


class Device:
    """Stands for a device with so much free memory; None: unknown."""

    def __init__(self, free: int | None) -> None:
        self.free = free

    def memory_stats(self) -> dict[str, int] | None:
        return None if self.free is None else {"bytes_limit": 1000 + self.free, "bytes_in_use": 1000}


class Mesh:
    """Stands for the mesh of such devices."""

    def __init__(self, *free: int | None) -> None:
        self.local_devices, self.size = [Device(each) for each in free], len(free)


def test_automatic_are_the_devices_if_they_have_four_times_the_room(paths: list[Path], tokenizer: Tokenizer) -> None:
    caches: list[FeatureCache] = [ensure(paths[0], tokenizer)[0]]
    needed = sum(file.count * file.row_bytes for file in caches[0].rows.values())

    def fits(*free: int | None) -> bool:
        mesh: Any = Mesh(*free)
        return resident_features.fits(caches, mesh)

    assert fits(4 * needed) and fits(2 * needed, 2 * needed)
    assert not fits(4 * needed - 1) and not fits(2 * needed, 2 * needed - 1) and not fits(None)
    real = make_mesh(hardware(local_devices=1))
    assert resident_features.resident_features(hardware(), caches, real) is None, "a CPU's memory has them already"
    assert resident_features.resident_features(hardware(feature_cache="files"), caches, real) is None
    assert resident_features.resident_features(hardware(feature_cache="devices"), caches, real) is not None
