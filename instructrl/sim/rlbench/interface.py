"""The interface of RLBench and PyRep that the adapter relies on, read from their sources without importing them.

`interface.json` records it for the commits that `make rlbench` installs: the original's and PerAct's fork's. An
installation is compared with it before anything starts, and so is the stand-in of the tests. Its entries were printed
by `PYTHONPATH=RLBench:PyRep python -m data_tools.rlbench interface`, given checkouts of these commits.
"""

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from instructrl.package_files import RLBENCH_INTERFACE

VARIANTS = {"original": "RLBench", "peract": "PerAct's fork"}
# parameters of functions and methods, bases of classes; nothing for members of enums and attributes of objects
Interface = dict[str, list[str]]
# by module: its functions, and its classes with the methods and attributes to record
NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "pyrep.errors": {"ConfigurationError": (), "ConfigurationPathError": (), "IKError": ()},
    "pyrep.const": {"RenderMode": ()},
    "pyrep.backend.sim": {"simGetInt32Parameter": ()},
    "rlbench.demo": {"Demo": ("__init__", "__len__", "__getitem__", "restore_state")},
    "rlbench.environment": {"Environment": ("__init__", "launch", "get_task", "shutdown")},
    "rlbench.observation_config": {
        "CameraConfig": ("__init__", "set_all"),
        "ObservationConfig": ("__init__", "set_all_low_dim"),
    },
    "rlbench.task_environment": {
        "TaskEnvironment": (
            *("__init__", "get_name", "variation_count", "set_variation", "reset", "get_observation", "step"),
            *("get_demos", "reset_to_demo"),
        )
    },
    "rlbench.action_modes.action_mode": {
        "ActionMode": ("__init__",),
        "MoveArmThenGripper": ("action",),
    },
    "rlbench.action_modes.arm_action_modes": {
        "ArmActionMode": ("action_shape",),
        "RelativeFrame": (),
        "EndEffectorPoseViaPlanning": ("__init__", "action"),
    },
    "rlbench.action_modes.gripper_action_modes": {
        "GripperActionMode": ("action_shape",),
        "Discrete": ("__init__", "action"),
    },
    "rlbench.backend.exceptions": {
        "BoundaryError": (),
        "WaypointError": ("__init__",),
        "NoWaypointsError": ("__init__",),
        "DemoError": ("__init__",),
        "InvalidActionError": (),
        "TaskEnvironmentError": (),
    },
    "rlbench.backend.observation": {"Observation": ("__init__",)},
    "rlbench.backend.scene": {
        "Scene": (
            *("__init__", "reset", "init_episode", "get_demo", "get_observation", "_workspace_minx", "_workspace_maxx"),
            *("_workspace_miny", "_workspace_maxy", "_workspace_minz", "_workspace_maxz"),
        )
    },
    "rlbench.backend.task": {
        "Task": (
            *("__init__", "init_task", "init_episode", "variation_count", "get_name", "validate", "get_waypoints"),
            *("success", "reward", "cleanup_", "get_state", "restore_state"),
        )
    },
}


@dataclass(frozen=True)
class Recorded:
    """A recorded variant of RLBench."""

    commit: str
    names: Interface
    tasks: tuple[str, ...]


@cache
def recorded(variant: str) -> Recorded:
    """The recorded interface of "original" or "peract"."""
    found = json.loads(RLBENCH_INTERFACE.read_text(encoding="utf-8"))[variant]
    return Recorded(found["commit"], found["names"], tuple(found["tasks"]))


def read(rlbench: Path, pyrep: Path) -> Interface:
    """The interface of the packages in these folders; a name that is absent is left out.

    Raises:
        SyntaxError, OSError, ValueError: a file cannot be read or parsed.
    """
    folders, found = {"rlbench": rlbench, "pyrep": pyrep}, Interface()
    for module, names in NAMES.items():
        package, *parts = module.split(".")
        file = folders[package].joinpath(*parts).with_suffix(".py")
        for node in ast.parse(file.read_bytes()).body if file.exists() else []:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name in names:
                found |= {f"{module}.{name}": entries for name, entries in _entries(node, names[node.name])}
    return found


def closest_variant(found: Interface) -> tuple[str, list[str]]:
    """The variant that an interface differs least from, and the differences, of which there are none if it fits."""
    by_variant = {variant: differences(found, recorded(variant).names) for variant in VARIANTS}
    variant = min(by_variant, key=lambda name: len(by_variant[name]))
    return variant, by_variant[variant]


def differences(found: Interface, expected: Interface) -> list[str]:
    """A line for each name that is missing or has another form; further names and optional parameters are fine."""
    return [
        f"{name}: {_difference(found.get(name), entries)}"
        for name, entries in expected.items()
        if not _fits(found.get(name), entries)
    ]


def _fits(found: list[str] | None, expected: list[str]) -> bool:
    if found is None:
        return False
    required = [[one for one in entries if "=" not in one and not one.startswith("*")] for entries in (found, expected)]
    return required[0] == required[1] and set(expected) <= set(found)


def _difference(found: list[str] | None, expected: list[str]) -> str:
    return "missing" if found is None else f"found ({', '.join(found)}), expected ({', '.join(expected)})"


def task_names(rlbench: Path) -> tuple[str, ...]:
    """Names of the tasks of the package in this folder."""
    return tuple(sorted(path.stem for path in (rlbench / "tasks").glob("*.py") if path.stem != "__init__"))


def _entries(node: ast.ClassDef | ast.FunctionDef, methods: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
    if isinstance(node, ast.FunctionDef):
        yield node.name, _parameters(node.args)
        return
    bases = [ast.unparse(base) for base in node.bases if ast.unparse(base) != "object"]
    yield node.name, bases
    for one in node.body:
        if isinstance(one, ast.FunctionDef) and one.name in methods:
            yield f"{node.name}.{one.name}", _parameters(one.args)
        elif isinstance(one, ast.Assign) and bases == ["Enum"]:
            yield from ((f"{node.name}.{ast.unparse(target)}", []) for target in one.targets)
    for inner in ast.walk(node):
        for target in inner.targets if isinstance(inner, ast.Assign) else ():
            if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self" and target.attr in methods:
                yield f"{node.name}.{target.attr}", []


def _parameters(given: ast.arguments) -> list[str]:
    """Parameters in the form name or name=default, without annotations."""
    plain = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(plain) - len(given.defaults)) + [*given.defaults]
    pairs = [*zip(plain, defaults, strict=True), *zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    found = [one.arg if value is None else f"{one.arg}={ast.unparse(value)}" for one, value in pairs]
    return found + [f"*{one.arg}" for one in (given.vararg, given.kwarg) if one]
