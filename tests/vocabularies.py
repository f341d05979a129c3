"""Small vocabularies of BERT's and CLIP's kind in every file format, and both tokenizations in plain Python."""

import itertools
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from instructrl.config import EncoderConfig
from instructrl.data.tokenizer import Tokenizer, make_tokenizer
from instructrl.errors import InputError

START, END = "<|startoftext|>", "<|endoftext|>"
SENTENCES = [
    "pick up the red block and lift it",
    "reach the blue ball",
    "push the green button, then the yellow one",
    "it's the 2nd cup that they'll lift: don't touch the caf\u00e9",
]


def category(character: str) -> str:
    return unicodedata.category(character)


# BERT


def bert_pieces() -> list[str]:
    """Return special tokens, letters, digits, punctuation, words and suffixes; padding is not 0."""
    words = sorted({word for sentence in SENTENCES for word in bert_words(sentence)})
    letters = "abcdefghijklmnopqrstuvwxy0123456789\u03c3\u0451\u65e5"  # no z
    pieces = ["[unused0]", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *".,:;!?'-[]", *words]
    return list(dict.fromkeys([*pieces, *(f"##{letter}" for letter in letters), "##ing", "##ck", "lif", "re"]))


def bert_words(text: str) -> list[str]:
    """Split text into lower-case words without accents; punctuation and Chinese characters are single words."""
    spaced = ""
    for one in text:
        if one in "\t\n\r" or category(one) == "Zs":
            spaced += " "
        elif category(one)[0] != "C" and one != "\ufffd":
            chinese = 0x4E00 <= ord(one) < 0xA000 or 0x3400 <= ord(one) < 0x4DC0 or 0xF900 <= ord(one) < 0xFB00
            chinese = chinese or 0x20000 <= ord(one) < 0x2A6E0 or 0x2F800 <= ord(one) < 0x2FA20
            spaced += f" {one} " if chinese else one
    lowered = "".join(one.lower() for one in spaced)
    bare = "".join(one for one in unicodedata.normalize("NFD", lowered) if category(one) != "Mn")
    symbols = "$+<=>^`|~"
    return "".join(f" {one} " if category(one)[0] == "P" or one in symbols else one for one in bare).split()


def greedy(word: str, pieces: set[str]) -> list[str]:
    """Split a word greedily into longest prefixes; a single [UNK] if the rest has none."""
    found: list[str] = []
    begin = 0
    while begin < len(word):
        tries = [("##" if begin else "") + word[begin:end] for end in range(len(word), begin, -1)]
        piece = next((one for one in tries if one in pieces), None)
        if piece is None or len(word) > 100:
            return ["[UNK]"]
        found.append(piece)
        begin += len(piece.removeprefix("##")) if begin else len(piece)
    return found


def bert_ids(text: str, pieces: list[str]) -> list[int]:
    known = set(pieces)
    return [pieces.index(piece) for word in bert_words(text) for piece in greedy(word, known)]


# CLIP

BYTES = [*range(33, 127), *range(161, 173), *range(174, 256)]  # represented by themselves
LETTER = {byte: chr(byte) for byte in BYTES} | {
    byte: chr(256 + index) for index, byte in enumerate(byte for byte in range(256) if byte not in BYTES)
}
BLANKS = {*map(chr, [*range(9, 14), 32, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F]),
          "\u3000"}  # fmt: skip


def clip_pieces() -> tuple[list[str], list[tuple[str, str]]]:
    """Return all bytes, all bytes at the end of a word, the results of merges, start and end; and the merges."""
    learner = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    learner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), as_bytes])
    trainer = trainers.BpeTrainer(vocab_size=200, end_of_word_suffix="</w>", show_progress=False)
    learner.train_from_iterator([" ".join(clip_words(sentence)) for sentence in SENTENCES], trainer)
    merges = [(first, second) for first, second in json.loads(learner.to_str())["model"]["merges"]]
    letters = [*(LETTER[byte] for byte in BYTES), *(LETTER[byte] for byte in range(256) if byte not in BYTES)]
    results = ["".join(merge) for merge in merges]
    assert len(merges) > 50
    return [*dict.fromkeys([*letters, *(f"{letter}</w>" for letter in letters), *results, START, END])], merges


