"""Every option of every group composes, differs from its siblings, and is a file of conf."""

import ast
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from instructrl.cli.overrides import CONFIG_DIR, groups, options
from instructrl.config.environment import EMBEDDED_TASKS, task_names
from instructrl.config.fields import summarize_allowed
from instructrl.config.launcher import LaunchConfig
from instructrl.config.model import HEADS
from instructrl.config.resolve import differences
from instructrl.sim.rlbench.interface import VARIANTS, recorded
from instructrl.types import DENSE
from tests.fixtures.settings import SCHEMAS, composed, every_leaf
from tests.paths import ROOT

MASKED = ("pretraining.train=[here]", "pretraining.val=[there]")
DENSE_HEADS = [option for option in options("head") if HEADS[option].actions == DENSE]  # only in worlds of their own
TRAINED_FIRST = sorted(options("encoder"), key=lambda option: not option.startswith("scratch_"))
ORDERED = {"encoder": tuple(TRAINED_FIRST)}  # a trained one beside optimizer=finetune


def choices(name: str) -> list[dict[str, str]]:
    """Options of a command's groups, one of each group beside the other groups', until there are no more."""
    known = {group: ORDERED.get(group, options(group)) for group in groups(name) if group not in ("experiment", "sim")}
    dense = [{"head": option} for option in DENSE_HEADS if "head" in known]
    known |= {"head": [option for option in known["head"] if option not in DENSE_HEADS]} if dense else {}
    rounds = max(map(len, known.values()))
    chosen = [{group: some[turn] for group, some in known.items() if turn < len(some)} for turn in range(rounds)]
    if "sim" in groups(name):
        for one in chosen:
            task = one.get("task", "reach_target")
            of_metaworld = task.endswith("-v3") or task.startswith(("mt", "ml"))
            one["sim"] = "tabletop" if task in EMBEDDED_TASKS else "metaworld" if of_metaworld else "rlbench"
        chosen.append({"sim": "metaworld_state", "task": "mt10"})
    return chosen + dense


@pytest.fixture(scope="module")
def parts() -> dict[tuple[str, str], dict[str, dict[str, Any]]]:
    """Settings of a command's group by option."""
    return {}


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_option_composes_and_is_taken(name: str, parts: dict) -> None:
    for chosen in choices(name):
        dense = ["sim.actions=dense"] if chosen.get("head") in DENSE_HEADS else []
        config = composed(*(f"{group}={option}" for group, option in chosen.items()), *dense, name=name)
        for group, option in chosen.items():
            assert getattr(config, group).name == option
            parts.setdefault((name, group), {})[option] = dataclasses.asdict(getattr(config, group))
    for group in groups(name):
        if group != "experiment":
            contents = parts[name, group]
            assert set(contents) == set(options(group))
            label = set() if group == "task" else {"name"}  # a task's name is what it is
            kinds = [tuple((key, str(part[key])) for key in part if key not in label) for part in contents.values()]
            assert len(set(kinds)) == len(kinds), f"options of {group} differ in a label only"


RESOLUTIONS = [  # overrides, the side to which the encoder resizes images, the side of rendered ones
    ((), None, 128),
    (("encoder=scratch_b16",), None, 128),
    (("encoder=m3ae_tiny",), None, 96),
    (("encoder=m3ae_s16",), 256, 256),
    (("encoder=m3ae_b16", "sim=rlbench"), 256, 256),
    (("encoder=m3ae_h16", "sim.image_size=128"), 256, 128),
    (("sim.image_size=128", "encoder=m3ae_l16", "encoder.image_size=64"), 64, 128),
    (("encoder=m3ae_b16", "encoder.image_size=64"), 64, 64),
    (("encoder=m3ae_b16", "encoder.image_size=null"), None, 128),
    (("encoder=clip_b32",), 224, 224),
    (("encoder=dinov2_b14", "encoder.text=siglip2_b16"), 224, 224),
    (("encoder=dinov2_b14", "encoder.text=t5_base"), 224, 224),
    (("encoder=clip_l14", "encoder.image_size=28"), 28, 28),
    (("experiment=quickstart",), None, 96),
    (("experiment=quickstart", "encoder=m3ae_tiny", "training.token_dropout=0"), None, 96),
    (("experiment=quickstart", "encoder=clip_b16", "training.token_dropout=0"), 224, 96),
    (("experiment=pretrain_m3ae", *MASKED), 256, 256),
    (("experiment=pretrain_m3ae", *MASKED, "encoder.image_size=64"), 64, 64),
    (("experiment=pretrain_tiny",), None, 96),
]


