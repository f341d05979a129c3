"""Tokenizers: the bundled one has whole words, BERT's and CLIP's are as published, equal from every file format."""

import functools
import pickle
import re
import string
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models

from data_tools.vocabulary import MAX_ENTRIES, WORDS, task_instructions, words_of
from instructrl.config.model import EncoderConfig
from instructrl.data.text import tokenizer as module
from instructrl.data.text.tokenizer import UNKNOWN, VOCABULARY, Tokenizer, make_tokenizer
from instructrl.errors import InputError
from tests.fixtures import vocabularies
from tests.fixtures.vocabularies import BERT, CLIP, MERGES, SENTENCES, build_tokenizer, refused, texts

COLORS = words_of(
    [
        "red maroon lime green blue navy yellow cyan magenta silver",
        "gray orange olive purple teal azure violet rose black white",
    ]
)


def unpadded_ids(tokenizer: Tokenizer, sentence: str) -> list[int]:
    """Return the ids before the padding, which must be at the end."""
    (tokens,), (padding,) = tokenizer([sentence])
    count = int((padding == 0).sum())
    assert np.array_equal(padding, np.arange(tokenizer.length) >= count)
    assert np.all(tokens[count:] == tokenizer.padding)
    return tokens[:count].tolist()


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return vocabularies.bert_files(tmp_path_factory.mktemp("bert"), BERT)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return vocabularies.clip_files(tmp_path_factory.mktemp("clip"), CLIP, MERGES)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_tokenizer(EncoderConfig())


# Bundled vocabulary


def test_sizes(tokenizer: Tokenizer) -> None:
    tokens, padding = tokenizer(["Reach the RED ball.", "", "go"])
    assert tokens.shape == padding.shape == (3, 32) == (3, tokenizer.length)
    assert (tokens.dtype, padding.dtype) == (np.int32, np.float32)
    assert padding.sum(1).tolist() == [27, 32, 31]
    assert np.array_equal(tokens == 0, padding == 1) and tokenizer.padding == 0
    assert tokenizer.decode(tokens[0]) == "reach the red ball." and tokenizer.decode(tokens[1]) == ""
    assert 1000 < tokenizer.vocabulary_size <= MAX_ENTRIES
    assert tokenizer.vocabulary_size == len(VOCABULARY.read_text().splitlines())


def test_words_are_whole(tokenizer: Tokenizer) -> None:
    sentences = task_instructions()
    assert len(sentences) > 200
    words = words_of(sentences) | words_of(WORDS.read_text().splitlines()) | COLORS
    assert [word for word in sorted(words) if tokenizer.pieces(word) != [word]] == []
    for sentence in sentences:
        blanks_before_marks = re.sub(r" ?([:,])", r" \1", sentence.lower())
        assert re.sub(r" ?([:,])", r" \1", tokenizer.decode(tokenizer([sentence])[0][0])) == blanks_before_marks


@given(
    st.lists(st.text(string.ascii_letters + string.digits, min_size=1, max_size=12), min_size=1, max_size=2).map(
        " ".join
    )
)
def test_any_english_can_be_written(tokenizer: Tokenizer, sentence: str) -> None:
    tokens, padding = tokenizer([sentence])
    assert UNKNOWN not in tokenizer.pieces(sentence)
    assert tokenizer.decode(tokens[0]) == sentence.lower()
    assert tokens.max() < tokenizer.vocabulary_size and padding[0, 0] == 0


def test_punctuation_and_other_scripts(tokenizer: Tokenizer) -> None:
    assert UNKNOWN not in tokenizer.pieces(string.punctuation)
    assert tokenizer.pieces("caf\u00e9")[0].startswith("ca") and UNKNOWN not in tokenizer.pieces("caf\u00e9")
    assert tokenizer.pieces("the \u65e5 ball") == ["the", UNKNOWN, "ball"]


def test_our_damaged_vocabulary_says_how_to_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VOCABULARY", vocabularies.write_lines(tmp_path / "v.txt", ["[PAD]", "a", "a"]))
    assert "line 3, 'a', is a duplicate of line 2" in refused("small")
    assert "python -m data_tools.vocabulary" in refused("small")


# BERT's and CLIP's


