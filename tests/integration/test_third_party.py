"""A package of others adds an encoder, a head, a simulator and a task; nothing of ours is edited."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import train as train_entry
from instructrl.cli.entry import compose
from instructrl.cli.help import help_text
from instructrl.config.simulators import TabletopConfig
from instructrl.config.training import TrainConfig
from instructrl.errors import InputError, RunError, SimulatorError
from instructrl.inference.client import ClientConfig, simulator
from instructrl.sim import EpisodeStart, Outcome, make_checked_env, make_env, working_renderer
from tests.fixtures.packages import THIRD_PARTY, install, packages_in, write_metadata
from tests.paths import ROOT

PARTS = ("encoder=gated", "encoder.gates=4", "head=linear", "sim=plane", "sim.radius=0.15", "task=touch_dot")
TINY = (
    *PARTS,
    "name=acme",
    "policy=vit_debug",
    "policy.dim=16",
    "policy.heads=2",
    "training.epochs=1",
    "training.batch_size=4",
    "optimizer.warmup_epochs=0.5",
    "hardware=cpu",
    "hardware.local_devices=1",
    "sim.workers=1",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package is installed."""
    folder = tmp_path_factory.mktemp("site")
    install(THIRD_PARTY, folder)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands are called."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture
def installed(site: Path) -> Iterator[None]:
    with packages_in(site):
        yield


def refused(*words: str) -> str:
    """The line with which a command refuses these words."""
    with pytest.raises(InputError) as error:
        compose("train", TrainConfig, words)
    return str(error.value)


def ran(entry: str, *words: str, place: Path, site: Path | None) -> subprocess.CompletedProcess[str]:
    """A command, with the folder of installed packages or without it."""
    path = os.pathsep.join(map(str, [ROOT, *([] if site is None else [site])]))
    return subprocess.run(
        [sys.executable, *(["-m", "data_tools.collect"] if entry == "collect" else [str(ROOT / entry)]), *words],
        cwd=place,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def run(place: Path, site: Path) -> Path:
    """A run of their encoder and head in their simulator."""
    done = ran("train.py", *TINY, place=place, site=site)
    assert done.returncode == 0, done.stderr[-2000:]
    return place / "outputs" / "acme"


def test_their_parts_are_trained_recorded_and_evaluated(run: Path, place: Path, site: Path) -> None:
    recorded = (run / "config.yaml").read_text()
    assert re.search(r"kind: gated\n(.*\n)*  gates: 4\n", recorded) and "  radius: 0.15\n" in recorded
    words = ("run=outputs/acme", "episodes=2", "conditions=[trained]", "videos=1", "workers=1")
    done = ran("eval.py", *words, place=place, site=site)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (run / "eval" / "results.json").exists() and "success_rate" in done.stdout


def faulty_site(site: Path, folder: Path, *, before: str, after: str, file: str = "plane.py") -> Path:
    """A copy of their package with a fault in one of its files, by default that of its simulator."""
    shutil.copytree(site, folder, dirs_exist_ok=True)
    plane = folder / "acme_robots" / file
    text = plane.read_text()
    assert text.count(before) == 1
    plane.write_text(text.replace(before, after))
    return folder


def test_an_averaged_loss_of_their_head_is_refused_before_anything_is_collected(site: Path, tmp_path: Path) -> None:
    total = "self.config.position_weight * position + pose_loss(self.config, predicted, targets)"
    averaged = f"jnp.broadcast_to(({total}).mean(), position.shape)"
    faulty = faulty_site(site, tmp_path / "site", before=total, after=averaged, file="networks.py")
    done = ran("train.py", *TINY, place=tmp_path, site=faulty)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr[-2000:]
    line = r"error: head\.kind=linear: what acme_robots\.networks\.Linear\.loss returns: found other numbers at "
    assert re.match(line, done.stderr.splitlines()[-1]) and not list(tmp_path.glob("data/**/*.hdf5"))


def test_nan_of_their_simulator_ends_an_evaluation_with_its_place(
    run: Path, place: Path, site: Path, tmp_path: Path
) -> None:
    nan_after_a_step = "-1 + 2 * self._counter.steps / self.max_steps if self._counter.steps < 1 else np.nan"
    before = "-1 + 2 * self._counter.steps / self.max_steps"
    faulty = faulty_site(site, tmp_path, before=before, after=nan_after_a_step)
    words = ("run=outputs/acme", "episodes=2", "conditions=[trained]", "videos=0", "workers=1", "protocol.name=faulty")
    done = ran("eval.py", *words, place=place, site=faulty)
    line = (
        r"^error: sim=plane, task touch_dot, variation 0, seed \d+, step 1: observation.state: found \[1.0, .*nan\], "
    )
    assert done.returncode == 1 and re.search(line, done.stderr.splitlines()[-1]), done.stderr[-2000:]
    assert "Traceback" not in done.stderr and not (run / "eval-faulty" / "results.json").exists()


def test_an_exception_of_their_simulator_ends_an_evaluation_with_its_place(
    run: Path, place: Path, site: Path, tmp_path: Path
) -> None:
    faulty = faulty_site(
        site, tmp_path, before="            near = np", after="            {}['joint']\n            near = np"
    )
    words = ("run=outputs/acme", "episodes=2", "conditions=[trained]", "videos=0", "workers=1", "protocol.name=raising")
    done = ran("eval.py", *words, place=place, site=faulty)
    where = r"^error: sim=plane, task touch_dot, variation 0, seed \d+, step 1: KeyError: 'joint', in "
    line = where + rf"{faulty}/acme_robots/plane\.py, line \d+; correct the simulator$"
    assert done.returncode == 1 and re.search(line, done.stderr.splitlines()[-1]), done.stderr[-2000:]
    assert "Traceback" not in done.stderr and not (run / "eval-raising" / "results.json").exists()


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        (
            "def film(",
            "def filmed(",
            r"acme_robots\.plane\.Plane: found no method film; allowed: film\(start, actions, \*",
        ),
        (
            "def step(self, action: np.ndarray)",
            "def step(self)",
            r"found step\(\); allowed: what can be called as step\(act",
        ),
        (
            "def reset(self, start: EpisodeStart)",
            "def reset(self, start, *, seed)",
            r"found reset\(start, \*, seed\); allowed",
        ),
        (
            "    @classmethod\n    def available",
            "    def available",
            r"found the method available_renderer; allowed: a cla",
        ),
        (
            "class Plane:",
            "Plane = 3\nclass Planar:",
            r"found 3; allowed: a class as instructrl.sim.env.Simulator describes",
        ),
    ],
)
def test_a_faulty_class_of_a_simulator_is_one_line(
    before: str, after: str, line: str, site: Path, tmp_path: Path
) -> None:
    with packages_in(faulty_site(site, tmp_path, before=before, after=after)):
        config = compose("train", TrainConfig, PARTS)
        with pytest.raises(
            InputError, match=rf"^sim\.kind=plane: .*{line}.*; repair, update or uninstall the package$"
        ):
            working_renderer(config.sim, "auto")


