"""YAML files of settings: read whole and checked, or refused in one line that names the file and the line in it."""

import functools
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import yaml
from omegaconf import OmegaConf

from instructrl.errors import InputError, format_value, shorten

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32  # settings are nested four deep
MAX_VALUES = 20_000  # as written out, without aliases: they multiply
MAX_DIGITS = 300  # of a number: beyond the range of floats, OmegaConf and Python fail in ways of their own

NO_NAME = re.compile(r"(?i)~?|null|true|false|yes|no|on|off|[-+.]*[0-9].*")  # YAML reads something else than text
TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")}

Key = tuple[str, ...]  # the keys of nested groups


@dataclass(frozen=True)
class YamlFile:
    """The settings in a file, with interpolations unresolved, and where they are."""

    path: Path
    text: str
    values: dict[Any, Any]
    lines: Mapping[Key, int]

    def place(self, key: Key = ()) -> str:
        """The file, and the line of a key or of the group that would hold it, for messages."""
        while key and key not in self.lines:
            key = key[:-1]
        return f"{self.path}, line {self.lines[key]}" if key else f"{self.path}"


class FaultError(Exception):
    """A fault in a YAML file."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def read_yaml(path: Path) -> YamlFile:
    """Read a file with settings; an empty one has none.

    Raises:
        InputError: it cannot be read, or has something else in it; it is never expanded beyond the limits above.
    """
    if not path.is_file():
        kinds = ((path.is_dir, "a folder"), (path.exists, "no regular file"), (path.is_symlink, "a link to no file"))
        found = next((name for is_kind, name in kinds if is_kind()), "no such file")
        raise InputError(f"{path}: found {found}; allowed: a YAML file with settings")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if len(content) > MAX_BYTES:
        raise InputError(f"{path}: found more than {MAX_BYTES // 1024} kB; allowed: a YAML file with settings")
    return parse(path, content)


@functools.lru_cache(maxsize=256)  # the files are composed again for each job of a sweep
def parse(path: Path, content: bytes) -> YamlFile:
    """The settings in a file with this content; not to be changed."""
    try:
        text = content.decode("utf-8-sig")  # some editors put a byte order mark in front
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: found bytes that are not UTF-8; save the file as UTF-8") from None
    try:
        lines = Outline().read(text)
        values = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)))
    except FaultError as fault:
        raise InputError(f"{path}, line {fault.line}: {fault}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        found = format_value(text[error.position : error.position + 1])
        raise InputError(f"{path}, line {line}: found the control character {found}; allowed: text") from None
    except yaml.MarkedYAMLError as error:
        raise InputError(f"{path}{line_of(error)}: cannot be read as YAML ({describe(error)})") from None
    except Exception as error:  # of constructors of values, and of OmegaConf's grammar of ${...}
        at, found = next(unreadable_values(text), ("", first_line(error)))
        raise InputError(f"{path}{at}: cannot be read ({found})") from None
    return YamlFile(path, text, cast(dict[Any, Any], values), MappingProxyType(lines))


def line_of(error: yaml.MarkedYAMLError) -> str:
    """The line of an error of YAML's parser, as part of a message."""
    mark = error.problem_mark or error.context_mark
    return f", line {mark.line + 1}" if mark else ""


def describe(error: yaml.MarkedYAMLError) -> str:
    """An error of YAML's parser as a phrase."""
    text = " ".join(f"{error.context or ''} {error.problem or ''}".split())
    return f"{text}; indent with spaces" if r"'\t'" in text else text


def unreadable_values(text: str) -> Iterator[tuple[str, str]]:
    """The lines and the errors of values that cannot be read by themselves."""
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.ScalarEvent):
            try:
                OmegaConf.load(io.StringIO(f"key: {yaml.safe_dump(event.value)}"))
            except Exception as error:
                yield f", line {event.start_mark.line + 1}", first_line(error)


def first_line(error: Exception) -> str:
    """The first line of an error: OmegaConf appends others, about its own types."""
    return shorten(next(iter(str(error).splitlines()), type(error).__name__), 200)


