"""Names of Python classes in the JSON files of a tensorflow-datasets directory, checked before it is opened.

tensorflow-datasets imports the module of every feature class that features.json or dataset_info.json names: a directory
of others would run its own code.
"""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from instructrl.data.image_text.tfrecord import INFO
from instructrl.errors import InputError, format_value, short_message

FEATURES = "features.json"
CLASS_KEYS = ("pythonClassName", "python_class_name")  # protobuf's JSON parser accepts both
Entries = list[tuple[str, Any]]  # of one JSON object, in order; keys may repeat


def check_classes(folder: Path, allowed: Collection[str]) -> None:
    """Raise InputError unless all classes that a directory's JSON files name are among `allowed`.

    Args:
        folder: directory with features.json and dataset_info.json.
        allowed: full names ("module.Class") of feature classes that are imported already.
    """
    for path in (folder / INFO, folder / FEATURES):
        if not path.exists():
            raise InputError(f"{path}: no such file, which a tensorflow-datasets directory has; copy it again")
        if not path.is_file():
            raise InputError(f"{path}: not a regular file; copy the data set again")
        names = [*class_names(path)]
        if not names and path.name == FEATURES:
            raise InputError(f"{path}: names no features; copy it again")
        for name in names:
            if name not in allowed:
                kinds = sorted({known.rpartition(".")[2] for known in allowed})
                raise InputError(
                    f"{path}: found the class {format_value(name)}, whose module would be run; allowed: "
                    f"tensorflow-datasets' own {', '.join(kinds)}; write the data set again with those"
                )


def class_names(path: Path) -> Iterator[str]:
    """Yield all class names in a JSON file, including those in JSON texts within it.

    Raises:
        InputError: it cannot be read.
    """
    try:
        pending = [path.read_text()]  # as tensorflow-datasets decodes it
        while pending:
            for entries in json_objects(pending.pop()):
                yield from named_classes(entries)
                # A class without a message of its own has its settings in a JSON text, which may contain features.
                pending += [value for _, value in entries if isinstance(value, str) and is_json(value)]
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: cannot be read as a tensorflow-datasets directory ({short_message(error)}); copy it again"
        ) from None


def json_objects(text: str) -> list[Entries]:
    """Return the entries of all objects in a JSON text, at any depth."""
    found: list[Entries] = []
    json.loads(text, object_pairs_hook=found.append)
    return found


def is_json(text: str) -> bool:
    """Return True if a text is a JSON object or array."""
    if not text.lstrip().startswith(("{", "[")):
        return False  # most texts: a description, or a class name
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def named_classes(entries: Entries) -> Iterator[str]:
    """Yield the class names of one object: of a feature message, or of the form {type, content} before messages."""
    is_feature = {"type", "content"} <= {key for key, _ in entries}
    for key, value in entries:
        if key in CLASS_KEYS or (key == "type" and is_feature):
            # A feature called "type" has an object as its value, which is None in `entries`.
            yield from [value] if isinstance(value, str) else []