def test_a_renderer_without_a_name_is_refused(site: Path, tmp_path: Path) -> None:
    with packages_in(faulty_site(site, tmp_path, before='return "numpy"', after="return 3")):
        config = compose("train", TrainConfig, PARTS)
        with pytest.raises(
            RunError, match=r"^sim\.kind=plane: available_renderer: found 3; allowed: the name of one; re"
        ):
            working_renderer(config.sim, "auto")


def test_an_exception_at_the_start_of_their_simulator_is_told_with_its_place(site: Path, tmp_path: Path) -> None:
    faulty = faulty_site(site, tmp_path, before="half = image_size / 2", after="half = image_size / 0")
    with packages_in(faulty):
        config = compose("train", TrainConfig, PARTS)
        line = (
            rf"^sim=plane, task touch_dot: ZeroDivisionError: .*, in {faulty}/acme_robots/plane.py, line \d+; correct"
        )
        with pytest.raises(SimulatorError, match=line):
            make_checked_env(config.sim, "touch_dot")


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        (
            "return made, outcome or",
            "made.nothing\n        return made, outcome or",
            r"step 0: AttributeError: .* no attribute 'nothing', in .*plane\.py, line \d+; correct",
        ),
        (
            "return made, outcome or",
            "made.state[1] = np.nan\n        return made, outcome or",
            "step 1: demonstration.state",
        ),
        ("return made, outcome or Outcome.TIME_LIMIT", "return made, True", r"step 0: outcome: found true \(bool\)"),
    ],
)
def test_faulty_demonstrations_of_their_simulator_are_not_written(
    before: str, after: str, line: str, place: Path, site: Path, tmp_path: Path
) -> None:
    faulty = faulty_site(site, tmp_path, before=before, after=after)
    words = ("sim=plane", "task=touch_dot", "sim.workers=1", f"data.dir={tmp_path}/data")
    done = ran("collect", *words, place=place, site=faulty)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert re.search(f"^error: sim=plane, task touch_dot, variation 0, seed 0, {line}", done.stderr.splitlines()[-1])
    assert not list(tmp_path.glob("data/**/*.hdf5"))


