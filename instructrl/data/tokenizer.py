"""From sentences to token ids and a padding mask."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from instructrl.config import EncoderConfig
from instructrl.data.places import find_vocabulary
from instructrl.data.vocabulary import (
    END,
    INSIDE,
    LONGEST,
    PADDING,
    START,
    UNKNOWN,
    WORD_END,
    Merges,
    Vocabulary,
    read_vocabulary,
)
from instructrl.errors import InputError

VOCABULARY = Path(__file__).with_name("vocabulary.txt")  # one word piece a line; python -m data_tools.vocabulary
WEIGHTS = Path("weights")  # where fetched tokenizers are, if the encoder has no weights
PROBED = 1000  # words
# CLIP's published rule: endings after an apostrophe, letters, single digits, anything else that is no blank.
SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class Tokenizer:
    """BERT's word pieces or CLIP's byte pairs, in lower case. Can be pickled and shared between threads.

    Word pieces stand alone, byte pairs between the markers for the start and the end of the text. What a sentence
    says is never taken for one of these or for padding.

    Attributes:
        length: tokens of every encoded sentence, padding included.
        vocabulary_size: ids lie in [0, vocabulary_size).
        padding: the id of padding.
        markers: the ids of start and end, the largest of all; none for word pieces.
        checksum: of everything that decides the ids.
    """

    def __init__(
        self, pieces: list[str], *, length: int, merges: Merges | None = None, added: Sequence[dict[str, Any]] = ()
    ) -> None:
        """`pieces` in the order of their ids; `merges` and `added` as a Vocabulary has them."""
        ids = {piece: number for number, piece in enumerate(pieces)}
        self.length, self.vocabulary_size = length, len(pieces)
        self.padding = ids[PADDING] if merges is None else 0
        self.markers: tuple[int, ...] = () if merges is None else (ids[START], ids[END])
        self.checksum = hashlib.sha256(json.dumps([pieces, merges, list(added)]).encode()).hexdigest()
        self._tokenizer = word_pieces(ids) if merges is None else byte_pairs(ids, merges)
        self._tokenizer.add_tokens([AddedToken(**entry) for entry in added])

    def __call__(self, sentences: list[str], *, cut: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Tokens [B,L] int32 and padding mask [B,L] float32, 1 where padding; an empty sentence has no word.

        With `cut` a sentence of more than `length` tokens loses its end (markers stay).

        Raises:
            InputError: a sentence has more than `length` tokens, or something that the vocabulary cannot tell.
        """
        tokens = np.full((len(sentences), self.length), self.padding, np.int32)
        padding = np.ones((len(sentences), self.length), np.float32)
        for row, sentence in enumerate(sentences):
            ids = self._ids(sentence)
            if cut and len(ids) > self.length:
                ids = [*ids[: self.length - 1], ids[-1]] if self.markers else ids[: self.length]
            if len(ids) > self.length:
                raise InputError(
                    f"instruction {sentence!r}: {len(ids)} tokens, at most {self.length} fit; say it shorter"
                )
            tokens[row, : len(ids)] = ids
            padding[row, : len(ids)] = 0
        return tokens, padding

    def _ids(self, sentence: str) -> list[int]:
        """The ids of a sentence, markers included."""
        encoded = self._encoded(sentence)
        if not self.markers:
            return encoded.ids
        start, end = self.markers
        if end in encoded.ids:  # it stands for bytes without a piece, of which the published vocabulary has none
            unknown = sentence[slice(*encoded.offsets[encoded.ids.index(end)])]
            raise InputError(
                f"instruction {sentence!r}: encoder.tokenizer has no piece for {unknown!r}; "
                "say it in other words, or take a vocabulary that has all bytes"
            )
        return [start, *encoded.ids, end]

    def _encoded(self, sentence: str) -> tokenizers.Encoding:
        try:
            return self._tokenizer.encode(sentence)
        except TypeError:
            raise InputError(f"instruction {sentence!r}: not Unicode text; write it in UTF-8") from None

    def pieces(self, sentence: str) -> list[str]:
        """The pieces of a sentence, as text, without markers."""
        return self._encoded(sentence).tokens

    def decode(self, tokens: np.ndarray) -> str:
        """The sentence (in lower case) of one row of tokens [L]."""
        ids = [int(token) for token in tokens]
        if self.markers:
            start, end = self.markers
            ids = [number for number in ids[: ids.index(end)] if number != start] if end in ids else []
        else:
            ids = [number for number in ids if number != self.padding]
        return self._tokenizer.decode(ids).strip()


def word_pieces(ids: dict[str, int]) -> tokenizers.Tokenizer:
    """The tokenizer of bert-base-uncased with these entries."""
    tokenizer = tokenizers.Tokenizer(
        models.WordPiece(ids, unk_token=UNKNOWN, continuing_subword_prefix=INSIDE, max_input_chars_per_word=LONGEST)
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=INSIDE)
    return tokenizer


def byte_pairs(ids: dict[str, int], merges: Merges) -> tokenizers.Tokenizer:
    """CLIP's tokenizer with these entries; END stands for a byte that has no piece."""
    tokenizer = tokenizers.Tokenizer(models.BPE(ids, merges, unk_token=END, end_of_word_suffix=WORD_END))
    blanks = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), blanks, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(SPLIT), behavior="removed", invert=True)
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, as_bytes])
    blank = "\u0120"  # how a blank is written among bytes
    tokenizer.decoder = decoders.Sequence([decoders.Replace(WORD_END, blank), decoders.ByteLevel()])
    return tokenizer


def make_tokenizer(config: EncoderConfig) -> Tokenizer:
    """The tokenizer that `encoder.tokenizer` names: the small vocabulary we ship, or one that is on this machine.

    Raises:
        InputError: it is not there, is damaged, or is none for this kind of encoder.
    """
    place, vocabulary = shipped() if config.tokenizer == "small" else on_this_machine(config)
    if config.kind == "clip" and config.text and vocabulary.merges is None:
        raise InputError(
            f"encoder.tokenizer: found {config.tokenizer}, word pieces; allowed for kind=clip: CLIP's byte pairs, "
            "such as openai/clip-vit-base-patch16"
        )
    tokenizer = Tokenizer(
        vocabulary.pieces, length=config.text_length, merges=vocabulary.merges, added=vocabulary.added
    )
    check_words(place, tokenizer, vocabulary)
    return tokenizer


def shipped() -> tuple[Path, Vocabulary]:
    """The small vocabulary, and its file."""
    try:
        return VOCABULARY, read_vocabulary(VOCABULARY)
    except InputError as error:
        raise InputError(f"{error}; python -m data_tools.vocabulary makes it") from None


def on_this_machine(config: EncoderConfig) -> tuple[Path, Vocabulary]:
    """A vocabulary that we do not ship, and its place."""
    beside = Path(config.weights).parent if config.weights else WEIGHTS
    place = find_vocabulary(config.tokenizer, weights=beside)
    return place, read_vocabulary(place)


def check_words(place: Path, tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    """Raise InputError if the vocabulary's own words do not come out as its entries."""
    added = [entry["content"] for entry in vocabulary.added]
    words = {word: piece for word, piece in vocabulary.words().items() if not any(part in word for part in added)}
    words = dict(list(words.items())[:PROBED])
    found = tokenizer.pieces(" ".join(words))
    if found != list(words.values()):
        raise InputError(
            f"encoder.tokenizer: {place}: its own words are not told as its entries; the tokenizers library must be "
            f"that of requirements.txt, found {tokenizers.__version__}"
        )
