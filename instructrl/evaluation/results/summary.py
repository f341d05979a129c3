"""Summary of evaluated episodes: the content of results.json and the printed table."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from instructrl.config.evaluation import DEFAULT_PROTOCOL, ProtocolConfig
from instructrl.config.fields import RENAMED_CONDITIONS, RENAMED_PROTOCOLS
from instructrl.evaluation.evaluator import Condition, all_crashed
from instructrl.evaluation.results.causes import add_causes, count_causes, improve_next
from instructrl.evaluation.results.comparability import cautions, unrecorded
from instructrl.evaluation.results.pairs import add_pairs, compare_pairs, scene_outcomes
from instructrl.evaluation.results.published import published_text
from instructrl.evaluation.results.statistics import mean_interval, wilson_interval
from instructrl.evaluation.results.variations import coverage, format_variations
from instructrl.evaluation.results.words import add_words, count_words
from instructrl.evaluation.rollout import Episode
from instructrl.evaluation.worker_env import TaskInfo
from instructrl.sim import Outcome

HEADLINE = "trained"  # the condition whose numbers are repeated at the top level of results.json
_OF_CONDITIONS = ("variations", "diagnosis", "scenes")  # numbers of it that are not repeated there


def summarize(conditions: Sequence[Condition], info: TaskInfo, *, about: Mapping[str, Any]) -> dict[str, Any]:
    """The part of results.json for one task: numbers of the headline condition, `about`, then all conditions."""
    headline_condition = next(condition for condition in conditions if condition.name == HEADLINE)
    reference = scene_outcomes(headline_condition.episodes.values())
    numbers = {one.name: condition_numbers(one, info, reference) for one in conditions if not one.absent}
    return {
        **{key: value for key, value in numbers[HEADLINE].items() if key not in _OF_CONDITIONS},
        **about,
        "task": info.task,
        "task_variations": len(info.instructions),
        "trained_variations": sorted(info.trained),
        "judged_variations": sorted({episode.start.variation for episode in headline_condition.episodes.values()}),
        "simulator": dict(info.provenance),
        "wall_seconds": round(sum(condition.seconds for condition in conditions), 2),
        "conditions": numbers,
        "absent_conditions": {condition.name: condition.absent for condition in conditions if condition.absent},
        "problems": _problems(conditions, info.task),
        "improve_next": _improve_next(numbers),
    }


def _problems(conditions: Sequence[Condition], task: str) -> list[str]:
    """Lines on what fails episodes whatever the agent does: a simulator that is lost, or crashes in all of them."""
    lost = next((condition.lost for condition in conditions if condition.lost), "")
    if lost:
        return [f"{task}: {lost}; episodes that were not run count as simulator_error"]
    crashed = [one.name for one in conditions if not one.absent and all_crashed(one.episodes.values())]
    if not crashed:
        return []
    return [f"{task}: the simulator crashed in every episode of {', '.join(crashed)}; see its messages, and mend it"]


def _improve_next(conditions: Mapping[str, Mapping[str, Any]]) -> str:
    """The sentence on the failures of the headline condition; empty if they are not diagnosed."""
    return improve_next(conditions[HEADLINE].get("diagnosis", {"causes": {}}), HEADLINE)


def current_format(results: Mapping[str, Any]) -> dict[str, Any]:
    """Results in the current format; earlier versions named the conditions `rows`, and some of them otherwise."""
    if "rows" not in results:
        return dict(results)
    found = {key: value for key, value in results.items() if key not in ("rows", "absent_rows")}
    for former, key in (("rows", "conditions"), ("absent_rows", "absent_conditions")):
        found[key] = {RENAMED_CONDITIONS.get(name, name): value for name, value in results.get(former, {}).items()}
    if "protocol" in found:
        protocol = dict(found["protocol"])
        protocol["name"] = RENAMED_PROTOCOLS.get(protocol["name"], protocol["name"])
        protocol["conditions"] = [RENAMED_CONDITIONS.get(name, name) for name in protocol.pop("rows", [])]
        found["protocol"] = protocol
    if "tasks" in found:
        found["tasks"] = {task: current_format(entry) for task, entry in found["tasks"].items()}
    return found


def failed_task_results(task: str, reason: str, protocol: ProtocolConfig) -> dict[str, Any]:
    """The same for a task whose simulator did not start: all its episodes failed, in unknown variations."""
    counts = {**rate([Outcome.SIMULATOR_ERROR] * protocol.episodes), "mean_steps": 0.0}
    condition = {**counts, "wall_seconds": 0.0, "episodes_per_minute": None}
    return {
        **condition,
        "task": task,
        "task_variations": None,
        "trained_variations": None,
        "judged_variations": [],
        "simulator": {},
        "conditions": {name: {**condition, "variations": []} for name in protocol.conditions},
        "absent_conditions": {},
        "problems": [f"{task}: {reason}; all its episodes count as simulator_error"],
        "improve_next": "",
        "videos": [],
    }


def combine(tasks: Mapping[str, Mapping[str, Any]], *, about: Mapping[str, Any]) -> dict[str, Any]:
    """The content of results.json for several tasks: means over tasks (headline and conditions), then each task."""
    requested = about["protocol"]["conditions"]
    conditions = {
        name: [entry["conditions"][name] for entry in tasks.values() if name in entry["conditions"]]
        for name in requested
    }
    means = {name: mean(found) for name, found in conditions.items() if found}
    first_task = next(iter(tasks.values()))
    absent = {name: first_task["absent_conditions"][name] for name, found in conditions.items() if not found}
    opened = [entry["simulator"] for entry in tasks.values() if entry["simulator"]]
    return {
        **{key: value for key, value in means[HEADLINE].items() if key not in _OF_CONDITIONS},
        **about,
        "simulator": opened[0] if opened else {},
        "wall_seconds": round(sum(entry["wall_seconds"] for entry in tasks.values()), 2),
        "conditions": means,
        "absent_conditions": absent,
        "problems": [problem for entry in tasks.values() for problem in entry["problems"]],
        "improve_next": _improve_next(means),
        "tasks": dict(tasks),
    }


def mean(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One condition averaged over several tasks with equal weight; episodes, successes and outcomes are summed."""
    low, high = mean_interval([(entry["successes"], entry["episodes"]) for entry in entries])
    seconds, episodes = (sum(entry[key] for entry in entries) for key in ("wall_seconds", "episodes"))
    sums: dict[str, Callable[[Sequence[Any]], Any]] = {"diagnosis": add_causes, "paired": add_pairs, "words": add_words}
    found = {key: [entry[key] for entry in entries if key in entry] for key in sums}
    return {
        "averaged_tasks": len(entries),
        "episodes": episodes,
        "successes": sum(entry["successes"] for entry in entries),
        "success_rate": sum(entry["success_rate"] for entry in entries) / len(entries),
        "mean_low": low,
        "mean_high": high,
        "outcomes": {str(outcome): sum(entry["outcomes"][outcome] for entry in entries) for outcome in Outcome},
        "mean_steps": round(sum(entry["mean_steps"] for entry in entries) / len(entries), 3),
        "wall_seconds": round(seconds, 2),
        "episodes_per_minute": round(60 * episodes / seconds, 1) if seconds else None,
        **{key: add(found[key]) for key, add in sums.items() if found[key]},
    }


