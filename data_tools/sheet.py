"""A contact sheet of demonstrations: a row for each episode, and in it all cameras at each keyframe."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from instructrl.batch import Demonstration

TILE, GAP, LINE, MARGIN = 128, 4, 15, 12  # pixels
LONGEST_LINE = 250  # pixels, of what is written above a moment
PAPER, INK, FAINT, MARK = "white", "black", "#666666", "white"


def contact_sheet(episodes: list[tuple[int, Demonstration]], cameras: tuple[str, ...]) -> Image.Image:
    """Frame 0 and every keyframe of each episode, with the action that follows written and marked in it."""
    most = max(len(demonstration.keyframes) for _, demonstration in episodes)
    moment = max(len(cameras) * (TILE + GAP), LONGEST_LINE) + MARGIN
    row = TILE + 5 * LINE + MARGIN
    longest = max(len(title(number, demonstration)) for number, demonstration in episodes)
    width = max(moment * (1 + most), longest * 8) + 2 * MARGIN
    sheet = Image.new("RGB", (width, row * len(episodes) + 2 * MARGIN), PAPER)
    draw, font, bold = ImageDraw.Draw(sheet), ImageFont.load_default(11), ImageFont.load_default(13)
    for place, (number, demonstration) in enumerate(episodes):
        top = MARGIN + place * row
        draw.text((MARGIN, top), title(number, demonstration), INK, font=bold)
        for step, frame in enumerate([0, *demonstration.keyframes]):
            left = MARGIN + step * moment
            draw.text((left, top + LINE + 2), moment_title(demonstration, step, frame), FAINT, font=font)
            for view, camera in enumerate(cameras):
                tile = tile_of(demonstration, step, frame, view)
                corner = (left + view * (TILE + GAP), top + 4 * LINE)
                sheet.paste(tile, corner)
                draw.text((corner[0], corner[1] + TILE), camera, FAINT, font=font)
    return sheet


def title(number: int, demonstration: Demonstration) -> str:
    """What stands above an episode."""
    sentence = demonstration.instructions[number % len(demonstration.instructions)]
    return f'episode {number}, variation {demonstration.variation}, seed {demonstration.seed}: "{sentence}"'


def moment_title(demonstration: Demonstration, step: int, frame: int) -> str:
    """What stands above the cameras at one moment, on up to three lines: the frame, and the action taken at it."""
    gripper, *fingers, time = demonstration.state[frame]
    seen = f"frame {frame}: gripper {gripper:.0f}, fingers {numbers(fingers, 3)}, time {time:.2f}"
    if step == len(demonstration.actions):
        return f"{seen}\nend"
    x, y, z, *rotation, gripper = demonstration.actions[step]
    return f"{seen}\ngo to {numbers([x, y, z], 3)}\nturn {numbers(rotation, 2)}, {'open' if gripper else 'close'}"


def numbers(values: list[float], digits: int) -> str:
    """Rounded numbers in brackets, without negative zeros."""
    return "(" + ", ".join(f"{round(float(value), digits) + 0.0:.{digits}f}" for value in values) + ")"


def tile_of(demonstration: Demonstration, step: int, frame: int, view: int) -> Image.Image:
    """One camera's picture, with a ring where the action goes, as the stored camera matrices have it."""
    image = Image.fromarray(demonstration.images[frame, view])
    size, tile = image.width, image.resize((TILE, TILE), Image.Resampling.LANCZOS)
    if step < len(demonstration.actions):
        try:
            world_to_camera = np.linalg.inv(demonstration.extrinsics[frame, view].astype(np.float64))
        except np.linalg.LinAlgError:  # nobody knows where this camera is
            return tile
        point = (world_to_camera @ np.append(demonstration.actions[step, :3], 1))[:3]
        if point[2] > 0:  # in front of the camera
            pixel = (demonstration.intrinsics[frame, view] @ point)[:2] / point[2] * TILE / size
            for radius, color in ((6, "black"), (5, MARK)):
                ImageDraw.Draw(tile).ellipse([*(pixel - radius), *(pixel + radius)], outline=color)
    return tile
