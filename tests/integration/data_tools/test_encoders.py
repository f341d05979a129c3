"""The comparison of encoders: what it measures, trains and evaluates, and what it does with encoders that it cannot."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import NamedTuple

import pytest

from data_tools.encoders import __main__ as encoders
from data_tools.encoders import comparison, measurement
from data_tools.encoders.settings import available, choices
from instructrl.cli.entry import compose
from instructrl.config.evaluation import EvalConfig, effective_protocol, protocol_record
from instructrl.config.training import TrainConfig, uses_cached_features
from instructrl.models.weight_files import weights_path
from instructrl.storage.atomic import write_atomically
from instructrl.training.run_dir import write_config
from tests.fixtures import tiny
from tests.fixtures.commands import run_main
from tests.integration.test_compare import evaluated_results
from tests.unit.evaluation.report.test_report import read

TINY = [word for word in tiny.OVERRIDES if not word.startswith(("data.dir", "output_dir", "encoder."))]
SIZES = ["scenes=20", "test_scenes=10", "seeds=[0,1]", "episodes=20", "sim.workers=1"]
BOTH = "encoders=[scratch_tiny,m3ae_tiny]"
TRAINED = {"epoch": 4, "epochs": 4, "process": ""}  # of the shared run


class Commands:
    """Counts commands; measurements run in this process, and stand-ins train and evaluate."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def __call__(self, module: str, *words: str) -> None:
        self.ran.append(module.rpartition(".")[2])
        if self.ran[-1] == "train":
            train(*words)
        elif self.ran[-1] == "evaluate":
            evaluate(*words)
        else:
            done = run_main(encoders.main, *words)
            assert done.returncode == 0, done.stderr


def train(*words: str) -> None:
    """Make a finished run of these settings."""
    config = compose("train", TrainConfig, words)
    shutil.copytree(tiny.shared_run(), run := Path(config.output_dir) / config.name)
    write_config(run, config)
    assert config.encoder.frozen and uses_cached_features(config)
    weights = weights_path(config.encoder)
    assert weights is not None and weights.exists(), "also random ones are those that were measured"


def evaluate(*words: str) -> None:
    """Write results of a run, of which those of m3ae_tiny are better."""
    config = compose("eval", EvalConfig, words)
    record, run = protocol_record(effective_protocol(config)), Path(config.run)
    assert (record["episodes"], record["conditions"]) == (20, ["trained"])
    results = {**evaluated_results(12 if "m3ae" in run.name else 5), "protocol": record, "training": TRAINED}
    write_atomically(run / "eval/results.json", json.dumps(results))