def condition_numbers(condition: Condition, info: TaskInfo, reference: Mapping[str, str]) -> dict[str, Any]:
    """Counts, success rate with interval and speed of a condition, and the same for every requested variation.

    `reference` are the outcomes of the headline condition by scene, with which the others are compared.
    """
    episodes = list(condition.episodes.values())
    by_variation: dict[int, list[Outcome]] = {}
    for episode in episodes:
        by_variation.setdefault(requested_variation(episode), []).append(episode.outcome)
    scenes = scene_outcomes(episodes)
    comparable = condition.name != HEADLINE and bool(scenes.keys() & reference.keys())
    instructions = info.held_out_instructions if condition.name == "held_out_instructions" else info.instructions
    return {
        **rate([episode.outcome for episode in episodes]),
        "mean_steps": round(sum(episode.steps for episode in episodes) / len(episodes), 3),
        "wall_seconds": round(condition.seconds, 2),
        "episodes_per_minute": round(60 * len(episodes) / condition.seconds, 1) if condition.seconds else None,
        "variations": [
            {"variation": variation, "sentence": instructions[variation][0], **rate(by_variation[variation])}
            for variation in sorted(by_variation)
        ],
        **({"diagnosis": count_causes(episodes)} if info.expert and condition.name != "oracle" else {}),
        **({"paired": compare_pairs(scenes, reference)} if comparable else {}),
        **({"words": count_words(episodes, reference, instructions)} if condition.name == "dropped_word" else {}),
        "scenes": scenes,
    }


