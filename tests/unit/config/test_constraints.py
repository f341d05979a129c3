"""Constraints of single settings and across groups: one line that names the setting, what was found, what is allowed.

The checks are called on dataclasses (tests/unit/config/test_overrides.py has those that a command line meets before).
"""

import dataclasses

import pytest

from instructrl.cli.entry import compose
from instructrl.config.environment import EMBEDDED_TASKS, task_names
from instructrl.config.evaluation import EvalConfig, effective_protocol
from instructrl.config.simulators import RLBENCH_RENDERERS, TABLETOP_RENDERERS
from instructrl.errors import InputError
from tests.fixtures.settings import changed, composed

TWO = "task.tasks=[reach_target,push_button]"
TWO_PROCESSES = ("hardware.coordinator=host:1", "hardware.num_processes=2", "hardware.process_id=0")


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        (["encoder.patch_size=6", "encoder.dim=66"], "encoder.patch_size: found 6; allowed: a multiple of 4"),
        (["encoder=scratch_b16", "sim.image_size=100"], "sim.image_size: found 100; allowed: a multiple of encod"),
        (["encoder=m3ae_b16", "encoder.image_size=100"], "encoder.image_size: found 100; allowed: a multiple of"),
        (["encoder=clip_b16", "encoder.image_size=100"], "encoder.image_size: found 100; allowed: a multiple of"),
        (["encoder=clip_b16", "encoder.image_mean=[0.5]"], "encoder.image_mean: found [0.5]; allowed: a number for"),
        (["encoder=clip_b16", "encoder.image_std=[0.5,0,1]"], "encoder.image_std: found [0.5, 0.0, 1.0]; allowed: a"),
        (["encoder=clip_b16", "encoder.activation=relu"], "encoder.activation: found relu; allowed: quick_gelu, gelu,"),
        (["encoder=dinov2_b14", "encoder.text=t5"], "encoder.text: found t5; allowed: true, false, clip_b32, clip_b16"),
        (["encoder=dinov2_b14", "encoder.text=true"], "encoder.text: found true; allowed for encoder.kind=dinov2, "),
        (["encoder=dinov2_b14", "encoder.image_size=225"], "encoder.image_size: found 225; allowed: a multiple of"),
        (["encoder=t5_base", "encoder.heads=7"], "encoder.heads: found 7; allowed: a divisor of encoder.dim=768"),
        (["encoder=siglip2_b16", "encoder.text_heads=7"], "encoder.text_heads: found 7; allowed: a divisor of"),
        (["encoder=clip_b16", "encoder.text_heads=7"], "encoder.text_heads: found 7; allowed: a divisor of"),
        (["encoder=m3ae_b16", "encoder.heads=7"], "encoder.heads: found 7; allowed: a divisor of encoder.dim=768"),
        (["encoder=m3ae_b16", "encoder.dim=770", "encoder.heads=1"], "encoder.dim: found 770; allowed: a multiple of"),
        (["encoder=m3ae_b16", "encoder.depth=0"], "encoder.depth: found 0; allowed: at least 1 for m3ae"),
        (["encoder=m3ae_b16", "encoder.layers=[12]"], "encoder.layers: found [12]; allowed: all, last, or a list of"),
        (["encoder=m3ae_b16", "encoder.layers=[0,0]"], "encoder.layers: found [0, 0]; allowed: all, last, or a list"),
        (["encoder=m3ae_b16", "encoder.layers=[]"], "encoder.layers: found []; allowed: all, last, or a list"),
        (["encoder=m3ae_b16", "encoder.layers=some"], "encoder.layers: found some; allowed: all, last, or a list"),
        (["encoder=m3ae_b16", "encoder.layers=null"], "encoder.layers: found null; allowed: all, last, or a list"),
        (["encoder=m3ae_b16", "encoder.layers=[true]"], "encoder.layers: found [true]; allowed: all, last, or a list"),
        (["features=cached"], "features: found cached; allowed: auto or live for an encoder that is not frozen"),
        (["encoder=m3ae_b16", "training.token_dropout=0.1"], "training.token_dropout: found 0.1; allowed: null or 0"),
        (["encoder=m3ae_b16", "training.image_shift=4"], "training.image_shift: found 4; allowed: 0 with cached feat"),
        (["head=regression", "training.image_shift=4"], "training.image_shift: found 4; allowed: 0 with head.kind="),
        (["sim.image_size=96", "training.image_shift=96"], "training.image_shift: found 96; allowed: less than sim.im"),
        (["training.intermediate_share=2"], "training.intermediate_share: found 2.0; allowed: a number at least 0 and"),
        (["sim=rlbench", "sim.intermediate_frames=5"], "sim.intermediate_frames: found 5; allowed: null with sim=rlb"),
        (
            ["experiment=dense", "sim.intermediate_frames=5"],
            "sim.intermediate_frames: found 5; allowed: null with sim.actions=dense, which records all",
        ),
        (
            ["experiment=dense", "training.intermediate_share=0.5"],
            "training.intermediate_share: found 0.5; allowed: 0 with sim.actions=dense",
        ),
        (["training.image_shift=-1"], "training.image_shift: found -1; allowed: an integer at least 0 and at most 256"),
        (["encoder.patch_size=6"], "encoder.patch_size: found 6; allowed: a multiple of 4"),
        (["sim.image_size=100"], "sim.image_size: found 100; allowed: a multiple of encoder.patch_size=8"),
        (["policy.dim=33", "policy.heads=3"], "policy.dim: found 33; allowed: an even number"),
        (["training.reinit=[head]"], "training.reinit: found [head]; allowed: null without init_from"),
        (["hardware.profile=[3]"], "hardware.profile: found [3]; allowed: null, or the first and the last step"),
        (["hardware.profile=[5,3]"], "hardware.profile: found [5, 3]; allowed: null, or the first and the last step"),
        (["policy.heads=5"], "policy.heads: found 5; allowed: a divisor of policy.dim=384"),
        (["training.epochs=3"], "optimizer.warmup_epochs: found 5.0; allowed: less than training.epochs=3"),
        (["hardware.fsdp=0"], "hardware.fsdp: found 0; allowed: an integer at least 1"),
        (["hardware.coordinator=here"], "hardware.coordinator: found here; allowed: host:port, auto, or null"),
        (["hardware.coordinator=a:1"], "hardware.num_processes: found null; allowed: a number with hardware.coord"),
        (["hardware.num_processes=2"], "hardware.num_processes: found 2; allowed: null without hardware.coordinator="),
        ([*TWO_PROCESSES, "hardware.process_id=2"], "hardware.process_id: found 2; allowed: at least 0 and less than "),
        (["hardware.coordinator=auto", "output_dir=gs://b/o"], "output_dir: found gs://b/o; allowed: a folder that"),
        (["optimizer.warmup_epochs=null"], "optimizer.warmup_epochs: found null; allowed: a number, or one for optim"),
        (["optimizer.warmup_steps=9"], "optimizer.warmup_steps: found 9; allowed: null with optimizer.warmup_epochs=5"),
        (["optimizer.schedule=step"], "optimizer.schedule: found step; allowed: cosine, linear, constant"),
        (["optimizer.schedule=constant", "optimizer.end_factor=0.1"], "optimizer.end_factor: found 0.1; allowed: 0 wi"),
        (["optimizer.layer_lr_decay=0"], "optimizer.layer_lr_decay: found 0.0; allowed: a number above 0 and at m"),
        (["optimizer.layer_lr_decay=0.5", "encoder=m3ae_b16"], "optimizer.layer_lr_decay: found 0.5; allowed: 1 with"),
        (["optimizer.encoder_lr_scale=0.5", "encoder.frozen=true"], "optimizer.encoder_lr_scale: found 0.5; allowed: "),
        (["hardware.attention=cudnn"], "hardware.attention: found cudnn; allowed: auto or xla, or hardware.precision="),
        (["optimizer.ema=1"], "optimizer.ema: found 1.0; allowed: a number above 0 and at most 0.999999, or null"),
        (["optimizer.decay=[]"], "optimizer.decay: found []; allowed: a list like [a,b], without repetition, or null"),
        (["name=a/b"], "name: found a/b"),
        (["name=.."], "name: found .."),
        (["name='" + "é" * 150 + "'"], "name: found éé"),
        (["name="], "name: found ''"),
        (["output_dir="], "output_dir: found ''"),
        (["data.dir=' x'"], "data.dir: found ' x'"),
        (["task.variations=[]"], "task.variations: found []"),
        (["task.variations=[0,0]"], "task.variations: found [0, 0]"),
        (["task.variations=[-1]"], "task.variations: found [-1]"),
        (["sim.cameras=[front,back]"], "sim.cameras: found [front, back]; allowed: a list of front, left_shoulder"),
        (["sim.cameras=[front,front]"], "sim.cameras: found [front, front]"),
        (["head=chunk"], "head.kind: found chunk, which predicts dense actions, with sim.actions=keyframe; allowed:"),
        (["sim.actions=dense"], "head.kind: found spatial, which predicts keyframe actions, with sim.actions=dense;"),
        (["experiment=dense", "head.execute=17"], "head.execute: found 17; allowed: at most head.chunk=16"),
        (["sim=rlbench", "sim.actions=dense"], "sim.actions: found dense; allowed: keyframe"),
        (["task.name=Close", "sim=rlbench"], "task.name: found Close; allowed: the name of a task of RLBench"),
        (["task.name=a.b", "sim=rlbench"], "task.name: found a.b; allowed: the name of a task of RLBench, like close"),
        (["sim=rlbench", "sim.renderer=opengl"], "sim.renderer: found opengl; allowed: auto, rlbench_opengl, "),
        (["sim.renderer=rlbench_opengl"], "sim.renderer: found rlbench_opengl; allowed: auto, opengl, raycast"),
        (["sim.cameras=[front,overhead]"], "sim.cameras: found [front, overhead]; allowed: a list of front, left_"),
        (["task.name=unknown"], f"task.name: found unknown; allowed: {', '.join(EMBEDDED_TASKS)}, or any"),
        (["task.tasks=[]"], "task.tasks: found []; allowed: a list like [a,b], without repetition"),
        (["task.tasks=[reach_target,dance]"], f"task.tasks: found dance; allowed: {', '.join(EMBEDDED_TASKS)}"),
        (["task.tasks=[push_button,push_button]"], "task.tasks: found [push_button, push_button]; allowed: a list"),
        ([TWO, "task.variations=[0,1]"], "task.variations: found [0, 1] for 2 tasks; allowed: null, or choose one"),
        (["task.weights=[1]"], "task.weights: found [1.0]; allowed: null without a set in task.tasks"),
        ([TWO, "task.weights=[1]"], "task.weights: found [1.0]; allowed: null, or a number for each of task.tasks=[re"),
        ([TWO, "task.weights=[1,0]"], "task.weights: found [1.0, 0.0]; allowed: a list of numbers above 0 and at most"),
        ([TWO, "task.weights=[1,nan]"], "task.weights: found [1.0, nan]; allowed: a list of numbers above 0"),
        ([TWO, "task.weights=[]"], "task.weights: found []; allowed: a list of numbers above 0"),
        ([TWO, "task.weights=[4000,1]"], "task.weights: found [4000.0, 1.0]; allowed: at least 1.00025 for push_"),
    ],
)  # fmt: skip
def test_the_line_says_what_was_found_and_what_is_allowed(overrides: list[str], found: str) -> None:
    with pytest.raises(InputError) as error:
        changed(*overrides)
    assert str(error.value).startswith(found)