@pytest.mark.parametrize(("overrides", "read", "rendered"), RESOLUTIONS)
def test_cameras_render_at_the_resolution_of_the_encoder(
    overrides: tuple[str, ...], read: int | None, rendered: int
) -> None:
    config = composed(*overrides)
    assert (config.encoder.image_size, config.sim.image_size) == (read, rendered)


@pytest.mark.parametrize("option", options("experiment"))
def test_every_experiment_composes_and_changes_something(option: str) -> None:
    needed = MASKED if option == "pretrain_m3ae" else ()
    assert differences(dataclasses.asdict(composed()), dataclasses.asdict(composed(f"experiment={option}", *needed))), (
        option
    )


def test_every_file_of_conf_is_an_option_of_some_command() -> None:
    files = {path.relative_to(CONFIG_DIR).as_posix() for path in CONFIG_DIR.rglob("*") if path.is_file()}
    known = {group for name in SCHEMAS for group in groups(name)} | {"launcher"}
    chosen = {f"{group}/{option}.yaml" for group in known for option in options(group)}
    assert files == chosen | {f"{name}.yaml" for name in (*SCHEMAS, "launch")} | {"quiet.yaml", "render_size.yaml"}


def test_the_sets_of_the_benchmark_hold_tasks_that_there_are() -> None:
    ten, eighteen = (task_names(composed(f"task={name}").task) for name in ("multi_10", "multi_18"))
    assert (len(ten), len(eighteen)) == (10, 18)
    assert set(ten) < set(eighteen) <= set(EMBEDDED_TASKS)


# What a setting says of itself.


def tool_schemas() -> list[type]:
    """Settings of the tools, and of commands on pods."""
    from data_tools.convert.settings import ConvertConfig
    from data_tools.encoders.settings import CompareConfig
    from data_tools.exchange.mapping import Mapping
    from data_tools.frames.renderer import FramesConfig
    from data_tools.lerobot.__main__ import ExportConfig as LeRobotConfig
    from data_tools.probe.__main__ import ProbeConfig
    from data_tools.rlds.__main__ import ExportConfig, ImportConfig
    from data_tools.weights.__main__ import SCHEMAS as WEIGHTS
    from instructrl.inference.client import ClientConfig
    from instructrl.inference.hub import PushConfig
    from instructrl.inference.serve import ServeConfig
    from launchers.tpu.settings import PodConfig

    inference = [ServeConfig, ClientConfig, PushConfig]
    tools = [ConvertConfig, FramesConfig, ProbeConfig, ExportConfig, LeRobotConfig, ImportConfig, Mapping, PodConfig]
    return [*tools, CompareConfig, *inference, *WEIGHTS.values()]


def test_every_setting_has_a_help_text() -> None:
    for schema in (*SCHEMAS.values(), LaunchConfig, *tool_schemas()):
        for key, entry in every_leaf(schema).items():
            text = entry.metadata.get("help", "")
            assert text.strip() == text != "" and "\n" not in text and len(text) <= 120, (
                f"{schema.__name__}: {key}: {text!r}"
            )
            assert summarize_allowed(entry)


def read_attributes(root: Path) -> set[str]:
    """Every attribute that is read in the code, validation excluded."""
    files = [
        root / "train.py",
        root / "eval.py",
        *(root / "data_tools").rglob("*.py"),
        *(root / "instructrl").rglob("*.py"),
    ]
    parts = [part for path in files for part in ast.parse(path.read_text()).body]
    parts = [part for part in parts if not getattr(part, "name", "").startswith("check_")]
    nodes = [node for part in parts for node in ast.walk(part) if isinstance(node, ast.Attribute)]
    return {node.attr for node in nodes if isinstance(node.ctx, ast.Load)}


def test_every_field_is_read_somewhere() -> None:
    read = read_attributes(ROOT)
    unread = {key for schema in SCHEMAS.values() for key in every_leaf(schema) if key.rpartition(".")[2] not in read}
    assert unread == set()


RLBENCH_SETS = {"peract_18": 18, "hiveformer_10": 10, "rlbench_74": 74}


def test_the_sets_of_rlbenchs_tasks_are_tasks_of_a_variant_of_it() -> None:
    original, peract = (set(recorded(variant).tasks) for variant in VARIANTS)
    sets = {name: task_names(composed(f"task={name}", "sim=rlbench").task) for name in RLBENCH_SETS}
    assert {name: len(set(tasks)) for name, tasks in sets.items()} == RLBENCH_SETS
    assert set(sets["peract_18"]) <= peract
    assert set(sets["peract_18"]) - original == {
        *("slide_block_to_color_target", "sweep_to_dustpan_of_size", "place_wine_at_rack_location")
    }
    assert set(sets["hiveformer_10"]) <= original & peract & set(sets["rlbench_74"])
    assert set(sets["rlbench_74"]) - original == {"tower3"}
