"""Command lines in one process: errors are one line with exit code 2 before anything is written; help, sweeps.

That commands answer at once, without jax, is in tests/integration/test_commands.py.
"""

import re
import sys
from pathlib import Path

import pytest
import yaml
from hydra.core.config_store import ConfigStore

import data_tools.collect as collect_entry
import eval as eval_entry
import train as train_entry
from instructrl.cli.entry import entry_point
from instructrl.config.environment import CollectConfig
from instructrl.config.evaluation import EvalConfig
from instructrl.config.fields import leaves
from instructrl.config.training import TrainConfig
from instructrl.errors import InputError, RunError

SCHEMAS: dict[str, type] = {"train": TrainConfig, "eval": EvalConfig, "collect": CollectConfig}
ENTRIES = {"train": train_entry.main, "eval": eval_entry.main, "collect": collect_entry.main}
WRONG = [
    ("train", ["policy=abc"], "policy: found abc; allowed: vit_base"),
    ("train", ["policy.depth=abc"], "policy.depth: found abc; allowed: an integer"),
    ("train", ["policy.dept=3"], "policy.dept: no such setting; did you mean policy.depth?"),
    ("train", ["+policy.dept=3"], "policy.dept: no such setting"),
    ("train", ["polcy=vit_base"], "polcy: no such setting; did you mean policy?"),
    ("train", ["lr=0.1"], "lr: no such setting; did you mean optimizer.learning_rate?"),
    ("train", ["batch_size=3"], "batch_size: no such setting; did you mean training.batch_size?"),
    ("train", ["training.fresh=[head]"], "training.fresh: is now called training.reinit; write training.reinit=..."),
    ("train", ["objective=masked"], "objective: found masked (masked is now called masked_pretraining); allowed: be"),
    ("train", ["policy"], "policy: cannot be read as key=value"),
    ("train", ["policy=[a,b]"], "policy: found [a, b]"),
    ("train", ["name="], "name: found ''"),
    ("train", ["name=a/b"], "name: found a/b"),
    ("train", ["output_dir="], "output_dir: found ''"),
    (
        "train",
        ["experiment=none"],
        "experiment: found none; allowed: dense, mt10, mt10_dense, mt10_state, multi_10, paper/..., pretrain_m3ae, "
        "pretrain_tiny, quickstart",
    ),
    ("train", ["seed=0,1"], "seed: found several values; add --multirun"),
    ("train", ["seed=${nowhere}"], "seed: "),
    ("train", ["hydra.nothing=3"], "hydra.nothing: of Hydra's own settings only launcher and sweeper can be set"),
    ("train", ["hydra.run.dir=/proc/nowhere"], "hydra.run.dir: of Hydra's own settings only"),
    ("train", ["-m", "hydra/launcher=nowhere"], "configuration: "),
    ("train", ["hydra/sweeper=basic"], "hydra/sweeper: found without --multirun; allowed: with it, since plugins run"),
    ("train", ["hydra.sweeper.max_batch_size=2"], "hydra.sweeper.max_batch_size: found without --multirun"),
    (
        "train",
        ["-m", "hydra/launcher=basic", "--dry-run"],
        "hydra/launcher: found basic beside --dry-run; allowed: one",
    ),
    (
        "train",
        ["-m", "hydra/launcher=basic", "launcher=slurm_gpu"],
        "hydra/launcher: found basic beside launcher=slurm",
    ),
    ("collect", ["-m", "hydra/launcher=basic", "jobs=2"], "jobs: found 2 with hydra/launcher=basic; allowed: 1"),
    ("eval", ["-m", "run=x", "hydra/launcher=basic", "jobs=2"], "jobs: found 2 with hydra/launcher=basic; allowed: 1"),
    (
        "train",
        ["--foo"],
        "--foo: no such flag; allowed: --help, --cfg, --multirun, --dry-run, --config-dir, -h, -c, -m, -cd",
    ),
    ("train", ["--cfg", "all"], "--cfg: found nothing to print; write --cfg job"),
    ("train", ["--config-name=x"], "--config-name=x: no such flag"),
    ("train", ["-m", "seed=0,x"], "seed: found x; allowed: an integer"),
    ("train", ["-m", "policy=vit_debug,vit_huge"], "policy: found vit_huge; allowed: vit_base"),
    ("train", ["-m", "policy=vit_debug,vit_base", "name=same"], "name: found same for jobs 1 and 2"),
    (
        "eval",
        ["-m", "run=x", "episodes=5,10"],
        "protocol.name: found default for jobs 1 and 2, which evaluate x; vary it too",
    ),
    ("train", ["--multirun", "seed=range(0,100000000)"], "--multirun: found more than 1000 jobs"),
    ("train", ["--multirun", "seed=interval(0,1)"], "seed=interval(0,1): cannot be enumerated"),
    ("train", ["--help", "policy=abc"], "policy: found abc; allowed: vit_base"),
    ("train", [""], "'': cannot be read as key=value"),
    ("train", ["name=\udcff"], "'name="),
    ("eval", [], "run: no value given; write run=..."),
    ("eval", ["run=nowhere"], "run: found no directory nowhere"),
    ("eval", ["run=."], ".: no config.yaml found"),
    ("eval", ["run=x", "conditions=[oracle]"], "conditions: found"),
    ("eval", ["run=x", "rows=[oracle]"], "rows: is now called conditions; write conditions=..."),
    ("eval", ["run=x", "protocol.name=../x"], "protocol.name: found ../x; allowed: a folder's name without slashes"),
    ("eval", ["run=x", "policy=vit_base"], "policy: no such setting; allowed here: "),
    ("eval", ["run=x", "checkpoint=first"], "checkpoint: found first; allowed: best, last"),
    ("collect", ["task=unknown"], "task: found unknown; allowed: close_jar"),
    ("collect", ["episodes=0"], "episodes: found 0; allowed: an integer at least 1"),
    ("collect", ["policy=vit_base"], "policy: no such setting"),
    ("collect", ["task=multi_10", "task.name=../x"], "task.name: found ../x; allowed: a folder's name without slashes"),
    ("train", ["task=multi_10", "task.name=../x", "name=x"], "task.name: found ../x; allowed: a folder's name without"),
    *(
        ("train", ["launcher=slurm_gpu", f"launcher.sweep={name}", *more], f"launcher.sweep: found {name}; allowed: at")
        for name in ("../../../x", "p%A q", "-x", ".", "a/b")
        for more in ([], ["--dry-run"], ["-m", "seed=1,2"])
    ),
]

