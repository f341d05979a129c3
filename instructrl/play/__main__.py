"""Type at a robot: an agent that is shipped obeys sentences in the embedded simulator, with no training or download.

python -m instructrl.play                                           # in a page, at http://127.0.0.1:8008
python -m instructrl.play "reach the teal ball" out=ball.gif        # in a film, without a browser
python -m instructrl.play run=outputs/NAME task=push_button seed=3  # another agent of the embedded tasks

Several sentences are filmed side by side. The agent is that of `python train.py experiment=multi_10`.
"""

import asyncio
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from instructrl.cli.help import tool_settings
from instructrl.cli.progress import stopwatch
from instructrl.config.fields import number, setting
from instructrl.config.training import HardwareConfig
from instructrl.errors import InputError, format_value, report_user_errors
from instructrl.inference.serve import bound_socket
from instructrl.package_files import SHIPPED_AGENT
from instructrl.preemption import handle_signals
from instructrl.storage.writable import check_writable_file

if TYPE_CHECKING:
    from instructrl.play.drawing import Film
    from instructrl.play.sentences import Sentence
    from instructrl.play.server import PlayServer
    from instructrl.play.session import Session

PROG = "python -m instructrl.play"
FIRST = "reach_target"  # task of the page's first scene
MAX_SEED = 2**31 - 1
NAMED = 4  # suggestions in an error


@dataclass
class PlayConfig:
    """Settings of the command."""

    out: str | None = setting(None, help="film to write, NAME.gif, of the sentences in front; null: a page")
    task: str | None = setting(None, help="task of the scene; null: of the sentence, or reach_target")
    seed: int = number(0, low=0, high=MAX_SEED, help="seed of the scene")
    port: int = number(8008, low=0, high=65_535, help="port of the page, on this machine only; 0: any that is free")
    run: str | None = setting(None, help="run directory or exported folder of another agent; null: the one shipped")


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The sentences and the settings of a command line: settings are of the form key=value, flags begin with a dash."""
    sentences = [word for word in words if "=" not in word and not word.startswith("-")]
    return sentences, [word for word in words if word not in sentences]


def check(config: PlayConfig, sentences: Sequence[str]) -> None:
    """Check what can be checked before anything is loaded.

    Raises:
        InputError: a file that cannot be written, or a film of nothing.
    """
    if config.run is not None and not Path(config.run).is_dir():
        raise InputError(f"run: found no directory {config.run}; pass the directory that train.py printed")
    if config.out is None:
        if len(sentences) > 1:
            raise InputError(
                f"found {len(sentences)} sentences; write out=NAME.gif to film several, or pass one in quotes"
            )
        return
    if not config.out.endswith(".gif"):
        raise InputError(f"out: found {format_value(config.out)}; allowed: NAME.gif")
    if not sentences:
        raise InputError(f'out: found no sentence to film; write one, as in {PROG} "reach the teal ball" out=ball.gif')
    check_writable_file(Path(config.out), hint="choose another out")


def prepare(config: PlayConfig) -> "Session":
    """Say that the agent is loaded, and load it.

    Raises:
        InputError: there is none, it is damaged, or none of the embedded tasks, or has not learned the task.
    """
    print(f"loading the agent {config.run or 'that is shipped'}", flush=True)
    with stopwatch("loading jax", said=False):
        from instructrl.inference.trained import load_trained
        from instructrl.play.session import Session

    session = Session(load_trained(config.run or SHIPPED_AGENT, hardware=HardwareConfig("play", platform="cpu")))
    if config.task is not None and config.task not in session.tasks:
        raise InputError(f"task: found {config.task}; allowed: {', '.join(session.tasks)}")
    return session


def understood(session: "Session", text: str, task: str | None) -> "Sentence":
    """The sentence that a text is, in any scene of the task, or of all tasks.

    Raises:
        InputError: the agent has learned none like it; the message names some that it has.
    """
    goals = None if task is None else session.sentences.goals_of(task)
    reading = session.sentences.read(text, goals)
    if reading.sentence is None:
        likely = ", ".join(repr(one.text) for one in reading.suggestions[:NAMED])
        raise InputError(f"sentence: found {format_value(text)}: {reading.problem} {likely}")
    return reading.sentence


def filmed(session: "Session", text: str, sentence: "Sentence", seed: int) -> "Film":
    """Let the agent obey a sentence in a new scene, and print what came of it."""
    from instructrl.play.drawing import SIZE, Film

    film = Film(text)
    session.open(sentence.goal, seed)
    outcome = session.obey(text, sentence.goal, size=SIZE, see=film.see, film=film.add)
    print(f"{text}: {outcome.replace('_', ' ')}", flush=True)
    return film


def write_films(session: "Session", config: PlayConfig, texts: Sequence[str], meant: Sequence["Sentence"]) -> None:
    """Film sentences, and write the file."""
    from instructrl.play.drawing import write_gif

    films = [filmed(session, text, sentence, config.seed) for text, sentence in zip(texts, meant, strict=True)]
    assert config.out is not None
    write_gif(Path(config.out), films)
    print(f"film: {config.out}")


async def serve(
    server: "PlayServer", listener: socket.socket, *, first: "Sentence", seed: int, obey: str | None
) -> None:
    """Serve the page until SIGTERM or ctrl-C."""
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    line = "open http://{}:{} in a browser; ctrl-C ends it".format(*listener.getsockname())
    await server.run(listener, first=first, seed=seed, obey=obey, ready=lambda: print(line, flush=True), stop=stop)


def main() -> None:
    """Run the command."""
    with report_user_errors():
        texts, words = split_words(sys.argv[1:])
        with handle_signals(working=False):
            config = tool_settings(words, PlayConfig, prog=PROG, about=__doc__)
            check(config, texts)
            remedy = "choose another port="
            listener = bound_socket("127.0.0.1", config.port, remedy=remedy) if config.out is None else None
            session = prepare(config)
            meant = [understood(session, text, config.task) for text in texts]
            if listener is None:
                return write_films(session, config, texts, meant)
            from instructrl.play.server import PlayServer

            task = config.task or (FIRST if FIRST in session.tasks else session.tasks[0])
            first = meant[0] if meant else session.sentences.first(session.sentences.goals_of(task))[0]
        obey = texts[0] if texts else None
        asyncio.run(serve(PlayServer(session), listener, first=first, seed=config.seed, obey=obey))
    return None


if __name__ == "__main__":
    main()
