"""From played episodes to numbers: `results.json` and the table on the screen."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from instructrl.config import HOUSE_PROTOCOL, ProtocolConfig
from instructrl.evaluation.protocol import Row
from instructrl.evaluation.rollout import Episode
from instructrl.evaluation.stage import TaskFacts
from instructrl.evaluation.statistics import mean_interval, wilson_interval
from instructrl.evaluation.variations import coverage, named
from instructrl.sim import Outcome

HEADLINE = "trained"  # the row that the top level of results.json repeats


def summarize(rows: Sequence[Row], facts: TaskFacts, *, about: Mapping[str, Any]) -> dict[str, Any]:
    """What results.json says of one task: the headline row's numbers, what was judged (`about`), then every row."""
    played = {row.name: row_numbers(row, facts) for row in rows if not row.absent}
    headline_row = next(row for row in rows if row.name == HEADLINE)
    lost = next((row.lost for row in rows if row.lost), "")
    return {
        **{key: value for key, value in played[HEADLINE].items() if key != "variations"},
        **about,
        "task": facts.task,
        "task_variations": len(facts.sentences),
        "trained_variations": sorted(facts.trained),
        "judged_variations": sorted({episode.start.variation for episode in headline_row.episodes.values()}),
        "simulator": dict(facts.provenance),
        "wall_seconds": round(sum(row.seconds for row in rows), 2),
        "rows": played,
        "absent_rows": {row.name: row.absent for row in rows if row.absent},
        "problems": [f"{facts.task}: {lost}; what was not played counts as simulator_error"] if lost else [],
    }


def unopened(task: str, reason: str, protocol: ProtocolConfig) -> dict[str, Any]:
    """The same for a task whose simulator did not even start: all its episodes failed, in unknown variations."""
    counts = {**rate([Outcome.SIMULATOR_ERROR] * protocol.episodes), "mean_steps": 0.0}
    row = {**counts, "wall_seconds": 0.0, "episodes_per_minute": None}
    return {
        **row,
        "task": task,
        "task_variations": None,
        "trained_variations": None,
        "judged_variations": [],
        "simulator": {},
        "rows": {name: {**row, "variations": []} for name in protocol.rows},
        "absent_rows": {},
        "problems": [f"{task}: {reason}; all its episodes count as simulator_error"],
        "videos": [],
    }


def combine(tasks: Mapping[str, Mapping[str, Any]], *, about: Mapping[str, Any]) -> dict[str, Any]:
    """The content of results.json for several tasks: means over tasks, as headline and in the rows, then each task."""
    asked = about["protocol"]["rows"]
    rows = {name: [entry["rows"][name] for entry in tasks.values() if name in entry["rows"]] for name in asked}
    means = {name: mean(found) for name, found in rows.items() if found}
    absent = [(name, next(iter(tasks.values()))["absent_rows"][name]) for name, found in rows.items() if not found]
    opened = [entry["simulator"] for entry in tasks.values() if entry["simulator"]]
    return {
        **means[HEADLINE],
        **about,
        "simulator": opened[0] if opened else {},
        "wall_seconds": round(sum(entry["wall_seconds"] for entry in tasks.values()), 2),
        "rows": means,
        "absent_rows": dict(absent),
        "problems": [problem for entry in tasks.values() for problem in entry["problems"]],
        "tasks": dict(tasks),
    }


def mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row over several tasks, each of which counts the same; episodes, successes and outcomes are sums."""
    low, high = mean_interval([(row["successes"], row["episodes"]) for row in rows])
    seconds, episodes = sum(row["wall_seconds"] for row in rows), sum(row["episodes"] for row in rows)
    return {
        "averaged_tasks": len(rows),
        "episodes": episodes,
        "successes": sum(row["successes"] for row in rows),
        "success_rate": sum(row["success_rate"] for row in rows) / len(rows),
        "mean_low": low,
        "mean_high": high,
        "outcomes": {str(outcome): sum(row["outcomes"][outcome] for row in rows) for outcome in Outcome},
        "mean_steps": round(sum(row["mean_steps"] for row in rows) / len(rows), 3),
        "wall_seconds": round(seconds, 2),
        "episodes_per_minute": round(60 * episodes / seconds, 1) if seconds else None,
    }


def row_numbers(row: Row, facts: TaskFacts) -> dict[str, Any]:
    """A row's counts, its rate and interval, its speed, and the same for every variation that was asked for."""
    episodes = list(row.episodes.values())
    by_variation: dict[int, list[Outcome]] = {}
    for episode in episodes:
        by_variation.setdefault(asked_variation(episode), []).append(episode.outcome)
    sentences = facts.held_out if row.name == "held_out" else facts.sentences
    return {
        **rate([episode.outcome for episode in episodes]),
        "mean_steps": round(sum(episode.steps for episode in episodes) / len(episodes), 3),
        "wall_seconds": round(row.seconds, 2),
        "episodes_per_minute": round(60 * len(episodes) / row.seconds, 1) if row.seconds else None,
        "variations": [
            {"variation": variation, "sentence": sentences[variation][0], **rate(by_variation[variation])}
            for variation in sorted(by_variation)
        ],
    }


