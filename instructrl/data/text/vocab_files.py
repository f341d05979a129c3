"""Strict readers of published vocabularies: BERT's word pieces, CLIP's byte pairs, Gemma's and T5's sentence pieces.

    tokenizer.json                   any
    vocab.txt                        word pieces, one per line
    vocab.json and merges.txt        byte pairs
    tokenizer.model or spiece.model  sentence pieces, SentencePiece's own file

Only entries, merges or scores, and added words are read: `tokenizer` normalizes and splits text as in the training of
each.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

from instructrl.config.model import BYTE_PAIRS, SENTENCE_PIECES, UNIGRAMS
from instructrl.data.text.sentencepiece_file import USER_DEFINED, DamagedError, merges_of, read_sentencepiece
from instructrl.errors import InputError
from instructrl.storage.json_file import JsonError, parse_json

PADDING, UNKNOWN = "[PAD]", "[UNK]"  # special entries of word pieces
START, END = "<|startoftext|>", "<|endoftext|>"  # and of byte pairs
SPACE, STOP, MISSING = "\u2581", "<eos>", "<unk>"  # a space in sentence pieces, and their special entries beside
PAD = "<pad>"
UNIGRAM_STOP = "</s>"  # T5's in place of STOP
SENTINELS = [f"<extra_id_{number}>" for number in range(99, -1, -1)]  # of T5's pretraining, not in spiece.model
WORD_PIECES = "BERT's word pieces"
SPECIAL = {
    WORD_PIECES: (PADDING, UNKNOWN),
    BYTE_PAIRS: (START, END),
    SENTENCE_PIECES: (PAD, STOP, MISSING),
    UNIGRAMS: (PAD, UNIGRAM_STOP, MISSING),
}
INSIDE, WORD_END = "##", "</w>"  # prefix of a piece within a word; suffix of one at its end
FORMS = (  # files of a folder, in order of preference
    *(("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt")),
    *(("tokenizer.model",), ("spiece.model",)),
)
NORMALIZERS = {SENTENCE_PIECES: ("identity",), UNIGRAMS: ("nmt_nfkc",)}  # rules of SentencePiece for text
FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
LONGEST = 100  # characters; BERT maps longer words to UNKNOWN

Merges = list[tuple[str, str]]


class Vocabulary(NamedTuple):
    """Content of a vocabulary: entries, merges and added words."""

    pieces: list[str]  # in the order of their ids
    merges: Merges | None  # of byte pairs and sentence pieces, in order of priority; None: word pieces
    added: list[dict[str, Any]]  # entries matched before text is split: `content` and FLAGS
    kind: str = WORD_PIECES  # or BYTE_PAIRS, SENTENCE_PIECES or UNIGRAMS
    scores: list[float] | None = None  # of the entries, if they are UNIGRAMS

    def words(self) -> dict[str, str]:
        """Return entries that are whole words, keyed by the word that must be tokenized to just this entry."""
        if self.kind in (SENTENCE_PIECES, UNIGRAMS):  # words of a text are not apart there
            return {}
        if self.merges is None:
            return {piece: piece for piece in self.pieces if is_plain_word(piece) and len(piece) <= LONGEST}
        ends = [piece.removesuffix(WORD_END) for piece in self.pieces if piece.endswith(WORD_END)]
        return {letter: letter + WORD_END for letter in ends if is_plain_word(letter) and len(letter) == 1}


def is_plain_word(text: str) -> bool:
    """Return True if text is a word in lower-case English letters."""
    return text.isascii() and text.isalpha() and text.islower()


def read_vocabulary(path: Path) -> Vocabulary:
    """Read the vocabulary in a file, or in a folder that contains one.

    Raises:
        InputError: there is none, it is damaged, or of another kind.
    """
    if path.is_dir():
        found = [[path / name for name in form] for form in FORMS if all((path / name).is_file() for name in form)]
        if not found:
            raise InputError(
                f"encoder.tokenizer: {path}: a folder without a vocabulary; allowed: one that contains tokenizer.json, "
                "vocab.txt, vocab.json and merges.txt, tokenizer.model, or spiece.model"
            )
        vocabulary = read_pairs(*found[0]) if len(found[0]) == 2 else read_file(found[0][0])
    else:
        vocabulary = read_file(path)
    check(path, vocabulary)
    return vocabulary


def read_file(path: Path) -> Vocabulary:
    """Read the vocabulary in a tokenizer.json, a vocab.txt or a model file of SentencePiece."""
    if path.suffix == ".json":
        return read_tokenizer(path)
    if path.suffix == ".txt":
        return Vocabulary(read_lines(path), None, [])
    if path.suffix == ".model":
        return read_model(path)
    raise unsupported_error(path, "neither a tokenizer.json, nor a vocab.txt, nor a .model of SentencePiece")


def read_model(path: Path) -> Vocabulary:
    """Read the vocabulary in a model file of SentencePiece: byte pairs as Gemma's, or unigrams as T5's."""
    try:
        found = read_sentencepiece(path.read_bytes())
    except OSError as error:
        raise InputError(f"encoder.tokenizer: {path}: cannot be read ({error.strerror})") from None
    except DamagedError as error:
        raise damaged_error(path, str(error)) from None
    kind = {"bpe": SENTENCE_PIECES, "unigram": UNIGRAMS}.get(found.kind)
    if kind is None:
        raise unsupported_error(path, f"found a SentencePiece model of type {found.kind}")
    if found.normalizer not in NORMALIZERS[kind] or found.dummy_prefix != (kind == UNIGRAMS):
        prefix = "a space" if found.dummy_prefix else "nothing"
        wanted = f"{NORMALIZERS[kind][0]} and {'a space' if kind == UNIGRAMS else 'nothing'}"
        raise unsupported_error(
            path, f"found rules {found.normalizer or 'without name'} and {prefix} put before a text, expected {wanted}"
        )
    pieces = [piece.text for piece in found.pieces]
    if len(set(pieces)) < len(pieces):
        raise damaged_error(path, "an entry that is there twice")
    if kind == SENTENCE_PIECES:
        added = [piece.text for piece in found.pieces if piece.type == USER_DEFINED and piece.text not in SPECIAL[kind]]
        words = [{"content": piece, **dict.fromkeys(FLAGS, False)} for piece in added]
        return Vocabulary(pieces, merges_of(found.pieces), words, kind)
    sentinels = [] if SENTINELS[-1] in pieces else SENTINELS
    scores = [*(piece.score for piece in found.pieces), *(0.0 for _ in sentinels)]
    return Vocabulary([*pieces, *sentinels], None, [], kind, scores)


def read_tokenizer(path: Path) -> Vocabulary:
    """Read the vocabulary in a file of the tokenizers library."""
    content = read_json(path)
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        raise unsupported_error(path, "contains no model; for vocab.json and merges.txt, name their folder")
    kind = model_type(model)
    if kind == "Unigram":
        return read_unigrams(path, model, content.get("added_tokens") or [])
    affixes = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    sentence_pieces = kind == "BPE" and model.get("byte_fallback") is True
    expected = {"WordPiece": (INSIDE, ""), "BPE": ("", "" if sentence_pieces else WORD_END)}
    if kind not in expected:
        raise unsupported_error(path, f"found a model of type {kind}")
    if affixes != expected[kind]:
        raise unsupported_error(
            path, f"found a {kind} whose pieces have the affixes {affixes}, expected {expected[kind]}"
        )
    ids, added = all_ids(path, model.get("vocab"), content.get("added_tokens") or [])
    if kind == "WordPiece":
        return Vocabulary(pieces_by_id(path, ids), None, added)
    merges = read_merges(path, model.get("merges"), ids)
    return Vocabulary(pieces_by_id(path, ids), merges, added, SENTENCE_PIECES if sentence_pieces else BYTE_PAIRS)


def read_unigrams(path: Path, model: dict[str, Any], added: Any) -> Vocabulary:
    """Read entries with their scores, and the added ones."""
    rows = model.get("vocab")
    valid = isinstance(rows, list) and all(
        isinstance(row, list) and len(row) == 2 and isinstance(row[0], str) and type(row[1]) in (int, float)
        for row in rows
    )
    if not isinstance(rows, list) or not valid:
        raise damaged_error(path, "no list of entries with scores")
    scores = {piece: float(score) for piece, score in rows}
    if len(scores) < len(rows) or not all(map(math.isfinite, scores.values())):
        raise damaged_error(path, "an entry that is there twice, or whose score is not finite")
    ids, words = all_ids(path, {piece: number for number, piece in enumerate(scores)}, added)
    pieces = pieces_by_id(path, ids)
    return Vocabulary(pieces, None, words, UNIGRAMS, [scores.get(piece, 0.0) for piece in pieces])


def model_type(model: dict[str, Any]) -> str:
    """Return the type of a model; inferred for old files without one, such as that of bert-base-uncased."""
    if "type" in model:
        return str(model["type"])
    if "merges" in model:
        return "BPE"
    return "WordPiece" if "max_input_chars_per_word" in model else "unknown"


def all_ids(path: Path, entries: Any, added: Any) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Return the ids of all entries, including added ones, and the added ones that may match text.

    Special ones, such as [CLS], may not: text must not be able to forge them.
    """
    if not isinstance(entries, dict) or not isinstance(added, list):
        raise damaged_error(path, "no dictionary of entries")
    ids, found = dict(entries), []
    for entry in added:
        if not isinstance(entry, dict) or not isinstance(content := entry.get("content"), str) or not content:
            raise damaged_error(path, "an added token without content")
        if ids.setdefault(content, entry.get("id")) != entry.get("id"):
            raise damaged_error(path, f"{content!r} has the ids {ids[content]} and {entry.get('id')}")
        if not entry.get("special") and not any(content in special for special in SPECIAL.values()):
            found.append({"content": content, **{flag: bool(entry.get(flag)) for flag in FLAGS}})
    return ids, found


