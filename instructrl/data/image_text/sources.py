"""Sources of image-text pairs, named by address, optionally with a split or a percentage range.

frames                 a folder with train.hdf5 and val.hdf5, as written by data_tools.frames
cc12m.hdf5             a file with jpg and caption (M3AE's), or one of them, or text, for all splits
coco                   a directory of tensorflow-datasets, with its splits
tfds:coco_captions     the same, by name, in TFDS_DATA_DIR (~/tensorflow_datasets)
coco@test              another split
cc12m.hdf5@0-99%       a range of its entries
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from instructrl.config.environment import DataConfig
from instructrl.data.image_text.hdf5_source import PairFile, open_pair_file
from instructrl.data.image_text.tfrecord import INFO
from instructrl.errors import InputError
from instructrl.storage.paths import storage_path

ADDRESS = re.compile(r"(?P<path>.+?)(@(?P<split>[A-Za-z]\w*))?(@(?P<begin>[\d.]+)-(?P<end>[\d.]+)%)?")
TFDS = "tfds:"


class PairSet(Protocol):
    """Images with captions, or only one of the two. Thread-safe."""

    @property
    def path(self) -> str:
        """Name for error messages."""

    @property
    def has_images(self) -> bool: ...

    @property
    def has_texts(self) -> bool: ...

    def __len__(self) -> int: ...

    def image(self, index: int) -> bytes | None:
        """Return an encoded image; None if the set has none."""

    def text(self, index: int, draw: int = 0) -> str | None:
        """Return the caption, selected among several by `draw` (>= 0); None if the set has none."""

    def checksum(self) -> str:
        """Return a digest of the size and of evenly spaced entries: identifies a set without reading all of it."""


@dataclass(frozen=True)
class PairSubset:
    """Entries `begin` to `end` of a set."""

    base: PairSet
    begin: int
    end: int

    def __len__(self) -> int:
        return self.end - self.begin

    @property
    def path(self) -> str:
        return self.base.path

    @property
    def has_images(self) -> bool:
        return self.base.has_images

    @property
    def has_texts(self) -> bool:
        return self.base.has_texts

    def image(self, index: int) -> bytes | None:
        return self.base.image(self.begin + index)

    def text(self, index: int, draw: int = 0) -> str | None:
        return self.base.text(self.begin + index, draw)

    def checksum(self) -> str:
        return f"{self.base.checksum()}:{self.begin}-{self.end}"


@contextmanager
def open_pairs(
    addresses: Sequence[str],
    split: str,
    *,
    data: DataConfig | None = None,
    image: str | None = None,
    text: str | None = None,
) -> Iterator[list[PairSet]]:
    """Open the sets at these addresses for the duration of the context.

    `image` and `text` name features of tensorflow-datasets; by default, the only ones of their type.

    Raises:
        InputError: an address does not exist or cannot be read, or its set has no such split, feature or entries.
    """
    if not addresses:
        raise InputError("pairs: found an empty list; name at least one file or folder with images and captions")
    with ExitStack() as stack:
        yield [_open(stack, address, split, data=data, image=image, text=text) for address in addresses]


def _open(
    stack: ExitStack, address: str, split: str, *, data: DataConfig | None, image: str | None, text: str | None
) -> PairSet:
    """Open the set at one address."""
    parts = ADDRESS.fullmatch(address)
    if parts is None:
        raise InputError(f"pairs: found {address!r}; write PATH, PATH@SPLIT, PATH@0-90% or PATH@SPLIT@0-90%")
    split_name = parts["split"] or split
    found = storage_path(parts["path"], data)
    folder = tfds_folder(parts["path"]) if parts["path"].startswith(TFDS) else found
    pairs: PairSet
    if isinstance(folder, Path) and folder.is_dir() and not (folder / f"{split_name}.hdf5").is_file():
        from instructrl.data.image_text.tfds_source import TfdsDataset, TfdsPairs  # its import takes a second

        if not any(folder.glob(f"**/{INFO}")):
            files = sorted(path.name for path in folder.glob("*.hdf5"))
            raise InputError(
                f"{folder}: found neither {split_name}.hdf5 nor a tensorflow-datasets directory ({INFO})"
                + (f"; it has {', '.join(files[:8])}: name one of them" if files else "")
            )
        pairs = TfdsPairs(TfdsDataset(folder), split_name, image=image, text=text, exact=parts["split"] is not None)
    else:
        file = found / f"{split_name}.hdf5" if isinstance(found, Path) and found.is_dir() else found
        pairs = stack.enter_context(open_pair_file(file))
    if parts["begin"] is not None:
        begin, end = float(parts["begin"]), float(parts["end"])
        if not 0 <= begin < end <= 100:
            raise InputError(f"pairs: found {address!r}; a range is between 0 and 100 %, such as @90-100%")
        pairs = PairSubset(pairs, int(len(pairs) * begin / 100), int(len(pairs) * end / 100))
    if not len(pairs):
        raise InputError(f"{address}: has no entries; choose another file or range")
    return pairs


def tfds_folder(address: str) -> Path:
    """Return the folder of a dataset that tensorflow-datasets prepared.

    Raises:
        InputError: it does not exist.
    """
    name = address.removeprefix(TFDS)
    root = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    if not (root / name).is_dir():
        raise InputError(
            f"{address}: found no {root / name}; prepare it with: tfds build {name} --file_format=array_record "
            "(some require TensorFlow), or set TFDS_DATA_DIR"
        )
    return root / name


__all__ = ["PairFile", "PairSet", "PairSubset", "open_pairs"]