SEARCHES = [
    (["optimizer.weight=interval(0,1)"], "optimizer.weight: no such setting; did you mean optimizer.weight_decay"),
    (["optimizer.weight_decay=interval(0,99)"], "optimizer.weight_decay: found 99.0; allowed: a number at least 0"),
    (["optimizer.weight_decay=interval(0,1)", "name=same"], "name: found same for jobs 1 and 2; include what varies"),
    (["policy=choice(vit_base,vit_huge)"], "policy: found vit_huge; allowed: vit_base"),
    (["policy.heads=choice(7,11)", "name=h${policy.heads}"], "policy.heads: found 7; allowed: a divisor of policy"),
    (
        ["seed=interval(0,3)"],
        "seed: found 0.0; allowed: an integer at least 0 and at most 2147483647; for whole numbers, write "
        "seed=int(interval(0,3))",
    ),
    (
        ["seed=int(interval(0,3))", "launcher=slurm_gpu", "launcher.wait=false"],
        "launcher.wait: found false; allowed: true with hydra/sweeper=acme, which chooses the next jobs by the values",
    ),
    (
        ["seed=range(0,3)", "training.objective=rollout/success_rate"],
        "training.objective: found rollout/success_rate with training.rollout_every=0; allowed: val/loss, or training.",
    ),
    (["seed=choice(0,3)", "training.objective=val/lass"], "training.objective: found val/lass; allowed: val/loss, rol"),
    (["seed=choice(0,3)", "hydra.sweeper.trails=3"], "hydra.sweeper.trails: "),
    (["seed=choice(0,3)", "hydra.sweeper._target_=x.y"], "hydra.sweeper._target_: found x.y; a class cannot be set"),
]

IN_PROCESS = "hydra/launcher=basic"  # Hydra's own; InstructRL's is tested in test_local.py


