"""Evaluates a run directory: rollouts, results.json, videos and the HTML report."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from instructrl.cli.entry import command_line
from instructrl.cli.progress import stopwatch
from instructrl.config.environment import task_names
from instructrl.config.evaluation import (
    EvalConfig,
    ProtocolConfig,
    RLBenchProtocol,
    effective_protocol,
    protocol_record,
)
from instructrl.config.share import Share, share_of
from instructrl.config.training import TrainConfig
from instructrl.errors import RunError, SimulatorError
from instructrl.evaluation.episode_log import EPISODES, EpisodeLog, read_log
from instructrl.evaluation.evaluator import Condition, TaskEvaluator
from instructrl.evaluation.report.page import write_report
from instructrl.evaluation.report.video import choose_episodes, film_episodes
from instructrl.evaluation.results.comparability import cautions, demonstrations_record, training_record, unrecorded
from instructrl.evaluation.results.existing import check_existing
from instructrl.evaluation.results.published import published_record
from instructrl.evaluation.results.summary import HEADLINE, combine, failed_task_results, summarize
from instructrl.evaluation.results.variations import evaluated_variations
from instructrl.evaluation.rollout import print_warning
from instructrl.evaluation.run_checks import (
    choices_for,
    choose_renderer,
    chosen_tasks,
    evaluation_folder,
    recorded_renderer,
    scenes_of,
)
from instructrl.evaluation.worker_env import TaskInfo
from instructrl.evaluation.workers import start_eval_workers, task_info
from instructrl.inference.batched_agent import BatchedAgent, fingerprint, load_batched_agent
from instructrl.sim import EpisodeLimits, StoredScenes, check_tasks
from instructrl.sim.vector.pool import Workers, worker_count
from instructrl.storage.atomic import write_atomically
from instructrl.storage.paths import storage_path
from instructrl.training.monitoring.metric_files import METRICS_FILE, SPEED_FILE, read_lines
from instructrl.training.run_dir import read_config, read_data


def evaluate(config: EvalConfig, run: Path | None = None) -> tuple[dict[str, Any], Path]:
    """Evaluate all tasks and conditions, render some videos, write results.json and the report.

    Args:
        config: of the evaluation.
        run: local working copy of the run directory; None: `config.run` itself.

    Returns:
        The content of results.json, whose `problems` names lost simulators and failed videos, and the report's path.
        If the settings name a job: nothing, and the folder in which its episodes are.

    Raises:
        InputError: the run, the renderer or a variation cannot be used, its demonstrations are of another
            world than the simulator's, a file of curves or episodes is damaged, or the folder holds results of other
            settings.
        SimulatorError: no simulator starts, or that of the only task cannot be kept alive.
    """
    stored, protocol = storage_path(config.run), effective_protocol(config)
    run = run or Path(config.run)
    recorded, trained = recorded_renderer(run), read_config(run)
    if config.python is not None:
        trained = replace(trained, sim=replace(trained.sim, python=config.python))
    trained.sim.check_playable()
    tasks, folder = chosen_tasks(trained.task, config.tasks), evaluation_folder(run, protocol.name)
    several = len(task_names(trained.task)) > 1
    folders = {task: folder / task if several else folder for task in tasks}
    check_logs(run, list(folders.values()))
    choices = choices_for(trained.sim, protocol)
    renderer = choose_renderer(trained.sim, recorded, config.renderer or (choices.renderer if choices else None))
    scenes = {task: scenes_of(trained.sim, protocol, task) for task in tasks} if protocol.scenes is not None else {}
    count = worker_count(config.workers)
    about: dict[str, Any] = {"seed": protocol.seed, "renderer": {"data": recorded, "evaluation": renderer}}
    requested = {"protocol": protocol_record(protocol), "checkpoint": {"name": config.checkpoint}, "tasks": tasks}
    check_existing(folder / "results.json", {**about, **requested})
    pool = EnvPool(trained, protocol, renderer, count, choices, scenes)
    if len(tasks) > 1:
        check_tasks(trained.sim, tasks)
        pool.check_variations(tasks)
    with stopwatch("loading the agent"):
        agent, step = load_batched_agent(
            run,
            checkpoint=config.checkpoint,
            slots=count,
            steps=1,
            hardware=config.hardware,
            strict=config.strict,
            report=print_warning,
            beside_renderers=renderer != "raycast",
        )
    about["checkpoint"] = {"name": config.checkpoint, "step": step}
    options = trained.training
    training = training_record(run, stored, epochs=options.epochs, validate_every=options.validate_every)
    identity = {**about, "run": run.name, "origin": run_fingerprint(run), "parameters": fingerprint(agent)}
    evaluation = AgentEvaluation(pool, agent, identity, folder)
    share = share_of(config)
    if share is not None:
        evaluation.run_share(folders, share)
        return {}, folder
    videos = config.videos if config.videos is not None else 1 if several else 3
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    about |= {"run": str(stored), "command": command_line(), "date": date, "workers": count}
    about |= {"protocol": protocol_record(protocol), "actions": trained.sim.actions}
    if several:
        results = combine(evaluation.evaluate_tasks(tasks, videos=videos), about={**about, "task": trained.task.name})
    else:
        results = {**evaluation.evaluate_task(tasks[0], folder, videos=videos, keep_going=False), **about}
    results |= {"training": training, "demonstrations": demonstrations_record(read_data(run), tasks)}
    results |= {"cautions": cautions(results), "unrecorded": unrecorded(results)}
    results |= {"published": published_record(results)}
    write_atomically(folder / "results.json", json.dumps(results, indent=2) + "\n")
    write_report(folder / "report.html", results, run=run)
    return results, folder / "report.html"


def check_logs(run: Path, folders: Sequence[Path]) -> None:
    """Raise InputError, before hours of rollouts, if a file of the run's curves or of its episodes is damaged."""
    for name in (METRICS_FILE, SPEED_FILE):
        read_lines(run / name)
    for folder in folders:
        read_log(folder / EPISODES)