@pytest.mark.parametrize("overrides", [["hardware.fsdp=0"], ["policy.heads=5"], [TWO, "task.weights=[1]"]])
def test_a_command_checks_the_same(overrides: list[str]) -> None:
    """Composing a configuration ends with the checks that are called on dataclasses above."""
    with pytest.raises(InputError) as expected:
        changed(*overrides)
    with pytest.raises(InputError) as error:
        composed(*overrides)
    assert str(error.value).startswith(str(expected.value))  # the files that set them follow


def test_changed_dataclasses_are_what_hydra_composes() -> None:
    """The short cut of these tests; `name` refers to settings, which it does not follow."""
    words = ("encoder=m3ae_b16", "optimizer.ema=0.5", TWO, "task.weights=[1,2]", "sim.cameras=[wrist]", "name=x")
    assert changed(*words) == composed(*words)
    words = ("protocol=peract", "episodes=7", "conditions=[trained]", "hardware.peak_flops=1")
    assert changed(*words, name="eval") == composed(*words, name="eval")


def test_any_task_of_rlbench_may_be_named() -> None:
    config = composed("task.name=open_door", "sim=rlbench", "sim.cameras=[overhead,wrist]", name="collect")
    assert (config.task.name, config.sim.kind, config.sim.planner_attempts) == ("open_door", "rlbench", 10)
    assert composed("sim=rlbench").task.name == "reach_target", "also tasks that are embedded under the same name"


