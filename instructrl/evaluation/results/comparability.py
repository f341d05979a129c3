"""Cautions of results: what makes them differ from others beside the agent, such as another simulator than the data's.

They follow from what results.json records: `training` (how far it was), `demonstrations` (what each task's were
collected with) and `simulator` (what the episodes were played with). Earlier versions recorded less.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from instructrl.storage.lease import active_holder
from instructrl.storage.paths import StoragePath
from instructrl.training.monitoring.metric_files import METRICS_FILE, missing_lines, read_lines
from instructrl.training.run_dir import DataRecord, extended_after

_Sentence = Callable[[Mapping[str, str], Mapping[str, str]], str]  # on what was collected with, and played with
_OF_NO_EFFECT = ("expert", "suite")  # parts of a provenance that change no image and no motion
_NAMES = {"version": "simulator version", "renderer": "renderer", "opengl": "OpenGL backend"}


def training_record(run: Path, location: StoragePath, *, epochs: int, validate_every: int) -> dict[str, Any]:
    """Progress of a run's training when it is evaluated.

    Args:
        run: local working copy of the run directory.
        location: the directory itself, which the process that trains there holds a lease on.
        epochs: in the run's settings.
        validate_every: likewise.

    Returns:
        `epoch` of the last checkpoint, null if unknown, `epochs`, and the `process` at work, empty if there is none; of
        an extended run also `extended_after`, the epochs after which it had finished before; and if metrics.jsonl lacks
        lines, a sentence on them, `missing`.
    """
    folders = (run / "checkpoints").iterdir() if (run / "checkpoints").is_dir() else ()
    step = max((int(folder.name) for folder in folders if folder.name.isdecimal()), default=None)
    metrics = read_lines(run / METRICS_FILE)
    lines = [line for line in metrics if line["split"] != "step" and line["epoch"] >= 1]
    epoch = None if step is None or not lines else int(step * lines[-1]["epoch"] / lines[-1]["step"] + 1e-6)
    record = {"epoch": epoch, "epochs": epochs, "process": str(active_holder(location) or "")}
    extended = extended_after(run, epochs)
    missing = missing_lines(metrics, validate_every=validate_every)
    return record | ({"extended_after": extended} if extended else {}) | ({"missing": missing} if missing else {})


def demonstrations_record(data: DataRecord, tasks: Sequence[str]) -> dict[str, dict[str, str]]:
    """The provenance of each task's training demonstrations, from data.json."""
    found = {key.partition("/")[2]: entry for key, entry in data.items() if key.partition("/")[0] == "train"}
    return {task: dict(found.get(task, found.get("", {})).get("provenance", {})) for task in tasks}


def cautions(results: Mapping[str, Any]) -> list[str]:
    """Sentences on what limits the comparison of results with others, or what they say of the agent."""
    training = results.get("training") or {}
    missing = [training["missing"]] if "missing" in training else []
    return [*_training_caution(training), *missing, *_by_task(results, _difference)]


def unrecorded(results: Mapping[str, Any]) -> list[str]:
    """Sentences on what is not known of the demonstrations, as of files of earlier versions or of others."""
    return _by_task(results, _unrecorded)


def collected_with(results: Mapping[str, Any]) -> str:
    """The provenance of the demonstrations as text; "not recorded" of earlier results."""
    records = [record for record in results.get("demonstrations", {}).values() if record]
    texts = [", ".join(_terms(record, [key for key in record if key not in _OF_NO_EFFECT])) for record in records]
    return "; ".join(dict.fromkeys(texts)) or "not recorded"


def name_of(key: str) -> str:
    """Name of a part of a simulator's provenance."""
    return _NAMES.get(key, key.replace("_", " "))


def compared_keys(simulator: Mapping[str, str]) -> list[str]:
    """The parts of a simulator's provenance that can change what an agent sees or does."""
    return [key for key in simulator if key not in _OF_NO_EFFECT]


def _training_caution(training: Mapping[str, Any]) -> list[str]:
    if not training:
        return []
    far = "" if training["epoch"] is None else f"epoch {training['epoch']} of {training['epochs']}"
    if training["process"]:
        at = f" at {far}" if far else ""
        return [f"The run was still in training{at} ({training['process']}): its agent may become another one."]
    if far and training["epoch"] < training["epochs"]:
        return [f"The training has not ended: the last checkpoint is of {far}."]
    if "extended_after" in training:
        ends = " and ".join(map(str, training["extended_after"]))
        return [
            f"The training was extended to {training['epochs']} epochs after it had finished {ends}: a decaying "
            f"learning rate rose again there, which it does not in a training of {training['epochs']} at once."
        ]
    return []


def _by_task(results: Mapping[str, Any], sentence: _Sentence) -> list[str]:
    """The sentence on each task, once if it is the same for all, else with the tasks in front."""
    if "demonstrations" in results:
        entries = results.get("tasks", {results.get("task", ""): results})
        played = {task: entry["simulator"] for task, entry in entries.items() if entry["simulator"]}
        collected = results["demonstrations"]
    else:  # earlier results recorded no more than the renderers
        renderer = results.get("renderer", {"data": "", "evaluation": ""})
        collected, played = ({"": {"renderer": renderer[key]}} for key in ("data", "evaluation"))
    found: dict[str, list[str]] = {}
    for task, simulator in played.items():
        if text := sentence(collected.get(task, {}), simulator):
            found.setdefault(text, []).append(task)
    return [text if len(some) == len(played) else f"{', '.join(some)}: {text}" for text, some in found.items()]


def _difference(collected: Mapping[str, str], played: Mapping[str, str]) -> str:
    """The sentence on a simulator that is not the one of the demonstrations; empty without a known difference."""
    keys = [key for key in _relevant(collected, played) if key in collected and collected[key] != played[key]]
    if not keys:
        return ""
    return (
        f"The demonstrations were collected with {', '.join(_terms(collected, keys))}, these episodes played with "
        f"{', '.join(_terms(played, keys))}: what the agent sees, or how things move, may differ from its training."
    )


def _unrecorded(collected: Mapping[str, str], played: Mapping[str, str]) -> str:
    """The sentence on what the demonstrations do not record; empty if they record all."""
    keys = [key for key in _relevant(collected, played) if key not in collected and played[key]]
    return f"Not recorded of the demonstrations: {', '.join(name_of(key) for key in keys)}." if keys else ""


def _relevant(collected: Mapping[str, str], played: Mapping[str, str]) -> list[str]:
    """The keys to compare: without the OpenGL backend if the renderers differ, which says it already."""
    other = collected.get("renderer", played.get("renderer")) != played.get("renderer")
    return [key for key in compared_keys(played) if not (other and key == "opengl")]


def _terms(simulator: Mapping[str, str], keys: Sequence[str]) -> list[str]:
    """Names and values, such as "MuJoCo 3.5.0"."""
    return [f"{name_of(key)} {simulator[key]}" for key in keys if simulator[key]]
