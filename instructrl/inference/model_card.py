"""Model card of a published agent: its use, settings, data, results with intervals, and licence."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from instructrl.errors import InputError, format_value
from instructrl.storage.json_file import JsonError, read_json
from instructrl.storage.paths import StoragePath
from instructrl.storage.synced_dir import working_dir

if TYPE_CHECKING:
    from instructrl.config.training import TrainConfig
    from instructrl.training.parameters.load_agent import LoadedAgent

LICENCE, LICENCES = r"[a-z0-9][a-z0-9.-]*", "names of the hub, such as mit or cc-by-4.0"
TEXT_LIMIT = 200  # characters of a cell


class Records(NamedTuple):
    """The records of a run: the sources of its demonstrations, and the results of each of its evaluations."""

    data: Mapping[str, Mapping[str, Any]]
    results: Mapping[str, Mapping[str, Any]]  # by protocol


def check_licence(licence: str) -> None:
    """Raise InputError unless a text can be the name of a licence."""
    if not re.fullmatch(LICENCE, licence):
        raise InputError(f"licence: found {format_value(licence)}; allowed: {LICENCES}")


def read_records(run: StoragePath | None) -> Records:
    """Read the records of a run; an exported folder, or None, has none, and a damaged one is left out."""
    if run is None:
        return Records({}, {})
    with working_dir(run, exclusive=False) as work_dir:
        data = {name: entry for name, entry in _object(work_dir.folder / "data.json").items() if "train" in name}
        files = sorted(work_dir.folder.glob("eval*/results.json"))
        results = {file.parent.name.removeprefix("eval").lstrip("-") or "default": _object(file) for file in files}
    return Records(data, results)


def model_card(trained: "LoadedAgent", records: Records, *, repository: str, licence: str) -> str:
    """The text of README.md in a repository on the hub."""
    config = trained.config
    parts = [
        _front_matter(licence, config.task.name),
        f"# {repository.partition('/')[2]}",
        f"A robot agent that follows written instructions, trained with InstructRL on the task {config.task.name}. It "
        "reads camera images and a sentence, and predicts the next keyframe of the gripper.",
        _usage(repository),
        "## Settings",
        _table(("setting", "value"), _settings(config, trained.step)),
        "## Data",
        _data(records.data, config),
        "## Results",
        _results(records.results),
        f"## Licence\n\n{licence}",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(licence: str, task: str) -> str:
    tags = "".join(f"\n- {tag}" for tag in ("robotics", "imitation-learning", "instruction-following", task))
    return f"---\nlicense: {licence}\nlibrary_name: instructrl\npipeline_tag: robotics\ntags:{tags}\n---"


def _usage(repository: str) -> str:
    lines = [
        "from instructrl import Agent",
        "",
        f'agent = Agent.load("hf://{repository}")',
        "print(agent.cameras, agent.image_size, agent.state, agent.workspace)  # what it expects",
        "action = agent.act(observation, instruction)  # position in metres, quaternion x y z w, gripper open",
    ]
    return "\n".join(["```python", *lines, "```"])


def _settings(config: "TrainConfig", step: int) -> list[tuple[str, str]]:
    """The settings that say what the agent is; config.yaml beside the card has all."""
    sim = config.sim
    return [
        ("encoder", f"{config.encoder.name} ({'frozen' if config.encoder.frozen else 'trained'})"),
        ("policy", f"{config.policy.name}: dim {config.policy.dim}, depth {config.policy.depth}"),
        ("head", config.head.name),
        ("cameras", ", ".join(sim.cameras)),
        ("image size", f"{sim.image_size} pixels"),
        ("state", ", ".join(sim.state)),
        ("workspace (m)", str(sim.bounds)),
        ("seed", str(config.seed)),
        ("training step", str(step)),
    ]


def _data(data: Mapping[str, Mapping[str, Any]], config: "TrainConfig") -> str:
    task = config.task
    said = f"{task.episodes} demonstrations of each task ({', '.join(task.tasks or [task.name])})."
    rows = [(name, *_source(entry)) for name, entry in data.items()]
    return (
        f"{said}\n\n{_table(('split', 'file', 'made by'), rows)}" if rows else f"{said} Their source is not recorded."
    )


def _source(entry: Mapping[str, Any]) -> tuple[str, str]:
    provenance = entry.get("provenance")
    known = provenance.items() if isinstance(provenance, dict) else ()
    made = ", ".join(f"{key} {value}" for key, value in known if value)
    return Path(str(entry.get("path", ""))).name, made or "not recorded"


def _results(results: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        (protocol, condition, *numbers)
        for protocol, found in results.items()
        for condition, entry in _conditions(found).items()
        if (numbers := _success(entry))
    ]
    if not rows:
        return "Not evaluated, as far as its run records."
    return _table(("protocol", "condition", "episodes", "success", "95 % interval"), rows)


def _conditions(found: Mapping[str, Any]) -> Mapping[str, Any]:
    conditions = found.get("conditions")
    return conditions if isinstance(conditions, dict) else {}


def _success(entry: Any) -> tuple[str, str, str] | None:
    """Episodes, success rate and its interval: Wilson's, or that of the mean over several tasks."""
    try:
        kind = "wilson" if "wilson_low" in entry else "mean"
        low, high = entry[f"{kind}_low"], entry[f"{kind}_high"]
        return str(int(entry["episodes"])), f"{entry['success_rate']:.3f}", f"{low:.3f} to {high:.3f}"
    except (KeyError, TypeError, ValueError):
        return None


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    """A text of a record in one cell, in which it can neither end the cell nor be markup."""
    return " ".join(re.sub(r"([|<>`\[\]])", r"\\\1", text[:TEXT_LIMIT]).split())


def _object(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, JsonError):
        return {}
    return found if isinstance(found, dict) else {}