@dataclass
class Container:
    """A mapping or a list that is being read."""

    line: int
    is_mapping: bool
    path: Key
    anchor: str | None
    keys: dict[str, int] = field(default_factory=dict)
    key: str | None = None  # whose value comes next
    size: int = 1  # values in it, with those of aliases


class Outline:
    """The lines of all keys of a file, found without building its values, which could be of any size and depth."""

    def __init__(self) -> None:
        self.lines: dict[Key, int] = {}
        self._open: list[Container] = []
        self._sizes: dict[str, int] = {}  # of anchors
        self._documents = 0

    def read(self, text: str) -> dict[Key, int]:
        """The line of each key.

        Raises:
            FaultError: the file has no mapping at its top, or is too large, too deep, or has a key twice.
            yaml.YAMLError: it is no YAML.
        """
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            line, tag = event.start_mark.line + 1, getattr(event, "tag", None)
            if tag not in (None, "!", *TAGS):
                raise FaultError(line, f"found the tag {format_value(tag)}; allowed: values without one")
            self._take(event, line)
        return self.lines

    def _take(self, event: yaml.Event, line: int) -> None:
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise FaultError(line, "found a second document; allowed: one, without ---")
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._begin(event, line)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            ended = self._open.pop()
            self._count(ended.size, line, ended.anchor)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._sizes:
                raise FaultError(line, f"found *{event.anchor} in itself; allowed: an anchor that ended before")
            self._check_key(event, line)
            self._count(self._sizes[event.anchor], line)
        elif isinstance(event, yaml.ScalarEvent):
            self._take_scalar(event, line)

    def _begin(self, event: yaml.CollectionStartEvent, line: int) -> None:
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        if not self._open and not is_mapping:
            raise FaultError(line, "found a list; allowed: settings, like key: value")
        self._check_key(event, line)
        if len(self._open) >= MAX_DEPTH:
            raise FaultError(line, f"found more than {MAX_DEPTH} levels; settings are nested four deep")
        above = self._open[-1] if self._open else None
        path = (*above.path, *([above.key] if above.key is not None else [])) if above else ()
        self._open.append(Container(line, is_mapping, path, event.anchor))

    def _check_key(self, event: yaml.Event, line: int) -> None:
        if self._open and self._open[-1].is_mapping and self._open[-1].key is None:
            found = "an alias" if isinstance(event, yaml.AliasEvent) else "a list or a group"
            raise FaultError(line, f"found {found} in the place of a key; allowed: a name")

    def _take_scalar(self, event: yaml.ScalarEvent, line: int) -> None:
        within = self._open[-1] if self._open else None
        if within is None and event.value:
            raise FaultError(line, f"found {format_value(event.value)}; allowed: settings, like key: value")
        if re.fullmatch(rf"[-+]?[0-9][0-9a-fA-FxX_:]{{{MAX_DIGITS},}}", event.value) and event.implicit[0]:
            raise FaultError(line, "found a number of hundreds of digits")
        if within is None or not within.is_mapping or within.key is not None:
            self._count(1, line, event.anchor)
            return
        if event.implicit[0] and NO_NAME.fullmatch(event.value):
            raise FaultError(line, f"found {format_value(event.value)} in the place of a key; allowed: a name")
        if event.value in within.keys:
            first = within.keys[event.value]
            raise FaultError(line, f"found {format_value(event.value)} again, first in line {first}; allowed: once")
        within.key = event.value
        within.keys[event.value] = line
        self.lines.setdefault((*within.path, event.value), line)

    def _count(self, size: int, line: int, anchor: str | None = None) -> None:
        """A value of this size ended: that of the key before it, if it is in a mapping."""
        if anchor:
            self._sizes[anchor] = size
        if not self._open:
            return
        self._open[-1].size += size
        self._open[-1].key = None
        if self._open[-1].size > MAX_VALUES:
            raise FaultError(line, f"found more than {MAX_VALUES} values, those of aliases included")
