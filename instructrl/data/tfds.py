"""Any directory of tensorflow-datasets, read without TensorFlow: what it says about itself, and its records.

Whoever imports this pays a second for tensorflow-datasets.
"""

import difflib
import hashlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core.example_parser import ExampleParserNp

from instructrl.data.pairs_file import probed
from instructrl.data.records import INFO, Arrays, Framed, Records, said
from instructrl.errors import InputError

DEEPEST = 3  # folders below the given one in which a data set is looked for: name, config, version
FORMATS = ("array_record", "tfrecord")
ALIKE = {"val": ("validation", "test")}  # what others call a split, the first that there is


class DataSet:
    """A directory with dataset_info.json, features.json and record files.

    Attributes:
        folder: where it is.
        info, features: what it says about itself, as tensorflow-datasets has it.
        metadata: what its metadata.json says; empty without one.
        splits: examples of each split that has any.
        specs: how each key, such as steps/observation/image, is serialised.
        keys: everything that an example holds.
    """

    def __init__(self, src: Path) -> None:
        """Read what the directory says about itself.

        Raises:
            InputError: it is none, or none that can be read here.
        """
        logging.set_verbosity(logging.ERROR)  # else it recommends OpenCV
        self.folder = dataset_folder(src)
        try:
            self._builder = tfds.builder_from_directory(self.folder)
            self.info = self._builder.info
            self.features = self.info.features
            self.metadata = dict(self.info.metadata or {})
            self.splits = {name: split.num_examples for name, split in self.info.splits.items() if split.num_examples}
            self.specs = dict(flat(self.features.get_serialized_info()))
            self.keys = sorted(self.specs)
            found = self.info.file_format.value
        except Exception as error:  # whatever a damaged or a foreign file leads to
            raise InputError(
                f"{self.folder}: cannot be read as a tensorflow-datasets directory ({said(error)})"
            ) from None
        if found not in FORMATS:
            raise InputError(
                f"{self.folder}: found files in {found}; allowed: {', '.join(FORMATS)}; convert it with tfds"
            )
        self._format = found

    @property
    def name(self) -> str:
        """What the dataset is called."""
        return self.info.name

    @property
    def version(self) -> str:
        """The dataset's version."""
        return str(self.info.version)

    def described(self) -> str:
        """Keys with shapes and dtypes, in one line."""
        parts = []
        for key in self.keys:
            info = self.leaf(key).get_tensor_info()
            shape = "" if not info.shape else "x".join("?" if size is None else str(size) for size in info.shape) + " "
            parts.append(f"{key} ({shape}{np.dtype(info.np_dtype)})".replace("object", "text"))
        return ", ".join(parts)

    def leaf(self, key: str) -> Any:
        """The feature of a key; that of one element for a key in a sequence or a nested data set.

        Raises:
            InputError: there is none.
        """
        if key not in self.specs:
            near = difflib.get_close_matches(key, self.keys, n=2, cutoff=0.6)
            help_ = f"did you mean {' or '.join(near)}?" if near else f"it has {self.listed()}"
            raise InputError(f"{key}: {self.folder} has no such key; {help_}")
        feature = self.features
        for part in key.split("/"):
            feature = feature[part]  # a nested data set gives what one of its steps has
        return feature

    def records(self, split: str) -> Records:
        """The examples of a split, as bytes.

        Raises:
            InputError: a file is missing, or holds fewer or more than the directory says.
        """
        info = self.info.splits[split]
        paths = [Path(path) for path in info.filepaths]
        for path in paths:
            if not path.is_file():
                raise InputError(f"{path}: no such file, but {self.folder / INFO} counts on it; copy it again")
        if self._format == "tfrecord":
            return Framed(paths, list(info.shard_lengths))
        return Arrays(self._builder, split, paths, list(info.shard_lengths))

    def parser(self, keys: Iterable[str]) -> ExampleParserNp:
        """What finds these keys in a record; nothing else is looked at, and nothing is decoded."""
        return ExampleParserNp({key: self.specs[key] for key in keys})

    def listed(self) -> str:
        """Its keys, for errors."""
        return ", ".join(self.keys[:24]) + ", ..." * (len(self.keys) > 24)


