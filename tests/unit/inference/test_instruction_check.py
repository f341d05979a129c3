"""Words of instructions that no instruction of the training had: which they are, and when that is said."""

from dataclasses import replace
from pathlib import Path

import pytest

from instructrl.config.encoders import ScratchTinyConfig
from instructrl.config.model import EncoderConfig
from instructrl.data.text.tokenizer import Tokenizer, bundled_vocabulary
from instructrl.errors import InputError
from instructrl.inference.instruction_check import InstructionCheck
from instructrl.training.parameters.training_words import read_words, words_of, write_words
from tests.fixtures.vocabularies import clip_pieces

ENCODER = ScratchTinyConfig("tiny", "scratch_tiny", dim=8, depth=1, patch_size=8)
TRAINING = ("Reach the red ball!", "go to the café", "push buttons")


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return Tokenizer(bundled_vocabulary()[1].pieces, length=32)


def reports(
    tokenizer: Tokenizer, *instructions: str, encoder: EncoderConfig = ENCODER, known: bool = True, strict: bool = False
) -> list[str]:
    """Check these instructions one after the other; returns the messages."""
    said: list[str] = []
    words = words_of(TRAINING, tokenizer) if known else None
    check = InstructionCheck(encoder, tokenizer, words, strict=strict, report=said.append)
    for instruction in instructions:
        check(instruction)
    return said


@pytest.mark.parametrize(
    "instruction", ["", "  ", "reach the red ball", "BALL  red Réach!", "cafe", "push\tthe\nbuttons"]
)
def test_known_words_and_no_words_are_not_reported(instruction: str, small: Tokenizer) -> None:
    assert reports(small, instruction) == [] == reports(small, instruction, strict=True)


@pytest.mark.parametrize(
    ("instruction", "words"),
    [
        ("levitate zorblax", "'levitate', 'zorblax'"),
        ("reach the red zorblax and the zorblax", "'zorblax', 'and'"),
        ("到达红色的球", "'到', '达', '红', '色', '的', '球'"),
        ("到达红色的球并且推动按钮", "'到', '达', '红', '色', '的', '球', '并', '且' and 4 more"),
        ("🟥⚽", "'🟥⚽'"),
        ("reach the red ball.", "'.'"),
        ("reach the button", "'button'"),  # though buttons was there
        ("redball", "'redball'"),  # though all its pieces were
        ("[PAD]", "'[', 'pad', ']'"),
    ],
)
def test_unknown_words_are_named_once_for_each_sentence(instruction: str, words: str, small: Tokenizer) -> None:
    other = "reach the gloop"
    [line, second] = reports(small, instruction, instruction, "reach the red ball", other, instruction, other)
    assert line.startswith(f"instruction {instruction}: no instruction of the training had {words}; the policy has")
    assert "'gloop'" in second and "\n" not in line
    with pytest.raises(InputError, match="to act anyway, leave out strict") as error:
        reports(small, "push the ball", instruction, strict=True)
    assert str(error.value).startswith(line.partition(";")[0])


def test_characters_that_make_no_word_are_told(small: Tokenizer) -> None:
    [line] = reports(small, "\u200b")
    assert line.startswith("instruction '\\u200b': no word that the tokenizer reads")


def test_byte_pairs_have_words_too() -> None:
    pieces, merges = clip_pieces()
    tokenizer = Tokenizer(pieces, length=32, merges=merges)
    assert reports(tokenizer, "reach the red ball!") == []
    for instruction, words in (
        ("grasp the zorblax", "'grasp', 'zorblax'"),
        ("到达红色的球", "'到达红色的球'"),
        ("🟥⚽", "'🟥⚽'"),
    ):
        assert f"had {words};" in reports(tokenizer, instruction)[0]


def test_a_pretrained_encoder_may_understand_and_one_without_text_reads_nothing(small: Tokenizer) -> None:
    pretrained = replace(ENCODER, weights="weights/clip_b16.safetensors")
    [line] = reports(small, "levitate", encoder=pretrained)
    assert line.endswith(
        "the pretrained encoder (weights/clip_b16.safetensors) may understand that, but the policy was never trained "
        "to act on it"
    )
    assert reports(small, "levitate", encoder=replace(ENCODER, text=False), strict=True) == []


def test_an_agent_without_a_record_says_so_once(small: Tokenizer) -> None:
    [line] = reports(small, "", "levitate", "zorblax", "levitate", known=False)
    assert line.startswith("agent: trained before the words of its instructions were recorded")
    with pytest.raises(InputError, match=r"recorded.*; to act anyway, leave out strict"):
        reports(small, "reach the red ball", known=False, strict=True)
    assert reports(small, "", known=False, strict=True) == []


def test_the_record_of_a_run(tmp_path: Path) -> None:
    assert read_words(tmp_path) is None
    write_words(tmp_path, frozenset({"球", "red"}))
    assert read_words(tmp_path) == {"球", "red"}
    for damaged in ("", "{", "[]", '{"words": "red"}', '{"words": [1]}', "\ud800", "[" * 100_000):
        (tmp_path / "words.json").write_bytes(damaged.encode(errors="surrogatepass"))
        with pytest.raises(InputError, match=r"words.json: damaged; allowed: \{") as error:
            read_words(tmp_path)
        assert "\n" not in str(error.value)