def clip_words(text: str) -> list[str]:
    """Split text into runs of letters, single digits, runs of other non-space characters, and contractions."""
    text = "".join(one.lower() for one in unicodedata.normalize("NFC", text))

    def kind(one: str) -> str:
        return "blank" if one in BLANKS else category(one)[0] if category(one)[0] in "LN" else "other"

    words: list[str] = []
    start = 0
    while start < len(text):
        ending = next((one for one in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d") if text.startswith(one, start)), "")
        stop = start + max(len(ending), 1)
        while not ending and stop < len(text) and kind(text[stop]) == kind(text[start]) in ("L", "other"):
            stop += 1
        words += [text[start:stop]] * (kind(text[start]) != "blank")
        start = stop
    return words


def merged(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """Merge a word's bytes by the first applicable merge, at all positions, until none applies."""
    *parts, last = [LETTER[byte] for byte in word.encode()]
    parts.append(f"{last}</w>")
    while True:
        pairs = list(itertools.pairwise(parts))
        best = next((merge for merge in merges if merge in pairs), None)
        if best is None:
            return parts
        joined: list[str] = []
        for part in parts:
            if joined and (joined[-1], part) == best:
                joined[-1] += part
            else:
                joined.append(part)
        parts = joined


def clip_ids(text: str, pieces: list[str], merges: list[tuple[str, str]]) -> list[int]:
    tokens = [piece for word in clip_words(text) for piece in merged(word, merges)]
    return [pieces.index(piece) for piece in (START, *tokens, END)]


BERT = bert_pieces()
CLIP, MERGES = clip_pieces()
LONG = 4000  # tokens; more than any random text has


def build_tokenizer(tokenizer: Any, *, length: int = LONG, kind: str = "m3ae", **more: Any) -> Tokenizer:
    return make_tokenizer(EncoderConfig(kind=kind, tokenizer=str(tokenizer), text_length=length, **more))


def refused(tokenizer: Any, **more: Any) -> str:
    """Return the one-line error of a tokenizer."""
    with pytest.raises(InputError) as error:
        build_tokenizer(tokenizer, **more)
    line = str(error.value)
    assert "\n" not in line and line.startswith("encoder.tokenizer: ")
    return line


# Files

BERT_FORMS = ("vocab.txt", "vocab.txt of Windows", "vocab.txt without a last newline", "folder of vocab.txt",
              "tokenizer.json", "tokenizer.json of old", "folder of tokenizer.json")  # fmt: skip
CLIP_FORMS = ("vocab.json and merges.txt", "tokenizer.json", "tokenizer.json of old",
              "tokenizer.json that adds special tokens", "folder of tokenizer.json")  # fmt: skip


def bert_json(pieces: list[str]) -> dict[str, Any]:
    """Return a tokenizer.json that adds [CLS] and [SEP], truncates to 3 tokens, pads to 8 and keeps capitals."""
    ids = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([piece for piece in pieces if piece.startswith("[") and piece.endswith("]")][1:])
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=8, pad_id=ids["[PAD]"])
    return json.loads(tokenizer.to_str())


def clip_json(pieces: list[str], merges: list[tuple[str, str]]) -> dict[str, Any]:
    """Return a tokenizer.json that adds start and end, truncates to 4 tokens, pads with the end; dropout is on."""
    ids = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = tokenizers.Tokenizer(models.BPE(ids, merges, unk_token=END, end_of_word_suffix="</w>", dropout=0.5))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.add_special_tokens([START, END])
    tokenizer.post_processor = processors.RobertaProcessing((END, ids[END]), (START, ids[START]))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=9, pad_id=ids[END], pad_token=END)
    return json.loads(tokenizer.to_str())


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def write_lines(path: Path, lines: list[str], end: str = "\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}{end}" for line in lines).encode())
    return path


