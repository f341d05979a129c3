"""Files of vocabularies as they are published, read strictly: BERT's word pieces and CLIP's byte pairs.

    tokenizer.json             either
    vocab.txt                  word pieces, one a line
    vocab.json and merges.txt  byte pairs

Only entries, merges and added words are taken from them: `tokenizer` lowers and splits text as the two were trained.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from instructrl.errors import InputError

PADDING, UNKNOWN = "[PAD]", "[UNK]"  # word pieces have them,
START, END = "<|startoftext|>", "<|endoftext|>"  # and byte pairs these
INSIDE, WORD_END = "##", "</w>"  # before a piece that does not begin a word; behind one that ends it
FORMS = (("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"))  # what a folder may hold, first come first
FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
LONGEST = 100  # characters; BERT does not know a longer word

Merges = list[tuple[str, str]]


class Vocabulary(NamedTuple):
    """What a tokenizer is made of."""

    pieces: list[str]  # in the order of their ids
    merges: Merges | None  # of byte pairs, those that are joined first in front; None: word pieces
    added: list[dict[str, Any]]  # entries that are found in a sentence before it is split: `content` and FLAGS

    def words(self) -> dict[str, str]:
        """Entries that are whole words, by a word that must be told as this one entry."""
        if self.merges is None:
            return {piece: piece for piece in self.pieces if plain(piece) and len(piece) <= LONGEST}
        ends = [piece.removesuffix(WORD_END) for piece in self.pieces if piece.endswith(WORD_END)]
        return {letter: letter + WORD_END for letter in ends if plain(letter) and len(letter) == 1}


def plain(text: str) -> bool:
    """Whether some text is a word in lower-case English letters."""
    return text.isascii() and text.isalpha() and text.islower()


def read_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary in a file, or in a folder that holds one.

    Raises:
        InputError: there is none, it is damaged, or of another kind.
    """
    if path.is_dir():
        held = [[path / name for name in form] for form in FORMS if all((path / name).is_file() for name in form)]
        if not held:
            raise InputError(
                f"encoder.tokenizer: {path}: a folder without a vocabulary; allowed: one that holds tokenizer.json, "
                "vocab.txt, or vocab.json and merges.txt"
            )
        vocabulary = read_pairs(*held[0]) if len(held[0]) == 2 else read_file(held[0][0])
    else:
        vocabulary = read_file(path)
    check(path, vocabulary)
    return vocabulary


def read_file(path: Path) -> Vocabulary:
    """The vocabulary in a tokenizer.json or a vocab.txt."""
    if path.suffix == ".json":
        return read_tokenizer(path)
    if path.suffix == ".txt":
        return Vocabulary(read_lines(path), None, [])
    raise unusable(path, "neither a tokenizer.json nor a vocab.txt")


def read_tokenizer(path: Path) -> Vocabulary:
    """The vocabulary in a file of the tokenizers library."""
    content = read_json(path)
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        raise unusable(path, "found no model in it; of vocab.json and merges.txt, give their folder")
    kind = kind_of(model)
    marks = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    expected = {"WordPiece": (INSIDE, ""), "BPE": ("", WORD_END)}
    if kind not in expected:
        raise unusable(path, f"found a model of type {kind}")
    if marks != expected[kind]:
        raise unusable(path, f"found a {kind} whose pieces are marked by {marks}, expected {expected[kind]}")
    ids, added = all_ids(path, model.get("vocab"), content.get("added_tokens") or [])
    merges = None if kind == "WordPiece" else read_merges(path, model.get("merges"), ids)
    return Vocabulary(in_order(path, ids), merges, added)


def kind_of(model: dict[str, Any]) -> str:
    """The type of a model; old files, such as that of bert-base-uncased, do not say it."""
    if "type" in model:
        return str(model["type"])
    if "merges" in model:
        return "BPE"
    return "WordPiece" if "max_input_chars_per_word" in model else "unknown"


def all_ids(path: Path, entries: Any, added: Any) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """The ids of all entries, also of those added to the model's, and which of these are found in sentences.

    Special ones, such as [CLS], are not: no sentence may forge them.
    """
    if not isinstance(entries, dict) or not isinstance(added, list):
        raise damaged(path, "no dictionary of entries")
    ids, found = dict(entries), []
    for entry in added:
        if not isinstance(entry, dict) or not isinstance(content := entry.get("content"), str) or not content:
            raise damaged(path, "an added token without content")
        if ids.setdefault(content, entry.get("id")) != entry.get("id"):
            raise damaged(path, f"{content!r} has the ids {ids[content]} and {entry.get('id')}")
        if not entry.get("special") and content not in (PADDING, UNKNOWN, START, END):
            found.append({"content": content, **{flag: bool(entry.get(flag)) for flag in FLAGS}})
    return ids, found


