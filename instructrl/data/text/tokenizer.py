"""Tokenizers: text to token ids and a padding mask."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers.pre_tokenizers import BertPreTokenizer

from instructrl.config.model import BYTE_PAIRS, SENTENCE_PIECES, UNIGRAMS, EncoderConfig
from instructrl.data.text.vocab_files import (
    END,
    INSIDE,
    LONGEST,
    MISSING,
    PADDING,
    SENTINELS,
    SPACE,
    SPECIAL,
    START,
    STOP,
    UNIGRAM_STOP,
    UNKNOWN,
    WORD_END,
    WORD_PIECES,
    Merges,
    Vocabulary,
    read_vocabulary,
)
from instructrl.data.text.vocab_lookup import find_vocabulary
from instructrl.errors import InputError
from instructrl.package_files import VOCABULARY

WEIGHTS = Path("weights")  # folder of downloaded tokenizers, if encoder.weights is not set
EXAMPLES = {
    BYTE_PAIRS: "openai/clip-vit-base-patch16",
    SENTENCE_PIECES: "google/siglip2-base-patch16-224",
    UNIGRAMS: "google-t5/t5-base",
}
PROBED = 1000  # number of words that are checked
# CLIP's published rule: English contractions, runs of letters, single digits, runs of other non-space characters.
SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class Tokenizer:
    """BERT's word pieces, CLIP's byte pairs or Gemma's sentence pieces, in lower case, or T5's. Picklable, thread-safe.

    Byte pairs are enclosed in start and end tokens, sentence pieces have the latter, word pieces none. Text is never
    tokenized to one of these or to padding.

    Attributes:
        length: number of tokens of every encoded text, including padding.
        vocabulary_size: ids are in [0, vocabulary_size).
        padding: id of the padding token.
        special_token_ids: ids of start and end token, the largest of all; of the end; or empty.
        checksum: digest of everything that determines the ids.
    """

    def __init__(
        self,
        pieces: list[str],
        *,
        length: int,
        merges: Merges | None = None,
        added: Sequence[dict[str, Any]] = (),
        kind: str | None = None,
        scores: Sequence[float] | None = None,
    ) -> None:
        """`pieces` are in the order of their ids; the others as in a Vocabulary, by default of the two first kinds."""
        ids = {piece: number for number, piece in enumerate(pieces)}
        kind = kind or (WORD_PIECES if merges is None else BYTE_PAIRS)
        content: list[Any] = [pieces, merges, list(added), *([kind] if kind == SENTENCE_PIECES else [])]
        content += [kind, list(scores or [])] if kind == UNIGRAMS else []
        self.checksum = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        self.length, self.vocabulary_size = length, len(pieces)
        self.padding = ids[PADDING] if kind == WORD_PIECES else 0
        self._start: list[int] = [ids[START]] if kind == BYTE_PAIRS else []
        special = {BYTE_PAIRS: (END, END), SENTENCE_PIECES: (STOP, MISSING), UNIGRAMS: (UNIGRAM_STOP, MISSING)}
        ends, unknown = special.get(kind, (None, None))
        self._end: list[int] = [ids[ends]] if ends else []
        self._unknown = unknown and ids[unknown]  # where text without a piece is refused
        self.special_token_ids: tuple[int, ...] = (*self._start, *self._end)
        if kind == SENTENCE_PIECES:
            self._tokenizer = sentencepiece_tokenizer(ids, merges or [])
        elif kind == UNIGRAMS:
            self._tokenizer = unigram_tokenizer(pieces, scores or [0.0] * len(pieces))
        else:
            self._tokenizer = wordpiece_tokenizer(ids) if merges is None else bpe_tokenizer(ids, merges)
        self._tokenizer.add_tokens([AddedToken(**entry) for entry in added])
        self._splitter = BertPreTokenizer() if kind in (SENTENCE_PIECES, UNIGRAMS) else self._tokenizer.pre_tokenizer

    def __call__(self, sentences: list[str], *, truncate: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return tokens [B,L] int32 and padding mask [B,L] float32, 1 where padding; an empty text has no word pieces.

        With `truncate`, a text of more than `length` tokens is truncated (special tokens are kept).

        Raises:
            InputError: a text has more than `length` tokens, or bytes without an entry in the vocabulary.
        """
        tokens = np.full((len(sentences), self.length), self.padding, np.int32)
        padding = np.ones((len(sentences), self.length), np.float32)
        for row, sentence in enumerate(sentences):
            ids = self._ids(sentence)
            if truncate and len(ids) > self.length:
                ids = [*ids[: self.length - len(self._end)], *self._end]
            if len(ids) > self.length:
                raise InputError(f"instruction {sentence!r}: {len(ids)} tokens, at most {self.length} fit; shorten it")
            tokens[row, : len(ids)] = ids
            padding[row, : len(ids)] = 0
        return tokens, padding

    def _ids(self, sentence: str) -> list[int]:
        """Return the ids of a text, including special tokens."""
        encoded = self._encode(sentence)
        if self._unknown in encoded.ids:  # stands for bytes without a piece; the published vocabularies have all bytes
            unknown = sentence[slice(*encoded.offsets[encoded.ids.index(self._unknown)])]
            raise InputError(
                f"instruction {sentence!r}: encoder.tokenizer has no piece for {unknown!r}; "
                "rephrase it, or use a vocabulary that has all bytes"
            )
        return [*self._start, *encoded.ids, *self._end]

    def _encode(self, sentence: str) -> tokenizers.Encoding:
        try:
            return self._tokenizer.encode(sentence)
        except TypeError:
            raise InputError(f"instruction {sentence!r}: not Unicode text; write it in UTF-8") from None

    def pieces(self, sentence: str) -> list[str]:
        """Return the pieces of a text, without special tokens."""
        return self._encode(sentence).tokens

    def words(self, sentence: str) -> list[str]:
        """Return the words of a text before they become pieces, in lower case; punctuation marks are words too.

        Raises:
            InputError: not Unicode text.
        """
        self._encode(sentence)
        text = self._tokenizer.normalizer.normalize_str(sentence).replace(SPACE, " ").lower()
        spans = [span for _, span in self._splitter.pre_tokenize_str(text)]
        return list(filter(None, (text[slice(*span)].strip() for span in spans)))

    def decode(self, tokens: np.ndarray) -> str:
        """Return the text (in lower case, but for T5's pieces) of one row of tokens [L]."""
        ids = [int(token) for token in tokens]
        if self._end:
            count = ids.index(self._end[0]) if self._end[0] in ids else 0
            ids = [number for number in ids[:count] if number not in self._start]
        else:
            ids = [number for number in ids if number != self.padding]
        return self._tokenizer.decode(ids).strip()


