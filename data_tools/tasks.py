"""python -m data_tools.tasks [TASK ...]: draws the embedded tasks at each keyframe of their expert."""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from instructrl.cli.args import Parser
from instructrl.cli.progress import ProgressBar
from instructrl.data.demonstrations.writer import write_error
from instructrl.errors import InputError, report_user_errors
from instructrl.sim import EpisodeStart
from instructrl.sim.rendering import opengl_backend
from instructrl.sim.tabletop.env import Tabletop
from instructrl.storage.writable import check_writable_file
from instructrl.tasks import TASKS

TILE, GAP, LINE_HEIGHT, MARGIN = 136, 3, 17, 8  # pixels
COLUMNS = 9  # images per row
FORMATS = (".jpg", ".png")
TABLE_CROP = (0.20, 0.24, 0.94, 0.98)  # left, top, right, bottom of the table in an image


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(prog="python -m data_tools.tasks", description=__doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"default: all; one of {', '.join(TASKS)}")
    parser.add_argument("--seed", type=int, default=0, help="selects scenes and variations (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("tasks.jpg"), metavar="IMAGE", help="default: tasks.jpg")
    return parser.parse_args(argv)


def episode_images(task: str, seed: int) -> tuple[str, list[Image.Image]]:
    """Instruction of one episode, and its images: the initial state and the one after each keyframe of the expert."""
    renderer = "raycast" if opengl_backend() is None else "opengl"
    env = Tabletop(task, cameras=("front",), image_size=16, renderer=renderer)
    size = round(2 * TILE / (TABLE_CROP[2] - TABLE_CROP[0]))
    start = EpisodeStart(seed % env.variations, seed)
    demonstration, _ = env.demonstrate(start)
    env.reset(start)
    images = [env.scene_image(size=size)]
    for action in demonstration.actions:
        env.step(action)
        images.append(env.scene_image(size=size))
    env.close()
    return demonstration.instructions[0], [tile(image) for image in images]


def tile(image: np.ndarray) -> Image.Image:
    """Crop an image to the table and resize it to a tile."""
    left, top, right, bottom = (round(edge * len(image)) for edge in TABLE_CROP)
    return Image.fromarray(image).crop((left, top, right, bottom)).resize((TILE, TILE), Image.Resampling.LANCZOS)


def group_positions(counts: list[int]) -> list[tuple[int, int]]:
    """Row and column at which each group of images begins: next to the previous group if it fits, else below."""
    positions, row, column = [], 0, 0
    for count in counts:
        if column + min(count, COLUMNS) > COLUMNS:
            row, column = row + 1, 0
        positions.append((row, column))
        row, column = row + (count - 1) // COLUMNS, column + (count - 1) % COLUMNS + 1
    return positions


def sheet(episodes: dict[str, tuple[str, list[Image.Image]]]) -> Image.Image:
    """Draw each task's name, instruction and images."""
    counts = [len(images) for _, images in episodes.values()]
    corners = group_positions(counts)
    last = corners[-1][0] + (counts[-1] - 1) // COLUMNS
    height = TILE + 2 * LINE_HEIGHT + MARGIN
    canvas = Image.new("RGB", (COLUMNS * (TILE + GAP) + 2 * MARGIN, (last + 1) * height + MARGIN), "white")
    draw, font, bold = ImageDraw.Draw(canvas), ImageFont.load_default(12), ImageFont.load_default(14)
    for (row, column), (task, (instruction, images)) in zip(corners, episodes.items(), strict=True):
        left, top = MARGIN + column * (TILE + GAP), MARGIN + row * height
        draw.text((left, top), task, "black", font=bold)
        draw.text((left, top + LINE_HEIGHT), instruction, "#555555", font=font)
        for number, image in enumerate(images):
            rows, index = divmod(number, COLUMNS)
            canvas.paste(image, (left + index * (TILE + GAP), top + rows * height + 2 * LINE_HEIGHT))
    return canvas


def draw_tasks(options: argparse.Namespace) -> None:
    """Draw the episodes and write the sheet."""
    names = options.tasks or list(TASKS)
    unknown = [name for name in names if name not in TASKS]
    if unknown:
        raise InputError(f"TASK: found {', '.join(unknown)}, expected some of {', '.join(TASKS)}")
    if options.seed < 0:
        raise InputError(f"--seed: found {options.seed}, expected 0 or more")
    if options.out.suffix.lower() not in FORMATS:
        raise InputError(f"--out: found {options.out}, expected a name that ends in {', '.join(FORMATS)}")
    check_writable_file(options.out, hint="choose another --out")
    shown = ProgressBar(names, description="tasks", total=len(names), unit="tasks")
    drawn = sheet({name: episode_images(name, options.seed) for name in shown})
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        drawn.save(options.out, quality=82)
    except OSError as error:
        raise write_error(options.out, error, setting="--out") from None
    print(f"{options.out}: {len(names)} tasks")


def main() -> None:
    """Run the command."""
    with report_user_errors():
        draw_tasks(arguments())


if __name__ == "__main__":
    main()
