"""Registries: named entries of InstructRL and of other installed packages, imported when they are used.

    HEADS: Registry[type[HeadConfig]] = Registry(
        "head.kind",
        {"regression": "instructrl.config.heads:RegressionConfig"},
        group="instructrl.heads",
        base="instructrl.config.model:HeadConfig",
    )
    list(HEADS)  # the names; nothing is imported
    HEADS["regression"]  # imports the module and returns the class

Another package adds an entry in its pyproject.toml, and nothing of InstructRL is edited:

    [project.entry-points."instructrl.heads"]
    gaussian = "acme_robots.gaussian:GaussianConfig"
"""

import importlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from instructrl.errors import OURS, REPAIR, InputError, format_value, note_package, summarize, warn

T = TypeVar("T")
SLOW_IMPORT = 20.0  # seconds after which a line says what is being imported


class Registry(Generic[T]):
    """Entries by name: InstructRL's own, then those of installed packages in alphabetical order.

    Attributes:
        key: the setting that chooses an entry, with which every error begins.
        own: InstructRL's entries, as references "module:attribute".
        group: the entry point group in which other packages name theirs.
    """

    def __init__(
        self,
        key: str,
        own: Mapping[str, str],
        *,
        group: str,
        base: str | None = None,
        check: Callable[[type, type], None] | None = None,
    ) -> None:
        """Describe the entries; nothing is imported.

        Args:
            key: the setting that chooses an entry.
            own: references "module:attribute" by name.
            group: the entry point group of other packages.
            base: reference of the class of which every entry is a subclass; None: entries are functions.
            check: raises InputError for an entry that cannot be used, given it and the base; called once for each.
        """
        self.key, self.own, self.group, self._base, self._check = key, dict(own), group, base, check
        self._checked: set[T] = set()

    def __iter__(self) -> Iterator[str]:
        return iter([*self.own, *sorted(self._added.keys() - self.own.keys())])

    def __len__(self) -> int:
        return len(self.own.keys() | self._added.keys())

    def __contains__(self, name: object) -> bool:
        return name in self.own or name in self._added

    def __getitem__(self, name: str) -> T:
        """Import the entry of this name.

        Raises:
            InputError: there is none, or two, or it cannot be imported, is of another kind or cannot be used.
        """
        self.check(name)
        if name in self.own:
            found, where, remedy = self.load_own(name), f"{self.key}: found {name} of {self.own[name]}", "correct it"
        else:
            [point] = self._added[name]
            found, where, remedy = cast(T, self._load_added(point)), self._source(point), REPAIR
        if self._check is not None and self._base is not None and found not in self._checked:
            try:
                self._check(cast(type, found), load(self._base))
            except InputError as error:
                raise InputError(f"{where}, cannot be used: {error}; {remedy}") from None
            self._checked.add(found)
        return found

    def load_own(self, name: str) -> T:
        """Import an entry of InstructRL, also where another package has taken its name."""
        return cast(T, load(self.own[name]))

    def check(self, name: str) -> None:
        """Raise InputError unless exactly one entry has this name."""
        added = self._added.get(name, [])
        if len(added) + (name in self.own) > 1:
            owners = [*(["InstructRL"] if name in self.own else []), *map(describe, added)]
            raise InputError(
                f"{self.key}: found {name}, a name that {' and '.join(owners)} have taken; "
                f"rename the entry point in {describe(added[-1])}, or uninstall it"
            )
        if name not in self:
            raise InputError(
                f"{self.key}: found {format_value(name)}; allowed: {', '.join(self)}, "
                f"or an entry point of that name in the group {self.group} of an installed package",
                key=self.key,
            )

    def added(self) -> dict[str, str]:
        """Describe the entries of other packages by name: the package, or why the name cannot be used."""
        found = {}
        for name in sorted(self._added):
            try:
                self.check(name)
                found[name] = describe(self._added[name][0])
            except InputError as error:
                found[name] = str(error)
        return found

    def refresh(self) -> None:
        """Look again at which packages are installed."""
        vars(self).pop("_added", None)

    @cached_property
    def _added(self) -> dict[str, list[EntryPoint]]:
        found: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=self.group):
            found.setdefault(point.name, []).append(point)
        return found

    def _source(self, point: EntryPoint) -> str:
        """The entry of another package, for errors."""
        return f"{self.key}: found {point.name} of {describe(point)}, whose entry point {point.name} = {point.value}"

    def _load_added(self, point: EntryPoint) -> Any:
        where = self._source(point)
        note_package(point.value)
        try:
            with report_slow_import(point.value):
                found = point.load()
        except (Exception, SystemExit) as error:  # whatever a module of others raises while it is imported
            raise InputError(f"{where} cannot be imported ({summarize(error)}); {REPAIR}") from None
        if self._base is None:
            fits = callable(found)
        else:
            fits = isinstance(found, type) and issubclass(found, load(self._base))
        if not fits:
            expected = "a function" if self._base is None else f"a subclass of {self._base.replace(':', '.')}"
            raise InputError(f"{where} is not {expected}; {REPAIR}")
        return found


def describe(point: EntryPoint) -> str:
    """The package of an entry point, with its version."""
    return f"package {point.dist.name} {point.dist.version}" if point.dist else "an unnamed package"


def load(reference: str) -> Any:
    """Import what a reference "module:attribute" names."""
    module, _, name = reference.partition(":")
    note_package(module)
    with report_slow_import(reference):
        return getattr(importlib.import_module(module), name)


@contextmanager
def report_slow_import(reference: str) -> Iterator[None]:
    """Warn in one line if an import of another package, which may wait forever, takes long.

    Args:
        reference: "module:attribute", whose module the block imports.
    """
    module = reference.partition(":")[0]
    if module.partition(".")[0] == OURS:
        yield
        return
    found = f"found an import that has taken {SLOW_IMPORT:g} seconds"
    line = f"{module}: {found}; if it never ends, stop with ctrl-C; {REPAIR}"
    timer = threading.Timer(SLOW_IMPORT, warn, [line])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def load_implementation(key: str, config: type) -> Callable[..., Any]:
    """Import the class that a dataclass of settings names in its attribute `implementation`.

    Args:
        key: the setting that chose the dataclass, for errors.
        config: The dataclass.

    Raises:
        InputError: it names none, or one of another package that cannot be imported.
    """
    reference = getattr(config, "implementation", "")
    try:
        return cast(Callable[..., Any], load(reference))
    except (Exception, SystemExit) as error:
        if reference.startswith("instructrl."):
            raise
        raise InputError(
            f"{key}: {config.__module__}.{config.__qualname__} names the implementation {reference!r}, "
            f"which cannot be imported ({summarize(error)}); {REPAIR}"
        ) from None


def modules(package: str, folder: Path, *, suffix: str = "") -> dict[str, str]:
    """References to the entries of a package that has one in each file, by the names of the files; nothing is imported.

    The file `open_drawer.py` holds the entry open_drawer if it defines the class OpenDrawer, or with a `suffix`
    OpenDrawerConfig. Files without such a class are helpers and no entries.
    """
    found = {}
    for path in sorted(folder.glob("*.py")):
        name = "".join(part.capitalize() for part in path.stem.split("_")) + suffix
        if re.search(rf"^class {name}\b", path.read_text(encoding="utf-8"), re.MULTILINE):
            found[path.stem] = f"{package}.{path.stem}:{name}"
    return found