def without_type(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content as old versions of the library wrote it."""
    return content | {"model": {key: value for key, value in content["model"].items() if key != "type"}}


def bert_files(folder: Path, pieces: list[str]) -> dict[str, Path]:
    """Write the same vocabulary in every file format."""
    content = bert_json(pieces)
    return {
        "vocab.txt": write_lines(folder / "vocab.txt", pieces),
        "vocab.txt of Windows": write_lines(folder / "windows.txt", pieces, "\r\n"),
        "vocab.txt without a last newline": write_lines(folder / "cut.txt", ["\n".join(pieces)], ""),
        "folder of vocab.txt": write_lines(folder / "words/vocab.txt", pieces).parent,
        "tokenizer.json": write_json(folder / "tokenizer.json", content),
        "tokenizer.json of old": write_json(folder / "old.json", without_type(content)),
        "folder of tokenizer.json": write_json(folder / "whole/tokenizer.json", content).parent,
    }


def clip_files(folder: Path, pieces: list[str], merges: list[tuple[str, str]]) -> dict[str, Path]:
    """Write the same vocabulary in every file format."""
    content, ids = clip_json(pieces, merges), {piece: number for number, piece in enumerate(pieces)}
    lines = [" ".join(merge) for merge in merges]
    strings = content | {"model": content["model"] | {"merges": lines}}
    bare = content | {"model": content["model"] | {"vocab": {piece: ids[piece] for piece in pieces[:-2]}}}
    write_lines(folder / "pairs/merges.txt", ["#version: 0.2", *lines])
    return {
        "vocab.json and merges.txt": write_json(folder / "pairs/vocab.json", ids).parent,
        "tokenizer.json": write_json(folder / "tokenizer.json", content),
        "tokenizer.json of old": write_json(folder / "old.json", without_type(strings)),
        "tokenizer.json that adds special tokens": write_json(folder / "bare.json", bare),
        "folder of tokenizer.json": write_json(folder / "whole/tokenizer.json", content).parent,
    }


def in_cache(hub: Path, name: str, files: dict[str, Path]) -> None:
    """Put files into a cache of huggingface_hub as a download does: blobs, a snapshot of links, and a reference."""
    root, commit = hub / f"models--{name.replace('/', '--')}", "0123456789abcdef0123456789abcdef01234567"
    for folder in ("blobs", "refs", f"snapshots/{commit}"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "refs/main").write_text(commit)
    for number, (file, source) in enumerate(files.items()):
        blob = root / "blobs" / f"{number:040x}"
        blob.write_bytes(source.read_bytes())
        (root / "snapshots" / commit / file).symlink_to(Path("../../blobs") / blob.name)


# Text


def settled(one: str) -> bool:
    """Return True if all versions of Unicode classify a character alike."""
    old = unicodedata.ucd_3_2_0.category(one)
    return old == category(one) and old not in ("Cn", "Cs")


characters = st.characters(max_codepoint=0x2FFFF, exclude_categories=["Cs", "Cn"]).filter(settled)
words = st.sampled_from([word for sentence in SENTENCES for word in sentence.split()])
odd = st.sampled_from([START, END, "[PAD]", "[UNK]", "##s", "</w>", "it's", "I'LL", "'", "\u0130", "e\u0301", "\u00c9",
                       "\u65e5\u672c", "\ufb01", "\u00bd", "x" * 101, "re" * 50, " ", "\u00a0", "\u2028", "\x00", "\t",
                       "\u200b", "\u1680", "\U0001f600", "42", "lifting"])  # fmt: skip
english = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ '.,!?-0123", max_size=12)
texts = st.lists(st.one_of(words, odd, english, st.text(characters, max_size=8)), max_size=6).flatmap(
    lambda parts: st.sampled_from([" ", ""]).map(lambda between: between.join(parts))
)