def test_the_simulators_know_the_same_renderers() -> None:
    from instructrl.sim import rendering

    assert (rendering.RENDERERS, rendering.RLBENCH_RENDERERS) == (TABLETOP_RENDERERS, RLBENCH_RENDERERS)


def test_a_set_has_the_tasks_and_weights_that_it_is_given() -> None:
    config = composed("task.name=pair", TWO, "task.weights=[1,2]", "name=${task.name}")
    assert (config.name, task_names(config.task), config.task.weights) == (
        "pair",
        ("reach_target", "push_button"),
        [1, 2],
    )
    assert task_names(composed("task=push_button").task) == ("push_button",)
    assert task_names(composed("task.tasks=[push_button]", "task.variations=[1]").task) == ("push_button",)
    composed(TWO, "task.weights=[0.1,0.1]", "task.episodes=1")  # one episode each, despite the rounding of 0.1 + 0.1
    composed(TWO, "task.weights=[3999,1]", "task.name=pair")  # just one of 4000


def test_an_evaluation_needs_a_run_and_the_headline_row() -> None:
    with pytest.raises(InputError, match=r"run: no value given; write run=\.\.\."):
        compose("eval", EvalConfig, [])
    with pytest.raises(InputError, match=r"^conditions: found .*trained"):
        composed("conditions=[oracle]", name="eval")
    with pytest.raises(InputError, match=r"^protocol.conditions: found .*trained"):
        composed("protocol.conditions=[oracle]", name="eval")


