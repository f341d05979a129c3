"""A run directory resumes with the settings with which it was started, and refuses others."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from instructrl.config.fields import RENAMED_KEYS, leaves
from instructrl.config.training import TrainConfig
from instructrl.errors import InputError
from instructrl.storage.atomic import write_atomically
from instructrl.training.run_dir import (
    FREE_KEYS,
    find_run,
    open_run,
    read_config,
    read_data,
    record_data,
    record_moved_files,
    settings,
)
from instructrl.types import GRIPPER_STATE
from instructrl.workspace import RLBENCH_WORKSPACE
from tests.fixtures.settings import changed as with_settings
from tests.fixtures.settings import composed

OTHER_VALUES = {  # of the keys that may change
    "output_dir": "outputs",
    "data.dir": "elsewhere",
    "data.compression": "zstd",
    "data.outside_workspace": "clip",
    "data.cache_dir": "elsewhere",
    "data.cache_gb": "7",
    "encoder.weights": "w.safetensors",
    "features_dir": "elsewhere",
    "hardware.name": "gpu",
    "hardware.platform": "gpu",
    "hardware.prefetch": "7",
    "hardware.feature_cache": "devices",
    "hardware.encode_batch": "7",
    "hardware.fsdp": "7",
    "hardware.accumulation": "7",
    "hardware.local_devices": "7",
    "hardware.coordinator": "auto",
    "hardware.num_processes": "7 hardware.coordinator=host:1 hardware.process_id=0",
    "hardware.process_id": "3 hardware.coordinator=host:1 hardware.num_processes=4",
    "hardware.compilation_cache": "elsewhere",
    "hardware.peak_flops": "1e12",
    "hardware.profile": "[1,2]",
    "hardware.attention": "xla",
    "hardware.remat": "blocks",
    "hardware.scan": "true",
    "sim.python": "no/python",
    "sim.renderer": "raycast",
    "sim.workers": "7",
    "sim.timeout": "7",
    "training.save_every": "7",
    "training.keep_last": "7",
    "training.keep_best": "7",
    "training.rollout_every": "7",
    "training.rollout_episodes": "7",
    "training.log_every": "7",
    "training.objective": "rollout/success_rate training.rollout_every=7",
    "pretraining.train": "[elsewhere]",
    "pretraining.val": "[elsewhere]",
    "pretraining.num_visualized": "7",
    "wandb.mode": "offline",
    "wandb.project": "other",
    "wandb.entity": "someone",
    "wandb.group": "study",
    "tensorboard.enabled": "true",
    "trackio.enabled": "true",
    "trackio.project": "other",
    "trackio.space": "some/one",
    "trackio.group": "study",
}
DATA = {
    "train": {"path": "a", "checksum": "1", "provenance": {}},
    "val": {"path": "b", "checksum": "2", "provenance": {}},
}


def config(folder: Path, *more: str) -> TrainConfig:
    return with_settings(f"output_dir='{folder}'", "name=run", *more)


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as error:
        call()
    line = str(error.value)
    assert "\n" not in line
    return line


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_same_settings_open_the_same_run(tmp_path: Path) -> None:
    first = open_run(config(tmp_path))
    written = (first / "config.yaml").read_bytes()
    assert first == tmp_path / "run" == open_run(config(tmp_path))
    assert (first / "config.yaml").read_bytes() == written
    assert files(tmp_path) == {"run/config.yaml"}


def test_what_is_recorded_is_what_was_asked(tmp_path: Path) -> None:
    settings_of_run = config(tmp_path, "experiment=quickstart", "name=run", "task.variations=[3,1]", "policy.window=4")
    assert read_config(open_run(settings_of_run)) == settings_of_run


def test_other_settings_are_refused_by_their_keys(tmp_path: Path) -> None:
    run = open_run(config(tmp_path))
    written = (run / "config.yaml").read_bytes()
    line = refused(lambda: open_run(config(tmp_path, "policy=vit_debug", "seed=5", "task.variations=[1]")))
    for part in (
        "policy.depth: 12 -> 2",
        "policy.name: vit_small -> vit_debug",
        "seed: 0 -> 5",
        "task.variations: None -> [1]",
    ):
        assert part in line
    assert "training" not in line and "name=..." in line
    assert (run / "config.yaml").read_bytes() == written


@pytest.mark.parametrize("key", FREE_KEYS)
def test_what_only_says_where_and_how_fast_may_change(tmp_path: Path, key: str) -> None:
    words: tuple[str, ...] = ("experiment=pretrain_tiny", "name=run") if key.startswith("pretraining.") else ()
    if key == "encoder.weights":
        words = ("encoder.weights=elsewhere.safetensors",)
    plain = config(tmp_path, *words)
    open_run(plain)
    changed = config(tmp_path, *words, *f"{key}={OTHER_VALUES[key]}".split())
    assert changed != plain and settings(changed) == settings(plain)
    if key != "output_dir":
        assert open_run(changed) == tmp_path / "run"


@pytest.mark.parametrize("key", sorted(set(leaves(TrainConfig)) - set(FREE_KEYS)))
def test_everything_else_counts(tmp_path: Path, key: str) -> None:
    changed = config(tmp_path)
    *groups, last = key.split(".")
    part = changed
    for group in groups:
        part = getattr(part, group)
    setattr(part, last, "something else")
    assert settings(changed) != settings(config(tmp_path))


@pytest.mark.parametrize(("before", "after"), [("null", "w.safetensors"), ("w.safetensors", "null")])
def test_weights_may_move_but_neither_begin_nor_cease_to_be_read(tmp_path: Path, before: str, after: str) -> None:
    open_run(config(tmp_path, f"encoder.weights={before}"))
    line = refused(lambda: open_run(config(tmp_path, f"encoder.weights={after}")))
    assert f"encoder.weights: {before} -> {after}".replace("null", "None") in line


def test_files_that_moved_are_recorded_where_they_are(tmp_path: Path) -> None:
    started = config(tmp_path, "encoder.weights=a.safetensors", "training.save_every=3")
    run = open_run(started)
    written = (run / "config.yaml").read_bytes()
    record_moved_files(run, started)
    assert (run / "config.yaml").read_bytes() == written
    record_moved_files(run, config(tmp_path, "encoder.weights=b.safetensors", "training.save_every=7"))
    assert read_config(run) == config(tmp_path, "encoder.weights=b.safetensors", "training.save_every=3")


def test_the_free_keys_are_settings() -> None:
    assert set(FREE_KEYS) == set(OTHER_VALUES) <= set(leaves(TrainConfig))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "contains no settings"),
        (b"seed: 3\n", "name: no value given"),
        (b"name: run\n  seed: [", "cannot be read"),
        (b"\xff\xfe\x00broken", "line 1: found bytes that are not UTF-8"),
        (b"- a\n- b\n", "line 1: found a list; allowed: settings"),
        (b"just words", "found just words; allowed: settings"),
        (b"name: run\nname: other\n", "line 2: found name again, first in line 1; allowed: once"),
        (b"name: run\nseed: " + b"[" * 3000, "line 2: found more than 32 levels"),
        (b"\n".join(b" " * depth + b"a:" for depth in range(300)), "found more than 32 levels"),
        (
            b"a: &a [1,1]\n"
            + b"".join(
                b"%c: &%c [*%c,*%c]\n" % (*b"bcdefghijklmno"[at : at + 1] * 2, *b"abcdefghijklmn"[at : at + 1] * 2)
                for at in range(14)
            ),
            "found more than 20000 values",
        ),
        (b"name: !!python/object/apply:os.getcwd []\n", "found the tag"),
        (b"seed: many\n", "seed: found many; allowed: an integer"),
        (b"polic: {dim: 3}\n", "polic: no such setting"),
        (b"seed: ${nowhere}\n", "seed: Interpolation key 'nowhere' not found"),
        (b"name: ${name}\n", "name: Recursive interpolation"),
        (b"sim: {cameras: [{a: b}]}\n", ""),
        (b"1: 2\n", "line 1: found 1 in the place of a key"),
        (b"!!python/object/apply:os.mkdir ['.mark']\n", "found the tag"),
        (b"encoder: !!python/name:os.system\n", "found the tag"),
        (b"_target_: os.mkdir\npath: .mark\n", "_target_: no such setting"),
        (b"encoder: {_target_: os.mkdir, path: .mark}\n", "encoder._target_: no such setting"),
    ],
)
def test_a_damaged_config_is_one_line_that_names_the_file(tmp_path: Path, content: bytes, found: str) -> None:
    run = open_run(config(tmp_path))
    (run / "config.yaml").write_bytes(content)
    for call in (lambda: open_run(config(tmp_path)), lambda: read_config(run)):
        line = refused(call)
        assert re.match(rf"{run / 'config.yaml'}(, line \d+)?: ", line) and found in line
    assert (run / "config.yaml").read_bytes() == content


def under_former_names(config: TrainConfig) -> str:
    """The config.yaml of a run that was recorded before settings were renamed."""
    values = dataclasses.asdict(config)
    for former, current in RENAMED_KEYS.items():
        (group, _, last), name = former.partition("."), current.rpartition(".")[2]
        if name in values.get(group, {}):
            values[group][last] = values[group].pop(name)
    values["objective"] = {"behavior_cloning": "cloning", "masked_pretraining": "masked"}[config.objective]
    return OmegaConf.to_yaml(OmegaConf.create(values))


@pytest.mark.parametrize(
    "words",
    [
        (
            "experiment=quickstart",
            "optimizer=finetune",
            "training.max_instructions=2",
            "sim=rlbench",
            "sim.planner_attempts=7",
        ),
        ("experiment=pretrain_m3ae", "pretraining.train=[a]", "pretraining.val=[b]", "pretraining.load_size=300"),
        ("init_from=elsewhere", "training.reinit=[head]", "optimizer.end_factor=0.1", "optimizer.encoder_lr_scale=0.5"),
    ],
)
def test_a_run_recorded_under_former_names_is_read_and_resumed(tmp_path: Path, words: tuple[str, ...]) -> None:
    current = config(tmp_path, *words, "name=run")
    run = open_run(current)
    (run / "config.yaml").write_text(under_former_names(current))
    recorded = (run / "config.yaml").read_bytes()
    assert b"fresh:" in recorded and b"reinit" not in recorded
    assert read_config(run) == current and open_run(current) == run
    assert (run / "config.yaml").read_bytes() == recorded
    line = refused(lambda: open_run(config(tmp_path, *words, "name=run", "seed=9")))
    assert "(seed: 0 -> 9)" in line


def test_a_run_recorded_with_the_settings_of_all_kinds_is_read_and_resumed(tmp_path: Path) -> None:
    current = config(tmp_path, "encoder=m3ae_tiny", "head=regression")
    run = open_run(current)
    values = dataclasses.asdict(current)
    values["encoder"] |= {"text_dim": None, "text_depth": None, "text_heads": None, "projection": None}
    values["head"] |= {"heatmap_weight": 1.0, "offset_weight": 1.0, "position_bins": 100, "rotation_bins": 72}
    values["sim"]["tries"] = 10
    (run / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(values)))
    assert read_config(run) == current and open_run(current) == run
    values["head"]["weight_of_nothing"] = 1.0
    (run / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(values)))
    assert "head.weight_of_nothing: no such setting" in refused(lambda: read_config(run))


def test_a_setting_recorded_under_both_names_is_refused(tmp_path: Path) -> None:
    run = open_run(config(tmp_path))
    text = (run / "config.yaml").read_text().replace("  reinit: null", "  reinit: null\n  fresh: [head]")
    (run / "config.yaml").write_text(text)
    line = "training.fresh: is now called training.reinit; write training.reinit=..."
    assert refused(lambda: read_config(run)).endswith(line)


def test_no_run_is_one_line_that_says_what_to_give(tmp_path: Path) -> None:
    assert "run=outputs/NAME" in refused(lambda: read_config(tmp_path))


def test_the_demonstrations_are_recorded_and_other_ones_refused(tmp_path: Path) -> None:
    record_data(tmp_path, DATA)
    assert read_data(tmp_path) == DATA
    moved = {split: {**entry, "path": "moved"} for split, entry in DATA.items()}
    record_data(tmp_path, moved)
    assert read_data(tmp_path) == moved
    other = {**DATA, "val": {**DATA["val"], "checksum": "9"}}
    assert refused(lambda: record_data(tmp_path, other)).startswith("b: its content has changed since")
    assert read_data(tmp_path) == moved
    assert files(tmp_path) == {"data.json"}


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "\ufeff{}", '{"train": 3}', "{}", '{"train": {}, "val": {}}'])
def test_a_damaged_record_of_the_data_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "data.json").write_text(content)
    some = content in ("{}", '{"train": {}, "val": {}}')  # readable, but nothing to compare with
    for call in (lambda: record_data(tmp_path, DATA), *([] if some else [lambda: read_data(tmp_path)])):
        assert refused(call).startswith(f"{tmp_path / 'data.json'}: missing or damaged")
    assert (tmp_path / "data.json").read_text() == content


def test_a_record_that_is_not_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_bytes(b"\xff\xfe\x00")
    assert "missing or damaged" in refused(lambda: read_data(tmp_path))


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere", "/dev/null"])
def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    line = refused(lambda: open_run(config(tmp_path / place)))
    assert "cannot be written" in line and "output_dir" in line
    assert files(tmp_path) == {"file"}


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, text: str, encoding: str) -> None:
        with self.open("w") as file:
            file.write(text[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert "No space left on device" in refused(lambda: open_run(config(tmp_path)))
    assert files(tmp_path) == set()


def test_a_file_is_replaced_whole_or_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "file"
    write_atomically(path, "first")

    def killed(self: Path, target: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        refused(lambda: write_atomically(path, "second"))
    assert path.read_text() == "first" and files(tmp_path) == {"deep/file"}
    write_atomically(path, "third")
    assert path.read_text() == "third"


def test_settings_leave_the_configuration_as_it_is(tmp_path: Path) -> None:
    configuration = config(tmp_path)
    before = dataclasses.asdict(configuration)
    settings(configuration)["policy"]["dim"] = 3
    assert dataclasses.asdict(configuration) == before
    assert json.dumps(settings(configuration))


def test_runs_recorded_before_worlds_differed_have_that_of_their_simulator(tmp_path: Path) -> None:
    config = composed("sim=rlbench", f"output_dir={tmp_path}", "name=run", name="train")
    recorded = OmegaConf.to_container(OmegaConf.structured(config))
    del recorded["sim"]["workspace"], recorded["sim"]["state"], recorded["data"]["outside_workspace"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(recorded)))
    assert find_run(config) == tmp_path / "run", "the same settings"
    sim = read_config(tmp_path / "run").sim
    assert (sim.bounds, tuple(sim.state)) == (RLBENCH_WORKSPACE, GRIPPER_STATE)
