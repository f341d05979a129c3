"""YAML files of one's own, in a folder of --config-dir: what is wrong in them is one line with file, line and key."""

import os
import random
import re
from pathlib import Path

import pytest

from instructrl.cli.compose import compose
from instructrl.cli.option_files import load_option
from instructrl.config.training import TrainConfig
from instructrl.config.yaml_file import read_yaml
from instructrl.errors import InputError

HEADER = "# @package _global_\n"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{key}: &{key} [{','.join([f'*{before}'] * 9)}]\n" for before, key in zip("abcdefg", "bcdefgh", strict=True)
)
EXPERIMENT = f"""{HEADER}defaults:
  - override /policy: vit_debug
  - override /head: regression

name: mine-${{task.name}}-seed${{seed}}
training: &schedule
  epochs: 3
  batch_size: 16
optimizer:
  learning_rate: 4e-3
  warmup_epochs: 0.5
sim: {{image_size: 64, cameras: [front, wrist]}}
"""
CASES: dict[str, tuple[str | bytes, str]] = {  # text of an experiment, and what the line says after the file
    "no_package": ("seed: 3\n", ": found no package; write # @package _global_ in the first line"),
    "package": ("# @package _globl_\nseed: 3\n", ": found the package _globl_; did you mean _global_?"),
    "no_value": ("\n# @package\nseed: 3\n", ", line 2: found # @package; write # @package _global_"),
    "empty": ("", ": contains no settings; write some"),
    "comment": (HEADER, ": contains no settings; write some"),
    "list": (HEADER + "- a\n", ", line 2: found a list; allowed: settings, like key: value"),
    "words": (HEADER + "hello\n", ", line 2: found hello; allowed: settings, like key: value"),
    "key": (HEADER + "\ntraining:\n  epoch: 3\n", ", line 4: training.epoch: no such setting; did you mean training.e"),
    "top_key": (HEADER + "sed: 3\n", ", line 2: sed: no such setting; did you mean seed?"),
    "dotted": (HEADER + "training.epochs: 3\n", ", line 2: found the key training.epochs; write training: {epochs: "),
    "number_key": (HEADER + "5: 3\n", ", line 2: found 5 in the place of a key; allowed: a name"),
    "null_key": (HEADER + "null: 3\n", ", line 2: found null in the place of a key; allowed: a name"),
    "list_key": (HEADER + "[a]: 3\n", ", line 2: found a list or a group in the place of a key; allowed: a name"),
    "type": (HEADER + "training:\n  epochs: lots\n", ", line 3: training.epochs: found lots; allowed: an integer at l"),
    "bound": (HEADER + "training:\n  epochs: -4\n", ", line 3: training.epochs: found -4; allowed: an integer at lea"),
    "scalar_group": (HEADER + "training: 5\n", ", line 2: training: found 5; allowed: its settings training.epochs"),
    "list_group": (HEADER + "training: [5]\n", ", line 2: training: found [5]; allowed: its settings training.epoch"),
    "group_leaf": (HEADER + "seed: {a: 3}\n", ", line 2: seed: found a group of settings with seed.a; allowed: an in"),
    "kind": (HEADER + "encoder:\n  kind: m3a\n", ", line 3: encoder.kind: found m3a; allowed: scratch_tiny, m3ae, cl"),
    "group": (HEADER + "defaults:\n  - override /polcy: vit_base\n", ", line 3: defaults: found the group polcy; did "),
    "option": (
        HEADER + "defaults:\n  - override /policy: vit_bas\n",
        ", line 3: defaults: found policy/vit_bas; did you mean vit_base",
    ),
    "no_override": (
        HEADER + "defaults:\n  - /policy: vit_base\n",
        ", line 3: defaults: found {'/policy': 'vit_base'}; write override /policy: vit_base",
    ),
    "other_command": (
        HEADER + "defaults:\n  - override /protocol: peract\n",
        ": Could not override 'protocol'. No match in the defaults list.",
    ),
    "no_file": (HEADER + "defaults:\n  - nowhere\n", ", line 2: defaults: found experiment/nowhere; allowed: "),
    "mapping": (HEADER + "defaults:\n  policy: vit_base\n", ", line 2: defaults: found {'policy': 'vit_base'}; allowe"),
    "number": (HEADER + "defaults:\n  - 5\n", ", line 2: defaults: found 5; allowed: entries like override /policy: N"),
    "circle": (
        HEADER + "defaults:\n  - circle_back\n",
        ", line 2: defaults: found a circle, experiment/circle -> experiment/circle_back -> experiment/circle",
    ),
    "itself": (HEADER + "defaults:\n  - itself\n", ", line 2: defaults: found a circle, experiment/itself -> experime"),
    "binary": (b"\x00\x01\xff\xfe\x89PNG", ", line 1: found bytes that are not UTF-8; save the file as UTF-8"),
    "control": (HEADER + "name: a\x07b\n", ", line 2: found the control character '\\x07'; allowed: text"),
    "escaped_nul": (HEADER + 'name: "a\\0b"\n', ", line 2: name: found 'a\\x00b'; allowed: a text in one line, not em"),
    "utf16": (f"{HEADER}seed: 3\n".encode("utf-16"), ", line 1: found bytes that are not UTF-8; save the file as UTF-"),
    "latin1": (f"{HEADER}name: é\n".encode("latin-1"), ", line 2: found bytes that are not UTF-8; save the file as UT"),
    "invalid": (HEADER + "training:\n epochs: 3\n  seed: 4\n", ", line 4: cannot be read as YAML (mapping values are "),
    "unclosed": (HEADER + "training: {epochs: 3\nseed: 4\n", ", line 3: cannot be read as YAML (while parsing a flow "),
    "tab": (HEADER + "training:\n\tepochs: 3\n", ", line 3: cannot be read as YAML (while scanning for the next token"),
    "twice": (HEADER + "seed: 3\nname: x\nseed: 4\n", ", line 4: found seed again, first in line 2; allowed: once"),
    "documents": (HEADER + "seed: 3\n---\nseed: 4\n", ", line 3: found a second document; allowed: one, without ---"),
    "tag": (HEADER + "seed: !!python/object/apply:os.system [':']\n", ", line 2: found the tag tag:yaml.org,2002:pyth"),
    "bomb": (HEADER + BOMB, ", line 6: found more than 20000 values, those of aliases included"),
    "alias_in_itself": (HEADER + "training: &t\n  a: *t\n", ", line 3: found *t in itself; allowed: an anchor that en"),
    "deep_flow": (HEADER + "seed: " + "[" * 3000, ", line 2: found more than 32 levels; settings are nested four deep"),
    "deep_block": (HEADER + "".join(" " * depth + "a:\n" for depth in range(300)), ", line 34: found more than 32 lev"),
    "digits": (HEADER + f"seed: {'9' * 5000}\n", ", line 2: found a number of hundreds of digits"),
    "large": (HEADER + "seed: 3\n" + "# x\n" * 200_000, ": found more than 256 kB; allowed: a YAML file with settings"),
    "circular": (
        HEADER + "seed: ${training.epochs}\ntraining:\n  epochs: ${seed}\n",
        ", line 2: seed: refers to itself (seed -> training.epochs -> seed); give one of them a value",
    ),
    "own_value": (HEADER + "seed: ${seed}\n", ", line 2: seed: refers to itself (seed -> seed); give one of them a va"),
    "reference": (HEADER + "seed: ${trainng.epochs}\n", ", line 2: seed: Interpolation key 'trainng.epochs' not found"),
    "resolver": (HEADER + "seed: ${nope:3}\n", ", line 2: seed: Unsupported interpolation type nope; ${...} takes the"),
    "braces": (HEADER + "name: x\nseed: ${training\n", ", line 3: cannot be read (no viable alternative at input '${t"),
    "self_twice": (HEADER + "defaults: [_self_, _self_]\nseed: 1\n", ": Duplicate _self_ defined in experiment/s"),
    "outside": (HEADER + "defaults:\n  - /../x\n", ", line 2: defaults: found ../x; allowed: names like /policy/v"),
    "hydra_scalar": (HEADER + "hydra: 3\n", ", line 2: hydra: found no group; of Hydra's own settings only launch"),
    "target": (HEADER + "hydra: {launcher: {a: {_target_: x}}}\n", ", line 2: hydra.launcher.a._target_: found x; a c"),
    "hydra": (HEADER + "hydra: {run: {dir: x}}\n", ", line 2: hydra.run: of Hydra's own settings only launcher and sw"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for experiments that commands know."""
    monkeypatch.setenv("INSTRUCTRL_CONFIG_DIRS", str(tmp_path))
    (tmp_path / "experiment").mkdir()
    return tmp_path / "experiment"


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / f"{name}.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(option: str, *words: str) -> str:
    with pytest.raises(InputError) as error:
        compose("train", TrainConfig, [option, *words])
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_wrong_in_a_file_is_one_line_with_the_file_the_line_and_the_key(folder: Path) -> None:
    write(folder, "circle_back", HEADER + "defaults:\n  - circle\n")
    paths = {name: write(folder, name, text) for name, (text, _) in CASES.items()}
    lines = {name: refused(f"experiment={name}") for name in CASES}
    wrong = {name: line for name, line in lines.items() if not line.startswith(f"{paths[name]}{CASES[name][1]}")}
    assert wrong == {}


def test_what_is_no_readable_file_is_one_line(folder: Path) -> None:
    (folder / "folder.yaml").mkdir()
    (folder / "dangling.yaml").symlink_to("nowhere")
    (folder / "loop.yaml").symlink_to("loop.yaml")
    os.mkfifo(folder / "pipe.yaml")
    (folder / "endless.yaml").symlink_to("/dev/zero")
    write(folder, "through", HEADER + "defaults:\n  - dangling\n")
    found = {
        "folder": "a folder",
        "dangling": "a link to no file",
        "loop": "a link to no file",
        "pipe": "no regular file",
        "endless": "no regular file",
    }
    for name, kind in found.items():
        line = f"{folder / name}.yaml: found {kind}; allowed: a YAML file with settings"
        assert refused(f"experiment={name}") == line
    assert refused("experiment=through").startswith(f"{folder}/dangling.yaml: found a link to no file")


def test_files_of_a_group_are_named_too(folder: Path) -> None:
    (folder.parent / "policy").mkdir()
    path = write(folder.parent / "policy", "wide", "name: wide\ndim: 64\ndepht: 1\nheads: 2\n")
    line = refused("policy=wide")
    assert line.startswith(f"{path}, line 3: policy.depht: no such setting; did you mean policy.depth")
    write(folder.parent / "policy", "wide", "name: wide\ndim: 64\ndepth: 1000\nheads: 2\n")
    assert refused("policy=wide").startswith(f"{path}, line 3: policy.depth: found 1000; allowed: an integer")
    assert refused("policy=wide", "policy.depth=0").startswith("policy.depth: found 0; allowed: an integer")
    write(folder, "over", HEADER + "defaults:\n  - override /policy: wide\npolicy:\n  depth: 2000\n")
    assert refused("experiment=over").startswith(f"{folder}/over.yaml, line 5: policy.depth: found 2000; allowed")


@pytest.mark.parametrize(
    ("group", "text", "missing"),
    [
        ("encoder", "name: odd\ndim: 32\n", "encoder.kind"),
        ("head", "name: odd\n", "head.kind"),
        ("sim", "name: odd\n", "sim.kind"),
        ("encoder", "name: odd\nkind: m3ae\ndim: 32\n", "encoder.depth"),
    ],
)
def test_a_file_that_lacks_a_setting_is_named(folder: Path, group: str, text: str, missing: str) -> None:
    (folder.parent / group).mkdir()
    path = write(folder.parent / group, "odd", text)
    assert refused(f"{group}=odd").startswith(f"{path}: {missing}: no value given; write {missing}=...; allowed: ")
    assert refused(f"{group}=odd", f"{missing}=???").startswith(f"{missing}: no value given; write {missing}=")


def test_settings_that_do_not_fit_together_are_named_with_the_files_that_set_them(folder: Path) -> None:
    path = write(folder, "short", HEADER + "training:\n  epochs: 3\noptimizer:\n  warmup_epochs: 4\n")
    line = refused("experiment=short")
    assert line == (
        "optimizer.warmup_epochs: found 4.0; allowed: less than training.epochs=3; "
        f"optimizer.warmup_epochs is set in {path}, line 5; training.epochs is set in {path}, line 3"
    )
    line = refused("experiment=short", "training.epochs=2")
    assert line.endswith(f"training.epochs=2; optimizer.warmup_epochs is set in {path}, line 5")
    line = refused("experiment=short", "training={epochs: 2}", "optimizer.warmup_epochs=2")
    assert line.endswith("optimizer.warmup_epochs: found 2.0; allowed: less than training.epochs=2")


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("hydra/launcher/mine", "_target_: os.system\n", "hydra.launcher._target_: found os.system; a class cannot"),
        (
            "hydra/launcher/mine",
            "_target_: hydra_plugins.x.Y\na: {_target_: z}\n",
            "hydra.launcher.a._target_: found z",
        ),
        ("hydra/sweeper/sampler/mine", "_target_: hydra_plugins.x.Y\n", "hydra.sweeper.sampler._target_: found hydra"),
    ],
)
def test_a_file_of_hydras_names_nothing_to_call_but_a_plugin(folder: Path, name: str, text: str, line: str) -> None:
    path = folder.parent / f"{name}.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(InputError, match=rf"^{re.escape(f'{path}: {line}')}"):
        load_option(folder.parent, name)


def test_an_option_of_no_name_is_that_of_no_experiment() -> None:
    assert compose("train", TrainConfig, ["experiment=null", "seed=3"]) == compose("train", TrainConfig, ["seed=3"])


def test_editors_of_other_systems_write_files_that_are_read(folder: Path) -> None:
    write(folder, "windows", ("\ufeff" + EXPERIMENT).replace("\n", "\r\n").encode())
    config = compose("train", TrainConfig, ["experiment=windows"])
    assert (config.training.epochs, config.policy.name, config.head.kind) == (3, "vit_debug", "regression")
    assert config.optimizer.learning_rate == 4e-3 and config.name == "mine-reach_target-seed0"


def mutated(text: str, numbers: random.Random) -> bytes:
    """An experiment with one or two changes such as people and disks make."""
    content = text.encode()
    for _ in range(numbers.randint(1, 2)):
        lines = content.split(b"\n")
        at, byte = numbers.randrange(len(lines)), numbers.randrange(len(content))
        kind = numbers.randrange(9)
        if kind == 0:
            content = content[:byte] + bytes([numbers.randrange(256)]) + content[byte + 1 :]
        elif kind == 1:
            content = content[:byte]
        elif kind == 2:
            content = content[:byte] + content[byte + numbers.randint(1, 6) :]
        elif kind == 3:
            content = b"\n".join([*lines[:at], lines[numbers.randrange(len(lines))], *lines[at:]])
        elif kind == 4:
            content = b"\n".join([*lines[:at], *lines[at + 1 :]])
        elif kind == 5:
            content = b"\n".join([*lines[:at], b" " * numbers.randint(0, 4) + lines[at].strip(), *lines[at + 1 :]])
        elif kind == 6:
            odd = [
                b"\t",
                b"${",
                b"}",
                b"*schedule",
                b"&a",
                b"!!set",
                b": ",
                b"- ",
                b"null",
                b"9" * 400,
                b"'",
                b"<<: ",
                b"\0",
            ]
            content = content[:byte] + numbers.choice(odd) + content[byte:]
        elif kind == 7:
            words = re.findall(rb"[\w./]+", content)
            content = content.replace(numbers.choice(words), numbers.choice([*words, b"[]", b"{}", b"~", b"1e999"]), 1)
        else:
            content = content + b"\n" + content[numbers.randrange(len(content)) :]
        content = content or b" "
    return content


def test_mutations_of_a_file_are_read_or_refused_in_one_line(folder: Path) -> None:
    numbers = random.Random(0)
    read = []
    for number in range(1500):
        path = write(folder, f"m{number}", mutated(EXPERIMENT, numbers))
        try:
            read_yaml(path)
            read.append(path)
        except InputError as error:
            assert re.match(rf"{path}(, line \d+)?: \w", str(error)) and "\n" not in str(error)
    assert 300 < len(read) < 1400
    composed = 0
    for path in read[:60]:
        try:
            compose("train", TrainConfig, [f"experiment={path.stem}"])
            composed += 1
        except InputError as error:
            line = str(error)
            assert "\n" not in line and (line.startswith(f"{path}") or re.match(r"[a-z_]+(\.[a-z_]+)*: found", line)), (
                line
            )
    assert 5 < composed < 55