def read_pairs(entries: Path, merges: Path) -> Vocabulary:
    """Read the vocabulary in vocab.json and merges.txt."""
    ids = read_json(entries)
    if not isinstance(ids, dict):
        raise damaged_error(entries, "no dictionary of entries")
    lines = read_lines(merges, header="#version")
    return Vocabulary(pieces_by_id(entries, ids), read_merges(merges, lines, ids), [], BYTE_PAIRS)


def read_merges(path: Path, merges: Any, ids: dict[str, int]) -> Merges:
    """Parse merges: pairs of pieces whose concatenation is another piece."""
    if not isinstance(merges, list):
        raise damaged_error(path, "no list of merges")
    pairs: dict[tuple[str, str], int] = {}
    for number, merge in enumerate(merges, 1):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            raise damaged_error(path, f"merge {number}: found {str(merge)[:80]!r}, expected two pieces")
        first, second = parts
        for piece in (first, second, first + second):
            if piece not in ids:
                raise damaged_error(path, f"merge {number}: {piece!r} is not in the vocabulary")
        if pairs.setdefault((first, second), number) != number:
            raise damaged_error(path, f"merge {number} is a duplicate of number {pairs[first, second]}")
    return list(pairs)


def pieces_by_id(path: Path, ids: dict[str, int]) -> list[str]:
    """Return the entries in the order of their ids, which must be 0, 1, 2 and so on."""
    if any(type(number) is not int for number in ids.values()):
        raise damaged_error(path, "an id that is not an integer")
    pieces = sorted(ids, key=ids.__getitem__)
    for expected, piece in enumerate(pieces):
        if ids[piece] != expected:
            raise damaged_error(
                path, f"{piece!r} has the id {ids[piece]}, expected {expected}: ids are 0, 1, 2 and so on"
            )
    return pieces


