"""python -m data_tools.tasks [TASK ...]: draws what the embedded tasks look like while their expert works on them."""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_tools.parser import Parser
from instructrl.data.writer import unwritable
from instructrl.errors import InputError, one_line_errors
from instructrl.sim import Start
from instructrl.sim.graphics import opengl_backend
from instructrl.sim.tabletop.env import Tabletop
from instructrl.sim.tabletop.task import task_names

TILE, GAP, LINE, MARGIN = 136, 3, 17, 8  # pixels
COLUMNS = 9  # pictures in a line
FORMATS = (".jpg", ".png")
SEEN = (0.20, 0.24, 0.94, 0.98)  # left, top, right, bottom of the part of a film's picture where the table is


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="python -m data_tools.tasks", description=__doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"default: all; one of {', '.join(task_names())}")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes, and which variations (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("tasks.jpg"), metavar="IMAGE", help="default: tasks.jpg")
    return parser.parse_args(given)


def moments(task: str, seed: int) -> tuple[str, list[Image.Image]]:
    """The sentence of one episode, and its pictures: the start and what each of the expert's keyframes led to."""
    renderer = "raycast" if opengl_backend() is None else "opengl"
    env = Tabletop(task, cameras=("front",), image_size=16, renderer=renderer)
    size = round(2 * TILE / (SEEN[2] - SEEN[0]))
    start = Start(seed % env.variations, seed)
    demonstration, _ = env.demonstrate(start)
    env.reset(start)
    pictures = [env.picture(size=size)]
    for action in demonstration.actions:
        env.step(action)
        pictures.append(env.picture(size=size))
    env.close()
    return demonstration.instructions[0], [tile(picture) for picture in pictures]


def tile(picture: np.ndarray) -> Image.Image:
    """The part of a picture that matters, at the size at which it is shown."""
    left, top, right, bottom = (round(edge * len(picture)) for edge in SEEN)
    return Image.fromarray(picture).crop((left, top, right, bottom)).resize((TILE, TILE), Image.Resampling.LANCZOS)


def places(counts: list[int]) -> list[tuple[int, int]]:
    """Where each group of pictures begins, as line and column: beside the last one where it fits, else below."""
    answer, line, column = [], 0, 0
    for count in counts:
        if column + min(count, COLUMNS) > COLUMNS:
            line, column = line + 1, 0
        answer.append((line, column))
        line, column = line + (count - 1) // COLUMNS, column + (count - 1) % COLUMNS + 1
    return answer


def sheet(episodes: dict[str, tuple[str, list[Image.Image]]]) -> Image.Image:
    """Each task's name, its sentence and its pictures."""
    counts = [len(pictures) for _, pictures in episodes.values()]
    corners = places(counts)
    last = corners[-1][0] + (counts[-1] - 1) // COLUMNS
    height = TILE + 2 * LINE + MARGIN
    image = Image.new("RGB", (COLUMNS * (TILE + GAP) + 2 * MARGIN, (last + 1) * height + MARGIN), "white")
    draw, font, bold = ImageDraw.Draw(image), ImageFont.load_default(12), ImageFont.load_default(14)
    for (line, column), (task, (sentence, pictures)) in zip(corners, episodes.items(), strict=True):
        left, top = MARGIN + column * (TILE + GAP), MARGIN + line * height
        draw.text((left, top), task, "black", font=bold)
        draw.text((left, top + LINE), sentence, "#555555", font=font)
        for number, picture in enumerate(pictures):
            lines, place = divmod(number, COLUMNS)
            image.paste(picture, (left + place * (TILE + GAP), top + lines * height + 2 * LINE))
    return image


def draw_tasks(asked: argparse.Namespace) -> None:
    """Draw the episodes and write the sheet."""
    names = asked.tasks or list(task_names())
    unknown = [name for name in names if name not in task_names()]
    if unknown:
        raise InputError(f"TASK: found {', '.join(unknown)}, expected some of {', '.join(task_names())}")
    if asked.seed < 0:
        raise InputError(f"--seed: found {asked.seed}, expected 0 or more")
    if asked.out.suffix.lower() not in FORMATS:
        raise InputError(f"--out: found {asked.out}, expected a name that ends in {', '.join(FORMATS)}")
    drawn = sheet({name: moments(name, asked.seed) for name in names})
    try:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        drawn.save(asked.out, quality=82)
    except OSError as error:
        raise unwritable(asked.out, error, setting="--out") from None
    print(f"{asked.out}: {len(names)} tasks")


def main() -> None:
    """Run the command."""
    with one_line_errors():
        draw_tasks(arguments())


if __name__ == "__main__":
    main()
