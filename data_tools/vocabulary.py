"""python -m data_tools.vocabulary: writes the word pieces of our small tokenizer.

Whole words come first: those of every sentence of the embedded tasks, held-out ones included, the colours, and
data_tools/words.txt. Then the pieces of which any other word can be put together: characters, and the
commonest beginnings and endings of the words. The file is a pure function of these; a trained model
depends on the ids, so it changes only when a new set of checkpoints may.
"""

import re
import string
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from instructrl.config import EMBEDDED_TASKS, SimConfig
from instructrl.data.tokenizer import PADDING, UNKNOWN, VOCABULARY
from instructrl.errors import InputError, one_line_errors

WORDS = Path(__file__).with_name("words.txt")
LARGEST = 4000  # entries


def words_of(lines: Iterable[str]) -> set[str]:
    """The words of some text in lower case; lines that begin with # are skipped."""
    return {word for line in lines if not line.startswith("#") for word in re.findall("[a-z]+", line.lower())}


def task_sentences() -> list[str]:
    """Every sentence, for training or held out, of every variation of the embedded tasks."""
    from instructrl.sim.make import make_env

    sentences = []
    for task in EMBEDDED_TASKS:
        env = make_env(SimConfig(image_size=16), task)
        try:
            for variation in range(env.variations):
                sentences += [*env.sentences(variation), *env.sentences(variation, held_out=True)]
        finally:
            env.close()
    return sentences


def pieces(words: set[str]) -> list[str]:
    """The vocabulary, padding first: characters, whole words, then common parts of words."""
    characters = string.ascii_lowercase + string.digits
    beginnings: Counter[str] = Counter()
    endings: Counter[str] = Counter()
    for word in words:
        for size in (2, 3, 4):
            if len(word) > size:
                beginnings[word[:size]] += 1
                endings["##" + word[-size:]] += 1
                endings.update({"##" + word[at : at + size] for at in range(1, len(word) - size)})
    parts = [part for counter, most in ((beginnings, 400), (endings, 800)) for part, _ in ranked(counter)[:most]]
    entries = [PADDING, UNKNOWN, *string.punctuation, *characters, *(f"##{character}" for character in characters)]
    return list(dict.fromkeys([*entries, *sorted(words), *parts]))


def ranked(counter: Counter[str]) -> list[tuple[str, int]]:
    """The entries, most frequent first, equals in alphabetical order."""
    return sorted(counter.items(), key=lambda entry: (-entry[1], entry[0]))


def main() -> None:
    """Write the vocabulary of the package."""
    with one_line_errors():
        words = words_of(task_sentences()) | words_of(WORDS.read_text(encoding="utf-8").splitlines())
        entries = pieces(words)
        if len(entries) > LARGEST:
            raise InputError(f"{WORDS}: {len(entries)} entries would be made, allowed: {LARGEST}; remove words")
        temporary = VOCABULARY.with_suffix(".tmp")
        temporary.write_text("\n".join(entries) + "\n", encoding="utf-8")
        temporary.replace(VOCABULARY)
        print(f"{VOCABULARY}: {len(entries)} entries, {len(words)} of them whole words")


if __name__ == "__main__":
    main()