@dataclass(frozen=True)
class EnvPool:
    """Starts the simulators of an evaluation."""

    trained: TrainConfig
    protocol: ProtocolConfig
    renderer: str
    count: int  # worker processes per task
    choices: RLBenchProtocol | None = None  # of the protocol; None: the simulator does not follow any
    scenes: Mapping[str, StoredScenes] = field(default_factory=dict)  # stored ones of each task, instead of drawn ones

    def open(self, task: str, *, count: int | None = None) -> Workers:
        """Start worker processes for a task, with the protocol's episode limits."""
        limits = EpisodeLimits(self.protocol.max_keyframes, self.protocol.max_unreachable)
        sim, count = self.trained.sim, count or self.count
        return start_eval_workers(sim, task, renderer=self.renderer, count=count, limits=limits, choices=self.choices)

    def task_info(self, workers: Workers, task: str) -> TaskInfo:
        """The task's properties, with the variations that the protocol evaluates."""
        info = task_info(workers, task, self.trained.task.variations)
        chosen = evaluated_variations(self.protocol, task, trained=info.trained, count=len(info.instructions))
        return replace(info, variations=chosen)

    def check_variations(self, tasks: tuple[str, ...]) -> None:
        """Raise InputError, before hours of rollouts, if some task lacks the protocol's variations."""
        if self.protocol.variations in ("all", "trained", [0]):
            return  # every task has those
        for task in tasks:
            try:
                with self.open(task, count=1) as workers:
                    self.task_info(workers, task)
            except SimulatorError:
                pass  # reported when the task is evaluated


