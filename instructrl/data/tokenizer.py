"""From sentences to token ids and a padding mask."""

from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from instructrl.config import EncoderConfig
from instructrl.errors import InputError

VOCABULARY = Path(__file__).with_name("vocabulary.txt")  # one word piece a line; python -m data_tools.vocabulary
LENGTH = 32  # tokens in which an instruction of ours must fit
PADDING, UNKNOWN = "[PAD]", "[UNK]"


class Tokenizer:
    """WordPiece in lower case. Can be pickled and shared between threads.

    Attributes:
        length: tokens of every encoded sentence, padding included.
        vocabulary_size: ids lie in [0, vocabulary_size); 0 is padding.
    """

    def __init__(self, pieces: list[str], *, length: int) -> None:
        ids = {piece: number for number, piece in enumerate(pieces)}
        self.length, self.vocabulary_size = length, len(pieces)
        self._tokenizer = tokenizers.Tokenizer(models.WordPiece(ids, unk_token=UNKNOWN, max_input_chars_per_word=100))
        self._tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        self._tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._tokenizer.decoder = decoders.WordPiece()

    def __call__(self, sentences: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Tokens [B,L] int32 and padding mask [B,L] float32, 1 where padding; an empty sentence is all padding.

        Raises:
            InputError: a sentence has more than `length` tokens.
        """
        tokens = np.zeros((len(sentences), self.length), np.int32)
        padding = np.ones((len(sentences), self.length), np.float32)
        for row, sentence in enumerate(sentences):
            ids = self._tokenizer.encode(sentence).ids
            if len(ids) > self.length:
                raise InputError(
                    f"instruction {sentence!r}: {len(ids)} tokens, at most {self.length} fit; say it shorter"
                )
            tokens[row, : len(ids)] = ids
            padding[row, : len(ids)] = 0
        return tokens, padding

    def pieces(self, sentence: str) -> list[str]:
        """The word pieces of a sentence, as text."""
        return self._tokenizer.encode(sentence).tokens

    def decode(self, tokens: np.ndarray) -> str:
        """The sentence (in lower case) of one row of tokens [L]."""
        return self._tokenizer.decode([int(token) for token in tokens if token])


def make_tokenizer(config: EncoderConfig) -> Tokenizer:
    """The tokenizer of an encoder kind: the small vocabulary we ship for those learnt from scratch.

    Raises:
        InputError: an encoder kind without a tokenizer, or the vocabulary file is damaged.
    """
    if config.tokenizer != "small":
        raise InputError(f"encoder.tokenizer: found {config.tokenizer}; allowed: small")
    pieces = VOCABULARY.read_text(encoding="utf-8").split("\n")[:-1]
    if pieces[:2] != [PADDING, UNKNOWN] or len(set(pieces)) < len(pieces):
        raise InputError(f"{VOCABULARY}: damaged; make it again with python -m data_tools.vocabulary")
    return Tokenizer(pieces, length=config.text_length)