class Compared(NamedTuple):
    """A finished comparison of two encoders: its folder, its settings, what it printed, and the commands that ran."""

    folder: Path
    words: list[str]
    done: CompletedProcess[str]
    ran: list[str]


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Commands of a comparison in this process."""
    counted = Commands()
    monkeypatch.setattr(comparison, "run_command", counted)
    return counted


def compare(*words: str) -> CompletedProcess[str]:
    return run_main(encoders.main, "compare", *words)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compared]:
    folder, counted = tmp_path_factory.mktemp("compared"), Commands()
    data = [f"data.dir={tiny.shared_collection()}", f"features_dir={folder / 'features'}"]
    words = [*TINY, *SIZES, *data, f"out={folder / 'out of it'}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "run_command", counted)
        patch.setattr(measurement, "SECONDS", 0.0)
        yield Compared(folder / "out of it", words, compare(BOTH, *words), counted.ran)


def test_each_encoder_is_measured_trained_and_evaluated(compared: Compared) -> None:
    assert compared.done.returncode == 0, compared.done.stderr
    assert compared.ran == ["encoders", *["train", "evaluate"] * 2] * 2
    lines = compared.done.stdout.splitlines()
    [head] = [number for number, line in enumerate(lines) if line.startswith("encoder ")]
    assert [line.split()[:2] for line in lines[head + 1 : head + 3]] == [
        ["scratch_tiny", "random"],
        ["m3ae_tiny", "pretrained"],
    ]
    assert lines[head + 3].startswith("paired: m3ae_tiny minus scratch_tiny: +0.350 [")
    assert lines[head + 3].endswith("p < 0.001 (40 pairs of 2 runs each)")
    assert lines[-1] == f"comparison: {compared.folder / 'comparison.html'}"


def test_the_numbers_are_those_of_the_runs_and_measurements(compared: Compared) -> None:
    numbers = json.loads((compared.folder / "comparison.json").read_text())
    first, second = numbers["encoders"]
    assert [(one["encoder"], one["weights"]) for one in (first, second)] == [
        ("scratch_tiny", "random"),
        ("m3ae_tiny", "pretrained"),
    ]
    assert first["minus_first"] is None and second["minus_first"]["pairs"] == 40
    assert (first["success"]["rates"], second["success"]["rates"]) == ([0.25, 0.25], [0.6, 0.6])
    assert 0 < first["success"]["mean_low"] < 0.25 < first["success"]["mean_high"]
    for one in (first, second):
        assert [Path(run).name for run in one["runs"]] == [f"{one['encoder']}-seed{seed}" for seed in (0, 1)]
        speed = one["images_per_second"]
        assert 0 < speed["low"] <= speed["median"] <= speed["high"]
        assert one["memory"]["process_memory_bytes"] > 5e7 and one["features_bytes"] > 1000
        scores = one["probe"]["scores"]
        assert one["probe"]["task"] == "reach_target" and all(len(values) == 3 for values in scores.values())
        assert all(0 <= value <= 1 for value in scores["colour, its patch, accuracy"])
    assert first["probe"]["scores"] != second["probe"]["scores"]
    assert first["probe"]["nothing"] == second["probe"]["nothing"], "the same scenes"


def test_the_page_shows_them(compared: Compared) -> None:
    page = read((compared.folder / "comparison.html").read_text())
    text = " ".join(page.text.split())
    assert "script" not in page.tags and page.references == ["data:,"]
    assert "2 encoders" in text and "Paired differences to scratch_tiny" in text and "20 scenes" in text
    assert text.count("m3ae_tiny") >= 4 and text.count(" cm") >= 6 and "Images a second" in text


def test_the_same_command_does_nothing_again(compared: Compared, commands: Commands) -> None:
    before = (compared.folder / "comparison.json").read_text()
    done = compare(BOTH, *compared.words)
    assert done.returncode == 0, done.stderr
    assert commands.ran == []
    assert (compared.folder / "comparison.json").read_text() == before


def test_other_settings_of_a_measurement_measure_again(compared: Compared, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    monkeypatch.setattr(comparison, "run_command", lambda module, *words: ran.append(words[0]))
    done = compare(BOTH, *compared.words, "scenes=21")
    assert ran == ["measure"] * 2
    assert done.returncode == 1 and done.stderr.count("\n") == 2, done.stderr  # a warning of m3ae_tiny, and the error
    assert "error: none of the encoders scratch_tiny, m3ae_tiny was compared; of the first, " in done.stderr


def test_runs_of_other_settings_are_refused(compared: Compared, commands: Commands) -> None:
    done = compare("encoders=[scratch_tiny]", *compared.words, "policy.depth=2")
    assert done.returncode == 2 and commands.ran == []
    assert "scratch_tiny-seed0: was started with different settings (policy.depth: " in done.stderr
    assert "choose another out=" in done.stderr
    assert "name=" not in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_an_encoder_without_its_weights_is_named_and_the_others_go_on(compared: Compared, commands: Commands) -> None:
    done = compare("encoders=[clip_b32,scratch_tiny]", *compared.words)
    assert done.returncode == 1 and commands.ran == [], done.stderr
    why = "weights/clip_b32.safetensors: no encoder weights found; get them with python -m data_tools.weights fetch"
    assert f"not compared: clip_b32: {why} kind=clip name=b32" in done.stdout
    assert (
        done.stderr.startswith("error: 1 of 2 encoders were not compared: clip_b32; ") and done.stderr.count("\n") == 1
    )
    text = " ".join(read((compared.folder / "comparison.html").read_text()).text.split())
    assert "1 encoder " in text and f"Not compared: clip_b32: {why}" in text


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["encoders=[m3ea_tiny]"], "encoders: found m3ea_tiny; did you mean m3ae_tiny"),
        (["encoders=[dinov2_b14+siglip_b16]"], "encoders: found siglip_b16, as an encoder of text; did you mean"),
        (["encoders=[scratch_s16+clip_b16]"], "encoders: found scratch_s16+clip_b16; allowed: an encoder with weights"),
        (["encoders=[clip_b32]"], "weights/clip_b32.safetensors: no encoder weights found; "),
        (["encoders=[m3ae_tiny]", "encoder=m3ae_b16"], "encoder=m3ae_b16: not allowed here, since the comparison"),
        (["seeds=[1,1]"], "seeds: found [1, 1]; allowed: a list of distinct integers"),
        (["encoders=[m3ae_tiny]", "policy.dept=3"], "policy.dept: no such setting; did you mean policy.depth?"),
        (["compare"], "compare: cannot be read as key=value"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(words: list[str], line: str, tmp_path: Path, commands: Commands) -> None:
    done = compare(*words, f"out={tmp_path / 'out'}")
    assert done.returncode == 2 and re.match(f"error: {re.escape(line)}", done.stderr), done.stderr
    assert done.stderr.count("\n") == 1 and commands.ran == [] and list(tmp_path.iterdir()) == []


def test_all_read_the_same_images_each_at_its_own_resolution(tmp_path: Path) -> None:
    tiny_one, plain, large = choices(["m3ae_tiny", "scratch_s16", "clip_b16"], [], tmp_path)
    assert {one.config.sim.image_size for one in (tiny_one, plain, large)} == {224}
    assert [one.config.encoder.image_size for one in (tiny_one, plain, large)] == [96, 128, 224]
    [small] = choices(["m3ae_tiny"], ["sim.image_size=32"], tmp_path)
    assert (small.config.sim.image_size, small.config.encoder.image_size) == (32, None), "nothing is enlarged"
    [pair] = choices(["dinov2_s14+siglip2_b16"], [], tmp_path)
    assert pair.config.encoder.text == "siglip2_b16" and pair.config.encoder.frozen


def test_by_default_those_are_compared_that_need_no_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here, missing = available()
    assert here[0] == "m3ae_tiny" and {"scratch_tiny", "scratch_s16"} < set(here)
    assert {"clip_b16", "dinov2_b14", "siglip2_b16", "m3ae_b16"} < set(missing)
    assert "t5_base" not in {*here, *missing}  # it reads no images