def rate(episode_outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Episodes, successes, success rate with its Wilson interval, and the count of each outcome."""
    outcomes = Counter(episode_outcomes)
    successes = outcomes[Outcome.SUCCESS]
    low, high = wilson_interval(successes, len(episode_outcomes))
    return {
        "episodes": len(episode_outcomes),
        "successes": successes,
        "success_rate": successes / len(episode_outcomes),
        "wilson_low": low,
        "wilson_high": high,
        "outcomes": {str(outcome): outcomes[outcome] for outcome in Outcome},
    }


def requested_variation(episode: Episode) -> int:
    """The variation that the instruction requests: the scene's own, or the alternative goal."""
    return episode.start.variation if episode.start.goal is None else episode.start.goal


def bounds(condition: Mapping[str, Any]) -> tuple[float, float]:
    """Bounds of a success rate's interval: Wilson's, or that of a mean over tasks."""
    kind = "mean" if "mean_low" in condition else "wilson"
    return condition[f"{kind}_low"], condition[f"{kind}_high"]


def table(results: Mapping[str, Any]) -> str:
    """The conditions as text, one line each; for several tasks one line per task, then the means per condition.

    Below them, what limits a comparison with other results.
    """
    tasks: Mapping[str, Any] = results.get("tasks", {})
    by_task = {name: entry["conditions"][HEADLINE] for name, entry in tasks.items()}
    conditions = {f"mean of {name}" if tasks else name: condition for name, condition in results["conditions"].items()}
    width = max(10, *(len(name) + 2 for name in (*by_task, *conditions)))
    heading = f"{'task' if tasks else 'condition':<{width}}{'episodes':>8}{'success':>9}   {'95 % interval':<15}"
    lines = [f"{heading}{'steps':>6}   not a success"]
    for name, condition in {**by_task, **conditions}.items():
        low, high = bounds(condition)
        rest = {word: count for word, count in condition["outcomes"].items() if count and word != "success"}
        counts = ", ".join(f"{word.replace('_', ' ')} {count}" for word, count in rest.items())
        fewer = condition.get("averaged_tasks", len(tasks)) < len(tasks)
        counts += f" (mean of {condition['averaged_tasks']} of {len(tasks)} tasks)" if fewer else ""
        interval = f"[{low:.3f}, {high:.3f}]"
        numbers = f"{condition['episodes']:>8}{condition['success_rate']:>9.3f}   {interval:<15}"
        lines.append(f"{name:<{width}}{numbers}{condition['mean_steps']:>6.2f}   {counts.strip()}")
    lines += [f"{name:<{width}}       - {reason}" for name, reason in results["absent_conditions"].items()]
    lines += [f"caution: {sentence}" for sentence in cautions(results)]
    lines += [f"note: {sentence}" for sentence in (*unrecorded(results), published_text(results)) if sentence]
    return "\n".join(line.rstrip() for line in lines)


def headline(results: Mapping[str, Any]) -> str:
    """The headline result in one line, with the protocol and the left-out variations needed to compare it."""
    low, high = bounds(results)
    parts = [f"success_rate {results['success_rate']:.3f} [{low:.3f}, {high:.3f}] over {results['episodes']} episodes"]
    if "tasks" in results:
        count = len(results["tasks"])
        parts[0] += f" of {count} tasks (mean over tasks)" if count > 1 else f" of {next(iter(results['tasks']))}"
    name = results.get("protocol", {}).get("name", DEFAULT_PROTOCOL)
    parts += [f"protocol {name}"] if name != DEFAULT_PROTOCOL else []
    note = coverage_note(results)
    return ", ".join(parts + ([note] if note else []))


def coverage_note(results: Mapping[str, Any]) -> str:
    """Caveat for a success rate over a subset of the variations; empty if all were evaluated."""
    known = [entry for entry in results.get("tasks", {"": results}).values() if entry["task_variations"] is not None]
    partial = [entry for entry in known if len(entry["judged_variations"]) < entry["task_variations"]]
    if not partial:
        return ""
    if len(known) == 1:
        return task_coverage_note(known[0])
    if len({tuple(entry["judged_variations"]) for entry in partial}) == 1:
        which = format_variations(partial[0]["judged_variations"])
        where = "every task" if len(partial) == len(known) else f"{len(partial)} of the {len(known)} tasks"
        return f"on {which} only in {where}"
    evaluated = sum(len(entry["judged_variations"]) for entry in known)
    return f"on {evaluated} of {sum(entry['task_variations'] for entry in known)} variations only"


def task_coverage_note(entry: Mapping[str, Any]) -> str:
    """The caveat for one task."""
    return coverage(entry["judged_variations"], trained=entry["trained_variations"], count=entry["task_variations"])
