"""SentencePiece's model files give the ids of that library; files of another kind, and damaged ones, are one line."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrl.config.model import EncoderConfig
from instructrl.data.text.sentencepiece_file import DamagedError, read_sentencepiece
from instructrl.data.text.tokenizer import Tokenizer, make_tokenizer
from instructrl.data.text.vocab_files import read_vocabulary
from instructrl.errors import InputError
from tests.fixtures.encoders import SIGLIP2_TINY, T5_TINY
from tests.paths import GOLDEN

UNIGRAMS, BYTE_PAIRS = GOLDEN / "unigrams.model", GOLDEN / "byte_pairs.model"  # by tests/golden/make_tokenizers.py
IDS: dict[str, list[tuple[str, list[int]]]] = json.loads((GOLDEN / "sentencepiece.json").read_text())
CASES = [(path, config, *case) for path, config in ((UNIGRAMS, T5_TINY), (BYTE_PAIRS, SIGLIP2_TINY))
         for case in IDS[path.stem]]  # fmt: skip
MISSING = {UNIGRAMS: 2, BYTE_PAIRS: 3}


def tokenizer(config: EncoderConfig, path: Path) -> Tokenizer:
    return make_tokenizer(replace(config, tokenizer=str(path), text_length=64))


@pytest.mark.parametrize(("path", "config", "sentence", "ids"), CASES)
def test_ids_are_those_of_the_library(path: Path, config: EncoderConfig, sentence: str, ids: list[int]) -> None:
    ours = tokenizer(config, path)
    if MISSING[path] in ids:
        with pytest.raises(InputError, match=r"^instruction .*: encoder\.tokenizer has no piece for"):
            ours([sentence])
        return
    tokens, padding = ours([sentence])
    assert tokens[0].tolist() == [*ids, 1] + [0] * (63 - len(ids))
    assert padding[0].tolist() == [0] * (len(ids) + 1) + [1] * (63 - len(ids))


def test_upper_case_is_kept_for_t5_alone_and_words_are_compared_in_lower_case() -> None:
    for path, config, text in ((UNIGRAMS, T5_TINY, "Open the Lamp"), (BYTE_PAIRS, SIGLIP2_TINY, "open the lamp")):
        ours = tokenizer(config, path)
        assert ours.decode(ours(["Open the Lamp"])[0][0]) == text
        assert ours.words("Open the Lamp, now") == ["open", "the", "lamp", ",", "now"]
        assert (ours.padding, ours.special_token_ids) == (0, (1,))


def published(**model: object) -> dict[str, object]:
    """The unigrams as a tokenizer.json of the tokenizers library, with the words that T5 adds."""
    pieces = read_sentencepiece(UNIGRAMS.read_bytes()).pieces
    rows = [[piece.text, piece.score] for piece in pieces] + [[f"<extra_id_{99 - index}>", 0.0] for index in range(100)]
    added = [{"id": index, "content": piece[0], "special": True} for index, piece in enumerate(rows)
             if str(piece[0]).startswith("<")]  # fmt: skip
    return {"added_tokens": added, "model": {"type": "Unigram", "unk_id": 2, "vocab": rows} | model}


def test_a_tokenizer_json_and_a_folder_with_the_model_file_are_the_same_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(published()))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "spiece.model").write_bytes(UNIGRAMS.read_bytes())
    places = (UNIGRAMS, tmp_path / "tokenizer.json", tmp_path / "folder")
    assert len({tokenizer(T5_TINY, place).checksum for place in places}) == 1
    assert tokenizer(T5_TINY, UNIGRAMS).vocabulary_size == 154
    assert tokenizer(T5_TINY, UNIGRAMS).checksum != tokenizer(SIGLIP2_TINY, BYTE_PAIRS).checksum


WRONG: list[tuple[Callable[[bytes], bytes], str]] = [
    (lambda data: data[:-3], "damaged (a field that does not end"),
    (lambda _: b"", "damaged (no pieces)"),
    (lambda _: b"\x80\x04\x95aaaaaaaa", "damaged ("),
    (
        lambda data: data.replace(b"nmt_nfkc", b"identity"),
        "found rules identity and a space put before a text, expected",
    ),
    (lambda data: data.replace(b"</s>", b"<\\s>"), "154 entries without </s>, which T5's sentence pieces have"),
    (lambda data: data.replace(b"<pad>", b"<pod>"), "without <pad>"),
]


@pytest.mark.parametrize(("change", "line"), WRONG)
def test_wrong_files_are_one_line(tmp_path: Path, change: Callable[[bytes], bytes], line: str) -> None:
    path = tmp_path / "spiece.model"
    path.write_bytes(change(UNIGRAMS.read_bytes()))
    with pytest.raises(InputError) as caught:
        tokenizer(T5_TINY, path)
    assert str(caught.value).startswith(f"encoder.tokenizer: {path}: ") and "\n" not in str(caught.value)
    assert line in str(caught.value)


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ({"vocab": {"a": 1}}, "damaged (no list of entries with scores)"),
        ({"vocab": [["<pad>", 0.0], ["a", None]]}, "damaged (no list of entries with scores)"),
        ({"vocab": [["<pad>", 0.0], ["<pad>", 0.0]]}, "damaged (an entry that is there twice"),
        ({"vocab": [["<pad>", 0.0], ["a", float("nan")]]}, "damaged (an entry that is there twice, or whose score"),
    ],
)
def test_wrong_entries_of_a_tokenizer_json_are_one_line(tmp_path: Path, model: dict, line: str) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(published(**model)))
    with pytest.raises(InputError) as caught:
        tokenizer(T5_TINY, tmp_path / "tokenizer.json")
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_pieces_of_another_encoder_are_refused_by_name() -> None:
    with pytest.raises(
        InputError, match="sentence pieces; allowed for kind=t5: T5's sentence pieces, such as google-t5/"
    ):
        tokenizer(T5_TINY, BYTE_PAIRS)
    with pytest.raises(InputError, match="sentence pieces; allowed for kind=siglip2: Gemma's sentence pieces"):
        tokenizer(SIGLIP2_TINY, UNIGRAMS)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 640), st.binary(max_size=4))
def test_a_damaged_file_is_read_or_refused(position: int, inserted: bytes) -> None:
    data = UNIGRAMS.read_bytes()
    with suppress(DamagedError):
        read_sentencepiece(data[:position] + inserted + data[position + len(inserted) :])


def test_entries_are_in_the_order_of_ids_and_those_that_a_user_defined_are_matched_first() -> None:
    vocabulary = read_vocabulary(BYTE_PAIRS)
    assert vocabulary.pieces[:5] == ["<pad>", "<eos>", "<bos>", "<unk>", "\n\n"]
    assert [entry["content"] for entry in vocabulary.added] == ["\n\n"]
    assert vocabulary.merges is not None and len(vocabulary.merges) > 40
