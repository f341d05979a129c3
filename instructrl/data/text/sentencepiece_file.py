"""Strict reader of SentencePiece's model files: of their protocol buffers, only what the ids of text depend on."""

import math
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # types of pieces
KINDS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
# Numbers of fields.
PIECES, TRAINER, NORMALIZER = 1, 2, 3
TEXT, SCORE, TYPE = 1, 2, 3  # of a piece
MODEL_TYPE = 3  # of the trainer
NAME, DUMMY_PREFIX = 1, 3  # of the normalizer


class DamagedError(Exception):
    """The file is no protocol buffer of this format; the message says why."""


class Piece(NamedTuple):
    """An entry of a vocabulary, in the order of ids."""

    text: str
    score: float
    type: int


class SentencePieceFile(NamedTuple):
    """Content of a model file."""

    pieces: list[Piece]
    kind: str  # unigram, bpe, word or char
    normalizer: str  # name of the rules, such as nmt_nfkc
    dummy_prefix: bool  # a space is put in front of a text


def read_sentencepiece(data: bytes) -> SentencePieceFile:
    """Read the bytes of a model file.

    Raises:
        DamagedError: they are of another format.
    """
    try:
        return contents(data)
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise DamagedError(f"not a SentencePiece model, {type(error).__name__}") from None


def contents(data: bytes) -> SentencePieceFile:
    """Parse the fields of a model file."""
    pieces, trainer, normalizer = list[Piece](), dict[int, Any](), dict[int, Any]()
    for number, value in fields(data):
        if number == PIECES:
            found = dict(fields(message(value)))
            text, score = message(found.get(TEXT)).decode(), message(found.get(SCORE, bytes(4)))
            pieces.append(Piece(text, struct.unpack("<f", score)[0], found.get(TYPE, NORMAL)))
            if not math.isfinite(pieces[-1].score):
                raise DamagedError(f"the score of entry {len(pieces) - 1} is not finite")
        elif number == TRAINER:
            trainer = dict(fields(message(value)))
        elif number == NORMALIZER:
            normalizer = dict(fields(message(value)))
    if not pieces:
        raise DamagedError("no pieces")
    kind = KINDS.get(trainer.get(MODEL_TYPE, 1), "unknown")
    name = message(normalizer.get(NAME, b"")).decode()
    return SentencePieceFile(pieces, kind, name, bool(normalizer.get(DUMMY_PREFIX, 1)))


def message(value: Any) -> bytes:
    """The bytes of a field that holds text or a message."""
    if not isinstance(value, bytes):
        raise DamagedError("a field of another type")
    return value


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each field of a message: an integer, or bytes."""
    position = 0
    while position < len(data):
        key, position = varint(data, position)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, position = varint(data, position)
            yield number, value
            continue
        size = {FIXED64: 8, FIXED32: 4}.get(wire)
        if wire == BYTES:
            size, position = varint(data, position)
        if size is None or position + size > len(data):
            raise DamagedError(f"a field that does not end, at byte {position}")
        yield number, data[position : position + size]
        position += size


def varint(data: bytes, position: int) -> tuple[int, int]:
    """The integer of variable length at a position, and the position after it."""
    value = shift = 0
    while True:
        byte = data[position]
        value, shift, position = value | (byte & 127) << shift, shift + 7, position + 1
        if byte < 128:
            return value, position
        if shift > 63:
            raise DamagedError(f"an integer that does not end, at byte {position}")


def merges_of(pieces: list[Piece]) -> list[tuple[str, str]]:
    """The merges of byte pairs in order of priority, which a model file has as scores of their results."""
    scores = {piece.text: piece.score for piece in pieces if piece.type == NORMAL}
    ids = {piece.text: number for number, piece in enumerate(pieces)}
    merges = []
    for text, score in scores.items():
        pairs = [(text[:cut], text[cut:]) for cut in range(1, len(text))]
        known = [pair for pair in pairs if pair[0] in ids and pair[1] in ids]
        merges += [(-score, ids[first], ids[second], first, second) for first, second in known]
    return [(first, second) for *_, first, second in sorted(merges)]
