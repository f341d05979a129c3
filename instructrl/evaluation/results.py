"""From played episodes to numbers: `results.json` and the table on the screen."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from instructrl.evaluation.protocol import Row
from instructrl.evaluation.rollout import Episode
from instructrl.evaluation.stage import TaskFacts
from instructrl.evaluation.statistics import wilson_interval
from instructrl.sim import Outcome

HEADLINE = "trained"  # the row that the top level of results.json repeats


def summarize(rows: Sequence[Row], facts: TaskFacts, *, about: Mapping[str, Any]) -> dict[str, Any]:
    """The content of results.json: the headline row's numbers, what was judged (`about`), then every row."""
    played = {row.name: row_numbers(row, facts) for row in rows if not row.absent}
    return {
        **{key: value for key, value in played[HEADLINE].items() if key != "variations"},
        **about,
        "task": facts.task,
        "simulator": dict(facts.provenance),
        "wall_seconds": round(sum(row.seconds for row in rows), 2),
        "rows": played,
        "absent_rows": {row.name: row.absent for row in rows if row.absent},
    }


def row_numbers(row: Row, facts: TaskFacts) -> dict[str, Any]:
    """A row's counts, its rate and interval, its speed, and the same for every variation that was asked for."""
    episodes = list(row.episodes.values())
    by_variation: dict[int, list[Episode]] = {}
    for episode in episodes:
        by_variation.setdefault(asked_variation(episode), []).append(episode)
    sentences = facts.held_out if row.name == "held_out" else facts.sentences
    return {
        **rate(episodes),
        "mean_steps": round(sum(episode.steps for episode in episodes) / len(episodes), 3),
        "wall_seconds": round(row.seconds, 2),
        "episodes_per_minute": round(60 * len(episodes) / row.seconds, 1) if row.seconds else None,
        "variations": [
            {"variation": variation, "sentence": sentences[variation][0], **rate(by_variation[variation])}
            for variation in sorted(by_variation)
        ],
    }


def rate(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Episodes, successes, success rate with its Wilson interval, and the count of every outcome."""
    outcomes = Counter(episode.outcome for episode in episodes)
    successes = outcomes[Outcome.SUCCESS]
    low, high = wilson_interval(successes, len(episodes))
    return {
        "episodes": len(episodes),
        "successes": successes,
        "success_rate": successes / len(episodes),
        "wilson_low": low,
        "wilson_high": high,
        "outcomes": {str(outcome): outcomes[outcome] for outcome in Outcome},
    }


def asked_variation(episode: Episode) -> int:
    """The variation that the sentence names: the scene's own, or the rival's."""
    return episode.start.variation if episode.start.goal is None else episode.start.goal


def table(results: Mapping[str, Any]) -> str:
    """The rows as text, one line each."""
    lines = [f"{'row':<10}{'episodes':>9}{'success':>9}   {'95 % interval':<15}{'steps':>6}   not a success"]
    for name, row in results["rows"].items():
        interval = f"[{row['wilson_low']:.3f}, {row['wilson_high']:.3f}]"
        rest = {word: count for word, count in row["outcomes"].items() if count and word != "success"}
        counts = ", ".join(f"{word.replace('_', ' ')} {count}" for word, count in rest.items())
        numbers = f"{row['episodes']:>9}{row['success_rate']:>9.3f}   {interval:<15}{row['mean_steps']:>6.2f}"
        lines.append(f"{name:<10}{numbers}   {counts}")
    lines += [f"{name:<10}        - {reason}" for name, reason in results["absent_rows"].items()]
    return "\n".join(line.rstrip() for line in lines)


def headline(results: Mapping[str, Any]) -> str:
    """The one line that counts."""
    low, high = results["wilson_low"], results["wilson_high"]
    return f"success_rate {results['success_rate']:.2f} [{low:.2f}, {high:.2f}] over {results['episodes']} episodes"
