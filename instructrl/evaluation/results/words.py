"""Success by the word that was left out of the sentence."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from instructrl.evaluation.results.pairs import add_pairs, compare_pairs, scene_outcomes
from instructrl.evaluation.results.statistics import wilson_interval
from instructrl.evaluation.rollout import Episode

DISTINCTIVE = "words that tell variations apart"


def count_words(
    episodes: Iterable[Episode], reference: Mapping[str, str], instructions: Mapping[int, Sequence[str]]
) -> list[dict[str, Any]]:
    """Successes by the word that was left out, and the paired difference to `reference`.

    A word that is not in the sentences of every variation, such as a colour, counts under `DISTINCTIVE`.

    Args:
        episodes: each with the word that its sentence lacks.
        reference: outcomes by scene of the episodes with all words.
        instructions: the sentences of every variation.
    """
    by_variation = [{plain(word) for text in texts for word in text.split()} for texts in instructions.values()]
    everywhere = set.intersection(*by_variation)
    found: dict[str, list[Episode]] = {}
    for episode in episodes:
        word = plain(episode.dropped_word)
        found.setdefault(word if word in everywhere else DISTINCTIVE, []).append(episode)
    return _ordered(
        _row(
            word,
            {plain(episode.dropped_word) for episode in some},
            successes=sum(episode.success for episode in some),
            paired=compare_pairs(scene_outcomes(some), reference),
        )
        for word, some in found.items()
    )


def add_words(tables: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The sum of the tables of several tasks."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in (row for table in tables for row in table):
        found.setdefault(row["word"], []).append(row)
    return _ordered(
        _row(
            word,
            {one for row in rows for one in row["words"]},
            successes=sum(row["successes"] for row in rows),
            paired=add_pairs([row["paired"] for row in rows]),
        )
        for word, rows in found.items()
    )


def plain(word: str) -> str:
    """A word without punctuation, in lower case."""
    return word.strip(".,;:!?").lower()


def _row(word: str, words: set[str], *, successes: int, paired: Mapping[str, Any]) -> dict[str, Any]:
    low, high = wilson_interval(successes, paired["pairs"])
    return {
        "word": word,
        "words": sorted(words),
        "episodes": paired["pairs"],
        "successes": successes,
        "success_rate": successes / paired["pairs"],
        "wilson_low": low,
        "wilson_high": high,
        "paired": paired,
    }


def _ordered(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The distinctive words first, then the most certain difference."""
    return sorted(
        rows,
        key=lambda row: (
            row["word"] != DISTINCTIVE,
            row["paired"]["p_value"],
            row["paired"]["difference"],
            row["word"],
        ),
    )