@functools.cache
def built(path: Path) -> Tokenizer:
    return build_tokenizer(path)


@given(texts)
@settings(max_examples=300)
def test_word_pieces_are_those_of_bert(bert: dict[str, Path], text: str) -> None:
    tokenizer = built(bert["vocab.txt"])
    assert unpadded_ids(tokenizer, text) == vocabularies.bert_ids(text, BERT)


@given(texts)
@settings(max_examples=300)
def test_byte_pairs_are_those_of_clip(clip: dict[str, Path], text: str) -> None:
    tokenizer = built(clip["tokenizer.json"])
    ids = unpadded_ids(tokenizer, text)
    assert ids == vocabularies.clip_ids(text, CLIP, MERGES)
    tokens = tokenizer([text])[0][0]
    assert (
        np.argmax(tokens) == len(ids) - 1 and tokens.max() == tokenizer.vocabulary_size - 1
    )  # as models.clip requires
    assert tokenizer.decode(tokens) == " ".join(vocabularies.clip_words(text)).strip()


@pytest.mark.parametrize("form", vocabularies.BERT_FORMS)
def test_every_form_of_word_pieces_gives_the_same_ids(bert: dict[str, Path], form: str) -> None:
    tokenizer = build_tokenizer(bert[form])
    assert (tokenizer.vocabulary_size, tokenizer.padding, tokenizer.special_token_ids) == (
        len(BERT),
        BERT.index("[PAD]"),
        (),
    )
    for text in [*SENTENCES, "", " \t", "[CLS] [PAD]", "It'll be LIFTED z " * 5, "\u65e5\u672c caf\u00c9"]:
        assert unpadded_ids(tokenizer, text) == vocabularies.bert_ids(text, BERT)
    assert tokenizer.checksum == build_tokenizer(bert["vocab.txt"]).checksum
    assert tokenizer.decode(tokenizer(["Pick up the RED block"])[0][0]) == "pick up the red block"
    assert tokenizer.pieces("lifting caf\u00e9s") == ["lift", "##ing", "cafe", "##s"]


@pytest.mark.parametrize("form", vocabularies.CLIP_FORMS)
def test_every_form_of_byte_pairs_gives_the_same_ids(clip: dict[str, Path], form: str) -> None:
    tokenizer, last = build_tokenizer(clip[form], kind="clip"), len(CLIP) - 1
    assert (tokenizer.vocabulary_size, tokenizer.padding, tokenizer.special_token_ids) == (
        last + 1,
        0,
        (last - 1, last),
    )
    for text in [
        *SENTENCES,
        "",
        " \t",
        f"a {vocabularies.END} b",
        "It'll be LIFTED  2 " * 5,
        "\u65e5\u672c caf\u00c9!!",
    ]:
        assert unpadded_ids(tokenizer, text) == vocabularies.clip_ids(text, CLIP, MERGES)
    assert unpadded_ids(tokenizer, "") == [last - 1, last]
    assert tokenizer.checksum == build_tokenizer(clip["vocab.json and merges.txt"]).checksum
    assert tokenizer.decode(tokenizer(["Pick up the RED block!"])[0][0]) == "pick up the red block !"
    assert tokenizer.decode(np.zeros(8, np.int32)) == ""
    assert tokenizer.pieces("the ball") == ["the</w>", "ball</w>"]


def test_words_that_were_added_are_found_and_counted(bert: dict[str, Path], tmp_path: Path) -> None:
    made_by_library = tokenizers.Tokenizer.from_file(str(bert["tokenizer.json"]))
    made_by_library.add_tokens(["franka panda"])
    made_by_library.add_special_tokens(["<robot>"])
    made_by_library.save(str(tmp_path / "tokenizer.json"))
    tokenizer, last = build_tokenizer(tmp_path), len(BERT)
    assert tokenizer.vocabulary_size == last + 2
    assert unpadded_ids(tokenizer, "lift the franka panda") == [BERT.index("lift"), BERT.index("the"), last]
    assert last + 1 not in unpadded_ids(tokenizer, "<robot>")
    assert tokenizer.checksum != build_tokenizer(bert["tokenizer.json"]).checksum


