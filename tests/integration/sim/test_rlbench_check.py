"""The installation check: every missing part is named with the command that fixes it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from instructrl.errors import InputError
from instructrl.sim import make_env
from instructrl.sim.rlbench import check, interface
from instructrl.sim.rlbench.check import check_installation, coppeliasim_version, findings, is_served
from instructrl.sim.rlbench.shared_libraries import packages
from tests.fakes.rlbench_stand_in import StandIn, copy_packages, display, installed, settings
from tests.paths import ROOT


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[StandIn]:
    with installed(tmp_path) as made:
        yield made


def wrong() -> dict[str, tuple[str, str]]:
    """The failed checks: part -> (found, fix)."""
    return {finding.part: (finding.found, finding.fix) for finding in findings() if finding.fix}


def test_a_complete_installation_is_right(stand_in: StandIn) -> None:
    check_installation()
    assert wrong() == {}
    parts = [finding.part for finding in findings()]
    assert parts == [
        *("machine", "COPPELIASIM_ROOT", "CoppeliaSim", "system libraries", "LD_LIBRARY_PATH"),
        *("QT_QPA_PLATFORM_PLUGIN_PATH", "X display", "PyRep", "RLBench", "interface", "gymnasium"),
    ]


def hide(patch: pytest.MonkeyPatch, *names: str) -> None:
    """Hide packages, whatever is installed on this machine."""
    real = check.find_spec
    patch.setattr(check, "find_spec", lambda name: None if name in names else real(name))


def test_nothing_installed_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COPPELIASIM_ROOT", "DISPLAY", "LD_LIBRARY_PATH", "QT_QPA_PLATFORM_PLUGIN_PATH"):
        monkeypatch.delenv(name, raising=False)
    hide(monkeypatch, "pyrep", "rlbench", "gymnasium")
    assert list(wrong()) == ["COPPELIASIM_ROOT", "X display", "PyRep", "RLBench", "gymnasium"]
    expected = (
        r"^sim=rlbench: COPPELIASIM_ROOT: not set; make rlbench, .* \(4 more: python -m data_tools.rlbench check\)$"
    )
    with pytest.raises(InputError, match=expected):
        check_installation()
    with pytest.raises(InputError, match=expected):
        make_env(settings(), "reach_target")


@pytest.mark.parametrize("machine", [("darwin", "arm64"), ("linux", "aarch64")])
def test_another_machine(stand_in: StandIn, machine: tuple[str, str]) -> None:
    stand_in.patch.setattr(check.sys, "platform", machine[0])
    stand_in.patch.setattr(check.platform, "machine", lambda: machine[1])
    assert "needs Linux on x86_64" in wrong()["machine"][1]


def test_a_root_without_coppeliasim(stand_in: StandIn, tmp_path: Path) -> None:
    for place in (tmp_path / "nowhere", tmp_path):
        stand_in.patch.setenv("COPPELIASIM_ROOT", str(place))
        found, fix = wrong()["COPPELIASIM_ROOT"]
        assert found == f"no libcoppeliaSim.so in {place}" and fix.startswith("make rlbench")


@pytest.mark.parametrize(("number", "version"), [(40101, "4.1.1"), (40500, "4.5.0"), (40000, "4.0.0")])
def test_another_version_of_coppeliasim(stand_in: StandIn, number: int, version: str) -> None:
    header = stand_in.root / "programming" / "include" / "simConst.h"
    header.write_text(f"// versions\n#define SIM_PROGRAM_VERSION_NB\t\t{number}\n")
    assert wrong()["CoppeliaSim"][0] == version
    with pytest.raises(InputError, match=rf"CoppeliaSim: {version}; exactly 4.1.0 is needed: make rlbench"):
        check_installation()


def test_the_version_of_a_coppeliasim_without_headers(tmp_path: Path) -> None:
    for name, version in (
        ("CoppeliaSim_Edu_V4_1_0_Ubuntu20_04", "4.1.0"),
        ("V4_5_1_rev4", "4.5.1"),
        ("sim", "unknown"),
    ):
        (tmp_path / name).mkdir()
        assert coppeliasim_version(tmp_path / name) == version
    (tmp_path / "link").symlink_to(tmp_path / "V4_5_1_rev4")
    assert coppeliasim_version(tmp_path / "link") == "4.5.1"


def test_an_unknown_version_is_left_to_the_running_simulator(stand_in: StandIn) -> None:
    (stand_in.root / "programming" / "include" / "simConst.h").unlink()
    assert wrong() == {}


@pytest.mark.parametrize("name", ["LD_LIBRARY_PATH", "QT_QPA_PLATFORM_PLUGIN_PATH"])
@pytest.mark.parametrize("value", [None, "", "/usr/lib:/opt/CoppeliaSim"])
def test_a_variable_that_does_not_lead_to_it(stand_in: StandIn, name: str, value: str | None) -> None:
    stand_in.patch.delenv(name) if value is None else stand_in.patch.setenv(name, value)
    assert list(wrong()) == [name]
    assert f"export {name}=" in wrong()[name][1] and "$COPPELIASIM_ROOT" in wrong()[name][1]
    stand_in.patch.setenv(name, f"/usr/lib:{stand_in.root}/")
    assert wrong() == {}


def test_libraries_that_are_missing_are_named_with_their_packages(stand_in: StandIn, tmp_path: Path) -> None:
    """Real libraries: CoppeliaSim's needs one of the system, its plugin one more, and the latter one of CoppeliaSim."""
    library, plugin = stand_in.root / "libcoppeliaSim.so", stand_in.root / "platforms" / "libqxcb.so"
    library.unlink()
    plugin.parent.mkdir()
    needed = {name: linked(tmp_path / name) for name in ("libX11.so.99", "libxcb-icccm.so.99", "libQt5Xcb.so.5")}
    linked(library, needed["libX11.so.99"])
    linked(plugin, needed["libxcb-icccm.so.99"], needed["libQt5Xcb.so.5"])
    needed["libQt5Xcb.so.5"].rename(stand_in.root / "libQt5Xcb.so.5")
    assert "libX11.so.99, libxcb-icccm.so.99" not in str(wrong()), "both are beside the libraries that need them"
    for name in ("libX11.so.99", "libxcb-icccm.so.99"):
        needed[name].unlink()
    assert wrong() == {
        "system libraries": (
            "without libX11.so.99, libxcb-icccm.so.99",
            "sudo apt-get install libx11-99 libxcb-icccm99",
        )
    }
    (stand_in.root / "libQt5Xcb.so.5").unlink()
    found, fix = wrong()["system libraries"]
    assert "libQt5Xcb.so.5" in found and fix == f"remove {stand_in.root}, then make rlbench"


