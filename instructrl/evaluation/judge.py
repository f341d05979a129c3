"""One evaluation from a run directory to its results, videos and page."""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from instructrl.command import asked
from instructrl.config import EvalConfig
from instructrl.evaluation.actor import fingerprint, load_actor
from instructrl.evaluation.ledger import Ledger
from instructrl.evaluation.protocol import Evaluation, Row
from instructrl.evaluation.report import write_report
from instructrl.evaluation.results import HEADLINE, summarize
from instructrl.evaluation.run import choose_renderer, recorded_renderer
from instructrl.evaluation.stage import stage_workers, task_facts
from instructrl.evaluation.video import choose_episodes, film_episodes
from instructrl.sim.workers import Workers
from instructrl.training.run_directory import read_config, write_atomically


def judge(config: EvalConfig) -> tuple[dict[str, Any], Path]:
    """Play the rows, film some episodes, write results.json and the page; the results and the page's path.

    Raises:
        InputError: the run or the renderer cannot be used.
    """
    run = Path(config.run)
    recorded, trained = recorded_renderer(run), read_config(run)
    renderer = choose_renderer(recorded, config.renderer)
    with stage_workers(trained.sim, trained.task.name, renderer=renderer, count=config.workers) as workers:
        facts = task_facts(workers, trained.task.name, trained.task.variations)
        sizes = {"slots": len(workers), "steps": facts.max_steps}
        actor, step = load_actor(run, checkpoint=config.checkpoint, hardware=config.hardware, **sizes)
        about = {
            "run": str(run),
            "checkpoint": {"name": config.checkpoint, "step": step},
            "seed": config.seed,
            "renderer": {"data": recorded, "evaluation": renderer},
        }
        identity = {**about, "run": run.name, "origin": origin(run), "parameters": fingerprint(actor)}
        identity["simulator"] = dict(facts.provenance)
        with Ledger(run / "eval" / "episodes.jsonl", identity) as ledger:
            evaluation = Evaluation(workers, actor, facts, ledger)
            rows = evaluation.play(config.rows, episodes=config.episodes, seed=config.seed)
        date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        about |= {"command": asked(), "date": date, "workers": len(workers)}
        return publish(run, rows, summarize(rows, facts, about=about), workers=workers, videos=config.videos)


def publish(
    run: Path, rows: Sequence[Row], results: dict[str, Any], *, workers: Workers, videos: int
) -> tuple[dict[str, Any], Path]:
    """Film some of the headline row's episodes and write everything; the complete results and the page's path."""
    folder = run / "eval"
    write_results(folder, {**results, "videos": []})  # a video that fails must not cost them
    episodes = next(row.episodes for row in rows if row.name == HEADLINE)
    chosen = choose_episodes(episodes, count=videos)
    films = film_episodes(workers, episodes, chosen, folder=folder / "videos")
    results = {**results, "videos": [film.described(folder) for film in films]}
    write_results(folder, results)
    write_report(folder / "report.html", results, run=run)
    return results, folder / "report.html"


def write_results(folder: Path, results: dict[str, Any]) -> None:
    """Write results.json, whole or not at all."""
    write_atomically(folder / "results.json", json.dumps(results, indent=2) + "\n")


def origin(run: Path) -> str:
    """What tells a run from another of the same name: its settings and the demonstrations it learnt from."""
    return hashlib.sha256((run / "config.yaml").read_bytes() + (run / "data.json").read_bytes()).hexdigest()[:16]
