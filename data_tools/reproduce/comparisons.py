"""The comparisons of the method's paper: which experiments of conf/experiment/paper belong to which."""

from pathlib import Path
from typing import NamedTuple

from instructrl.cli.entry import compose
from instructrl.cli.overrides import options
from instructrl.config.training import TrainConfig

FOLDER = "paper/"  # of the experiments
OPTIONAL = ("clip",)  # experiments that need weights which are converted first


class Comparison(NamedTuple):
    """Experiments that differ from a baseline in one respect.

    Attributes:
        title: heading.
        question: what it answers.
        baseline: the experiment from which the others differ, without the folder.
        others: the others.
    """

    title: str
    question: str
    baseline: str
    others: tuple[str, ...]


class Curve(NamedTuple):
    """An experiment with several amounts of demonstrations."""

    label: str
    experiments: dict[int, str]  # by the number of demonstrations


COMPARISONS = (
    Comparison(
        "Encoder and instruction",
        "What reads the images, and does it need the sentence?",
        "scratch",
        ("scratch_no_instruction", "m3ae", "m3ae_random", "m3ae_finetuned", "clip"),
    ),
    Comparison("Action head", "What turns features into an action?", "scratch", ("regression", "discrete")),
    Comparison(
        "History",
        "How many keyframes does the policy read? Demonstrations of pick_and_lift, the task here, have four.",
        "window_4",
        ("window_1", "window_2"),
    ),
    Comparison(
        "Layers",
        "Of how many layers of the frozen encoder does the regression head read pooled features?",
        "layers_all",
        ("layers_last", "layers_half"),
    ),
)
AMOUNTS = (50, 200, 1000, 4000)
CURVES = tuple(
    Curve(label, {count: name if count == 1000 else f"demonstrations/{name}_{count}" for count in AMOUNTS})
    for label, name in (
        ("pretrained, frozen", "m3ae"),
        ("random weights, frozen", "m3ae_random"),
        ("from scratch", "scratch"),
    )
)


def experiments() -> list[str]:
    """The paper's experiments, in the order in which they are shown; those of a user's folders come last."""
    shown = [name for one in COMPARISONS for name in (one.baseline, *one.others)]
    shown += [name for curve in CURVES for name in curve.experiments.values()]
    found = [name.removeprefix(FOLDER) for name in options("experiment") if name.startswith(FOLDER)]
    return list(dict.fromkeys([name for name in shown if name in found] + found))


def missing_weights() -> dict[str, str]:
    """The optional experiments whose converted weights are missing, with the weights' path."""
    weights = {
        name: str(compose("train", TrainConfig, [f"experiment={FOLDER}{name}"]).encoder.weights) for name in OPTIONAL
    }
    return {name: path for name, path in weights.items() if not Path(path).exists()}