def test_a_run_whose_package_is_gone_says_which_entry_is_missing(run: Path, place: Path) -> None:
    done = ran("eval.py", "run=outputs/acme", place=place, site=None)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    found = r"error: .*/config.yaml, line \d+: encoder.kind: found gated; allowed: scratch_tiny, .* group instructrl"
    assert re.match(found, done.stderr)


@pytest.mark.usefixtures("installed")
def test_other_settings_of_theirs_are_those_of_another_run(run: Path) -> None:
    from instructrl.training.run_dir import find_run

    words = [*TINY, f"output_dir={run.parent}"]
    assert find_run(compose("train", TrainConfig, words)) == run
    with pytest.raises(InputError, match=r"encoder\.gates: 4 -> 2"):
        find_run(compose("train", TrainConfig, [*words, "encoder.gates=2"]))


@pytest.mark.usefixtures("installed")
def test_their_task_is_one_of_the_embedded_simulator() -> None:
    config = compose("train", TrainConfig, ["task=touch_plate"])
    env = make_env(TabletopConfig(cameras=["front"], image_size=16, renderer="raycast"), config.task.name)
    made, outcome = env.demonstrate(EpisodeStart(1, 3))
    env.close()
    assert outcome is Outcome.SUCCESS and made.instructions == env.instructions(1)


@pytest.mark.usefixtures("installed")
def test_the_client_of_a_policy_server_plays_their_simulator() -> None:
    own = compose("train", TrainConfig, PARTS).sim
    served = {
        "cameras": ["top"],
        "image_size": 16,
        "state": own.state,
        "workspace": own.workspace,
        "actions": "keyframe",
    }
    env = make_env(simulator(ClientConfig(sim="plane"), served), "touch_dot")
    assert env.reset(EpisodeStart(0, 1)).images.shape == (1, 16, 16, 3)
    with pytest.raises(InputError, match=r"^sim=plane: actions: found dense of the server's agent; allowed: keyframe$"):
        simulator(ClientConfig(sim="plane"), served | {"actions": "dense"})


@pytest.mark.usefixtures("installed")
def test_their_options_and_settings_are_in_the_help() -> None:
    shown = help_text("train", TrainConfig, PARTS, about="")
    for line in (
        r"(?s)  encoder +clip_b16 .*\[gated\].*  head ",
        r"  head +chunk discrete flow \[linear\]",
        r"  encoder.gates=4 +gates of each patch \[integer 1..16\]",
        r"  encoder.kind=gated +architecture \[scratch_tiny \| m3ae \|[^\]]* \|\s+gated\]",
        r"  sim.cameras=\[top\] +cameras \[list of top\]",
        r'  sim.state=\["gripper open","left finger \(m\)","right finger \(m\)",time\]',
        r"  sim.radius=0.15 +distance in metres",
    ):
        assert re.search(line, shown), line


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["encoder.gates=0"], "encoder.gates: found 0; allowed: an integer at least 1 and at most 16"),
        (["encoder.gates=5"], "encoder.gates: found 5; allowed: a divisor of encoder.dim=32"),
        (["encoder.gatse=5"], "encoder.gatse: no such setting; did you mean encoder.gates"),
        (["encoder.heads=2"], "encoder.heads: no such setting"),
        (["sim.radius=far"], "sim.radius: found far; allowed: a number above 0 and at most 0.2"),
        (["encoder=gatd"], "encoder: found gatd; allowed: clip_b16, clip_b32, clip_l14, dinov2_b14, "),
        (
            ["encoder.kind=gatd"],
            "encoder.kind: found gatd; allowed: scratch_tiny, m3ae, clip, dinov2, siglip2, t5, sentence, gated,",
        ),
        (["sim.cameras=[front]"], "sim.cameras: found [front]; allowed: a list of top"),
    ],
)
def test_a_wrong_setting_of_theirs_is_one_line(words: list[str], line: str) -> None:
    assert refused(*PARTS, *words).startswith(line)


