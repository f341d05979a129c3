"""Gemma's sentence pieces, as SigLIP 2 reads them, have the ids of the published pipeline in the tokenizers library."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from instructrl.data.text.tokenizer import Tokenizer, make_tokenizer
from instructrl.errors import InputError
from tests.fixtures.encoders import CLIP_TINY, SIGLIP2_TINY

PAD, EOS, BOS, UNKNOWN = "<pad>", "<eos>", "<bos>", "<unk>"
SPECIAL = [PAD, EOS, BOS, UNKNOWN, "<mask>"]
MERGES = [
    ("t", "h"),
    ("th", "e"),
    ("▁", "the"),
    ("r", "e"),
    ("re", "d"),
    ("▁", "red"),
    ("b", "a"),
    ("l", "l"),
    ("ba", "ll"),
]


def content(**model: Any) -> dict[str, Any]:
    """A small tokenizer.json with the pipeline of google/siglip2-base-patch16-224."""
    pieces = [*SPECIAL, "\n\n", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghijklmnopqrstuvwxyz,."]
    pieces += [first + second for first, second in MERGES]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": number, "content": piece, "special": number < 5, **flags} for number, piece in enumerate(pieces[:6])
    ]
    own = {
        "type": "BPE", "dropout": None, "unk_token": UNKNOWN, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
        "vocab": {piece: number for number, piece in enumerate(pieces)}, "merges": [" ".join(pair) for pair in MERGES],
    }  # fmt: skip
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {
            "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False
        },
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        ]},
        "model": own | model,
    }  # fmt: skip


def written(folder: Path, **model: Any) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(content(**model)))
    return path


def tokenizer(path: Path, *, text_length: int = 64) -> Tokenizer:
    return make_tokenizer(replace(SIGLIP2_TINY, tokenizer=str(path), text_length=text_length))


SENTENCES = ["the red ball", "Reach THE  red ball, then.", "café 7\n\nçok", "", "the <bos> ball <pad>", "日本"]


@pytest.mark.parametrize("sentence", SENTENCES)
def test_ids_are_those_of_the_published_pipeline_on_text_in_lower_case(tmp_path: Path, sentence: str) -> None:
    path = written(tmp_path)
    ours, length = tokenizer(path), 64
    tokens, padding = ours([sentence])
    published = tokenizers.Tokenizer.from_file(str(path))
    published.encode_special_tokens = True  # a text cannot forge them
    expected = [*published.encode(sentence.lower()).ids, 1]
    assert tokens[0].tolist() == expected + [0] * (length - len(expected))
    assert padding[0].tolist() == [0] * len(expected) + [1] * (length - len(expected))
    if "<" not in sentence and "  " not in sentence:
        assert ours.decode(tokens[0]) == sentence.lower().strip()


def test_words_are_apart_for_the_check_of_unknown_ones(tmp_path: Path) -> None:
    ours = tokenizer(written(tmp_path))
    assert ours.words("Reach the RED ball, then.") == ["reach", "the", "red", "ball", ",", "then", "."]
    assert ours.special_token_ids == (1,) and ours.padding == 0


def test_a_long_text_is_refused_or_cut_before_its_end(tmp_path: Path) -> None:
    ours = tokenizer(written(tmp_path), text_length=4)
    with pytest.raises(InputError, match="5 tokens, at most 4 fit"):
        ours(["the red the."])
    tokens, padding = ours(["the red the."], truncate=True)
    assert tokens[0].tolist() == [*tokenizer(written(tmp_path))(["the red the."])[0][0, :3], 1] and not padding.any()


def test_other_vocabularies_are_refused_by_name(tmp_path: Path) -> None:
    line = (
        "^encoder.tokenizer: found .*, word pieces; allowed for kind=siglip2: Gemma's sentence pieces, such as google/s"
    )
    with pytest.raises(InputError, match=line):
        tokenizer(Path("small"))
    path = written(tmp_path)
    with pytest.raises(InputError, match="sentence pieces; allowed for kind=clip: CLIP's byte pairs, such as openai/"):
        make_tokenizer(replace(CLIP_TINY, tokenizer=str(path)))
    with pytest.raises(InputError, match="found a BPE whose pieces have the affixes"):
        tokenizer(written(tmp_path, byte_fallback=False))
    vocab = {piece: number for piece, number in content()["model"]["vocab"].items() if piece != "▁the"}
    with pytest.raises(InputError, match="damaged"):
        tokenizer(written(tmp_path, vocab=vocab))
