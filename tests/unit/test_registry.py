"""Registries know names without an import, and say in one line what is wrong with an entry."""

import sys
from pathlib import Path

import pytest

from instructrl import registry as registry_module
from instructrl.errors import InputError
from instructrl.registry import Registry, load_implementation, modules
from tests.fixtures.packages import write_metadata

OWN = {"first": "collections:OrderedDict", "second": "collections:Counter"}


def registry(base: str | None = "builtins:dict") -> Registry[type]:
    return Registry("thing.kind", OWN, group="tests.things", base=base)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def install(site: Path, name: str, **entries: str) -> None:
    write_metadata(site, name, {"tests.things": entries})


def test_own_entries_come_first_in_their_order_then_those_of_packages(site: Path) -> None:
    install(site, "one", zeta="nowhere:Zeta", alpha="collections:defaultdict")
    known = registry()
    assert list(known) == ["first", "second", "alpha", "zeta"] and len(known) == 4
    assert "zeta" in known and "nowhere" not in sys.modules, "names need no import"
    assert known["first"].__name__ == "OrderedDict" and known["alpha"].__name__ == "defaultdict"
    assert known.added() == {"alpha": "package one 1", "zeta": "package one 1"}


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"^thing\.kind: found third; allowed: first, second, or an entry point of"):
        registry()["third"]
    with pytest.raises(InputError, match=r"^thing\.kind: found 'a\\nb'; allowed"):
        registry()["a\nb"]


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (
            "nowhere:Thing",
            r"found new of package one 1, whose entry point new = nowhere:Thing cannot be imported",
        ),
        ("collections:Nothing", r"entry point new = collections:Nothing cannot be imported \(AttributeError: "),
        (
            "collections:deque",
            r"entry point new = collections:deque is not a subclass of builtins.dict; repair",
        ),
        ("math:pi", r"entry point new = math:pi is not a subclass of builtins.dict; repair, update or uninstall"),
    ],
)
def test_an_entry_that_cannot_be_used_is_one_line(site: Path, value: str, line: str) -> None:
    install(site, "one", new=value)
    with pytest.raises(InputError, match=line):
        registry()["new"]
    assert registry()["first"], "the others are as they were"


def test_entries_may_be_functions(site: Path) -> None:
    install(site, "one", root="math:sqrt", number="math:pi")
    functions: Registry = registry(base=None)
    assert functions["root"](4) == 2
    with pytest.raises(InputError, match=r"math:pi is not a function"):
        functions["number"]


def test_a_name_that_is_taken_twice_is_refused_when_it_is_used(site: Path) -> None:
    install(site, "one", first="collections:defaultdict", new="collections:Counter")
    install(site, "two", new="collections:Counter")
    known = registry()
    with pytest.raises(InputError, match=r"found first, a name that InstructRL and package one 1 have taken; rename"):
        known["first"]
    with pytest.raises(InputError, match=r"found new, a name that package (one|two) 1 and package (one|two) 1 have"):
        known["new"]
    assert known["second"] and known.load_own("first") and known.added()["new"].startswith("thing.kind: found new")


def test_packages_are_looked_for_again_on_request(site: Path) -> None:
    known = registry()
    assert "new" not in known
    install(site, "one", new="collections:Counter")
    known.refresh()
    assert "new" in known


def test_modules_are_entries_by_the_class_that_they_define(tmp_path: Path) -> None:
    (tmp_path / "open_drawer.py").write_text("class OpenDrawer:\n    pass\n\nclass OpenDrawerConfig(dict):\n    pass\n")
    (tmp_path / "helper.py").write_text("class Other:\n    pass\n\nclass HelperThing:\n    pass\n")
    assert modules("a.b", tmp_path) == {"open_drawer": "a.b.open_drawer:OpenDrawer"}
    assert modules("a.b", tmp_path, suffix="Config") == {"open_drawer": "a.b.open_drawer:OpenDrawerConfig"}


def test_an_implementation_that_cannot_be_imported_is_one_line() -> None:
    class Settings:
        implementation = "nowhere:Thing"

    with pytest.raises(InputError, match=r"^thing\.kind=x: .*Settings names the implementation 'nowhere:Thing', which"):
        load_implementation("thing.kind=x", Settings)
    with pytest.raises(InputError, match=r"names the implementation ''"):
        load_implementation("thing.kind=x", dict)


@pytest.mark.parametrize("slow", [True, False])
def test_a_slow_import_of_another_package_is_reported(
    slow: bool, site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(registry_module, "SLOW_IMPORT", 0.1 if slow else 60.0)
    monkeypatch.delitem(sys.modules, "waits_for_a_robot", raising=False)
    (site / "waits_for_a_robot.py").write_text("import time\ntime.sleep(0.5)\nclass Robot(dict):\n    pass\n")
    install(site, "one", robot="waits_for_a_robot:Robot")
    assert registry()["robot"].__name__ == "Robot"

    class Settings:
        implementation = "waits_for_a_robot:Robot"

    line = (
        "warning: waits_for_a_robot: found an import that has taken 0.1 seconds; if it never ends, stop with ctrl-C; "
        "repair, update or uninstall the package\n"
    )
    assert capsys.readouterr().err == line * slow
    del sys.modules["waits_for_a_robot"]
    load_implementation("thing.kind=x", Settings)
    assert capsys.readouterr().err == line * slow