def check(path: Path, vocabulary: Vocabulary) -> None:
    """Raise InputError for a vocabulary that cannot tokenize text."""
    pieces, kind, pairs = vocabulary.pieces, vocabulary.kind, vocabulary.kind == BYTE_PAIRS
    absent = [piece for piece in SPECIAL[kind] if piece not in pieces]
    if absent:
        raise unsupported_error(path, f"{len(pieces)} entries without {' and '.join(absent)}, which {kind} have")
    if kind in (SENTENCE_PIECES, UNIGRAMS):
        if pieces[0] != PAD or SPACE not in pieces:
            raise unsupported_error(path, f"entry 0 is {pieces[0]!r}, expected {PAD}, and {SPACE} for a space")
        return
    if pairs and pieces[-1] != END:
        raise unsupported_error(
            path, f"the last of {len(pieces)} entries is {pieces[-1]!r}, expected {END}, as CLIP requires"
        )
    known = {entry["content"] for entry in vocabulary.added}
    for number, piece in enumerate(pieces):
        if piece not in known and piece.split() != [piece]:
            raise damaged_error(path, f"entry {number} is {piece!r}, expected text without spaces")
    if not vocabulary.words():
        raise unsupported_error(
            path, f"{len(pieces)} entries without a lower-case English {'letter' if pairs else 'word'}"
        )


def read_lines(path: Path, *, header: str | None = None) -> list[str]:
    """Read the lines of a file, which must be unique; a first one that begins with `header` is skipped."""
    lines = read_text(path).replace("\r\n", "\n").removesuffix("\n").split("\n")
    skipped = int(header is not None and lines[0].startswith(header))
    first: dict[str, int] = {}
    for number, line in enumerate(lines[skipped:], 1 + skipped):
        if not line:
            raise damaged_error(path, f"line {number} is empty")
        if first.setdefault(line, number) != number:
            raise damaged_error(path, f"line {number}, {line!r}, is a duplicate of line {first[line]}")
    return lines[skipped:]


def read_json(path: Path) -> Any:
    """Read a JSON file in which no key appears twice."""
    try:
        return parse_json(read_text(path))
    except JsonError as error:
        raise damaged_error(path, str(error)) from None


def read_text(path: Path) -> str:
    """Read a text file."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"encoder.tokenizer: {path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise damaged_error(path, "not UTF-8 text") from None
    if not text.strip():
        raise damaged_error(path, "empty")
    return text


def damaged_error(path: Path, reason: str) -> InputError:
    """Build the error for a damaged file."""
    return InputError(f"encoder.tokenizer: {path}: damaged ({reason}); download it again")


def unsupported_error(path: Path, reason: str) -> InputError:
    """Build the error for a file of another kind."""
    allowed = (
        f"{WORD_PIECES} (tokenizer.json, vocab.txt), {BYTE_PAIRS} (tokenizer.json, or a folder), {SENTENCE_PIECES} and "
        f"{UNIGRAMS} (tokenizer.json, .model)"
    )
    return InputError(f"encoder.tokenizer: {path}: {reason}; allowed: {allowed}")
