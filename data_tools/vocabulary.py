"""python -m data_tools.vocabulary: writes the word pieces of the small tokenizer.

Whole words come first: those of every instruction of the embedded tasks, including held-out ones, the colours, and
data_tools/words.txt. They are followed by pieces that compose any other word: characters, and the most frequent
prefixes and suffixes of the words. The file is a pure function of these; trained models depend on the ids, so it may
only change together with the published checkpoints.
"""

import re
import string
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from instructrl.config.environment import EMBEDDED_TASKS
from instructrl.config.simulators import TabletopConfig
from instructrl.data.text.tokenizer import PADDING, UNKNOWN, VOCABULARY
from instructrl.errors import InputError, report_user_errors
from instructrl.storage.atomic import write_atomically

WORDS = Path(__file__).with_name("words.txt")
MAX_ENTRIES = 4000  # entries


def words_of(lines: Iterable[str]) -> set[str]:
    """Extract the words of a text in lower case; lines that begin with # are skipped."""
    return {word for line in lines if not line.startswith("#") for word in re.findall("[a-z]+", line.lower())}


def task_instructions() -> list[str]:
    """All instructions, for training and held out, of all variations of the embedded tasks."""
    from instructrl.sim.factory import make_env

    instructions = []
    for task in EMBEDDED_TASKS:
        env = make_env(TabletopConfig(image_size=16, renderer="raycast"), task)  # nothing is rendered
        try:
            for variation in range(env.variations):
                instructions += [*env.instructions(variation), *env.instructions(variation, held_out=True)]
        finally:
            env.close()
    return instructions


def build_vocabulary(words: set[str]) -> list[str]:
    """Build the vocabulary, padding first: characters, whole words, then frequent parts of words."""
    characters = string.ascii_lowercase + string.digits
    prefixes: Counter[str] = Counter()
    suffixes: Counter[str] = Counter()
    for word in words:
        for size in (2, 3, 4):
            if len(word) > size:
                prefixes[word[:size]] += 1
                suffixes["##" + word[-size:]] += 1
                suffixes.update({"##" + word[start : start + size] for start in range(1, len(word) - size)})
    parts = [part for counter, most in ((prefixes, 400), (suffixes, 800)) for part, _ in by_frequency(counter)[:most]]
    entries = [PADDING, UNKNOWN, *string.punctuation, *characters, *(f"##{character}" for character in characters)]
    return list(dict.fromkeys([*entries, *sorted(words), *parts]))


def by_frequency(counter: Counter[str]) -> list[tuple[str, int]]:
    """Sort entries by frequency, ties alphabetically."""
    return sorted(counter.items(), key=lambda entry: (-entry[1], entry[0]))


def main() -> None:
    """Write the vocabulary of the package."""
    with report_user_errors():
        print("reading the instructions of all tasks", flush=True)
        words = words_of(task_instructions()) | words_of(WORDS.read_text(encoding="utf-8").splitlines())
        entries = build_vocabulary(words)
        if len(entries) > MAX_ENTRIES:
            raise InputError(f"{WORDS}: found {len(entries)} entries, allowed: {MAX_ENTRIES}; remove words")
        write_atomically(VOCABULARY, "\n".join(entries) + "\n", hint="use a checkout that you can write")
        print(f"{VOCABULARY}: {len(entries)} entries, {len(words)} of them whole words")


if __name__ == "__main__":
    main()
