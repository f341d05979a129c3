"""The tokenizer: whole words, no unknown pieces in English, an empty sentence is all padding."""

import pickle
import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.vocabulary import LARGEST, WORDS, task_sentences, words_of
from instructrl.data.tokenizer import UNKNOWN, VOCABULARY, Tokenizer, make_tokenizer
from instructrl.errors import InputError

COLORS = words_of(
    [
        "red maroon lime green blue navy yellow cyan magenta silver",
        "gray orange olive purple teal azure violet rose black white",
    ]
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_tokenizer("scratch_tiny")


def test_sizes(tokenizer: Tokenizer) -> None:
    tokens, padding = tokenizer(["Reach the RED ball.", "", "go"])
    assert tokens.shape == padding.shape == (3, 32) == (3, tokenizer.length)
    assert (tokens.dtype, padding.dtype) == (np.int32, np.float32)
    assert padding.sum(1).tolist() == [27, 32, 31]
    assert np.array_equal(tokens == 0, padding == 1)
    assert tokenizer.decode(tokens[0]) == "reach the red ball." and tokenizer.decode(tokens[1]) == ""
    assert 1000 < tokenizer.vocabulary_size <= LARGEST
    assert tokenizer.vocabulary_size == len(VOCABULARY.read_text().splitlines())


def test_words_are_whole(tokenizer: Tokenizer) -> None:
    sentences = task_sentences()
    assert len(sentences) > 200
    words = words_of(sentences) | words_of(WORDS.read_text().splitlines()) | COLORS
    assert [word for word in sorted(words) if tokenizer.pieces(word) != [word]] == []
    for sentence in sentences:
        assert tokenizer.decode(tokenizer([sentence])[0][0]) == sentence.lower()


@given(
    st.lists(st.text(string.ascii_letters + string.digits, min_size=1, max_size=12), min_size=1, max_size=2).map(
        " ".join
    )
)
def test_any_english_can_be_written(sentence: str) -> None:
    tokenizer = make_tokenizer("scratch_tiny")
    tokens, padding = tokenizer([sentence])
    assert UNKNOWN not in tokenizer.pieces(sentence)
    assert tokenizer.decode(tokens[0]) == sentence.lower()
    assert tokens.max() < tokenizer.vocabulary_size and padding[0, 0] == 0


def test_punctuation_and_other_scripts(tokenizer: Tokenizer) -> None:
    assert UNKNOWN not in tokenizer.pieces(string.punctuation)
    assert tokenizer.pieces("caf\u00e9")[0].startswith("ca") and UNKNOWN not in tokenizer.pieces("caf\u00e9")
    assert tokenizer.pieces("the \u65e5 ball") == ["the", UNKNOWN, "ball"]


def test_pickles(tokenizer: Tokenizer) -> None:
    copy = pickle.loads(pickle.dumps(tokenizer))
    for one, other in zip(copy(["push it"]), tokenizer(["push it"]), strict=True):
        assert np.array_equal(one, other)


def test_errors(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="33 tokens, at most 32"):
        tokenizer(["red " * 33])
    with pytest.raises(InputError, match=r"encoder.kind: found nonsense"):
        make_tokenizer("nonsense")