def test_a_sentence_that_does_not_fit_is_one_line(bert: dict[str, Path], clip: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"^instruction '(red )+': 33 tokens, at most 32 fit; shorten it$"):
        make_tokenizer(EncoderConfig())(["red " * 33])
    red = "red " * 6
    assert (
        build_tokenizer(bert["vocab.txt"], length=6)([red])[1].sum()
        == build_tokenizer(clip["tokenizer.json"], length=8)([red])[1].sum()
        == 0
    )
    for path, length in ((bert["vocab.txt"], 5), (clip["tokenizer.json"], 7)):
        with pytest.raises(InputError, match=f"{length + 1} tokens, at most {length} fit"):
            build_tokenizer(path, length=length)([red])


def test_what_byte_pairs_cannot_tell_is_one_line(tmp_path: Path) -> None:
    ids = {piece: number for number, piece in enumerate(["a", "a</w>", vocabularies.START, vocabularies.END])}
    vocabularies.write_json(tmp_path / "vocab.json", ids)
    vocabularies.write_lines(tmp_path / "merges.txt", ["#version: 0.2"])
    assert unpadded_ids(build_tokenizer(tmp_path), "aa a") == [2, 0, 1, 1, 3]
    for sentence, unknown in (("a aba", "b"), ("a b", "b"), ("a\u00e9", "\u00e9"), (vocabularies.END, "<")):
        with pytest.raises(InputError, match=rf"^instruction .* has no piece for '{unknown}'; rephrase it"):
            build_tokenizer(tmp_path)([sentence])


@pytest.mark.parametrize("form", ["small", "vocab.txt", "tokenizer.json"])
def test_text_that_is_no_unicode_is_one_line(clip: dict[str, Path], bert: dict[str, Path], form: str) -> None:
    tokenizer = build_tokenizer({"small": "small", "vocab.txt": bert["vocab.txt"]}.get(form, clip["tokenizer.json"]))
    with pytest.raises(InputError, match="not Unicode text"):
        tokenizer(["a \ud800 b"])


@pytest.mark.parametrize("form", ["small", "vocab.txt", "tokenizer.json"])
def test_pickled_and_shared_by_threads(bert: dict[str, Path], clip: dict[str, Path], form: str) -> None:
    tokenizer = build_tokenizer(
        {"small": "small", "vocab.txt": bert["vocab.txt"]}.get(form, clip["tokenizer.json"]), length=99
    )
    copy = pickle.loads(pickle.dumps(tokenizer))
    sentences = [f"{first} {second} {number}" for first in SENTENCES for second in SENTENCES for number in range(9)]
    expected = tokenizer(sentences)
    for one, other in zip(copy(sentences), expected, strict=True):
        assert np.array_equal(one, other)
    assert copy.checksum == tokenizer.checksum and copy.special_token_ids == tokenizer.special_token_ids
    with ThreadPoolExecutor(8) as threads:
        for found in threads.map(copy, [sentences] * 16):
            assert np.array_equal(found[0], expected[0]) and np.array_equal(found[1], expected[1])


def test_clip_with_text_needs_byte_pairs(bert: dict[str, Path], clip: dict[str, Path]) -> None:
    for path in ("small", bert["tokenizer.json"]):
        assert f"found {path}, word pieces; allowed for kind=clip: CLIP's byte pairs" in refused(path, kind="clip")
        assert build_tokenizer(path, kind="clip", text=False).special_token_ids == ()
    assert build_tokenizer(clip["tokenizer.json"], kind="clip").special_token_ids


def test_a_library_that_ignores_the_file_is_found_out(
    bert: dict[str, Path], clip: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    only_unknown = models.WordPiece({"[UNK]": 2}, unk_token="[UNK]")
    with monkeypatch.context() as patch:
        patch.setattr(models, "WordPiece", lambda *_, **__: only_unknown)
        assert "its own words are not tokenized as its entries" in refused(bert["vocab.txt"])
        assert "its own words are not tokenized as its entries" in refused("small")
    without = models.BPE({vocabularies.END: 0}, [], unk_token=vocabularies.END)
    monkeypatch.setattr(models, "BPE", lambda *_, **__: without)
    assert "its own words are not tokenized as its entries" in refused(clip["tokenizer.json"])
