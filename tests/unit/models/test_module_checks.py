"""Modules of other packages are applied before a training, and checked for what their shapes do not show."""

import re
from pathlib import Path

import jax
import pytest

from instructrl.config.encoders import ScratchTinyConfig
from instructrl.config.heads import chunk_size
from instructrl.config.model import HEADS, PolicyConfig
from instructrl.errors import InputError
from instructrl.models.agent import Agent
from instructrl.models.module_checks import check_applied, check_applied_head
from instructrl.types import BatchSizes, fake_batch
from instructrl.workspace import RLBENCH_WORKSPACE
from tests.unit.models.test_modules import DECODE, ENCODER, HEAD, LOSS, Edit, edited_agent

SIZES = BatchSizes(2, 3, 1, 32, 5)
EMBED = 'nn.Dense(config.dim, dtype=self.dtype, name="embed")(patchify(pixels, config.patch_size))'
OUT = 'nn.Dense(8, dtype=self.dtype, name="out")(hidden).astype(jnp.float32)'
HEATMAPS = f"{DECODE}\n\n    def heatmaps(self, predicted):\n        "
HAS_HEATMAPS = (
    '"acme_robots.networks:Linear"',
    '"acme_robots.networks:Linear"\n    has_heatmaps: ClassVar[bool] = True',
)
SHARES = "jax.nn.softmax(jnp.zeros((*predicted.gripper.shape, 1, {patches})))"
IMPORT = ("import flax.linen as nn", "import flax.linen as nn\nimport jax")
DROPOUT = "nn.Dropout(0.1, deterministic=False)"


def refused(*edits: Edit, site: Path) -> str:
    with edited_agent(site, *edits) as agent, pytest.raises(InputError) as error:
        check_applied(agent, fake_batch(SIZES))
    assert str(error.value).endswith("repair, update or uninstall the package")
    return str(error.value)


def test_their_modules_pass_as_they_are(tmp_path: Path) -> None:
    with edited_agent(
        tmp_path, IMPORT, HAS_HEATMAPS, (DECODE, f"{HEATMAPS}return {SHARES.format(patches=16)}")
    ) as agent:
        check_applied(agent, fake_batch(SIZES))


@pytest.mark.parametrize(
    ("edits", "line"),
    [
        ([(LOSS, f"{LOSS.replace('return', 'loss =')}\n        return jnp.broadcast_to(loss.mean(), loss.shape)")],
         r"Linear\.loss returns: found other .* at sequence 0, step 0 when the inputs at sequence 0, step 1 ch"),
        ([(LOSS, f"{LOSS.replace('return', 'loss =')}\n        return loss * 0 + loss.mean(axis=0, keepdims=True)")],
         r"Linear\.loss returns: found other numbers at sequence 1, step 1 when"),
        ([(LOSS, f"{LOSS} + jnp.roll(position, 1, axis=1)")], r"loss returns: found other .* 0, step 2"),
        ([(OUT, f"{OUT}\n        out = out - out.mean(axis=1, keepdims=True)")], r"Linear\.\w+ returns: found other"),
        ([(DECODE, f"{DECODE}[::-1]")], r"decode returns: found other numbers at sequence 1, step 1"),
        ([(DECODE, f"{DECODE} * jnp.nan")], r"decode returns: found \[nan, .*\] for random numbers; allowed: finite "),
        ([(DECODE, f"{DECODE} / min(predicted.gripper.shape[1] - 1.0, 1.0)")], r"decode re.*: found \[-?inf.*; allo"),
        ([(DECODE, f"{DECODE} * 0.5")], r"decode returns: action: found a quaternion of length 0.5, expected 1; norm"),
        ([HAS_HEATMAPS, IMPORT, (DECODE, f"{HEATMAPS}return {SHARES.format(patches=9)}")],
         r"heatmaps returns: found float32\(2, 3, 1, 9\); allowed: floats\(2, 3, 1, 16\);"),
        ([(OUT, f"{DROPOUT}({OUT})")],
         r"Linear: found a use of random keys in .*networks.py, line \d+, as of nn.Dropout or make_rng; allowed: a m"),
    ],
)  # fmt: skip
def test_a_fault_of_a_head_is_one_line(edits: list[Edit], line: str, tmp_path: Path) -> None:
    assert re.match(f"{HEAD}.*{line}", refused(*edits, site=tmp_path))


def test_an_encoder_with_dropout_is_refused(tmp_path: Path) -> None:
    line = r"acme_robots\.networks\.Gated: found a use of random keys in .*networks.py, line \d+, as of nn.Dropout"
    assert re.match(f"{ENCODER}{line}", refused((EMBED, f"{DROPOUT}({EMBED})"), site=tmp_path))


@pytest.mark.parametrize("part", [EMBED, OUT])
def test_variables_beside_parameters_are_refused_as_when_parameters_are_drawn(part: str, tmp_path: Path) -> None:
    with (
        edited_agent(tmp_path, (part, f"nn.BatchNorm(use_running_average=False)({part})")) as agent,
        pytest.raises(InputError, match=r"^model: found batch_stats in (encoder|head), variables beside the param"),
    ):
        check_applied(agent, fake_batch(SIZES))


def test_a_head_without_parameters_passes(tmp_path: Path) -> None:
    with edited_agent(tmp_path, (OUT, "hidden[..., :8].astype(jnp.float32)")) as agent:
        check_applied(agent, fake_batch(SIZES))


@pytest.mark.parametrize("kind", HEADS.own)
def test_our_heads_pass(kind: str) -> None:
    head, encoder = HEADS[kind](kind, kind), ScratchTinyConfig("tiny", "scratch_tiny", dim=8, depth=1, patch_size=8)
    policy = PolicyConfig("tiny", dim=8, depth=1, heads=1, window=3)
    agent = Agent(encoder, policy, head, 50, SIZES.image_size, RLBENCH_WORKSPACE)
    batch = fake_batch(BatchSizes(2, 3, 1, 32, 5, chunk=chunk_size(head)))
    check_applied_head(agent, batch._replace(images=None), patches=jax.ShapeDtypeStruct((2, 3, 1, 16, 8), "float32"))