def read_pairs(entries: Path, merges: Path) -> Vocabulary:
    """The vocabulary in vocab.json and merges.txt."""
    ids = read_json(entries)
    if not isinstance(ids, dict):
        raise damaged(entries, "no dictionary of entries")
    lines = read_lines(merges, header="#version")
    return Vocabulary(in_order(entries, ids), read_merges(merges, lines, ids), [])


def read_merges(path: Path, merges: Any, ids: dict[str, int]) -> Merges:
    """Pairs of pieces, each of which gives another piece."""
    if not isinstance(merges, list):
        raise damaged(path, "no list of merges")
    pairs: dict[tuple[str, str], int] = {}
    for number, merge in enumerate(merges, 1):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            raise damaged(path, f"merge {number}: found {str(merge)[:80]!r}, expected two pieces")
        first, second = parts
        for piece in (first, second, first + second):
            if piece not in ids:
                raise damaged(path, f"merge {number}: {piece!r} is not in the vocabulary")
        if pairs.setdefault((first, second), number) != number:
            raise damaged(path, f"merge {number} is there already, as number {pairs[first, second]}")
    return list(pairs)


def in_order(path: Path, ids: dict[str, int]) -> list[str]:
    """The entries in the order of their ids, which are 0, 1, 2 and so on."""
    if any(type(number) is not int for number in ids.values()):
        raise damaged(path, "an id that is no integer")
    pieces = sorted(ids, key=ids.__getitem__)
    for place, piece in enumerate(pieces):
        if ids[piece] != place:
            raise damaged(path, f"{piece!r} has the id {ids[piece]}, expected {place}: ids are 0, 1, 2 and so on")
    return pieces


def check(path: Path, vocabulary: Vocabulary) -> None:
    """Raise InputError for a vocabulary with which no sentence can be told."""
    pieces, pairs = vocabulary.pieces, vocabulary.merges is not None
    kind = "CLIP's byte pairs" if pairs else "BERT's word pieces"
    lacking = [piece for piece in ((START, END) if pairs else (PADDING, UNKNOWN)) if piece not in pieces]
    if lacking:
        raise unusable(path, f"{len(pieces)} entries without {' and '.join(lacking)}, which {kind} have")
    if pairs and pieces[-1] != END:
        raise unusable(path, f"the last of {len(pieces)} entries is {pieces[-1]!r}, expected {END}, as CLIP needs it")
    known = {entry["content"] for entry in vocabulary.added}
    for number, piece in enumerate(pieces):
        if piece not in known and piece.split() != [piece]:
            raise damaged(path, f"entry {number} is {piece!r}, expected text without blanks")
    try:
        "".join(pieces).encode()
    except UnicodeEncodeError:
        raise damaged(path, "an entry that is no Unicode text") from None
    if not vocabulary.words():
        raise unusable(path, f"{len(pieces)} entries without a lower-case English {'letter' if pairs else 'word'}")


def read_lines(path: Path, *, header: str | None = None) -> list[str]:
    """The lines of a file, each of which is there once; a first one that begins with `header` is left out."""
    lines = read_text(path).replace("\r\n", "\n").removesuffix("\n").split("\n")
    skipped = int(header is not None and lines[0].startswith(header))
    first: dict[str, int] = {}
    for number, line in enumerate(lines[skipped:], 1 + skipped):
        if not line:
            raise damaged(path, f"line {number} is empty")
        if first.setdefault(line, number) != number:
            raise damaged(path, f"line {number}, {line!r}, is there already as line {first[line]}")
    return lines[skipped:]


def read_json(path: Path) -> Any:
    """The content of a JSON file in which no key appears twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            key = next(key for place, (key, _) in enumerate(pairs) if key in dict(pairs[:place]))
            raise ValueError(f"{key!r} is there twice")
        return found

    try:
        return json.loads(read_text(path), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"no JSON: {error}") from None


def read_text(path: Path) -> str:
    """The text of a file."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"encoder.tokenizer: {path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise damaged(path, "no text in UTF-8") from None
    if not text.strip():
        raise damaged(path, "empty")
    return text


def damaged(path: Path, why: str) -> InputError:
    """The error for a file that is not whole."""
    return InputError(f"encoder.tokenizer: {path}: damaged ({why}); get the file again")


def unusable(path: Path, why: str) -> InputError:
    """The error for a file of another kind."""
    allowed = "BERT's word pieces (tokenizer.json, vocab.txt), CLIP's byte pairs (tokenizer.json, or a folder)"
    return InputError(f"encoder.tokenizer: {path}: {why}; allowed: {allowed}")
