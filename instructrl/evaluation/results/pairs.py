"""Paired comparison of success in the same scenes: between conditions of an evaluation and between agents."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from instructrl.evaluation.results.statistics import mcnemar_test, paired_interval
from instructrl.evaluation.rollout import Episode
from instructrl.sim import Outcome


def scene_outcomes(episodes: Iterable[Episode]) -> dict[str, str]:
    """The outcomes by scene, as results.json has them: VARIATION/SEED -> outcome."""
    return {f"{episode.start.variation}/{episode.start.seed}": str(episode.outcome) for episode in episodes}


def compare_pairs(outcomes: Mapping[str, str], reference: Mapping[str, str]) -> dict[str, Any]:
    """Compare outcomes with those of a reference in all scenes that both have, at least one."""
    common = [scene for scene in outcomes if scene in reference]
    won = [outcomes[scene] == Outcome.SUCCESS for scene in common]
    before = [reference[scene] == Outcome.SUCCESS for scene in common]
    gained = sum(now and not then for now, then in zip(won, before, strict=True))
    lost = sum(then and not now for now, then in zip(won, before, strict=True))
    return pair_numbers(gained, lost, len(common))


def add_pairs(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The comparison over the pairs of several, for instance of all tasks."""
    gained, lost, pairs = (sum(entry[key] for entry in entries) for key in ("gained", "lost", "pairs"))
    return pair_numbers(gained, lost, pairs)


def pair_numbers(gained: int, lost: int, pairs: int) -> dict[str, Any]:
    """Difference with its 95 % interval and the p-value, of the scenes that succeed only here and only there."""
    low, high = paired_interval(gained, lost, pairs)
    return {
        "pairs": pairs,
        "gained": gained,
        "lost": lost,
        "difference": (gained - lost) / pairs,
        "difference_low": low,
        "difference_high": high,
        "p_value": mcnemar_test(gained, lost),
    }


def pairs_text(pairs: Mapping[str, Any]) -> str:
    """A paired difference as text: the difference, its interval, and the p-value."""
    p_value = "p < 0.001" if pairs["p_value"] < 0.001 else f"p = {pairs['p_value']:.3f}"
    low, high = pairs["difference_low"], pairs["difference_high"]
    return f"{pairs['difference']:+.3f} [{low:+.3f}, {high:+.3f}] {p_value}"