def rate(ends: Sequence[Outcome]) -> dict[str, Any]:
    """Episodes, successes, success rate with its Wilson interval, and the count of every outcome."""
    outcomes = Counter(ends)
    successes = outcomes[Outcome.SUCCESS]
    low, high = wilson_interval(successes, len(ends))
    return {
        "episodes": len(ends),
        "successes": successes,
        "success_rate": successes / len(ends),
        "wilson_low": low,
        "wilson_high": high,
        "outcomes": {str(outcome): outcomes[outcome] for outcome in Outcome},
    }


def asked_variation(episode: Episode) -> int:
    """The variation that the sentence names: the scene's own, or the rival's."""
    return episode.start.variation if episode.start.goal is None else episode.start.goal


def bounds(row: Mapping[str, Any]) -> tuple[float, float]:
    """The ends of a rate's interval: Wilson's, or that of a mean over tasks."""
    kind = "mean" if "mean_low" in row else "wilson"
    return row[f"{kind}_low"], row[f"{kind}_high"]


def table(results: Mapping[str, Any]) -> str:
    """The rows as text, one line each; of several tasks a line for each task, then the means of the rows."""
    tasks: Mapping[str, Any] = results.get("tasks", {})
    by_task = {name: entry["rows"][HEADLINE] for name, entry in tasks.items()}
    rows = {f"mean of {name}" if tasks else name: row for name, row in results["rows"].items()}
    width = max(10, *(len(name) + 2 for name in (*by_task, *rows)))
    lines = [f"{'task' if tasks else 'row':<{width}}{'episodes':>8}{'success':>9}   {'95 % interval':<15}{'steps':>6}"]
    lines[0] += "   not a success"
    for name, row in {**by_task, **rows}.items():
        low, high = bounds(row)
        rest = {word: count for word, count in row["outcomes"].items() if count and word != "success"}
        counts = ", ".join(f"{word.replace('_', ' ')} {count}" for word, count in rest.items())
        fewer = row.get("averaged_tasks", len(tasks)) < len(tasks)
        counts += f" (mean of {row['averaged_tasks']} of {len(tasks)} tasks)" if fewer else ""
        interval = f"[{low:.3f}, {high:.3f}]"
        numbers = f"{row['episodes']:>8}{row['success_rate']:>9.3f}   {interval:<15}{row['mean_steps']:>6.2f}"
        lines.append(f"{name:<{width}}{numbers}   {counts.strip()}")
    lines += [f"{name:<{width}}       - {reason}" for name, reason in results["absent_rows"].items()]
    return "\n".join(line.rstrip() for line in lines)


def headline(results: Mapping[str, Any]) -> str:
    """The one line that counts, with what must be known to compare it: the protocol, and variations left out."""
    low, high = bounds(results)
    parts = [f"success_rate {results['success_rate']:.2f} [{low:.2f}, {high:.2f}] over {results['episodes']} episodes"]
    if "tasks" in results:
        count = len(results["tasks"])
        parts[0] += f" of {count} tasks (mean over tasks)" if count > 1 else f" of {next(iter(results['tasks']))}"
    name = results.get("protocol", {}).get("name", HOUSE_PROTOCOL)
    parts += [f"protocol {name}"] if name != HOUSE_PROTOCOL else []
    said = variations_said(results)
    return ", ".join(parts + ([said] if said else []))


def variations_said(results: Mapping[str, Any]) -> str:
    """What must be said beside a rate that is not over all variations; empty where it is."""
    known = [entry for entry in results.get("tasks", {"": results}).values() if entry["task_variations"] is not None]
    partly = [entry for entry in known if len(entry["judged_variations"]) < entry["task_variations"]]
    if not partly:
        return ""
    if len(known) == 1:
        return partial(known[0])
    if len({tuple(entry["judged_variations"]) for entry in partly}) == 1:
        which = named(partly[0]["judged_variations"])
        where = "every task" if len(partly) == len(known) else f"{len(partly)} of the {len(known)} tasks"
        return f"on {which} only in {where}"
    judged = sum(len(entry["judged_variations"]) for entry in known)
    return f"on {judged} of {sum(entry['task_variations'] for entry in known)} variations only"


def partial(entry: Mapping[str, Any]) -> str:
    """The same for one task."""
    return coverage(entry["judged_variations"], trained=entry["trained_variations"], count=entry["task_variations"])
