"""The words of the instructions that an agent was trained with: a run's `words.json`, an exported agent's metadata."""

import json
from collections.abc import Iterable
from pathlib import Path

from instructrl.data.text.tokenizer import Tokenizer
from instructrl.errors import InputError
from instructrl.storage.atomic import write_atomically
from instructrl.storage.json_file import parse_json

WORDS_FILE = "words.json"


def words_of(sentences: Iterable[str], tokenizer: Tokenizer) -> frozenset[str]:
    """The distinct words of sentences, as the tokenizer separates and normalizes them."""
    return frozenset(word for sentence in sentences for word in tokenizer.words(sentence))


def write_words(run: Path, words: frozenset[str]) -> None:
    """Record the words in a run directory."""
    write_atomically(run / WORDS_FILE, json.dumps({"words": sorted(words)}, indent=1, ensure_ascii=False) + "\n")


def read_words(run: Path) -> frozenset[str] | None:
    """Read the words of a run; None if it was trained before they were recorded.

    Raises:
        InputError: the file is damaged.
    """
    path = run / WORDS_FILE
    try:
        return parse_words(path.read_text(encoding="utf-8")) if path.exists() else None
    except (OSError, ValueError):
        raise InputError(
            f'{path}: damaged; allowed: {{"words": [...]}}; restore it, or remove it, after which unknown words of '
            "instructions are no longer reported"
        ) from None


def parse_words(text: str) -> frozenset[str]:
    """Read words from JSON; raises ValueError for anything else."""
    content = parse_json(text)
    words = content.get("words") if isinstance(content, dict) else None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError("no list of words")
    return frozenset(words)
