"""Check of results that a folder holds already: those of other settings are not replaced. No jax here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instructrl.config.evaluation import RECORDED
from instructrl.config.fields import flatten
from instructrl.errors import InputError, format_value
from instructrl.evaluation.results.summary import current_format
from instructrl.storage.json_file import read_json


def check_existing(path: Path, requested: Mapping[str, Any]) -> None:
    """Check that new results answer all that those in a file do, which they replace.

    More episodes, conditions and tasks go on where fewer ended. Any other change of settings would replace numbers that
    cannot be compared with the new ones.

    Args:
        path: of results.json, which need not exist.
        requested: the new results without their numbers: `protocol`, `checkpoint`, `renderer` and `tasks` or `task`.

    Raises:
        InputError: the file is damaged, or holds results of other settings.
    """
    asked = settings_of(requested)
    try:
        found = settings_of(current_format(read_json(path)))
        lost = [key for key in found if key in asked and not contains(key, asked[key], found[key])]
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: damaged; move it away, and the same command writes it again") from None
    if lost:
        changes = "; ".join(f"{key}={format_value(found[key])}, asked {format_value(asked[key])}" for key in lost)
        raise InputError(
            f"{path}: found results of {changes}; they would be lost: add protocol.name=NAME, which writes to "
            "eval-NAME/, or move the file away"
        )


def settings_of(results: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that results answer, as far as they record them: earlier versions recorded fewer."""
    protocol = dict(flatten({**results.get("protocol", {})}))
    found = {key: protocol[name] for key, name in RECORDED.items() if name in protocol}
    for key, name in (("checkpoint", "name"), ("renderer", "evaluation")):
        if key in results:
            found[key] = results[key][name]
    return found | {"tasks": list(results["tasks"]) if "tasks" in results else [results["task"]]}


def contains(key: str, asked: Any, found: Any) -> bool:
    """Return True if results of one value of a setting contain those of another one."""
    if key == "episodes":
        return asked >= found
    if key in ("conditions", "tasks"):
        return set(found) <= set(asked)
    return asked == found
