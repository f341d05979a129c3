"""Sets of pictures with captions: where they lie, and how an address names one of them or a part of it.

frames                 a folder with train.hdf5 and val.hdf5, as data_tools.frames writes it
cc12m.hdf5             a file with jpg and caption (M3AE's), or one of them, or text; whatever the split
coco                   a directory of tensorflow-datasets, and the split of it
tfds:coco_captions     the same, by name, in TFDS_DATA_DIR (~/tensorflow_datasets)
coco@test              another split
cc12m.hdf5@0-99%       a part of it, by position
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from instructrl.config import DataConfig
from instructrl.data.pairs_file import PairFile, opened_pairs
from instructrl.data.records import INFO
from instructrl.data.storage import place
from instructrl.errors import InputError

ADDRESS = re.compile(r"(?P<place>.+?)(@(?P<split>[A-Za-z]\w*))?(@(?P<begin>[\d.]+)-(?P<end>[\d.]+)%)?")
TFDS = "tfds:"


class PairSet(Protocol):
    """Pictures with captions, or only one of both. Safe to read from several threads."""

    @property
    def path(self) -> str:
        """What errors call it."""

    @property
    def has_images(self) -> bool: ...

    @property
    def has_texts(self) -> bool: ...

    def __len__(self) -> int: ...

    def image(self, index: int) -> bytes | None:
        """An encoded picture; None where there is none."""

    def text(self, index: int, draw: int = 0) -> str | None:
        """The caption, `draw` (>= 0) chooses among several; None where there is none."""

    def checksum(self) -> str:
        """Of its size and of entries spread over it: tells sets apart without reading all of one."""


@dataclass(frozen=True)
class Part:
    """The entries `begin` to `end` of a set."""

    whole: PairSet
    begin: int
    end: int

    def __len__(self) -> int:
        return self.end - self.begin

    @property
    def path(self) -> str:
        return self.whole.path

    @property
    def has_images(self) -> bool:
        return self.whole.has_images

    @property
    def has_texts(self) -> bool:
        return self.whole.has_texts

    def image(self, index: int) -> bytes | None:
        return self.whole.image(self.begin + index)

    def text(self, index: int, draw: int = 0) -> str | None:
        return self.whole.text(self.begin + index, draw)

    def checksum(self) -> str:
        return f"{self.whole.checksum()}:{self.begin}-{self.end}"


@contextmanager
def open_pairs(
    places: Sequence[str],
    split: str,
    *,
    data: DataConfig | None = None,
    image: str | None = None,
    text: str | None = None,
) -> Iterator[list[PairSet]]:
    """The sets at these addresses, open as long as the context lasts.

    `image` and `text` name the features of tensorflow-datasets; without, the only ones that can be meant.

    Raises:
        InputError: an address leads to nothing that can be read, or to a set without the split, feature or entries.
    """
    if not places:
        raise InputError("pairs: found an empty list; name at least one file or folder with pictures and captions")
    with ExitStack() as stack:
        yield [_opened(stack, address, split, data=data, image=image, text=text) for address in places]


def _opened(
    stack: ExitStack, address: str, split: str, *, data: DataConfig | None, image: str | None, text: str | None
) -> PairSet:
    """The set at one address."""
    parts = ADDRESS.fullmatch(address)
    if parts is None:
        raise InputError(f"pairs: found {address!r}; write PLACE, PLACE@SPLIT, PLACE@0-90% or PLACE@SPLIT@0-90%")
    wanted = parts["split"] or split
    found = place(parts["place"], data)
    folder = tfds_folder(parts["place"]) if parts["place"].startswith(TFDS) else found
    whole: PairSet
    if isinstance(folder, Path) and folder.is_dir() and not (folder / f"{wanted}.hdf5").is_file():
        from instructrl.data.tfds import DataSet, TfdsPairs  # it takes a second to import

        if not any(folder.glob(f"**/{INFO}")):
            files = sorted(path.name for path in folder.glob("*.hdf5"))
            raise InputError(
                f"{folder}: found neither {wanted}.hdf5 nor a tensorflow-datasets directory ({INFO})"
                + (f"; it has {', '.join(files[:8])}: name one of them" if files else "")
            )
        whole = TfdsPairs(DataSet(folder), wanted, image=image, text=text, exact=parts["split"] is not None)
    else:
        file = found / f"{wanted}.hdf5" if isinstance(found, Path) and found.is_dir() else found
        whole = stack.enter_context(opened_pairs(file))
    if parts["begin"] is not None:
        begin, end = float(parts["begin"]), float(parts["end"])
        if not 0 <= begin < end <= 100:
            raise InputError(f"pairs: found {address!r}; a part lies between 0 and 100 %, such as @90-100%")
        whole = Part(whole, int(len(whole) * begin / 100), int(len(whole) * end / 100))
    if not len(whole):
        raise InputError(f"{address}: holds nothing; choose another file or part")
    return whole


def tfds_folder(address: str) -> Path:
    """Where a data set that tensorflow-datasets prepared lies.

    Raises:
        InputError: it is not there.
    """
    name = address.removeprefix(TFDS)
    root = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    if not (root / name).is_dir():
        raise InputError(
            f"{address}: found no {root / name}; prepare it with: tfds build {name} --file_format=array_record "
            "(some need TensorFlow for that), or set TFDS_DATA_DIR"
        )
    return root / name


__all__ = ["PairFile", "PairSet", "Part", "open_pairs"]
