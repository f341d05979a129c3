"""Words of a command line that are no valid override, and the line that says so."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from data_tools.frames.renderer import FramesConfig
from instructrl.cli.args import parse_settings
from instructrl.cli.overrides import groups, options
from instructrl.config.fields import RENAMED_KEYS, RENAMED_VALUES, SYNONYMS, known_keys
from instructrl.config.resolve import resolve
from instructrl.config.simulators import TabletopConfig
from instructrl.errors import InputError
from tests.fixtures.settings import SCHEMAS, composed, every_leaf

TWO = "task.tasks=[reach_target,push_button]"


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        (["task=unknown"], f"task: found unknown; allowed: {', '.join(options('task'))}"),
        ([TWO, "task.weights=[1,true]"], "task.weights: found [1, true]; allowed: a list of numbers above 0"),
        (["task=close_jar"], "task.name: found close_jar; allowed: meat_off_grill, "),
        (["policy=[a,b]"], "policy: found [a, b]; allowed: vit_base, vit_debug, vit_large, vit_small"),
        (["policy=3"], "policy: found 3; allowed: vit_base, vit_debug, vit_large, vit_small"),
        (["policy=null"], "policy: found null; allowed: vit_base, vit_debug, vit_large, vit_small"),
        (["experiment=x"], "experiment: found x; allowed: dense, mt10, mt10_dense, mt10_state, multi_10, paper/..."),
        (["encoder.kind=clip"], "encoder.image_size: no value given; write encoder.image_size=...; allowed: an int"),
        (["policy.depth=abc"], "policy.depth: found abc; allowed: an integer at least 1 and at most 64"),
        (["policy.depth=1.5"], "policy.depth: found 1.5; allowed: an integer at least 1 and at most 64"),
        (["policy.depth=null"], "policy.depth: found null; allowed: an integer"),
        (["encoder.text=maybe"], "encoder.text: found maybe; allowed: true, false, clip_b32, "),
        (["encoder=clip_b16", "encoder.projection=null"], "encoder.projection: found null; allowed: an integer"),
        (["head.position_bins=7"], "head.position_bins: no such setting here; it is one of head.kind=discrete"),
        (["encoder.heads=7"], "encoder.heads: no such setting here; it is one of encoder.kind=m3ae or clip"),
        (["sim.cameras=3"], "sim.cameras: found 3; allowed: a list of front"),
        (["sim.cameras=back"], "sim.cameras: found [back]; allowed: a list of front"),
        (["wandb={mode: on}"], "wandb.mode: found on; allowed: off, offline, online"),
        (["wandb={modes: off}"], "wandb.modes: no such setting; did you mean wandb.mode"),
        (["wandb=off"], "wandb: found off; allowed: its settings wandb.mode, wandb.project, wandb.entity, wandb.group"),
        (["+policy.dept=3"], "policy.dept: no such setting; did you mean policy.depth?"),
        (["nonsense=3"], "nonsense: no such setting; allowed here: data, encoder, "),
        (["seed=${nowhere.at.all}"], "seed: Interpolation key 'nowhere.at.all' not found"),
        (["name=${name}"], "name: Recursive interpolation detected"),
        (["optimizer.decay=${policy}"], "optimizer.decay: found a group of settings (name, dim, "),
        (["seed=3", "sim.cameras=${seed}"], "sim.cameras: found 3; allowed: a list of front"),
        (["sim.cameras=${output_dir}"], "sim.cameras: found outputs; allowed: a list of front"),
        (["sim.cameras=[${seed}]"], "sim.cameras: found [0]; allowed: a list of front"),
        (["task.variations=${seed}"], "task.variations: found 0; allowed: a list like [0,1]"),
        (["task.weights=${seed}"], "task.weights: found 0; allowed: a list of numbers above 0"),
        (["hardware.profile=${sim.cameras}"], "hardware.profile: found [front, left_shoulder, right_should"),
        (["training.freeze=${seed}"], "training.freeze: found 0; allowed: a list like [a,b]"),
        (["training={freeze: '${seed}'}"], "training.freeze: found 0; allowed: a list like [a,b]"),
        (["pretraining={train: '${sim.workers}', val: '${seed}'}"], "pretraining.val: found 0; allowed: a list"),
        (["policy.depth=${sim.cameras}"], "policy.depth: found [front, left_shoulder, right_shoulder]; allowed: an i"),
        (["name=\\${seed}"], "name: found ${seed}; allowed: ${...} without a backslash"),
        (["task.tasks=\\${seed}"], "task.tasks: found ${seed}; allowed: ${...} without a backslash"),
        (["seed=???"], "seed: no value given; write seed=...; allowed: an integer"),
        (["seed=0,1"], "seed: found several values; add --multirun"),
        (["hydra.launcher._target_=os.getcwd"], "hydra.launcher._target_: found os.getcwd; a class cannot be set"),
        (["hydra.sweeper={a: {_target_: x.y}}"], "hydra.sweeper.a._target_: found x.y; a class cannot be set: choose"),
        (["+hydra.launcher.a=[{_target_: x}]"], "hydra.launcher.a.0._target_: found x; a class cannot be set: choose"),
        (["hydra.launchers=1"], "hydra.launchers: of Hydra's own settings only launcher and sweeper can be set"),
        (["seed=" + "9" * 400], "seed: found 999"),
        (["optimizer.beta1=" + "9" * 400], "optimizer.beta1: found 999"),
        (["sim.timeout=" + "9" * 400], "sim.timeout: found 999"),
        (["training={token_dropout: " + "9" * 400 + "}"], "training.token_dropout: found 999"),
        ([TWO, "task.weights=[1," + "9" * 400 + "]"], "task.weights: found [1, 999"),
        (["sim.cameras=[{a: b}]"], "sim.cameras: found [{'a': 'b'}]; allowed: a list of front"),
        (["experiment=paper/scrach"], "experiment: found paper/scrach; allowed: paper/clip, paper/demonstrations/"),
        (["experiment=paper/demonstrations/x"], "experiment: found paper/demonstrations/x; allowed: paper/demon"),
        (["~policy"], "~policy: a setting cannot be deleted"),
        (["+seed=1"], "+seed=1: seed already exists"),
        (["policy@head=vit_base"], "policy@head=vit_base: a group cannot be moved"),
        (["optimizer.learning_rate=1e400"], "optimizer.learning_rate: found inf; allowed: a number above 0"),
    ],
)  # fmt: skip
def test_the_line_says_what_was_found_and_what_is_allowed(overrides: list[str], found: str) -> None:
    with pytest.raises(InputError) as error:
        composed(*overrides)
    assert str(error.value).startswith(found)


def test_interpolations_are_welcome() -> None:
    config = composed("seed=3", "policy.depth=${seed}", "name=run-${policy.depth}-${task.name}")
    assert (config.policy.depth, config.name) == (3, "run-3-reach_target")


def test_a_single_word_is_a_list_of_one() -> None:
    for word in ("sim.cameras=wrist", "sim.cameras='wrist'", "sim.cameras=[wrist]"):
        assert composed(word).sim.cameras == ["wrist"]
    assert composed("conditions=trained", "run=x", name="eval").conditions == ["trained"]
    assert TabletopConfig(cameras="wrist").cameras == ["wrist"]
    words = ["out=x", "views=1", "cameras=wrist", "tasks=push_button"]
    tool = parse_settings(words, FramesConfig, prog="frames")
    assert (tool.cameras, tool.tasks) == (["wrist"], ["push_button"])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("sim: {cameras: 3}", "sim.cameras: found 3; allowed: a list of front"),
        ("sim: {cameras: '${seed}'}", "sim.cameras: found 0; allowed: a list of front"),
        ("sim: ${seed}", "sim: found ${seed}; allowed: its settings sim.name, sim.kind, "),
        ("encoder: ${sim.cameras}", "encoder: found ${sim.cameras}; allowed: its settings "),
        ("hardware: ", "hardware: found null; allowed: its settings hardware.name, "),
        ("optimizer: {decay: '${seed}'}", "optimizer.decay: found 0; allowed: a list like [a,b]"),
        ("policy: {depth: [3]}", "policy.depth: found [3]; allowed: an integer"),
    ],
)
def test_values_of_a_wrong_type_in_a_users_yaml_are_named(
    text: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    monkeypatch.setenv("INSTRUCTRL_CONFIG_DIRS", str(tmp_path))
    with pytest.raises(InputError) as error:
        composed("experiment=mine")
    file = f"{tmp_path}/experiment/mine.yaml, line 2: "
    assert str(error.value).removeprefix(file).startswith(line) and "\n" not in str(error.value)


def test_former_names_lead_to_settings_that_exist() -> None:
    known = {key for schema in SCHEMAS.values() for key in (*known_keys(schema), *every_leaf(schema))}
    assert set(RENAMED_KEYS.values()) | set(SYNONYMS.values()) <= known and not set(RENAMED_KEYS) & known
    for key, table in RENAMED_VALUES.items():
        for schema in SCHEMAS.values():
            for entry in [every_leaf(schema)[key]] if key in every_leaf(schema) else []:
                choices = entry.metadata.get("choices", table.values())
                assert set(table.values()) <= set(choices) and not set(table) & set(choices)


@pytest.mark.parametrize("former", RENAMED_KEYS)
def test_a_former_name_is_refused_with_the_current_one(former: str) -> None:
    current = RENAMED_KEYS[former]
    [name, *_] = [name for name, schema in SCHEMAS.items() if current in every_leaf(schema)]
    group, _, last = former.rpartition(".")
    nested = [f"{group}={{{last}: 1}}"] if group and group not in groups(name) else []
    for word in (f"{former}=1", f"+{former}=1", f"++{former}=1", f"~{former}", *nested):
        with pytest.raises(InputError) as error:
            composed(word, name=name)
        assert str(error.value) == f"{former}: is now called {current}; write {current}=..."
    with pytest.raises(InputError) as error:
        resolve(OmegaConf.create({group: {last: 1}} if group else {former: 1}), SCHEMAS[name])
    assert str(error.value) == f"{former}: is now called {current}; write {current}=..."


@pytest.mark.parametrize(("former", "current"), RENAMED_VALUES["objective"].items())
def test_a_former_value_is_refused_with_the_current_one(former: str, current: str) -> None:
    with pytest.raises(
        InputError, match=f"^objective: found {former} \\({former} is now called {current}\\); allowed: "
    ):
        composed(f"objective={former}")


def test_former_names_in_a_users_yaml_are_refused_with_the_current_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = {
        "optimizer: {base_batch: 3}": "optimizer.base_batch: is now called optimizer.base_batch_",
        "objective: cloning": "objective: found cloning (cloning is now called behavior_cloning); allowed: ",
        "name: ${training.fresh}": "name: Interpolation key 'training.fresh' not found; training.fresh is now called ",
        "training: {epoch: 3}": "training.epoch: no such setting; did you mean training.epochs?",
    }
    for number, (text, line) in enumerate(lines.items()):
        folder = tmp_path / str(number)
        (folder / "experiment").mkdir(parents=True)
        (folder / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
        monkeypatch.setenv("INSTRUCTRL_CONFIG_DIRS", str(folder))
        with pytest.raises(InputError) as error:
            composed("experiment=mine")
        place = f"{folder}/experiment/mine.yaml, line 2: "
        assert str(error.value).startswith(place + line) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "key", "suggestion"),
    [
        ("train", "lr", "optimizer.learning_rate"),
        ("train", "training.lr", "optimizer.learning_rate"),
        ("train", "learning_rate", "optimizer.learning_rate"),
        ("train", "batch_size", "training.batch_size"),
        ("train", "batchsize", "training.batch_size"),
        ("train", "epochs", "training.epochs"),
        ("train", "optimizer.epochs", "training.epochs"),
        ("train", "num_gpus", "hardware.local_devices"),
        ("train", "depth", "encoder.depth or policy.depth"),
        ("train", "image_size", "encoder.image_size or sim.image_size"),
        ("train", "optimizer.lerning_rate", "optimizer.learning_rate"),
        ("eval", "max_keyframes", "protocol.max_keyframes"),
        ("eval", "num_episodes", "episodes"),
        ("collect", "num_workers", "sim.workers"),
    ],
)
def test_an_unknown_key_suggests_full_paths(name: str, key: str, suggestion: str) -> None:
    with pytest.raises(InputError) as error:
        composed(f"{key}=3", name=name)
    assert str(error.value) == f"{key}: no such setting; did you mean {suggestion}?"


def test_a_key_without_a_similar_one_lists_its_group() -> None:
    with pytest.raises(
        InputError, match=r"^training.nonsense: no such setting; allowed in training: training.batch_size"
    ):
        composed("training.nonsense=3")
