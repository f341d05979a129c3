"""Lookup of a named vocabulary: a path, a downloaded file, the Hugging Face cache."""

import sys
from pathlib import Path

import pytest

import train
from tests.fixtures import vocabularies
from tests.fixtures.vocabularies import BERT, CLIP, MERGES, build_tokenizer, refused


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return vocabularies.bert_files(tmp_path_factory.mktemp("bert"), BERT)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return vocabularies.clip_files(tmp_path_factory.mktemp("clip"), CLIP, MERGES)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide an empty cache of huggingface_hub, and an empty working directory."""
    from huggingface_hub import constants

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize("kept", ["bert-base-uncased", "google-bert/bert-base-uncased"])
@pytest.mark.parametrize("asked", ["bert-base-uncased", "google-bert/bert-base-uncased"])
@pytest.mark.parametrize("form", ["tokenizer.json", "vocab.txt"])
def test_bert_is_found_in_the_cache(bert: dict[str, Path], hub: Path, kept: str, asked: str, form: str) -> None:
    vocabularies.in_cache(hub, kept, {form: bert[form]})
    assert build_tokenizer(asked).checksum == build_tokenizer(bert[form]).checksum
    assert "bert-large-uncased is not a file" in refused("bert-large-uncased")


def test_clip_is_found_in_the_cache(clip: dict[str, Path], hub: Path) -> None:
    name, pair = "openai/clip-vit-base-patch16", clip["vocab.json and merges.txt"]
    vocabularies.in_cache(hub, name, {"vocab.json": pair / "vocab.json"})
    assert f"{name} is not a file or folder" in refused(name)
    vocabularies.in_cache(hub / "other", name, {file: pair / file for file in ("vocab.json", "merges.txt")})
    (hub / "other").rename(hub.with_name("whole"))
    from huggingface_hub import constants

    constants.HF_HUB_CACHE = str(hub.with_name("whole"))  # the fixture restores it
    assert build_tokenizer(name, kind="clip").checksum == build_tokenizer(pair).checksum


@pytest.mark.parametrize("weights", [None, "kept/m3ae.safetensors"])
def test_what_was_fetched_comes_before_the_cache_and_a_path_before_both(
    bert: dict[str, Path], clip: dict[str, Path], hub: Path, weights: str | None
) -> None:
    name = "openai/clip-vit-base-patch16"
    vocabularies.in_cache(hub, name, {"vocab.txt": bert["vocab.txt"]})
    assert not build_tokenizer(name, weights=weights).special_token_ids
    fetched = Path(weights).parent if weights else Path("weights")
    vocabularies.write_json(
        fetched / "tokenizers/openai--clip-vit-base-patch16/tokenizer.json", vocabularies.clip_json(CLIP, MERGES)
    )
    assert build_tokenizer(name, weights=weights).special_token_ids
    vocabularies.write_lines(Path(name) / "vocab.txt", BERT)
    assert not build_tokenizer(name, weights=weights).special_token_ids


def test_a_name_that_is_nowhere_says_where_it_was_looked_for_and_how_to_get_it(hub: Path) -> None:
    line = refused("bert-base-uncased", weights="kept/m3ae.safetensors")
    for part in (
        "bert-base-uncased", "kept/tokenizers", str(hub), "python -m data_tools.weights fetch",
        "hf download bert-base-uncased tokenizer.json", "encoder.tokenizer=/path/to/vocab.txt",
    ):  # fmt: skip
        assert part in line
    assert not list(Path().iterdir()) and not hub.exists()


@pytest.mark.parametrize(
    "asked",
    ["", " ", "a/b/c", "./vocab.txt", "vocab.txt", "/nowhere/tokenizer.json", "~nobody/x", "a" * 5000, "a\x00b", "-x-",
     "a--b", "bert base", "../..x", "caf\u00e9"],
)  # fmt: skip
def test_what_is_neither_a_path_nor_a_name_is_one_line(hub: Path, asked: str) -> None:
    assert refused(asked).startswith(f"encoder.tokenizer: found {asked!r}, which is not a file or folder; allowed: s")


def test_a_missing_tokenizer_ends_a_training_before_anything_is_made(
    hub: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "encoder=clip_b16", "encoder.weights=null"])
    with pytest.raises(SystemExit) as exit_:
        train.main()
    assert exit_.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "encoder.tokenizer: openai/clip-vit-base-patch16 is not a file" in line and str(hub) in line
    assert not list(Path().iterdir())
