"""Results of encoders and heads of other packages are checked while a step is traced."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import jax
import pytest

from instructrl.cli.compose import compose
from instructrl.config.training import TrainConfig
from instructrl.errors import InputError, report_user_errors
from instructrl.models.agent import Agent
from instructrl.training.model_factory import make_agent
from instructrl.types import BatchSizes, fake_batch
from tests.fixtures.packages import THIRD_PARTY, install, packages_in

Edit = tuple[str, str]  # a part of the code, and what replaces it
WORDS = ("encoder=gated", "head=linear", "sim=plane", "task=touch_dot", "policy=vit_debug")
FEATURES = "return Features(x.mean(axis=1).reshape(*views, -1), text, x.reshape(*views, *x.shape[1:]))"
LOSS = "return self.config.position_weight * position + pose_loss(self.config, predicted, targets)"
DECODE = "return decode_pose(predicted, self.workspace)"
PARTS = f"{DECODE}\n\n    def error_parts(self, predicted, decoded, actions, cameras):\n        "
ENCODER, HEAD = r"encoder\.kind=gated: ", r"head\.kind=linear: "
RETURNS = r"what acme_robots\.networks\.Gated returns: "


def trace(agent: Agent, method: Callable[..., Any] = Agent.loss) -> Any:
    """Trace a method for two sequences of three steps."""
    batch = fake_batch(BatchSizes(2, 3, 1, 32, 5))
    return jax.eval_shape(lambda key: agent.init(key, batch, method=method), jax.random.key(0))


@contextmanager
def edited_agent(site: Path, *edits: Edit) -> Iterator[Agent]:
    """Their agent with parts of its code replaced by others, installed in an empty folder."""
    install(THIRD_PARTY, site)
    for before, after in edits:
        files = [site / "acme_robots" / f"{name}.py" for name in ("networks", "settings")]
        [file] = [one for one in files if before in one.read_text()][:1]
        text = file.read_text()
        assert text.count(before) == 1
        file.write_text(text.replace(before, after))
    with packages_in(site):
        yield make_agent(compose("train", TrainConfig, WORDS), vocabulary_size=50)


@pytest.fixture
def trace_with(tmp_path: Path) -> Callable[[str, str], Any]:
    """A function that traces their agent with a part of its code replaced by another."""
    sites = (tmp_path / str(number) for number in count())

    def trace_it(before: str, after: str) -> Any:
        with edited_agent(next(sites), (before, after)) as agent:
            return trace(agent)

    return trace_it


def test_their_agent_is_traced_as_it_is(trace_with: Callable) -> None:
    assert trace_with(LOSS, LOSS)
    assert trace_with(DECODE, f"{PARTS}return {{'height_cm': decoded[..., 2] - actions[..., 2]}}")


@pytest.mark.parametrize("metric", ["decoded[..., 2] > 0.8", "(decoded[..., 2] > 0.8).astype(int)"])
def test_metrics_may_be_truth_values_and_integers(metric: str, trace_with: Callable) -> None:
    assert trace_with(DECODE, f"{PARTS}return {{'high': {metric}}}")


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        (FEATURES, "return x", rf"{ENCODER}{RETURNS}found float32\(6, 16, 32\); allowed: .*Features\("),
        (FEATURES, "return {'pooled': x}", rf"{ENCODER}{RETURNS}found dict; allowed"),
        ("reshape(*views, -1), t", "reshape(-1, 32), t", r"pooled: .*; allowed: floats\(2, 3, 1, F > 0\)"),
        ("x.mean(axis=1).reshape", "x[:, 0, :0].reshape", r"pooled: found float32\(2, 3, 1, 0\); allowed: floats"),
        ("-1), text, x", "-1), text[:, :0], x", r"text: found float32\(2, 0\), so that nothing reads the instruction;"),
        ("-1), text, x", "-1), words, x", r"text: found float32\(2, 5, 32\); allowed: floats\(2, G\);"),
        ("-1), text, x", "-1), None, x", r"text: found NoneType; allowed: floats\(2, G\);"),
        ("-1), text, x", "-1), text > 0, x", r"text: found bool\(2, 32\); allowed: floats\(2, G\);"),
        (", *x.shape[1:])", ", -1)", r"patches: found float32\(2, 3, 1, 512\); allowed: floats\(2, 3, 1, P > 0, D > 0"),
        (LOSS, "return position.mean()", rf"{HEAD}what .*Linear\.loss returns: found float32\(\); allowed: fl"),
        (LOSS, "return position[..., None]", r"loss returns: found float32\(2, 3, 1\); allowed: floats\(2, 3\);"),
        (LOSS, "return None", r"loss returns: found NoneType; allowed: floats\(2, 3\);"),
        (DECODE, f"{DECODE}[..., :7]", r"decode returns: found float32\(2, 3, 7\); allowed: floats\(2, 3, 8\);"),
        (DECODE, f"{DECODE} > 0", r"decode returns: found bool\(2, 3, 8\); allowed: floats\(2, 3, 8\);"),
        (DECODE, f"{PARTS}return decoded", r"error_parts returns: found float32\(2, 3, 3\); allowed: a dict"),
        (DECODE, f"{PARTS}return {{'axes': decoded}}", r"axes: found float32\(2, 3, 3\); allowed: numbers\(2, 3\)"),
        ("def decode(", "def decoded(", rf"{HEAD}.*Linear: found no method decode; allowed: decode\("),
        ("def loss(self, predicted", "def loss(self, hidden, predicted", r"found loss\(hidden, predicted, targets\)"),
        ("images: Any, tokens: Any,", "images: Any,", rf"{ENCODER}.*found __call__\(images, text_padding_mask\)"),
        ("    execution: ExecutionConfig\n", "", rf"{ENCODER}.*Gated: .*; allowed: a class that is called with"),
        ("class Linear(nn.Module):", "from dataclasses import dataclass\n@dataclass\nclass Linear:",
         rf"{HEAD}acme_robots\.networks\.Linear: found Linear; allowed: a subclass of flax"),
    ],
)  # fmt: skip
def test_what_they_return_is_one_line(trace_with: Callable, before: str, after: str, line: str) -> None:
    with pytest.raises(InputError, match=line) as error:
        trace_with(before, after)
    assert re.match(f"{ENCODER}|{HEAD}", str(error.value)) and str(error.value).endswith("or uninstall the package")


@pytest.mark.parametrize("fault", ["x.nothing", "x @ x", "int(x[0, 0, 0])", "raise SystemExit(0)"])
def test_an_exception_while_they_are_traced_is_told_with_its_place(
    fault: str, trace_with: Callable, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as end, report_user_errors():
        trace_with("        gate = nn", f"        {fault}\n        gate = nn")
    line = r"error: code of another package failed \(\w+(Error|Exit): .*, in .*/acme_robots/networks.py, line \d+\); re"
    [reported] = capsys.readouterr().err.splitlines()
    assert end.value.code == 1 and re.match(line, reported)