def linked(path: Path, *needed: Path) -> Path:
    """A shared library of this name that needs others."""
    names = [f"-Wl,-soname,{path.name}", "-Wl,--no-as-needed", f"-Wl,-rpath,{path.parent}:{path.parent.parent.parent}"]
    command = ["cc", "-shared", "-nostdlib", "-x", "c", "/dev/null", "-x", "none", *names, *map(str, needed)]
    subprocess.run([*command, "-o", str(path)], check=True)
    return path


def test_a_library_that_is_damaged_or_too_new_for_the_system(stand_in: StandIn, tmp_path: Path) -> None:
    library = stand_in.root / "libcoppeliaSim.so"
    library.unlink()
    library.write_bytes(b"half of it")
    assert wrong()["system libraries"] == (
        "libcoppeliaSim.so is damaged",
        f"remove {stand_in.root}, then make rlbench",
    )
    program = tmp_path / "programs" / "ldd"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$1: /lib/libc.so.6: version \\`GLIBC_2.99\' not found (required by $1)"\n')
    program.chmod(0o755)
    stand_in.patch.setenv("PATH", str(program.parent))
    assert wrong()["system libraries"][0] == "libcoppeliaSim.so needs GLIBC_2.99"
    program.unlink()
    assert wrong() == {}, "without ldd nothing is known"


@pytest.mark.parametrize(
    ("library", "package"),
    [
        ("libxkbcommon-x11.so.0", "libxkbcommon-x11-0"),
        ("libxkbcommon.so.0", "libxkbcommon0"),
        ("libxcb.so.1", "libxcb1"),
        ("libxcb-render-util.so.0", "libxcb-render-util0"),
        ("libxcb-xinerama.so.0", "libxcb-xinerama0"),
        ("libX11.so.6", "libx11-6"),
        ("libX11-xcb.so.1", "libx11-xcb1"),
        ("libSM.so.6", "libsm6"),
        ("libGL.so.1", "libgl1"),
        ("libGLU.so.1", "libglu1-mesa"),
        ("libdbus-1.so.3", "libdbus-1-3"),
        ("libusb-1.0.so.0", "libusb-1.0-0"),
        ("libgthread-2.0.so.0", "libglib2.0-0"),
        ("libfontconfig.so.1", "libfontconfig1"),
        ("libstdc++.so.6", "libstdc++6"),
        ("libz.so.1", "zlib1g"),
    ],
)
def test_the_debian_package_of_a_library(library: str, package: str) -> None:
    assert packages([library, library]) == [package]


def test_paths_that_pyrep_cannot_encode(stand_in: StandIn, tmp_path: Path) -> None:
    """PyRep encodes them as ASCII in another thread, for which it would wait forever."""
    moved = stand_in.root.rename(tmp_path / "Übung")
    stand_in.patch.setenv("COPPELIASIM_ROOT", str(moved))
    assert wrong()["COPPELIASIM_ROOT"] == (str(moved), "move it to a folder with ASCII letters only")


def test_displays(stand_in: StandIn) -> None:
    for name in ("127.0.0.1:2999", ":2998", "unix:2998", "nonsense", "a b:1", f"127.0.0.1:{10**6}"):
        stand_in.patch.setenv("DISPLAY", name)
        found, fix = wrong()["X display"]
        assert name in found and "no server" in found and "xvfb-run" in fix
    stand_in.patch.setenv("DISPLAY", "")
    assert wrong()["X display"][0] == "DISPLAY is not set"
    with display() as name:
        assert is_served(name) and is_served(name.removesuffix(".0"))
    assert not is_served(name)


def test_the_wrong_pyrep(stand_in: StandIn, tmp_path: Path) -> None:
    """`pip install pyrep` installs another package, which is recognized by its content, not imported."""
    package = tmp_path / "pypi" / "pyrep"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    (package / "reputation.py").touch()
    stand_in.patch.setattr(sys, "path", [str(tmp_path / "pypi"), *sys.path])
    found, fix = wrong()["PyRep"]
    assert "unrelated package" in found and fix == "pip uninstall pyrep, then make rlbench"
    (tmp_path / "pypi" / "rlbench.py").touch()
    stand_in.patch.setattr(sys, "path", [*sys.path])
    assert "another package of that name" in wrong()["RLBench"][0]


def test_a_pyrep_that_was_built_for_another_python(stand_in: StandIn, tmp_path: Path) -> None:
    backend = tmp_path / "built" / "pyrep" / "backend"
    backend.mkdir(parents=True)
    (backend.parent / "robots").mkdir()
    (backend.parent / "__init__.py").touch()
    (backend / "_sim_cffi.cpython-38-x86_64-linux-gnu.so").touch()
    stand_in.patch.setattr(sys, "path", [str(tmp_path / "built"), *sys.path])
    found, fix = wrong()["PyRep"]
    assert "has no compiled part for Python 3." in found and fix == "pip uninstall pyrep, then make rlbench"


@pytest.mark.parametrize(("name", "part"), [("pyrep", "PyRep"), ("rlbench", "RLBench"), ("gymnasium", "gymnasium")])
def test_a_missing_package(stand_in: StandIn, name: str, part: str) -> None:
    hide(stand_in.patch, name)
    assert list(wrong()) == [part] and "not installed" in wrong()[part][0]
    message = f"^sim=rlbench: {part}: not installed.*; (make rlbench|pip install gymnasium)$"
    with pytest.raises(InputError, match=message):
        check_installation()


# The interface.


@pytest.mark.parametrize("variant", ["original", "peract"])
def test_the_stand_in_has_the_recorded_interface(tmp_path: Path, variant: str) -> None:
    copy_packages(tmp_path, variant)
    assert interface.read(tmp_path / "rlbench", tmp_path / "pyrep") == interface.recorded(variant).names
    assert set(interface.task_names(tmp_path / "rlbench")) <= set(interface.recorded(variant).tasks)


@pytest.mark.parametrize("variant", ["original", "peract"])
def test_what_is_read_of_the_stand_in_is_what_python_finds(stand_in: StandIn, variant: str) -> None:
    """Names, parameters, defaults, base classes and members, by importing the modules."""
    stand_in.install(variant)
    script = """
import importlib, inspect, json, sys
from instructrl.sim.rlbench.interface import NAMES, recorded
for name, entries in recorded(sys.argv[1]).names.items():
    module = max((one for one in NAMES if name.startswith(one + ".")), key=len)
    found = importlib.import_module(module)
    for part in name.removeprefix(module + ".").split("."):
        if inspect.isclass(found) and not hasattr(found, part):  # an attribute of its objects
            assert entries == [] and f"self.{part} =" in inspect.getsource(found), name
        found = getattr(found, part, None)
    if inspect.isclass(found):
        assert [base.__name__ for base in found.__bases__ if base is not object] == entries, name
    elif inspect.isfunction(found):
        parameters = inspect.signature(found).parameters.values()
        assert [one.name for one in parameters] == [entry.partition("=")[0] for entry in entries], name
        optional = [one.name for one in parameters if one.default is not one.empty]
        assert optional == [entry.partition("=")[0] for entry in entries if "=" in entry], name
print("fine")
"""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run([sys.executable, "-c", script, variant], capture_output=True, text=True, env=variables)
    assert ran.stdout == "fine\n", ran.stderr


def test_the_two_variants_differ_where_the_adapter_has_to_know() -> None:
    original, peract = (interface.recorded(variant) for variant in interface.VARIANTS)
    planned = "rlbench.action_modes.arm_action_modes.EndEffectorPoseViaPlanning"
    assert "frame=RelativeFrame.WORLD" in original.names[f"{planned}.__init__"]
    assert "frame='world'" in peract.names[f"{planned}.__init__"]
    assert "ignore_collisions=True" in peract.names[f"{planned}.action"]
    for name in ("NoWaypointsError", "DemoError"):
        assert original.names[f"rlbench.backend.exceptions.{name}"] == ["Exception"]
    assert set(peract.tasks) - set(original.tasks) >= {
        *("slide_block_to_color_target", "sweep_to_dustpan_of_size", "place_wine_at_rack_location")
    }
    assert (len(original.tasks), len(peract.tasks)) == (106, 108)


@pytest.mark.parametrize(
    ("file", "old", "new", "found"),
    [
        (
            "rlbench/action_modes/arm_action_modes.py",
            "frame=RelativeFrame.WORLD",
            "frame=None",
            "EndEffectorPoseViaPlanning.__init__: found (self, absolute_mode=True, frame=None, collision_checking",
        ),
        (
            "rlbench/backend/exceptions.py",
            "class DemoError(Exception)",
            "class DemoError(WaypointError)",
            "DemoError: ",
        ),
        (
            "rlbench/demo.py",
            ", num_reset_attempts=None",
            "",
            "Demo.__init__: found (self, observations, random_seed=None)",
        ),
        (
            "rlbench/task_environment.py",
            "def reset(self, demo=None)",
            "def reset(self, demo)",
            "reset: found (self, demo)",
        ),
        ("rlbench/task_environment.py", "def reset_to_demo", "def to_demo", "TaskEnvironment.reset_to_demo: missing"),
        ("pyrep/const.py", "    OPENGL3 = ", "    OPENGL4 = ", "RenderMode.OPENGL3: missing"),
        ("pyrep/errors.py", "class IKError", "class Failure", "pyrep.errors.IKError: missing"),
    ],
)
def test_an_installation_with_another_interface_is_refused_before_anything_starts(
    stand_in: StandIn, file: str, old: str, new: str, found: str
) -> None:
    text = (stand_in.packages / file).read_text()
    assert old in text
    (stand_in.packages / file).write_text(text.replace(old, new))
    assert list(wrong()) == ["interface"] and found in wrong()["interface"][0]
    assert "make rlbench installs RLBench at commit 02720bba" in wrong()["interface"][1]
    with pytest.raises(InputError, match="sim=rlbench: interface: "):
        make_env(settings(), "reach_target")
    assert stand_in.processes() == 0


def test_an_installation_with_more_than_the_recorded_interface_is_fine(stand_in: StandIn) -> None:
    file = stand_in.packages / "rlbench/environment.py"
    file.write_text(file.read_text().replace("headless=False,", "headless=False, seed=None,"))
    assert wrong() == {}
    file.write_text("def launch(:\n")
    assert wrong()["interface"][0].startswith("cannot be read (invalid syntax")


def test_peracts_fork_is_recognized(stand_in: StandIn) -> None:
    assert {row.part: row.found for row in findings()}["interface"] == "that of RLBench"
    stand_in.install("peract")
    assert wrong() == {} and {row.part: row.found for row in findings()}["interface"] == "that of PerAct's fork"


@pytest.mark.parametrize(
    ("installed_variant", "task", "message"),
    [
        ("original", "slide_block_to_color_target", "a task of PerAct's fork: RLBENCH_VARIANT=peract make rlbench"),
        ("peract", "lift_numbered_block", "a task of RLBench: RLBENCH_VARIANT=original make rlbench"),
        ("original", "tower3", "not one of RLBench's 3; similar: "),
    ],
)
def test_a_task_of_the_other_variant_is_named_with_it(
    stand_in: StandIn, installed_variant: str, task: str, message: str
) -> None:
    stand_in.install(installed_variant)
    with pytest.raises(InputError, match=message):
        make_env(settings(), task)


# The commands.


def run(*words: str, module: str = "data_tools.rlbench") -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-m", module, *words], cwd=ROOT, capture_output=True, text=True, env=variables, timeout=120
    )


def test_the_table_of_the_check(stand_in: StandIn) -> None:
    right = run("check")
    assert right.returncode == 0 and right.stdout.endswith("RLBench is installed\n"), right.stderr
    stand_in.patch.setenv("DISPLAY", "")
    missing = run("check")
    assert missing.returncode == 2 and missing.stdout.endswith("1 of 11 parts are missing or wrong\n")
    assert "! X display" in missing.stdout and "-> put xvfb-run" in missing.stdout


def test_the_interface_is_printed_as_it_is_recorded(stand_in: StandIn) -> None:
    printed = run("interface")
    assert json.loads(printed.stdout)["names"] == interface.recorded("original").names, printed.stderr
    (stand_in.packages / "pyrep" / "errors.py").write_text("class (")
    refused = run("interface")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "cannot be read" in refused.stderr


def test_the_smoke_episode(stand_in: StandIn) -> None:
    right = run("smoke")
    assert right.returncode == 0, right.stderr
    assert "coppeliasim 4.1.0" in right.stdout and "success after 2 keyframes" in right.stdout
    stand_in.faults("demo@0=DemoError")
    failed = run("smoke", "--task", "close_jar")
    assert failed.returncode == 1 and "expert_failure after 0 keyframes" in failed.stdout
    assert failed.stderr.count("\n") == 1 and "close_jar: the expert's episode did not succeed" in failed.stderr


@pytest.mark.parametrize(
    ("module", "words", "message"),
    [
        ("data_tools.rlbench", ["smoke"], "X display: DISPLAY is not set; put xvfb-run"),
        ("data_tools.rlbench", ["mend"], "mend"),
        ("data_tools.collect", ["task=close_jar", "sim=rlbench"], "X display: DISPLAY is not set; put xvfb-run"),
    ],
)
def test_errors_of_commands_are_one_line(
    stand_in: StandIn, tmp_path: Path, module: str, words: list[str], message: str
) -> None:
    stand_in.patch.setenv("DISPLAY", "")
    more = [f"data.dir={tmp_path}/data"] * (module == "data_tools.collect")
    refused = run(*words, *more, module=module)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1 and message in refused.stderr, refused.stderr