@pytest.mark.parametrize(
    ("entry_points", "word", "line"),
    [
        (
            {"instructrl.encoders": {"gated": "acme_robots.nowhere:Gated"}},
            "encoder=gated",
            r"encoder.kind: found gated of package acme-robots 2, whose entry point gated = acme_robots.nowhere:Gated "
            r"cannot be imported \(ModuleNotFoundError: .*\); repair, update or uninstall the package$",
        ),
        (
            {"instructrl.heads": {"linear": "acme_robots.settings:GatedConfig"}},
            "head=linear",
            r"head.kind: found linear of package acme-robots 2, .* is not a subclass of .*HeadConfig; repair",
        ),
        (
            {"instructrl.encoders": {"clip": "acme_robots.settings:GatedConfig"}},
            "encoder=clip_b16",
            r"encoder.kind: found clip, a name that InstructRL and package acme-robots 2 have taken; rename the entry",
        ),
        (
            {"instructrl.tasks": {"push_button": "acme_robots.touch_plate:TouchPlate"}},
            "task=push_button",
            r"task: found push_button, a name that InstructRL and package acme-robots 2 have taken; rename the entry",
        ),
        (
            {"instructrl.configs": {"acme": "acme_robots.nowhere"}},
            "encoder=gated",
            r"encoder: found gated; allowed: .*; package acme-robots 2: entry point acme = acme_robots.nowhere in "
            r"instructrl.configs: there is no such folder; repair",
        ),
    ],
)
def test_a_faulty_package_is_one_line_when_it_is_used(
    entry_points: dict[str, dict[str, str]], word: str, line: str, site: Path, tmp_path: Path
) -> None:
    shutil.copytree(site / "acme_robots", tmp_path / "acme_robots")
    shipped = {} if "instructrl.configs" in entry_points else {"instructrl.configs": {"acme": "acme_robots.conf"}}
    write_metadata(tmp_path, "acme-robots", entry_points | shipped, version="2")
    with packages_in(tmp_path):
        assert re.match(line, refused(word))
        assert compose("train", TrainConfig, ["encoder=m3ae_tiny"]).encoder.kind == "m3ae", "all else is as it was"
        assert "Settings: key=" in help_text("train", TrainConfig, [], about="")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an option of a group."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INSTRUCTRL_CONFIG_DIRS", "")  # and as it was afterwards
    (tmp_path / "conf" / "policy").mkdir(parents=True)
    (tmp_path / "conf" / "policy" / "wide.yaml").write_text("name: wide\ndim: 64\ndepth: 1\nheads: 2\n")
    return tmp_path / "conf"


def answer(*words: str, capsys: pytest.CaptureFixture) -> str:
    """How train.py refuses these words."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["train.py", *words, "name=x/y"])  # nothing is trained, whatever else is right
        train_entry.main()
    assert end.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "given",
    ["--config-dir {0}", "-cd {0}", "--config-dir={0}", "hydra.searchpath=[{0}]", "hydra.searchpath=[file://{0}]"],
)
def test_a_folder_of_yaml_files_is_given_with_a_command(
    given: str, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", "--cfg", "job", *given.format(folder).split(), "policy=wide"])
        train_entry.main()
    assert "dim: 64" in capsys.readouterr().out


def test_what_is_wrong_with_such_a_folder_is_one_line(folder: Path, capsys: pytest.CaptureFixture) -> None:
    line = answer("--config-dir", str(folder), "policy=wider", capsys=capsys)
    assert line.startswith("error: policy: found wider; allowed: vit_base, vit_debug, vit_large, vit_small, wide")
    for word in ("nowhere", ""):
        line = answer("--config-dir", word, capsys=capsys)
        assert line.startswith("error: --config-dir: found ") and "allowed: a folder with files such as" in line
    for word in ("hydra.searchpath=3", "hydra.searchpath=[nowhere]", "hydra.searchpath=[pkg://nowhere.conf]"):
        assert answer(word, capsys=capsys).startswith("error: hydra.searchpath: found ")
    (folder.parent / "other" / "policy").mkdir(parents=True)
    (folder.parent / "other" / "policy" / "vit_base.yaml").write_text("name: vit_base\ndim: 64\ndepth: 1\nheads: 2\n")
    line = answer("--config-dir", "other", "policy=vit_base", capsys=capsys)
    assert re.match(r"error: policy: found vit_base in .* and in .*; rename one of the files", line)


def test_the_jobs_of_a_sweep_get_the_folder(folder: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["--config-dir", "conf", "--multirun", "--dry-run", "policy=wide,vit_debug"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", *words])
        train_entry.main()
    assert capsys.readouterr().out.count(f"--config-dir {folder}") == 2
