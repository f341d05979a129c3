"""Comparison of instructions with the words that an agent's training had."""

import warnings
from collections.abc import Callable, Sequence

from instructrl.config.model import EncoderConfig
from instructrl.data.text.tokenizer import Tokenizer
from instructrl.errors import InputError, format_value, shorten

LISTED = 8  # words that a message names


class UnknownWordsWarning(UserWarning):
    """An instruction has words that no instruction of the training had."""


def warn(message: str) -> None:
    """Report a message as a Python warning, at the line that asked the agent to act."""
    warnings.warn(message, UnknownWordsWarning, stacklevel=5)


def warn_directly(message: str) -> None:
    """The same for an agent whose `start_episode` was called directly."""
    warnings.warn(message, UnknownWordsWarning, stacklevel=4)


class InstructionCheck:
    """Reports each instruction with unknown words once, or refuses it.

    A word is what the tokenizer separates, in lower case, punctuation included. It is unknown if no instruction of the
    training had it, even if all of its pieces occurred in other words: the policy has not learned to act on it. A
    pretrained encoder may still understand it, which the message says. The empty instruction is never reported.
    """

    def __init__(
        self,
        encoder: EncoderConfig,
        tokenizer: Tokenizer,
        words: frozenset[str] | None,
        *,
        strict: bool = False,
        report: Callable[[str], None] = warn,
    ) -> None:
        """Prepare the comparison.

        Args:
            encoder: settings of the agent's encoder; one that does not read the instruction knows no unknown words.
            tokenizer: the encoder's.
            words: those of the training; None: not recorded, which is reported once.
            strict: refuse instructions instead of reporting them.
            report: takes the message of one instruction.
        """
        self._encoder, self._tokenizer, self._words = encoder, tokenizer, words
        self._strict, self._report = strict, report
        self._seen: set[str] = set()

    def __call__(self, instruction: str) -> None:
        """Check the instruction of an episode.

        Raises:
            InputError: `strict`, and it has an unknown word, or the words of the training were not recorded.
        """
        if not self._encoder.text or not instruction.strip() or instruction in self._seen:
            return
        message = self._unrecorded() if self._words is None else self._unknown(instruction, self._words)
        if message and self._strict:
            raise InputError(f"{message}; to act anyway, leave out strict")
        if message:
            self._report(message)
        self._seen.add(instruction)

    def _unrecorded(self) -> str:
        if self._seen:
            return ""
        return "agent: trained before the words of its instructions were recorded; unknown words cannot be reported"

    def _unknown(self, instruction: str, known: frozenset[str]) -> str:
        """The message on an instruction; "" if its words are known."""
        words = self._tokenizer.words(instruction)
        unknown = unknown_words(words, known)
        if words and not unknown:
            return ""
        found = f"instruction {format_value(instruction)}: "
        if not words:
            return f"{found}no word that the tokenizer reads; the agent acts as without an instruction"
        if self._encoder.weights is None:
            advice = "the policy has learned nothing about that; use words of the training's instructions"
        else:
            advice = (
                f"the pretrained encoder ({self._encoder.weights}) may understand that, but the policy was never "
                "trained to act on it"
            )
        return f"{found}no instruction of the training had {listed(unknown)}; {advice}"


def unknown_words(words: Sequence[str], known: frozenset[str]) -> list[str]:
    """Those words that are not known, each once."""
    return [word for word in dict.fromkeys(words) if word not in known]


def listed(words: Sequence[str]) -> str:
    """Words in one line, the first ones if there are many."""
    names = ", ".join(repr(shorten(word, 40)) for word in words[:LISTED])
    return names if len(words) <= LISTED else f"{names} and {len(words) - LISTED} more"
