"""One evaluation from a run directory to its results, videos and page."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from instructrl.command import asked
from instructrl.config import EvalConfig, ProtocolConfig, TrainConfig, protocol_of, task_names
from instructrl.data.storage import place
from instructrl.errors import RunError, SimulatorError
from instructrl.evaluation.actor import AgentActor, fingerprint, load_actor
from instructrl.evaluation.ledger import Ledger
from instructrl.evaluation.protocol import Evaluation, Row
from instructrl.evaluation.report import write_report
from instructrl.evaluation.results import HEADLINE, combine, summarize, unopened
from instructrl.evaluation.run import choose_renderer, chosen_tasks, evaluation_folder, recorded_renderer
from instructrl.evaluation.stage import TaskFacts, stage_workers, task_facts
from instructrl.evaluation.variations import judged_variations
from instructrl.evaluation.video import choose_episodes, film_episodes
from instructrl.sim import Rules
from instructrl.sim.workers import Workers, worker_count
from instructrl.training.run_directory import read_config, write_atomically


def judge(config: EvalConfig, run: Path | None = None) -> tuple[dict[str, Any], Path]:
    """Play every task's rows, film some episodes, write results.json and the page; the results and the page's path.

    `run`: where the run is worked on, if not where it is kept. What a lost
    simulator or a failed video cost is told by the results' `problems`.

    Raises:
        InputError: the run, the renderer or a variation cannot be used.
        SimulatorError: no simulator can be used, or that of the only task cannot be kept alive.
    """
    kept, protocol = place(config.run), protocol_of(config)
    run = run or Path(config.run)
    recorded, trained = recorded_renderer(run), read_config(run)
    tasks, folder = chosen_tasks(trained.task, config.tasks), evaluation_folder(run, protocol.name)
    renderer, count = choose_renderer(recorded, config.renderer), worker_count(config.workers)
    stages = Stages(trained, protocol, renderer, count)
    if len(tasks) > 1:
        stages.check_variations(tasks)
    about: dict[str, Any] = {"seed": protocol.seed, "renderer": {"data": recorded, "evaluation": renderer}}
    actor, step = load_actor(run, checkpoint=config.checkpoint, slots=count, steps=1, hardware=config.hardware)
    about["checkpoint"] = {"name": config.checkpoint, "step": step}
    identity = {**about, "run": run.name, "origin": origin(run), "parameters": fingerprint(actor)}
    trial = Trial(stages, actor, identity, folder)
    several = len(task_names(trained.task)) > 1
    videos = config.videos if config.videos is not None else 1 if several else 3
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    about |= {"run": str(kept), "command": asked(), "date": date, "workers": count, "protocol": asdict(protocol)}
    if several:
        results = combine(trial.judge_tasks(tasks, videos=videos), about={**about, "task": trained.task.name})
    else:
        results = {**trial.judge_task(tasks[0], folder, videos=videos, patient=False), **about}
    write_atomically(folder / "results.json", json.dumps(results, indent=2) + "\n")
    write_report(folder / "report.html", results, run=run)
    return results, folder / "report.html"


@dataclass(frozen=True)
class Stages:
    """Simulators as an evaluation needs them."""

    trained: TrainConfig
    protocol: ProtocolConfig
    renderer: str
    count: int  # processes for a task

    def open(self, task: str, *, count: int | None = None) -> Workers:
        """Processes that play a task by the protocol's rules."""
        rules = Rules(self.protocol.keyframes, self.protocol.tries)
        return stage_workers(self.trained.sim, task, renderer=self.renderer, count=count or self.count, rules=rules)

    def facts(self, workers: Workers, task: str) -> TaskFacts:
        """The task's facts, with the variations that the protocol judges."""
        facts = task_facts(workers, task, self.trained.task.variations)
        judged = judged_variations(self.protocol, task, trained=facts.trained, count=len(facts.sentences))
        return replace(facts, variations=judged)

    def check_variations(self, tasks: tuple[str, ...]) -> None:
        """Raise InputError, before hours of play, if some task does not have what the protocol judges."""
        if self.protocol.variations in ("all", "trained", [0]):
            return  # every task has those
        for task in tasks:
            try:
                with self.open(task, count=1) as workers:
                    self.facts(workers, task)
            except SimulatorError:
                pass  # told when it is the task's turn


@dataclass(frozen=True)
class Trial:
    """One agent, judged in one task or in several."""

    stages: Stages
    actor: AgentActor
    identity: Mapping[str, Any]  # what tells its episodes from those of other evaluations
    folder: Path

    def judge_tasks(self, tasks: tuple[str, ...], *, videos: int) -> dict[str, dict[str, Any]]:
        """Judge one task after the other; a lost simulator costs the episodes that it did not play.

        Raises:
            SimulatorError: none of the tasks has a simulator that starts.
        """
        results: dict[str, dict[str, Any]] = {}
        lost: list[SimulatorError] = []
        for task in tasks:
            try:
                results[task] = self.judge_task(task, self.folder / task, videos=videos, patient=True)
            except SimulatorError as error:
                results[task] = unopened(task, str(error), self.stages.protocol)
                lost.append(error)
        if len(lost) == len(tasks):
            raise lost[0]
        return results

    def judge_task(self, task: str, folder: Path, *, videos: int, patient: bool) -> dict[str, Any]:
        """Play and film one task; its part of results.json. Its episodes and videos lie in `folder`."""
        protocol = self.stages.protocol
        with self.stages.open(task) as workers:
            facts = self.stages.facts(workers, task)
            self.actor.steps = facts.max_steps
            asks = {key: getattr(protocol, key) for key in ("sentence", "keyframes", "tries")}
            identity = {**self.identity, **asks, "variations": facts.variations, "simulator": dict(facts.provenance)}
            with Ledger(folder / "episodes.jsonl", identity) as ledger:
                evaluation = Evaluation(workers, self.actor, facts, ledger, protocol.sentence, patient)
                rows = evaluation.play(protocol.rows, episodes=protocol.episodes, seed=protocol.seed)
            return self._film(workers, rows, summarize(rows, facts, about={}), folder, videos=videos)

    def _film(
        self, workers: Workers, rows: list[Row], results: dict[str, Any], folder: Path, *, videos: int
    ) -> dict[str, Any]:
        """The results with videos of some of the headline row's episodes; what they cost is no more than themselves."""
        films = []
        if not results["problems"]:
            episodes = next(row.episodes for row in rows if row.name == HEADLINE)
            chosen = choose_episodes(episodes, count=videos)
            try:
                films = film_episodes(workers, episodes, chosen, folder=folder / "videos")
            except RunError as error:
                results["problems"] = [f"{results['task']}: no videos: {error}"]
        return {**results, "videos": [film.described(self.folder) for film in films]}


def origin(run: Path) -> str:
    """What tells a run from another of the same name: its settings and the demonstrations it learnt from."""
    return hashlib.sha256((run / "config.yaml").read_bytes() + (run / "data.json").read_bytes()).hexdigest()[:16]