def test_a_protocol_fixes_what_is_not_set_beside_it() -> None:
    plain = effective_protocol(composed("protocol=peract", name="eval"))
    assert (plain.name, plain.episodes, plain.seed, plain.conditions) == ("peract", 25, 0, ["trained", "oracle"])
    words = (
        "protocol=peract",
        "protocol.max_keyframes=7",
        "protocol.name=short",
        "seed=0",
        "episodes=3",
        "conditions=[trained]",
        "protocol.episodes=9",
    )
    changed = effective_protocol(composed(*words, name="eval"))
    assert (changed.episodes, changed.conditions, changed.max_keyframes) == (3, ["trained"], 7)
    preset = {"name": "peract", "episodes": 25, "conditions": plain.conditions, "max_keyframes": 25}
    assert dataclasses.replace(changed, **preset) == plain
    assert effective_protocol(composed("protocol=hiveformer", "seed=0", name="eval")).seed == 0, "zero is a value"


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden"])
def test_a_protocols_name_must_be_a_folders(name: str) -> None:
    with pytest.raises(InputError, match=r"^protocol.name: found"):
        composed(f"protocol.name={name}", name="eval")


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("protocol=rlbench", "protocol: found rlbench; allowed: default, hiveformer, peract"),
        ("protocol.variations=some", "protocol.variations: found some; allowed: all, trained, held_out, or a list"),
        ("protocol.variations=[-1]", "protocol.variations: found [-1]; allowed: all, trained, held_out, or a list"),
        ("protocol.variations=[]", "protocol.variations: found []; allowed: all, trained, held_out, or a list"),
        ("protocol.max_keyframes=0", "protocol.max_keyframes: found 0; allowed: an integer at least 1"),
        ("protocol.max_unreachable=0", "protocol.max_unreachable: found 0; allowed: an integer at least 1"),
        ("protocol.sentence=last", "protocol.sentence: found last; allowed: seed, first"),
        ("variations=[1]", "variations: no such setting; did you mean protocol.variations?"),
        ("tasks=[]", "tasks: found []; allowed: a list like [a,b], without repetition, or null"),
    ],
)
def test_what_a_protocol_cannot_be_is_one_line(word: str, line: str) -> None:
    with pytest.raises(InputError) as error:
        composed(word, name="eval")
    assert str(error.value).startswith(line)


def test_cameras_workspace_and_state_are_those_that_the_simulator_declares() -> None:
    with pytest.raises(
        InputError, match=r"^sim\.cameras: found \[overhead\]; allowed: a list of front, left_shoulder, "
    ):
        composed("sim.cameras=[overhead]")
    with pytest.raises(
        InputError, match=r"^sim\.workspace: found \[0(\.0)?, 1(\.0)?\]; allowed: six numbers in metres"
    ):
        composed("sim.workspace=[0,1]")
    with pytest.raises(InputError, match=r"^sim\.state: found .*; allowed: a list like \[A,B\] of names with units"):
        composed("sim.state=[a,a]")
