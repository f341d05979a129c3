"""Any tensorflow-datasets directory of RLDS episodes, read without TensorFlow: what it says, and its episodes."""

import difflib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.rlds_records import INFO, Arrays, Framed, Records, said
from instructrl.errors import InputError

DEEPEST = 3  # folders below src in which a dataset is looked for: name, config, version
FORMATS = ("array_record", "tfrecord")


class Source:
    """A directory with dataset_info.json, features.json and record files.

    Attributes:
        folder: where it is.
        metadata: what its metadata.json says; empty without one.
        splits: episodes of each split that has any.
        keys: everything that an episode holds, such as steps/observation/image.
    """

    def __init__(self, src: Path) -> None:
        """Read what the directory says about itself.

        Raises:
            InputError: it is none, or none that can be read here.
        """
        import tensorflow_datasets as tfds
        from absl import logging

        logging.set_verbosity(logging.ERROR)  # else it recommends OpenCV
        self.folder = dataset_folder(src)
        try:
            self._builder = tfds.builder_from_directory(self.folder)
            self._info = self._builder.info
            self._features = self._info.features
            self.metadata = dict(self._info.metadata or {})
            self.splits = {name: split.num_examples for name, split in self._info.splits.items() if split.num_examples}
            self._specs = dict(flat(self._features.get_serialized_info()))
            self.keys = sorted(self._specs)
            found = self._info.file_format.value
        except Exception as error:  # whatever a damaged or a foreign file leads to
            raise InputError(
                f"{self.folder}: cannot be read as a tensorflow-datasets directory ({said(error)})"
            ) from None
        if found not in FORMATS:
            raise InputError(
                f"{self.folder}: found files in {found}; allowed: {', '.join(FORMATS)}; convert it with tfds"
            )
        self._format = found
        if "steps" not in self._features or not isinstance(self._features["steps"], tfds.features.Dataset):
            raise InputError(
                f"{self.folder}: has no nested data set steps; RLDS episodes have one; found {self._listed()}"
            )
        if not self.splits:
            raise InputError(f"{self.folder}: no episodes in it; choose another src")

    @property
    def name(self) -> str:
        """What the dataset is called."""
        return self._info.name

    @property
    def version(self) -> str:
        """The dataset's version."""
        return str(self._info.version)

    def described(self) -> str:
        """Keys with shapes and dtypes, in one line."""
        parts = []
        for key in self.keys:
            info = self.leaf(key).get_tensor_info()
            shape = "" if not info.shape else "x".join("?" if size is None else str(size) for size in info.shape) + " "
            parts.append(f"{key} ({shape}{np.dtype(info.np_dtype)})".replace("object", "text"))
        return ", ".join(parts)

    def leaf(self, key: str) -> Any:
        """The feature of a key; that of one step for a key in steps.

        Raises:
            InputError: there is none.
        """
        if key not in self._specs:
            near = difflib.get_close_matches(key, self.keys, n=2, cutoff=0.6)
            help_ = f"did you mean {' or '.join(near)}?" if near else f"it has {self._listed()}"
            raise InputError(f"{key}: {self.folder} has no such key; {help_}")
        feature = self._features
        for part in key.split("/"):
            feature = feature[part]  # a nested data set gives what one of its steps has
        return feature

    def records(self, split: str) -> Records:
        """The episodes of a split, as bytes.

        Raises:
            InputError: a file is missing, or holds fewer or more than the directory says.
        """
        info = self._info.splits[split]
        paths = [Path(path) for path in info.filepaths]
        for path in paths:
            if not path.is_file():
                raise InputError(f"{path}: no such file, but {self.folder / INFO} counts on it; copy it again")
        if self._format == "tfrecord":
            return Framed(paths, list(info.shard_lengths))
        return Arrays(self._builder, split, paths, list(info.shard_lengths))

    def parser(self, keys: Iterable[str]) -> "Parser":
        """What makes episodes of records, with these keys in them."""
        return Parser(self, list(dict.fromkeys(keys)), self._specs)

    def _listed(self) -> str:
        return ", ".join(self.keys[:24]) + ", ..." * (len(self.keys) > 24)


class Parser:
    """Makes episodes of records; nothing but the asked keys is decoded."""

    def __init__(self, source: Source, keys: list[str], specs: dict[str, Any]) -> None:
        from tensorflow_datasets.core.example_parser import ExampleParserNp

        self.leaves = {key: source.leaf(key) for key in keys}
        self._parser = ExampleParserNp({key: specs[key] for key in keys})

    def episode(self, where: str, record: bytes) -> "Episode":
        """One episode; `where` names it in errors.

        Raises:
            InputError: the record is none of this dataset.
        """
        try:
            return Episode(where, self._parser.parse_example(record), self.leaves)
        except InputError:
            raise
        except Exception as error:  # whatever a record of something else leads to
            raise InputError(f"{where}: not as features.json says ({said(error)})") from None


class Episode:
    """What a record holds, decoded when asked for.

    Attributes:
        where: its name in errors.
    """

    def __init__(self, where: str, columns: Any, leaves: dict[str, Any]) -> None:
        self.where, self._columns, self._leaves = where, columns, leaves

    @cached_property
    def steps(self) -> int:
        """How many steps it has."""
        lengths = {key: len(column) for key, column in self._columns.items() if key.startswith("steps/")}
        if len(set(lengths.values())) != 1:
            raise InputError(f"{self.where}: steps of unequal length: {lengths}")
        return next(iter(lengths.values()))

    def at(self, key: str, step: int) -> Any:
        """The value of a key in steps at one step."""
        try:
            return self._leaves[key].decode_example_np(self._columns[key][step])
        except Exception as error:
            raise InputError(f"{self.where}: {key}: step {step}: cannot be decoded ({said(error)})") from None

    def column(self, key: str) -> np.ndarray:
        """The values of a key in steps at all of them [N ...]."""
        found = [np.asarray(self.at(key, step)) for step in range(self.steps)]
        if len({one.shape for one in found}) != 1:
            raise InputError(f"{self.where}: {key}: found none, or values of unequal shapes")
        return np.stack(found)

    def once(self, key: str) -> Any:
        """The value of a key that is not in steps."""
        try:
            return self._leaves[key].decode_example_np(self._columns[key])
        except Exception as error:
            raise InputError(f"{self.where}: {key}: cannot be decoded ({said(error)})") from None

    def text(self, key: str) -> tuple[str, ...]:
        """The sentences of a key, in steps at the first of them."""
        found = self.at(key, 0) if key.startswith("steps/") else self.once(key)
        several = [found] if isinstance(found, bytes | str) else list(np.asarray(found, object).reshape(-1))
        try:
            return tuple(one if isinstance(one, str) else one.decode() for one in several)
        except (UnicodeDecodeError, AttributeError):
            raise InputError(f"{self.where}: {key}: found no text in UTF-8") from None


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
