"""Metadata and records of any tensorflow-datasets directory, read without TensorFlow.

Importing this module takes a second, since it imports tensorflow-datasets.
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

from instructrl.config.fields import flatten
from instructrl.data.image_text.hdf5_source import probe_indices
from instructrl.data.image_text.tfds_classes import check_classes
from instructrl.data.image_text.tfrecord import INFO, ArrayRecords, Records, TFRecords
from instructrl.errors import InputError, short_message

MAX_DEPTH = 3  # depth at which a dataset is searched below the given folder: name, config, version
FORMATS = ("array_record", "tfrecord")
SPLIT_ALIASES = {"val": ("validation", "test")}  # other names of a split, in order of preference


class TfdsDataset:
    """A directory with dataset_info.json, features.json and record files.

    Attributes:
        folder: path of the directory.
        info, features: DatasetInfo and features of tensorflow-datasets.
        metadata: content of metadata.json; empty without one.
        splits: number of examples of each non-empty split.
        specs: serialization spec of each key, such as steps/observation/image.
        keys: sorted keys of an example.
    """

    def __init__(self, src: Path) -> None:
        """Read the metadata of the directory.

        Raises:
            InputError: it is not a tensorflow-datasets directory, cannot be read, or names classes of others.
        """
        logging.set_verbosity(logging.ERROR)  # otherwise it logs a recommendation of OpenCV
        self.folder = dataset_folder(src)
        check_classes(self.folder, feature_classes())
        try:
            self._builder = tfds.builder_from_directory(self.folder)
            self.info = self._builder.info
            self.features = self.info.features
            self.metadata = dict(self.info.metadata or {})
            self.splits = {name: split.num_examples for name, split in self.info.splits.items() if split.num_examples}
            self.specs = dict(flatten(self.features.get_serialized_info(), separator="/"))
            self.keys = sorted(self.specs)
            file_format = self.info.file_format.value
        except Exception as error:  # a damaged or foreign file can raise any exception
            raise InputError(
                f"{self.folder}: cannot be read as a tensorflow-datasets directory ({short_message(error)})"
            ) from None
        if file_format not in FORMATS:
            raise InputError(
                f"{self.folder}: found files in {file_format}; allowed: {', '.join(FORMATS)}; convert it with tfds"
            )
        self._format = file_format

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return self.info.name

    @property
    def version(self) -> str:
        """Version of the dataset."""
        return str(self.info.version)

    def describe_keys(self) -> str:
        """Return keys with shapes and dtypes, on one line."""
        parts = []
        for key in self.keys:
            info = self.leaf(key).get_tensor_info()
            shape = "" if not info.shape else "x".join("?" if size is None else str(size) for size in info.shape) + " "
            parts.append(f"{key} ({shape}{np.dtype(info.np_dtype)})".replace("object", "text"))
        return ", ".join(parts)

    def leaf(self, key: str) -> Any:
        """Return the feature of a key; within a sequence or a nested dataset, that of one element.

        Raises:
            InputError: there is no such key.
        """
        if key not in self.specs:
            similar = difflib.get_close_matches(key, self.keys, n=2, cutoff=0.6)
            hint = f"did you mean {' or '.join(similar)}?" if similar else f"it has {self.list_keys()}"
            raise InputError(f"{key}: {self.folder} has no such key; {hint}")
        feature = self.features
        for part in key.split("/"):
            feature = feature[part]  # a nested dataset returns the feature of one step
        return feature

    def records(self, split: str) -> Records:
        """Return the serialized examples of a split.

        Raises:
            InputError: a file is missing, or its number of records is not that of the metadata.
        """
        info = self.info.splits[split]
        paths = [Path(path) for path in info.filepaths]
        for path in paths:
            if not path.is_file():
                raise InputError(f"{path}: no such file, but {self.folder / INFO} lists it; copy it again")
        if self._format == "tfrecord":
            return TFRecords(paths, list(info.shard_lengths))
        return ArrayRecords(self._builder, split, paths, list(info.shard_lengths))

    def parser(self, keys: Iterable[str]) -> ExampleParserNp:
        """Return a parser that extracts these keys from a record, without decoding values or other keys."""
        return ExampleParserNp({key: self.specs[key] for key in keys})

    def list_keys(self) -> str:
        """Return the keys as text, for errors."""
        return ", ".join(self.keys[:24]) + ", ..." * (len(self.keys) > 24)


class TfdsPairs:
    """Images and captions of a split."""

    def __init__(
        self, data: TfdsDataset, split: str, *, image: str | None = None, text: str | None = None, exact: bool = False
    ) -> None:
        """`image` and `text` are keys; by default, the only ones of their type (a set may have just one of the two).

        The names of a ClassLabel serve as captions if `text` is its key. Without `exact`, another split is selected
        if a set has no val, see SPLIT_ALIASES.

        Raises:
            InputError: there is no such split or key, a key has another type, a default is ambiguous, or a file is
                damaged.
        """
        names = (split,) if exact else (split, *SPLIT_ALIASES.get(split, ()))
        selected = next((name for name in names if name in data.splits), None)
        if selected is None:
            raise InputError(
                f"{data.folder}: found the splits {', '.join(data.splits) or 'none'}, not {' or '.join(names)}; name "
                f"one after @, or a range of one: {data.folder}@{next(iter(data.splits), 'train')}@95-100%"
            )
        self.path, self.split = f"{data.folder}@{selected}", selected
        self._image = select_key(data, "image", image, (tfds.features.Image,))
        self._text = select_key(data, "text", text, (tfds.features.Text, tfds.features.ClassLabel))
        keys = [key for key in (self._image, self._text) if key is not None]
        if not keys:
            raise InputError(f"{data.folder}: has neither images nor text; found {data.describe_keys()}")
        self._label = None
        if self._text is not None and isinstance(element_feature(data.leaf(self._text)), tfds.features.ClassLabel):
            self._label = element_feature(data.leaf(self._text))
        self._parsers = {key: data.parser([key]) for key in keys}
        self._records = data.records(selected)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def has_images(self) -> bool:
        return self._image is not None

    @property
    def has_texts(self) -> bool:
        return self._text is not None

    def image(self, index: int) -> bytes | None:
        """Return an encoded image; the first one if an example has several.

        Raises:
            InputError: the record is damaged, or of another dataset.
        """
        if self._image is None:
            return None
        return next(iter(self._values(index, self._image)), b"")

    def text(self, index: int, draw: int = 0) -> str | None:
        """Return a caption, selected among several by `draw`.

        Raises:
            InputError: the record is damaged, or of another dataset.
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
        """Return the values of a key in a record, one or several."""
        record = self._records.read(index)
        try:
            found = self._parsers[key].parse_example(record)[key]
        except Exception as error:  # a record of another dataset can raise any exception
            raise InputError(
                f"{self.path}: record {index}: {key}: does not match features.json ({short_message(error)})"
            ) from None
        return [found] if isinstance(found, bytes | str) else list(np.asarray(found, object).reshape(-1))

    @cached_property
    def _checksum(self) -> str:
        digest = hashlib.sha256(f"{self.path.rpartition('/')[2]} {len(self)} {self._image} {self._text}".encode())
        for index in probe_indices(len(self)):
            digest.update(self._records.read(index))
        return digest.hexdigest()

    def checksum(self) -> str:
        """Return a digest of size, keys and 64 evenly spaced records."""
        return self._checksum