@dataclass(frozen=True)
class AgentEvaluation:
    """Evaluates one agent in one or several tasks."""

    pool: EnvPool
    agent: BatchedAgent
    identity: Mapping[str, Any]  # distinguishes its episodes from those of other evaluations
    folder: Path

    def evaluate_tasks(self, tasks: tuple[str, ...], *, videos: int) -> dict[str, dict[str, Any]]:
        """Evaluate one task after another; a lost simulator costs only the episodes that it did not run.

        Raises:
            SimulatorError: no task has a simulator that starts.
        """
        results: dict[str, dict[str, Any]] = {}
        lost: list[SimulatorError] = []
        for task in tasks:
            try:
                results[task] = self.evaluate_task(task, self.folder / task, videos=videos, keep_going=True)
            except SimulatorError as error:
                results[task] = failed_task_results(task, str(error), self.pool.protocol)
                lost.append(error)
        if len(lost) == len(tasks):
            raise lost[0]
        return results

    def evaluate_task(self, task: str, folder: Path, *, videos: int, keep_going: bool) -> dict[str, Any]:
        """Evaluate one task and render its videos, with episodes and videos in `folder`; its part of results.json."""
        with self._run(task, folder, keep_going=keep_going) as (workers, conditions, info):
            return self._film(workers, conditions, summarize(conditions, info, about={}), folder, videos=videos)

    def run_share(self, folders: Mapping[str, Path], share: Share) -> None:
        """Run a job's share of the episodes of all tasks, which an evaluation without a share takes over.

        Args:
            folders: of each task.
            share: that of the job.

        Raises:
            SimulatorError: that of a task does not start, or cannot be kept alive.
        """
        ranges = share.ranges([self.pool.protocol.episodes] * len(folders))
        for (task, folder), own in zip(folders.items(), ranges, strict=True):
            if own:
                with self._run(task, folder, keep_going=False, share=share, own=own):
                    pass

    @contextmanager
    def _run(
        self, task: str, folder: Path, *, keep_going: bool, share: Share | None = None, own: range | None = None
    ) -> Iterator[tuple[Workers, list[Condition], TaskInfo]]:
        """Run the episodes of one task, or a job's own ones; yields its simulators, its conditions and what it is."""
        protocol = self.pool.protocol
        with self.pool.open(task) as workers:
            info = self.pool.task_info(workers, task)
            self.agent.steps = info.max_steps
            recorded = {key: protocol_record(protocol)[key] for key in ("sentence", "keyframes", "tries")}
            identity = {**self.identity, **recorded, "variations": info.variations, "simulator": dict(info.provenance)}
            scenes = self.pool.scenes.get(task)
            if scenes:
                identity["scenes"] = {"folder": str(Path(protocol.scenes or "").resolve()), "digest": scenes.digest}
            if self.pool.choices not in (None, RLBenchProtocol()):
                identity["rlbench"] = asdict(self.pool.choices)
            with EpisodeLog(folder / EPISODES, identity, share) as episode_log:
                evaluator = TaskEvaluator(
                    workers,
                    self.agent,
                    info,
                    episode_log,
                    protocol.sentence,
                    scenes.starts if scenes else (),
                    keep_going=keep_going,
                    own=own,
                )
                conditions = evaluator.evaluate(protocol.conditions, episodes=protocol.episodes, seed=protocol.seed)
            yield workers, conditions, info

    def _film(
        self, workers: Workers, conditions: list[Condition], results: dict[str, Any], folder: Path, *, videos: int
    ) -> dict[str, Any]:
        """Add videos of some episodes of the headline condition; a failed video never fails the evaluation."""
        films = []
        if not results["problems"]:
            episodes = next(condition.episodes for condition in conditions if condition.name == HEADLINE)
            chosen = choose_episodes(episodes, count=videos)
            try:
                with stopwatch(f"rendering {len(chosen)} videos"):
                    films = film_episodes(workers, episodes, chosen, folder=folder / "videos")
            except RunError as error:
                results["problems"] = [f"{results['task']}: no videos: {error}"]
        return {**results, "videos": [film.metadata(self.folder) for film in films]}


def run_fingerprint(run: Path) -> str:
    """Hash of a run's settings and training data, which distinguishes it from another run of the same name."""
    return hashlib.sha256((run / "config.yaml").read_bytes() + (run / "data.json").read_bytes()).hexdigest()[:16]