@pytest.fixture(autouse=True)
def working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep files that a command leaves in its working directory (Hydra: a folder for a sweep) out of the sources."""
    monkeypatch.chdir(tmp_path)


def set_argv(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *words])


@pytest.mark.parametrize(("entry", "words", "line"), WRONG)
def test_a_wrong_word_is_one_line(
    entry: str,
    words: list[str],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    set_argv(words, monkeypatch)
    with pytest.raises(SystemExit) as exit_:
        ENTRIES[entry]()
    output = capsys.readouterr()
    assert exit_.value.code == 2
    assert output.out == ""
    assert output.err.startswith(f"error: {line}") and output.err.count("\n") == 1 and output.err.endswith("\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("words", "line"), SEARCHES)
def test_a_search_that_cannot_succeed_is_one_line_before_its_first_trial(
    words: list[str], line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    ConfigStore.instance().store(group="hydra/sweeper", name="acme", node={"_target_": "never.called", "trials": 3})
    test_a_wrong_word_is_one_line(
        "train", ["--multirun", "hydra/sweeper=acme", *words], line, monkeypatch, capsys, tmp_path
    )


def test_no_search_chooses_jobs_that_share_their_episodes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    ConfigStore.instance().store(group="hydra/sweeper", name="acme", node={"_target_": "never.called", "trials": 3})
    words = ["--multirun", "hydra/sweeper=acme", "episodes=choice(4,6)", "data.dir=data/${episodes}", "jobs=2"]
    line = "jobs: found 2 with hydra/sweeper=acme; allowed: 1"
    test_a_wrong_word_is_one_line("collect", words, line, monkeypatch, capsys, tmp_path)


@pytest.mark.parametrize("entry", ENTRIES)
def test_help_says_what_there_is(entry: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    set_argv(["--help"], monkeypatch)
    ENTRIES[entry]()
    lines = capsys.readouterr().out.splitlines()
    assert f"python {'-m data_tools.collect' if entry == 'collect' else entry + '.py'}" in "\n".join(lines[:4])
    text = "\n".join(lines)
    assert "--multirun" in text and "allowed" in text
    assert "hydra" not in text.lower()
    assert max(map(len, lines)) <= 120, "readable in a terminal"
    for key, field in leaves(SCHEMAS[entry]).items():
        assert f"\n  {key}=" in text and field.metadata["help"] in " ".join(text.split())


def test_help_shows_what_the_other_words_choose(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    set_argv(["--help", "policy=vit_large", "policy.window=4"], monkeypatch)
    train_entry.main()
    text = " ".join(capsys.readouterr().out.split())
    assert "policy vit_base vit_debug [vit_large] vit_small" in text
    assert "policy.dim=1024 model width [integer 8..4096]" in text
    assert re.search(r"policy.window=4 context length in .* \[integer 1..1000000 \| null\]", text)
    assert "[scratch_tiny | m3ae | clip | dinov2 |" in text and "[list of front | left_shoulder |" in text
    assert "launcher.slurm.nodes" not in text, "a launcher's settings only beside launcher="


def test_help_of_a_launcher_shows_its_settings(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    set_argv(["--help", "launcher=slurm_a100", "launcher.slurm.nodes=3"], monkeypatch)
    train_entry.main()
    text = " ".join(capsys.readouterr().out.split())
    assert "launcher.slurm.nodes=3 nodes [integer 1..10000]" in text
    assert "launcher.slurm.gpu=a100 GPU type" in text


def recording_entry(ran: list[TrainConfig], *, fail_at: int = -1, error: Exception | None = None):
    @entry_point("train", TrainConfig)
    def main(config: TrainConfig) -> None:
        ran.append(config)
        if error is not None and len(ran) == fail_at:
            raise error

    return main


def test_multirun_runs_every_job(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    ran: list[TrainConfig] = []
    set_argv(["seed=0,1", "-m", "policy=vit_debug,vit_base", IN_PROCESS], monkeypatch)
    recording_entry(ran)()
    assert [(config.seed, config.policy.name) for config in ran] == [
        (0, "vit_debug"), (0, "vit_base"), (1, "vit_debug"), (1, "vit_base"),
    ]  # fmt: skip
    assert len({config.name for config in ran}) == 4
    assert "job 4: seed=1 policy=vit_base" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["-m", "seed=0,1"], ["seed=0,1", "--multirun"]])
def test_the_flag_may_stand_anywhere(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[TrainConfig] = []
    set_argv([*words, IN_PROCESS], monkeypatch)
    recording_entry(ran)()
    assert [config.seed for config in ran] == [0, 1]


def test_multirun_checks_every_job_before_it_runs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[TrainConfig] = []
    set_argv(["-m", "policy.depth=1,99"], monkeypatch)
    with pytest.raises(SystemExit):
        recording_entry(ran)()
    assert ran == []


@pytest.mark.parametrize(("error", "code"), [(InputError("a\n file"), 2), (RunError("no  loss"), 1)])
def test_expected_errors_of_a_job_are_one_line_and_stop_the_rest(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    ran: list[TrainConfig] = []
    set_argv(["-m", "seed=0,1,2", IN_PROCESS], monkeypatch)
    with pytest.raises(SystemExit) as exit_:
        recording_entry(ran, fail_at=2, error=error)()
    assert exit_.value.code == code and len(ran) == 2
    assert capsys.readouterr().err == f"error: {' '.join(str(error).split())}\n"


def test_a_mistake_of_ours_is_not_dressed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    set_argv([], monkeypatch)
    with pytest.raises(ZeroDivisionError):
        recording_entry([], fail_at=1, error=ZeroDivisionError())()


def test_an_interruption_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    set_argv([], monkeypatch)
    with pytest.raises(SystemExit) as exit_:
        recording_entry([], fail_at=1, error=KeyboardInterrupt())()  # type: ignore[arg-type]
    assert exit_.value.code == 130
    assert capsys.readouterr().err == "interrupted: the same command resumes\n"


def test_cfg_job_prints_the_settings_and_does_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    ran: list[TrainConfig] = []
    set_argv(["--cfg", "job", "experiment=quickstart", "seed=7"], monkeypatch)
    recording_entry(ran)()
    assert ran == []
    assert {"seed: 7", "  image_size: 96", "name: quickstart-${task.name}-${head.name}-seed${seed}"} <= set(
        capsys.readouterr().out.splitlines()
    )


@pytest.mark.parametrize(("encoder", "size"), [("m3ae_b16", 256), ("clip_l14", 224), ("scratch_tiny", 128)])
def test_cfg_job_prints_the_size_of_images_that_follows_from_the_encoder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, encoder: str, size: int
) -> None:
    set_argv(["--cfg", "job", f"encoder={encoder}"], monkeypatch)
    recording_entry([])()
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["sim"]["image_size"] == size and printed["sim"]["timeout"] == 60.0