def wordpiece_tokenizer(ids: dict[str, int]) -> tokenizers.Tokenizer:
    """Build the tokenizer of bert-base-uncased with these entries."""
    tokenizer = tokenizers.Tokenizer(
        models.WordPiece(ids, unk_token=UNKNOWN, continuing_subword_prefix=INSIDE, max_input_chars_per_word=LONGEST)
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=INSIDE)
    return tokenizer


def bpe_tokenizer(ids: dict[str, int], merges: Merges) -> tokenizers.Tokenizer:
    """Build CLIP's tokenizer with these entries; END stands for a byte without a piece."""
    tokenizer = tokenizers.Tokenizer(models.BPE(ids, merges, unk_token=END, end_of_word_suffix=WORD_END))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(SPLIT), behavior="removed", invert=True)
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, as_bytes])
    space = "\u0120"  # byte-level encoding of a space
    tokenizer.decoder = decoders.Sequence([decoders.Replace(WORD_END, space), decoders.ByteLevel()])
    return tokenizer


def sentencepiece_tokenizer(ids: dict[str, int], merges: Merges) -> tokenizers.Tokenizer:
    """Build Gemma's tokenizer with these entries, for text in lower case as SigLIP 2 reads it."""
    model = models.BPE(ids, merges, unk_token=MISSING, fuse_unk=True, byte_fallback=True)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def unigram_tokenizer(pieces: Sequence[str], scores: Sequence[float]) -> tokenizers.Tokenizer:
    """Build T5's tokenizer with these entries: the most probable pieces of each word, upper and lower case apart."""
    special = {*SPECIAL[UNIGRAMS], *SENTINELS}
    # A space in front, which no word has, so that a text cannot forge them.
    entries = [f" {piece}" if piece in special else piece for piece in pieces]
    model = models.Unigram([*zip(entries, scores, strict=True)], unk_id=pieces.index(MISSING), byte_fallback=False)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    words = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), words])
    tokenizer.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    return tokenizer


def make_tokenizer(config: EncoderConfig) -> Tokenizer:
    """Build the tokenizer that `encoder.tokenizer` names: the bundled small vocabulary, or one on this machine.

    Where `encoder.text` names another encoder it is that one's, and `encoder.text_tokenizer` the setting.

    Raises:
        InputError: it does not exist, is damaged, or does not match the kind of encoder.
    """
    try:
        return own_tokenizer(config.reader)
    except InputError as error:
        if not config.parts:
            raise
        raise InputError(str(error).replace("encoder.tokenizer", "encoder.text_tokenizer")) from None


def own_tokenizer(config: EncoderConfig) -> Tokenizer:
    """Build the tokenizer of an encoder that reads the instruction itself, or none."""
    path, vocabulary = bundled_vocabulary() if config.tokenizer == "small" else local_vocabulary(config)
    if config.tokens and config.text and vocabulary.kind != config.tokens:
        raise InputError(
            f"encoder.tokenizer: found {config.tokenizer}, {vocabulary.kind.partition(' ')[2]}; allowed for "
            f"kind={config.kind}: {config.tokens}, such as {EXAMPLES[config.tokens]}"
        )
    tokenizer = Tokenizer(
        vocabulary.pieces,
        length=config.text_length,
        merges=vocabulary.merges,
        added=vocabulary.added,
        kind=vocabulary.kind,
        scores=vocabulary.scores,
    )
    check_words(path, tokenizer, vocabulary)
    return tokenizer


def bundled_vocabulary() -> tuple[Path, Vocabulary]:
    """Return the path of the bundled small vocabulary, and its content."""
    try:
        return VOCABULARY, read_vocabulary(VOCABULARY)
    except InputError as error:
        raise InputError(f"{error}; create it with python -m data_tools.vocabulary") from None


def local_vocabulary(config: EncoderConfig) -> tuple[Path, Vocabulary]:
    """Return the path of a vocabulary that is not bundled, and its content."""
    folder = Path(config.weights).parent if config.weights else WEIGHTS
    path = find_vocabulary(config.tokenizer, weights=folder)
    return path, read_vocabulary(path)


def check_words(path: Path, tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    """Raise InputError if the vocabulary's own words are not tokenized as its entries."""
    added = [entry["content"] for entry in vocabulary.added]
    words = {word: piece for word, piece in vocabulary.words().items() if not any(part in word for part in added)}
    words = dict(list(words.items())[:PROBED])
    found = tokenizer.pieces(" ".join(words))
    if found != list(words.values()):
        raise InputError(
            f"encoder.tokenizer: {path}: its own words are not tokenized as its entries; install the version of the "
            f"tokenizers library in requirements.txt, found {tokenizers.__version__}"
        )