class TfdsPairs:
    """The pictures and captions of a split."""

    def __init__(
        self, data: DataSet, split: str, *, image: str | None = None, text: str | None = None, exact: bool = False
    ) -> None:
        """`image` and `text` are keys; without, the only ones that can be meant (a set may have only one of both).

        The names of a ClassLabel serve as captions if `text` names it. Without `exact` a split of another name is
        taken where a set has no val.

        Raises:
            InputError: there is no such split or key, a key is of another kind, several could be meant, or a file
                is damaged.
        """
        names = (split,) if exact else (split, *ALIKE.get(split, ()))
        found = next((name for name in names if name in data.splits), None)
        if found is None:
            raise InputError(
                f"{data.folder}: found the splits {', '.join(data.splits) or 'none'}, not {' or '.join(names)}; name "
                f"one behind it, or a part of one: {data.folder}@{next(iter(data.splits), 'train')}@95-100%"
            )
        self.path, self.split = f"{data.folder}@{found}", found
        self._image = chosen(data, "image", image, (tfds.features.Image,))
        self._text = chosen(data, "text", text, (tfds.features.Text, tfds.features.ClassLabel))
        keys = [key for key in (self._image, self._text) if key is not None]
        if not keys:
            raise InputError(f"{data.folder}: has neither pictures nor text; found {data.described()}")
        self._label = None
        if self._text is not None and isinstance(element(data.leaf(self._text)), tfds.features.ClassLabel):
            self._label = element(data.leaf(self._text))
        self._parsers = {key: data.parser([key]) for key in keys}
        self._records = data.records(found)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def has_images(self) -> bool:
        return self._image is not None

    @property
    def has_texts(self) -> bool:
        return self._text is not None

    def image(self, index: int) -> bytes | None:
        """An encoded picture; the first where an example has several.

        Raises:
            InputError: the record is damaged, or none of this set.
        """
        if self._image is None:
            return None
        return next(iter(self._values(index, self._image)), b"")

    def text(self, index: int, draw: int = 0) -> str | None:
        """A caption, one of several by the draw.

        Raises:
            InputError: the record is damaged, or none of this set.
        """
        if self._text is None:
            return None
        values = self._values(index, self._text)
        if not values:
            return ""
        value = values[draw % len(values)]
        if self._label is not None:
            return str(self._label.int2str(int(value))).replace("_", " ") if int(value) >= 0 else ""
        return value if isinstance(value, str) else bytes(value).decode(errors="replace")

    def _values(self, index: int, key: str) -> list[Any]:
        """What a record has of a key, one or several values."""
        record = self._records.read(index)
        try:
            found = self._parsers[key].parse_example(record)[key]
        except Exception as error:  # whatever a record of something else leads to
            raise InputError(f"{self.path}: record {index}: {key}: not as features.json says ({said(error)})") from None
        return [found] if isinstance(found, bytes | str) else list(np.asarray(found, object).reshape(-1))

    @cached_property
    def _checksum(self) -> str:
        digest = hashlib.sha256(f"{self.path.rpartition('/')[2]} {len(self)} {self._image} {self._text}".encode())
        for index in probed(len(self)):
            digest.update(self._records.read(index))
        return digest.hexdigest()

    def checksum(self) -> str:
        """Of its size, keys and 64 records spread over it."""
        return self._checksum


def chosen(data: DataSet, what: str, key: str | None, kinds: tuple[type, ...]) -> str | None:
    """The key of the wanted kind: the given one, or the only one of the first kind; None without any.

    Raises:
        InputError: the given one is of another kind, or several could be meant.
    """
    of_kind = {name: element(data.leaf(name)) for name in data.keys}
    if key is not None:
        if not isinstance(element(data.leaf(key)), kinds):
            fitting = [name for name, leaf in of_kind.items() if isinstance(leaf, kinds)]
            raise InputError(
                f"{what} key: found {key}, a {type(element(data.leaf(key))).__name__}; {data.folder} has of that kind: "
                f"{', '.join(fitting) or 'none'}"
            )
        return key
    fitting = [name for name, leaf in of_kind.items() if isinstance(leaf, kinds[0])]
    if len(fitting) > 1:
        raise InputError(f"{what} key: {data.folder} has several: {', '.join(fitting)}; name one of them")
    return fitting[0] if fitting else None


def element(feature: Any) -> Any:
    """What a sequence is a sequence of; any other feature itself."""
    while isinstance(feature, tfds.features.Sequence):
        feature = feature.feature
    return feature


def dataset_folder(src: Path) -> Path:
    """The one directory with dataset_info.json that src is, or that lies in it.

    Raises:
        InputError: there is none, or more than one.
    """
    try:
        if not src.is_dir():
            raise InputError(f"src: found {src}, where there is no folder; name a tensorflow-datasets directory")
        below = ["/".join([*["*"] * depth, INFO]) for depth in range(1, DEEPEST + 1)]
        found = [src] if (src / INFO).is_file() else sorted(path.parent for glob in below for path in src.glob(glob))
    except OSError as error:
        raise InputError(f"src: {src}: cannot be read ({error.strerror})") from None
    if not found:
        raise InputError(f"src: found {src}, which has no {INFO}; name a tensorflow-datasets directory")
    if len(found) > 1:
        raise InputError(f"src: found {len(found)} datasets in {src}; name one: {', '.join(map(str, found[:4]))}")
    return found[0]


def flat(specs: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Every entry of nested dictionaries by its path."""
    if not isinstance(specs, dict):
        yield prefix, specs
        return
    for name, inner in specs.items():
        yield from flat(inner, f"{prefix}/{name}" if prefix else name)
