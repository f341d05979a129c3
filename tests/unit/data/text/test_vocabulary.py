"""Vocabulary files that are damaged or of another kind are reported in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures import vocabularies
from tests.fixtures.vocabularies import BERT, CLIP, MERGES, refused


def changed(content: dict[str, Any], **model: Any) -> dict[str, Any]:
    return content | {"model": content["model"] | model}


def added(content: dict[str, Any], *tokens: Any) -> dict[str, Any]:
    return content | {"added_tokens": [*content["added_tokens"], *tokens]}


BERT_JSON, CLIP_JSON = vocabularies.bert_json(BERT), vocabularies.clip_json(CLIP, MERGES)
IDS, CLIP_IDS = BERT_JSON["model"]["vocab"], CLIP_JSON["model"]["vocab"]
UNIGRAM = {"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]]}}
JSON_FILES: dict[str, tuple[Any, str]] = {  # content of a tokenizer.json, and the error
    "a list": ([], "contains no model"),
    "a number": (3, "contains no model"),
    "no model": ({"version": "1.0"}, "contains no model"),
    "vocab.json": (CLIP_IDS, "for vocab.json and merges.txt, name their folder"),
    "a model that is text": ({"model": "BPE"}, "contains no model"),
    "Unigram": (UNIGRAM, "2 entries without <pad> and </s>, which T5's sentence pieces have; allowed: BERT's"),
    "WordLevel": (changed(BERT_JSON, type="WordLevel"), "found a model of type WordLevel"),
    "no type": ({"model": {"vocab": {}}}, "found a model of type unknown"),
    "a type that is a list": ({"model": {"type": ["BPE"]}}, "found a model of type"),
    "another prefix": (changed(BERT_JSON, continuing_subword_prefix="@@"), "pieces have the affixes ('@@', '')"),
    "GPT-2": (changed(CLIP_JSON, end_of_word_suffix=None), "pieces have the affixes ('', ''), expected ('', '</w>')"),
    "no vocab": (changed(BERT_JSON, vocab=None), "damaged (no dictionary of entries)"),
    "empty vocab": (changed(BERT_JSON, vocab={}) | {"added_tokens": []}, "0 entries without [PAD] and [UNK]"),
    "no [UNK]": (changed(BERT_JSON, vocab={"[PAD]": 0, "a": 1}) | {"added_tokens": []}, "2 entries without [UNK]"),
    "nothing but specials": (
        changed(BERT_JSON, vocab={"[PAD]": 0, "[UNK]": 1, "##a": 2}) | {"added_tokens": None},
        "3 entries without a lower-case English word",
    ),
    "an id too many": (changed(BERT_JSON, vocab=IDS | {"more": len(IDS) + 1}), f"'more' has the id {len(IDS) + 1}"),
    "an id twice": (changed(BERT_JSON, vocab=IDS | {"more": 7}), "has the id 7, expected 8"),
    "a negative id": (changed(BERT_JSON, vocab=IDS | {"more": -1}), "'more' has the id -1, expected 0"),
    "an id that is text": (changed(BERT_JSON, vocab=IDS | {"more": "9"}), "damaged (an id that is not an integer)"),
    "an id that is true": (changed(BERT_JSON, vocab=IDS | {"more": True}), "damaged (an id that is not an integer)"),
    "half an id": (changed(BERT_JSON, vocab=IDS | {"more": 1.5}), "damaged (an id that is not an integer)"),
    "an empty entry": (changed(BERT_JSON, vocab=IDS | {"": len(IDS)}), f"entry {len(IDS)} is '', expected text"),
    "a blank in an entry": (changed(BERT_JSON, vocab=IDS | {"a b": len(IDS)}), "is 'a b', expected text without"),
    "half a character": (changed(BERT_JSON, vocab=IDS | {"\ud800": len(IDS)}), "damaged (found half a character)"),
    "added tokens that are none": (BERT_JSON | {"added_tokens": {"a": 1}}, "damaged (no dictionary of entries)"),
    "an added token without content": (added(BERT_JSON, {"id": 1}), "an added token without content"),
    "an added token that is a number": (added(BERT_JSON, 1), "an added token without content"),
    "an added token without id": (added(BERT_JSON, {"content": "x y"}), "an id that is not an integer"),
    "an added token with another id": (added(BERT_JSON, {"content": "red", "id": 3}), "'red' has the ids "),
    "no merges": (changed(CLIP_JSON, merges=None), "damaged (no list of merges)"),
    "a merge of three": (changed(CLIP_JSON, merges=[["a", "b", "c"]]), "merge 1: found \"['a', 'b', 'c']\""),
    "a merge of one": (changed(CLIP_JSON, merges=["ab"]), "merge 1: found 'ab', expected two pieces"),
    "a merge of numbers": (changed(CLIP_JSON, merges=[[1, 2]]), "expected two pieces"),
    "a merge of nothing": (changed(CLIP_JSON, merges=[MERGES[0], None]), "merge 2: found 'None', expected two pieces"),
    "an unknown merge": (changed(CLIP_JSON, merges=["z z"]), "merge 1: 'zz' is not in the vocabulary"),
    "a merge twice": (changed(CLIP_JSON, merges=[*MERGES, MERGES[0]]), "is a duplicate of number 1"),
    "no markers": (
        changed(CLIP_JSON, vocab={"a": 0, "a</w>": 1}, merges=[]) | {"added_tokens": []},
        "2 entries without <|startoftext|> and <|endoftext|>",
    ),
    "an entry behind the end": (
        added(CLIP_JSON, {"content": "<pad>", "id": len(CLIP), "special": True}),
        f"the last of {len(CLIP) + 1} entries is '<pad>', expected <|endoftext|>",
    ),
    "markers alone": (
        changed(CLIP_JSON, vocab={vocabularies.START: 0, vocabularies.END: 1}, merges=[]) | {"added_tokens": []},
        "2 entries without a lower-case English letter",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", JSON_FILES)
def test_a_tokenizer_json_that_cannot_be_used_is_one_line(tmp_path: Path, case: str) -> None:
    content, expected = JSON_FILES[case]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    for path in (tmp_path / "tokenizer.json", tmp_path):
        line = refused(path)
        assert expected in line and line.startswith(f"encoder.tokenizer: {path}")


TEXT_FILES: dict[str, tuple[str, bytes, str]] = {  # name, content, and the error
    "empty": ("vocab.txt", b"", "damaged (empty)"),
    "blank": ("vocab.txt", b"\n \n", "damaged (empty)"),
    "no UTF-8": ("vocab.txt", b"[PAD]\n[UNK]\n\xff\n", "damaged (not UTF-8 text)"),
    "twice": ("vocab.txt", b"[PAD]\n[UNK]\nred\nred\n", "line 4, 'red', is a duplicate of line 3"),
    "an empty line": ("vocab.txt", b"[PAD]\n\n[UNK]\nred\n", "damaged (line 2 is empty)"),
    "empty lines at the end": ("vocab.txt", b"[PAD]\n[UNK]\nred\n\n", "damaged (line 4 is empty)"),
    "counts": ("vocab.txt", b"[PAD]\n[UNK]\nred\t12\n", "entry 2 is 'red\\t12', expected text without spaces"),
    "no specials": ("vocab.txt", b"the\nred\n", "2 entries without [PAD] and [UNK], which BERT's word pieces have"),
    "merges": ("merges.txt", b"#version: 0.2\na b\n", "2 entries without [PAD] and [UNK]"),
    "no JSON": ("tokenizer.json", b"{]", "damaged (found {], which is no JSON)"),
    "cut JSON": ("tokenizer.json", json.dumps(BERT_JSON).encode()[:-9], "which is no JSON)"),
    "deep JSON": ("tokenizer.json", b"[" * 100_000, "damaged (found more than 64 levels)"),
    "empty JSON": ("tokenizer.json", b"", "damaged (empty)"),
    "a key twice": ("tokenizer.json", b'{"model": {"vocab": {"a": 0, "b": 1, "a": 2}}}', "found a twice"),
    "a pickle": ("vocab.pkl", b"\x80\x04.", "neither a tokenizer.json, nor a vocab.txt, nor a .model of SentencePiece"),
}


@pytest.mark.parametrize("case", TEXT_FILES)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, case: str) -> None:
    name, content, expected = TEXT_FILES[case]
    (tmp_path / name).write_bytes(content)
    line = refused(tmp_path / name)
    assert expected in line and str(tmp_path / name) in line


@pytest.mark.parametrize(
    ("merges", "expected"),
    [
        (["#version: 0.2", "a b c"], "merges.txt: damaged (merge 1: found 'a b c', expected two pieces)"),
        (["#version: 0.2", "r e", "", "a b"], "merges.txt: damaged (line 3 is empty)"),
        (["#version: 0.2", "q q"], "merges.txt: damaged (merge 1: 'qq' is not in the vocabulary)"),
        (["e d</w>", "e d</w>"], "merges.txt: damaged (line 2, 'e d</w>', is a duplicate of line 1)"),
        (None, "a folder without a vocabulary"),
    ],
)
def test_a_folder_whose_merges_are_wrong_is_one_line(tmp_path: Path, merges: list[str] | None, expected: str) -> None:
    vocabularies.write_json(tmp_path / "vocab.json", CLIP_IDS)
    if merges is not None:
        vocabularies.write_lines(tmp_path / "merges.txt", merges)
    assert expected in refused(tmp_path)


def test_a_file_without_permission_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabularies.write_lines(tmp_path / "vocab.txt", BERT)
    monkeypatch.setattr(Path, "read_bytes", lambda _: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    assert "vocab.txt: cannot be read (Permission denied)" in refused(tmp_path / "vocab.txt")
