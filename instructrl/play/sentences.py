"""The meaning of typed sentences, and help with those that the agent did not learn.

A sentence is compared with all that the agent's training had, and with the held-out ones, word by word; words that are
spelled alike count in part.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from typing import NamedTuple

from instructrl.data.text.tokenizer import Tokenizer
from instructrl.inference.instruction_check import listed, unknown_words
from instructrl.sim.tabletop.task import load_task

SPELLED_ALIKE = 0.7  # similarity of two words (0..1) from which on one may be the other with a typing error
CLOSE_ENOUGH = 0.6  # closeness of a sentence of known words to one of the training, from which on it is obeyed
LIKELY = 0.5  # likelihood from which on a sentence may be what was meant
AS_LIKELY = 0.12  # difference to the likeliest, up to which other sentences may be meant, too
SUGGESTED = 6  # sentences at most
LONGEST = 200  # characters
LEARNED = "the agent learned English sentences such as"


class Goal(NamedTuple):
    """A thing that can be asked for: a variation of a task."""

    task: str
    variation: int


@dataclass(frozen=True)
class Sentence:
    """A sentence that the agent understands, and what it asks for."""

    text: str
    goal: Goal


@dataclass(frozen=True)
class Reading:
    """The meaning of a typed sentence.

    Attributes:
        sentence: that of the agent's training that it is, or is closest to; None: the agent shall not act.
        problem: why it shall not, and what the suggestions are, for a line that ends with them; "" if it shall.
        suggestions: sentences to choose from instead, the likeliest first.
    """

    sentence: Sentence | None = None
    problem: str = ""
    suggestions: tuple[Sentence, ...] = ()


class Sentences:
    """All sentences of an agent's tasks."""

    def __init__(self, tasks: Sequence[str], tokenizer: Tokenizer, words: frozenset[str] | None) -> None:
        """Write out the sentences of all variations; `words` are those of the training, None: of these sentences."""
        self._tokenizer = tokenizer
        self.by_goal: dict[Goal, tuple[Sentence, ...]] = {}
        for name in tasks:
            task = load_task(name)
            for variation in range(task.variations):
                goal = Goal(name, variation)
                texts = (*task.instructions(variation), *task.instructions(variation, held_out=True))
                self.by_goal[goal] = tuple(Sentence(text, goal) for text in texts)
        self._words = {
            sentence: tuple(tokenizer.words(sentence.text)) for group in self.by_goal.values() for sentence in group
        }
        self._known = words or frozenset(word for group in self._words.values() for word in group)

    def goals_of(self, task: str) -> tuple[Goal, ...]:
        """The goals of a task, in the order of its variations."""
        return tuple(goal for goal in self.by_goal if goal.task == task)

    def first(self, goals: Collection[Goal]) -> tuple[Sentence, ...]:
        """One sentence for each goal."""
        return tuple(self.by_goal[goal][0] for goal in goals)

    def read(self, text: str, goals: Collection[Goal] | None = None) -> Reading:
        """Find what a typed sentence asks for.

        Args:
            text: the sentence.
            goals: what the present scene offers; None: any scene may be made for it.
        """
        offered = self._one_of_each_task() if goals is None else goals
        allowed = self.by_goal if goals is None else goals
        if len(text) > LONGEST:
            return Reading(problem=f"longer than {LONGEST} characters; {LEARNED}", suggestions=self.first(offered))
        words = tuple(self._tokenizer.words(text))
        likelihood = {sentence: _likelihood(words, other) for sentence, other in self._words.items()}
        best = max(likelihood.values())
        ranked = sorted(likelihood, key=lambda sentence: (-likelihood[sentence], sentence.goal not in allowed))
        likely = [one for one in ranked if likelihood[one] >= max(LIKELY, best - AS_LIKELY)]
        equal = [one for one in ranked if likelihood[one] == best and one.goal in allowed]
        unknown = unknown_words(words, self._known)
        if not words:
            problem = "no word in it"
        elif unknown:
            problem = f"no instruction of the training had {listed(unknown)}"
        elif _closeness(words, self._words[ranked[0]]) < CLOSE_ENOUGH:
            problem = "the training had these words, but no sentence like this"
        elif not equal:
            problem = "this scene has nothing that this asks for"
        elif len({one.goal for one in equal}) > 1:
            problem, likely = "it does not say which", equal
        else:
            return Reading(equal[0])
        suggested: dict[Goal, Sentence] = {}  # the likeliest one of each goal
        for sentence in likely or self.first(offered):
            suggested.setdefault(sentence.goal, sentence)
        if not likely:
            guess = LEARNED
        else:
            guess = "did you mean" if any(goal in allowed for goal in suggested) else "in another scene there is"
        return Reading(problem=f"{problem}; {guess}", suggestions=tuple(suggested.values())[:SUGGESTED])

    def _one_of_each_task(self) -> tuple[Goal, ...]:
        return tuple({goal.task: goal for goal in reversed(self.by_goal)}.values())[::-1]


def _likelihood(words: tuple[str, ...], others: tuple[str, ...]) -> float:
    """Likelihood, 0..1, that a sentence means another one: most of all, its own words shall be in the other one."""
    said = _common(words, others) / max(len(words), 1)
    return round(0.7 * said + 0.3 * _closeness(words, others), 6)


def _closeness(words: tuple[str, ...], others: tuple[str, ...]) -> float:
    """Similarity of two sentences, 0..1: Dice's coefficient of their words."""
    return 2 * _common(words, others) / max(len(words) + len(others), 1)


def _common(words: tuple[str, ...], others: tuple[str, ...]) -> float:
    """The number of words that two sentences have in common, where similar ones count in part."""
    left, common = list(others), 0.0
    for word in words:
        alike, other = max(((_alike(word, other), other) for other in left), default=(0.0, ""))
        if alike:
            common += alike
            left.remove(other)
    return common


@cache
def _alike(word: str, other: str) -> float:
    """Similarity of two words, 0..1; 0 unless they are spelled alike."""
    if word == other:
        return 1.0
    ratio = SequenceMatcher(None, word, other, autojunk=False).ratio()
    return ratio if ratio >= SPELLED_ALIKE else 0.0
