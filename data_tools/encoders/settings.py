"""Settings of the comparison of encoders, and the encoders that it compares. No jax here."""

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from instructrl.cli.args import parse_settings
from instructrl.cli.entry import compose
from instructrl.cli.overrides import options
from instructrl.config.fields import MAX_EPISODES, format_value, leaves, number, number_list, setting, word_list
from instructrl.config.model import TEXT_ENCODERS, EncoderConfig
from instructrl.config.training import TrainConfig
from instructrl.errors import InputError
from instructrl.models.weight_files import weights_path

PROG = "python -m data_tools.encoders"
RUNS, MEASURED = "runs", "measured"  # folders in `out`
FIXED = (  # settings of the trainings that the comparison itself chooses
    *("encoder", "encoder.frozen", "encoder.weights", "encoder.text_weights", "seed", "name", "output_dir"),
    *("objective", "features", "init_from", "init_checkpoint"),
)


@dataclass
class MeasureConfig:
    """Settings of the measurement of one encoder; all others are those of TrainConfig."""

    scenes: int = number(600, low=10, high=100_000, help="scenes to fit the probes to")
    test_scenes: int = number(300, low=10, high=100_000, help="scenes to evaluate the probes on")
    splits: int = number(3, low=1, high=100, help="random splits of the scenes into these two parts")
    out: str = setting("outputs/encoders", help="folder to write")


@dataclass
class CompareConfig(MeasureConfig):
    """Settings of the comparison; all others are those of TrainConfig."""

    encoders: list[str] = word_list(
        pattern=r"[\w.-]+(\+[\w.-]+)?",
        allowed="names of encoder options, IMAGE or IMAGE+TEXT",
        help="encoders, IMAGE or IMAGE+TEXT; []: all whose weights are here or that have none",
    )
    seeds: list[int] | None = number_list(
        0, 1, 2, low=0, high=2**31 - 1, help="training seeds, the same of all encoders"
    )
    episodes: int = number(200, low=1, high=MAX_EPISODES, help="episodes of each evaluation, the same of all agents")


@dataclass(frozen=True)
class Choice:
    """An encoder to compare: its label, the settings of its trainings as words, and as a configuration."""

    label: str
    words: Sequence[str]
    config: TrainConfig


def parse(argv: Sequence[str], schema: type[MeasureConfig]) -> tuple[MeasureConfig, list[str]]:
    """The command's own settings and, as words, those of the trainings.

    Raises:
        InputError: a word has another form, or an own setting is not allowed.
    """
    own = [word for word in argv if "=" not in word or key_of(word) in leaves(schema)]
    return parse_settings(own, schema, prog=PROG), [word for word in argv if word not in own]


def parse_comparison(argv: Sequence[str]) -> tuple[CompareConfig, list[str]]:
    """The settings of the command compare and, as words, those of the trainings.

    Raises:
        InputError: a word has another form, a setting is not allowed, or the comparison itself chooses it.
    """
    config, words = parse(argv, CompareConfig)
    assert isinstance(config, CompareConfig)
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise InputError(f"seeds: found {format_value(config.seeds)}; allowed: a list of distinct integers")
    for word in words:
        if key_of(word) in FIXED:
            instead = "name encoders in encoders=[...]" if key_of(word) == "encoder" else f"see {PROG} --help"
            raise InputError(f"{format_value(word)}: not allowed here, since the comparison chooses it; {instead}")
    return config, words


def key_of(word: str) -> str:
    """The setting that a word gives a value to."""
    return word.partition("=")[0]


def quoted(value: object) -> str:
    """A value as a word of the command line that is read as this text, whatever characters it has."""
    text = str(value)
    return text if re.fullmatch(r"[\w./:+-]+", text) else json.dumps(text)


def choices(labels: Iterable[str], words: Sequence[str], folder: Path) -> list[Choice]:
    """The encoders with the settings of their trainings.

    All read the same demonstrations, which are rendered at the largest of their resolutions; those that are used to
    smaller images resize them.

    Args:
        labels: names of encoder options, IMAGE or IMAGE+TEXT.
        words: settings of all trainings.
        folder: `out` of the comparison.

    Raises:
        InputError: there is no such encoder, or the settings do not fit it.
    """
    given = {key_of(word) for word in words}
    found = {label: [*encoder_words(label), *shared_words(folder, given)] for label in labels}
    others = [word for word in words if key_of(word) != "sim.image_size"]
    usual = {label: composed(mine, others) for label, mine in found.items()}
    size = max(composed(mine, words).sim.image_size for mine in found.values())
    chosen = []
    for label, mine in found.items():
        own = usual[label].sim.image_size
        resize = [f"encoder.image_size={own}"] if usual[label].encoder.image_size is None and own < size else []
        every = [*mine, *resize, *others, f"sim.image_size={size}"]
        chosen.append(Choice(label, every, composed(every)))
        if "+" in label and chosen[-1].config.encoder.weights is None:
            raise InputError(f"encoders: found {label}; allowed: an encoder with weights in front of the +")
    return chosen


def shared_words(folder: Path, given: set[str]) -> list[str]:
    """Settings of all trainings, unless they are given."""
    shared = ["encoder.frozen=true", "features=cached", "training.token_dropout=0"]
    shared.append(f"output_dir={quoted(folder / RUNS)}")
    return [word for word in shared if key_of(word) not in given]


def encoder_words(label: str) -> list[str]:
    """The settings that choose an encoder.

    Raises:
        InputError: there is none of this name.
    """
    image, plus, text = label.partition("+")
    for name, allowed in [(image, options("encoder")), *([(text, TEXT_ENCODERS)] if plus else [])]:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, n=2, cutoff=0.6)
            guess = f"did you mean {' or '.join(near)}? " if near else ""
            kind = "" if name == image else ", as an encoder of text"
            raise InputError(f"encoders: found {format_value(name)}{kind}; {guess}allowed: {', '.join(allowed)}")
    return [f"encoder={image}", *([f"encoder.text={text}"] if plus else [])]


def composed(*words: Sequence[str]) -> TrainConfig:
    """The configuration of a training."""
    return compose("train", TrainConfig, [word for some in words for word in some])


def available() -> tuple[list[str], list[str]]:
    """The options of encoders of images whose weights are here or that have none, and the others."""
    encoders = {name: composed([f"encoder={name}"]).encoder for name in options("encoder")}
    files = {name: weight_files(encoder) for name, encoder in encoders.items() if encoder.reads_images}
    missing = [name for name, paths in files.items() if not all(path.exists() for _, path in paths)]
    return sorted(files.keys() - set(missing), key=lambda name: (not files[name], name)), missing


def weight_files(encoder: EncoderConfig) -> list[tuple[str, Path]]:
    """The kinds and files of an encoder's weights; none if they are random."""
    parts = encoder.parts.values() or [encoder]
    return [(part.kind, path) for part in parts if (path := weights_path(part)) is not None]