def select_key(data: TfdsDataset, role: str, key: str | None, types: tuple[type, ...]) -> str | None:
    """Return `key` if it is of an allowed type, or by default the only key of the first type; None if there is none.

    Raises:
        InputError: `key` is of another type, or the default is ambiguous.
    """
    leaves = {name: element_feature(data.leaf(name)) for name in data.keys}
    if key is not None:
        if not isinstance(element_feature(data.leaf(key)), types):
            matching = [name for name, leaf in leaves.items() if isinstance(leaf, types)]
            raise InputError(
                f"{role} key: found {key}, a {type(element_feature(data.leaf(key))).__name__}; {data.folder} has of "
                f"that kind: {', '.join(matching) or 'none'}"
            )
        return key
    matching = [name for name, leaf in leaves.items() if isinstance(leaf, types[0])]
    if len(matching) > 1:
        raise InputError(f"{role} key: {data.folder} has several: {', '.join(matching)}; name one of them")
    return matching[0] if matching else None


def element_feature(feature: Any) -> Any:
    """Return the element feature of a sequence; any other feature unchanged."""
    while isinstance(feature, tfds.features.Sequence):
        feature = feature.feature
    return feature


def feature_classes() -> set[str]:
    """Return the full names of tensorflow-datasets' own feature classes, including their former names."""
    base = tfds.features.FeatureConnector
    classes: list[Any] = [
        one for one in vars(tfds.features).values() if isinstance(one, type) and issubclass(one, base)
    ]
    return {name for one in classes for name in (f"{one.__module__}.{one.__name__}", *one.ALIASES)}


def dataset_folder(src: Path) -> Path:
    """Return the directory with dataset_info.json: `src` itself, or the only one below it.

    Raises:
        InputError: there is none, or more than one.
    """
    try:
        if not src.is_dir():
            raise InputError(f"src: found {src}, which is not a folder; name a tensorflow-datasets directory")
        below = ["/".join([*["*"] * depth, INFO]) for depth in range(1, MAX_DEPTH + 1)]
        found = [src] if (src / INFO).is_file() else sorted(path.parent for glob in below for path in src.glob(glob))
    except OSError as error:
        raise InputError(f"src: {src}: cannot be read ({error.strerror})") from None
    if not found:
        raise InputError(f"src: found {src}, which has no {INFO}; name a tensorflow-datasets directory")
    if len(found) > 1:
        raise InputError(f"src: found {len(found)} datasets in {src}; name one: {', '.join(map(str, found[:4]))}")
    return found[0]
