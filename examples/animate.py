"""Draw trained agents obeying, as one animated GIF.

The README's docs/images/obeying.gif was made by

python train.py experiment=quickstart task=TASK     # for TASK=reach_target, push_button and pick_and_lift
python examples/animate.py docs/images/obeying.gif reach_target:3 push_button:5 pick_and_lift:1
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from instructrl import Agent
from instructrl.sim import EpisodeStart
from instructrl.sim.rendering import available_renderer
from instructrl.sim.tabletop.env import Tabletop

SIZE, CAPTION, LAST = 240, 30, 12  # pixels, pixels, repetitions of the last frame
FRAME_MS = 80


def episode(run: str, task: str, seed: int) -> tuple[str, np.ndarray]:
    """Let an agent act in an episode; returns the instruction, and a film of it [frames, SIZE, SIZE, 3]."""
    agent = Agent.load(run)
    env = Tabletop(task, cameras=agent.cameras, image_size=agent.image_size, renderer=available_renderer("auto"))
    start = EpisodeStart(seed % env.variations, seed)
    observation, outcome, actions = env.reset(start), None, []
    instruction = observation.instruction
    while outcome is None and len(actions) < env.max_steps:
        actions.append(agent.act(observation, instruction))
        observation, outcome = env.step(actions[-1])
    print(f"{task}: {instruction}: {outcome}")
    film = env.film(start, np.stack(actions), size=SIZE)
    env.close()
    return instruction, film


def captioned(frame: np.ndarray, text: str) -> Image.Image:
    """A frame above its caption."""
    image = Image.new("RGB", (SIZE, SIZE + CAPTION), (20, 22, 27))
    image.paste(Image.fromarray(frame))
    font = ImageFont.load_default(13)
    ImageDraw.Draw(image).text((SIZE / 2, SIZE + CAPTION / 2), text, font=font, fill=(245, 246, 248), anchor="mm")
    return image


def main(out: str, *episodes: str) -> None:
    """Write the films side by side; an episode is TASK:SEED of the quickstart's agent for the task."""
    films = []
    for word in episodes:
        task, _, seed = word.partition(":")
        films.append(episode(f"outputs/quickstart-{task}-spatial-seed0", task, int(seed)))
    length = max(len(film) for _, film in films) + LAST
    frames = []
    for number in range(length):
        row = Image.new("RGB", (SIZE * len(films), SIZE + CAPTION))
        for column, (text, film) in enumerate(films):
            row.paste(captioned(film[min(number, len(film) - 1)], text), (SIZE * column, 0))
        frames.append(row.quantize(96))
    frames[0].save(Path(out), save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
