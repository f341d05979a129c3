"""Comparability with numbers that others published: only where every choice of their protocol was met.

What the protocols fix is in conf/protocol/, its sources in docs/rlbench.md.
"""

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from omegaconf import OmegaConf

from instructrl.cli.compose import protocol_preset
from instructrl.config.evaluation import RECORDED, RLBenchProtocol, protocol_record
from instructrl.config.fields import flatten
from instructrl.errors import format_value
from instructrl.package_files import CONFIG_DIR
from instructrl.types import COLLISIONS

# By protocol: its authors' method, the sets of tasks that they published, and the variant of RLBench that has them
AUTHORS = MappingProxyType(
    {
        "peract": ("PerAct", ("peract_18",), "peract"),
        "rvt": ("RVT", ("peract_18",), "peract"),
        "hiveformer": ("HiveFormer", ("hiveformer_10", "rlbench_74"), "original"),
    }
)
VARIANT = "variant"  # of RLBench, which records it with what it plays; no other simulator does
_FROM_STORED_SCENES = ("peract", "rvt")


def published_record(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """Whose published numbers results are asked to be compared with, and what speaks against it.

    Args:
        results: the content of results.json.

    Returns:
        `of`, the method's name, and `differences`, texts; they are comparable if there are none. None for a protocol of
        nobody else.
    """
    name = results.get("protocol", {}).get("name")
    if name not in AUTHORS:
        return None
    method, sets, variant = AUTHORS[name]
    played = results.get("simulator") or {}
    if VARIANT not in played:
        return {"of": method, "differences": [f"played on {played.get('simulator', 'no simulator')}, not on RLBench"]}
    differences = [*_protocol_differences(name, results["protocol"])]
    if played.get("renderer") != _fixed(name)["rlbench.renderer"]:
        differences.append(f"renderer {played.get('renderer')}, there {_fixed(name)['rlbench.renderer']}")
    if played[VARIANT] != variant:
        differences.append(f"RLBench's variant {played[VARIANT]}, there {variant}")
    others = [task for task in results.get("tasks", [results.get("task")]) if task not in _tasks(sets)]
    if others:
        differences.append(f"{', '.join(map(str, others))} not among the tasks of {' and '.join(sets)}")
    if name in _FROM_STORED_SCENES:
        if not results["protocol"].get("scenes"):
            differences.append("scenes drawn by the seed, there stored ones of its authors (protocol.scenes=FOLDER)")
        if results.get("actions") != COLLISIONS:
            differences.append("ignore_collisions the same in all actions, there predicted by the agent")
    if results.get("problems"):
        differences.append("episodes that the simulator lost count as failures")
    return {"of": method, "differences": differences}


def published_text(results: Mapping[str, Any]) -> str:
    """The same as a sentence; empty for results of earlier versions.

    Of a protocol of nobody else, its choices for RLBench that another simulator left out.
    """
    found = results.get("published")
    if not found:
        return _unused(results)
    if not found["differences"]:
        return f"Comparable with {found['of']}'s published numbers: every choice of its protocol was met."
    return f"Not comparable with {found['of']}'s published numbers: {'; '.join(found['differences'])}."


def _unused(results: Mapping[str, Any]) -> str:
    """The sentence on choices for RLBench that were not used; empty if there are none, or if it was RLBench."""
    asked, played = results.get("protocol", {}).get("rlbench", {}), results.get("simulator", {})
    changed = [f"protocol.rlbench.{key}" for key, value in asked.items() if value != getattr(RLBenchProtocol(), key)]
    return f"Not used on {played.get('simulator')}: {', '.join(changed)}." if changed and VARIANT not in played else ""


def _protocol_differences(name: str, protocol: Mapping[str, Any]) -> list[str]:
    """The settings that are not those of the preset."""
    recorded, fixed = dict(flatten(dict(protocol))), _fixed(name)
    free = ("conditions", "protocol.scenes", "protocol.rlbench.renderer", *["seed"] * bool(protocol.get("scenes")))
    return [
        f"{key}={format_value(recorded[entry]) if entry in recorded else 'not recorded'}, there "
        f"{format_value(fixed[entry])}"
        for key, entry in RECORDED.items()
        if key not in free and (entry not in recorded or recorded[entry] != fixed[entry])
    ]


@cache
def _fixed(name: str) -> dict[str, Any]:
    return dict(flatten(protocol_record(protocol_preset(name))))


@cache
def _tasks(sets: tuple[str, ...]) -> frozenset[str]:
    files = [OmegaConf.load(CONFIG_DIR / "task" / f"{name}.yaml") for name in sets]
    return frozenset(task for file in files for task in OmegaConf.select(file, "tasks"))
