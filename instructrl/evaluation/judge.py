"""One evaluation from a run directory to its results, videos and page."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from instructrl.command import asked
from instructrl.config import EvalConfig
from instructrl.evaluation.actor import load_actor
from instructrl.evaluation.ledger import Ledger
from instructrl.evaluation.protocol import Evaluation
from instructrl.evaluation.report import write_report
from instructrl.evaluation.results import HEADLINE, summarize
from instructrl.evaluation.run import choose_renderer, recorded_renderer
from instructrl.evaluation.stage import stage_workers, task_facts
from instructrl.evaluation.video import choose_episodes, film_episodes
from instructrl.sim.workers import worker_count
from instructrl.training.run_directory import write_atomically


def judge(config: EvalConfig) -> tuple[dict[str, Any], Path]:
    """Play the rows, film some episodes, write results.json and the page; the results and the page's path.

    Raises:
        InputError: the run or the renderer cannot be used.
    """
    run = Path(config.run)
    recorded = recorded_renderer(run)
    renderer = choose_renderer(recorded, config.renderer)
    slots = worker_count(config.workers)
    actor, trained, step = load_actor(run, checkpoint=config.checkpoint, slots=slots, hardware=config.hardware)
    about = {
        "run": str(run),
        "checkpoint": {"name": config.checkpoint, "step": step},
        "seed": config.seed,
        "renderer": {"data": recorded, "evaluation": renderer},
    }
    folder, task = run / "eval", trained.task
    with stage_workers(trained.sim, task.name, renderer=renderer, count=slots) as workers:
        facts = task_facts(workers, task.name, task.variations)
        identity = {**about, "simulator": dict(facts.provenance), "settings": fingerprint(run), "run": run.name}
        with Ledger(folder / "episodes.jsonl", identity) as ledger:
            rows = Evaluation(workers, actor, facts, ledger).play(
                config.rows, episodes=config.episodes, seed=config.seed
            )
        when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        results = summarize(rows, facts, about={**about, "command": asked(), "date": when, "videos": []})
        write_results(folder, results)  # a video that fails must not cost them
        episodes = next(row.episodes for row in rows if row.name == HEADLINE)
        chosen = choose_episodes(episodes, count=config.videos)
        videos = film_episodes(workers, episodes, chosen, folder=folder / "videos")
    results["videos"] = [video.described(folder) for video in videos]
    write_results(folder, results)
    report = folder / "report.html"
    write_report(report, results, run=run)
    return results, report


def write_results(folder: Path, results: dict[str, Any]) -> None:
    """Write results.json, whole or not at all."""
    write_atomically(folder / "results.json", json.dumps(results, indent=2) + "\n")


def fingerprint(run: Path) -> str:
    """What tells a run from another of the same name: its settings and the demonstrations it learnt from."""
    return hashlib.sha256((run / "config.yaml").read_bytes() + (run / "data.json").read_bytes()).hexdigest()[:16]
