"""Contact sheet of demonstrations: a row per episode, with all cameras at each keyframe."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from instructrl.types import Demonstration

TILE, GAP, LINE, MARGIN = 128, 4, 15, 12  # pixels
MIN_COLUMN_WIDTH = 250  # pixels, of the text above a keyframe
PAPER, INK, FAINT, MARK = "white", "black", "#666666", "white"


def contact_sheet(episodes: list[tuple[int, Demonstration]], cameras: tuple[str, ...]) -> Image.Image:
    """Draw frame 0 and every keyframe of each episode, with the next action as text and as a mark."""
    max_keyframes = max(len(demonstration.keyframes) for _, demonstration in episodes)
    column_width = max(len(cameras) * (TILE + GAP), MIN_COLUMN_WIDTH) + MARGIN
    row_height = TILE + 5 * LINE + MARGIN
    longest_title = max(len(title(number, demonstration)) for number, demonstration in episodes)
    width = max(column_width * (1 + max_keyframes), longest_title * 8) + 2 * MARGIN
    sheet = Image.new("RGB", (width, row_height * len(episodes) + 2 * MARGIN), PAPER)
    draw, font, bold = ImageDraw.Draw(sheet), ImageFont.load_default(11), ImageFont.load_default(13)
    for index, (number, demonstration) in enumerate(episodes):
        top = MARGIN + index * row_height
        draw.text((MARGIN, top), title(number, demonstration), INK, font=bold)
        for step, frame in enumerate([0, *demonstration.keyframes]):
            left = MARGIN + step * column_width
            draw.text((left, top + LINE + 2), keyframe_title(demonstration, step, frame), FAINT, font=font)
            for view, camera in enumerate(cameras):
                tile = camera_tile(demonstration, step, frame, view)
                corner = (left + view * (TILE + GAP), top + 4 * LINE)
                sheet.paste(tile, corner)
                draw.text((corner[0], corner[1] + TILE), camera, FAINT, font=font)
    return sheet


def title(number: int, demonstration: Demonstration) -> str:
    """Title of an episode."""
    sentence = demonstration.instructions[number % len(demonstration.instructions)]
    return f'episode {number}, variation {demonstration.variation}, seed {demonstration.seed}: "{sentence}"'


def keyframe_title(demonstration: Demonstration, step: int, frame: int) -> str:
    """Text above the cameras at one keyframe, on up to three lines: its state and the next action."""
    state_text = f"frame {frame}: state {numbers([*demonstration.state[frame]], 3)}"
    if step == len(demonstration.actions):
        return f"{state_text}\nend"
    x, y, z, *rotation, gripper = demonstration.actions[step]
    return f"{state_text}\ngo to {numbers([x, y, z], 3)}\nturn {numbers(rotation, 2)}, {'open' if gripper else 'close'}"


def numbers(values: list[float], digits: int) -> str:
    """Format rounded numbers in parentheses, without negative zeros."""
    return "(" + ", ".join(f"{round(float(value), digits) + 0.0:.{digits}f}" for value in values) + ")"


def camera_tile(demonstration: Demonstration, step: int, frame: int, view: int) -> Image.Image:
    """Image of one camera, with a ring at the action's target, projected with the stored camera matrices."""
    image = Image.fromarray(demonstration.images[frame, view])
    size, tile = image.width, image.resize((TILE, TILE), Image.Resampling.LANCZOS)
    if step < len(demonstration.actions):
        try:
            world_to_camera = np.linalg.inv(demonstration.extrinsics[frame, view].astype(np.float64))
        except np.linalg.LinAlgError:  # the camera pose is unknown
            return tile
        point = (world_to_camera @ np.append(demonstration.actions[step, :3], 1))[:3]
        if point[2] > 0:  # in front of the camera
            pixel = (demonstration.intrinsics[frame, view] @ point)[:2] / point[2] * TILE / size
            for radius, color in ((6, "black"), (5, MARK)):
                ImageDraw.Draw(tile).ellipse([*(pixel - radius), *(pixel + radius)], outline=color)
    return tile
