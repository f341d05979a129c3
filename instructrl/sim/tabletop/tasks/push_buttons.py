"""Press one, two or three of three buttons, in the order in which the instruction names their colours."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from instructrl.sim.env import Outcome
from instructrl.sim.tabletop.colors import COLOR_NAMES, COLORS
from instructrl.sim.tabletop.robot import FINGER_BEYOND_TIP
from instructrl.sim.tabletop.scene import TABLE_Z
from instructrl.sim.tabletop.shapes import box, rod
from instructrl.sim.tabletop.task import CLOSED, Task, downward, scatter
from instructrl.sim.tabletop.world import World

_BUTTONS = ("button0", "button1", "button2")
_COLORS = 18  # all except black and white
# 18 single colours, 10 pairs in both orders, 6 triples in two orders, so that a scene has several possible goals
_PAIRS = tuple((color, color + 9) for color in range(9)) + ((4, 10),)
_TRIPLES = tuple((color, color + 9, (color + 4) % 18) for color in range(6))
SEQUENCES = (
    tuple((color,) for color in range(_COLORS))
    + tuple(order for a, b in _PAIRS for order in ((a, b), (b, a)))
    + tuple(order for a, b, c in _TRIPLES for order in ((a, b, c), (c, a, b)))
)
_BASE, _BASE_HEIGHT = 0.042, 0.036  # half the width and the height, metres
_CAP_HEIGHT, _TRAVEL = 0.022, 0.016
_PRESSED = 0.003
_LOW, _HIGH = np.array([0.02, -0.32]), np.array([0.42, 0.32])
_APART = 0.135
_ABOVE = 0.12
_MAX_ALTERNATIVES = 3


class PushButtons(Task):
    """Three buttons on the table at random yaws, with bases of different colours."""

    variations = len(SEQUENCES)
    max_steps = 9
    joint_thresholds = MappingProxyType(dict.fromkeys(_BUTTONS, _PRESSED))
    templates = (
        "push the {first} button",
        "press the {first} button down",
        "push down the button with the {first} base",
        "find the {first} button and press it",
        "press only the {first} button",
        "push the {first} button and then the {second} one",
        "press the {first} button, then press the {second} button",
        "first press the {first} button and after it the {second} one",
        "push down the {first} button before the {second} button",
        "press two buttons in this order: {first}, {second}",
        "push the {first} button, then the {second} one, then the {third} one",
        "press the {first} button, then press the {second} button and at last the {third} button",
        "first press the {first} button, after it the {second} one and after that the {third} one",
        "push down the {first}, the {second} and the {third} button, one after the other",
        "press three buttons in this order: {first}, {second}, {third}",
    )
    held_out_templates = (
        "push the {first} button down",
        "press the button with the {first} base",
        "first push the {first} button, then the {second} one",
        "press the {first} button before the {second} one",
        "first push the {first} button, then the {second} one and at last the {third} one",
        "press the {first}, the {second} and the {third} button in this order",
    )

    def bodies(self) -> str:
        return "".join(_button_xml(name) for name in _BUTTONS)

    def place(self, world: World, variation: int, rng: np.random.Generator) -> Mapping[int, str] | None:
        points = scatter(rng, len(_BUTTONS), low=_LOW, high=_HIGH, apart=_APART)
        others = rng.permutation([color for color in range(_COLORS) if color not in SEQUENCES[variation]])
        if points is None:
            return None
        colors = (*SEQUENCES[variation], *others.tolist())[: len(_BUTTONS)]
        button = dict(zip(colors, rng.permutation(_BUTTONS).tolist(), strict=True))
        for (color, name), point in zip(button.items(), points, strict=True):
            world.color(f"{name}_base", COLORS[COLOR_NAMES[color]])
            world.place(f"{name}_base", np.array([*point, TABLE_Z]), yaw=rng.uniform(-np.pi, np.pi))
        alternative_goals = rng.permutation(_alternatives(variation, colors))[:_MAX_ALTERNATIVES].tolist()
        return {one: " ".join(button[color] for color in SEQUENCES[one]) for one in (variation, *alternative_goals)}

    def waypoints(self, world: World, goal_object: str) -> list[np.ndarray]:
        actions = []
        for name in goal_object.split():
            top = world.position(name) + (0.0, 0.0, _CAP_HEIGHT + FINGER_BEYOND_TIP)
            above, below = top + (0.0, 0.0, _ABOVE), top - (0.0, 0.0, 0.75 * _TRAVEL)
            actions += [downward(above, gripper=CLOSED), downward(below, gripper=CLOSED)]
        return actions

    def outcome(self, world: World, goal_object: str, distractors: tuple[str, ...]) -> Outcome | None:
        requested = goal_object.split()
        if world.crossed != requested[: len(world.crossed)]:
            return Outcome.FAILURE
        return Outcome.SUCCESS if world.crossed == requested else None

    def describe(self, variation: int) -> dict[str, str]:
        names = (COLOR_NAMES[color] for color in SEQUENCES[variation])
        return dict(zip(("first", "second", "third"), names, strict=False))

    def instructions(self, variation: int, *, held_out: bool = False) -> tuple[str, ...]:
        words = self.describe(variation)
        texts = self.held_out_templates if held_out else self.templates
        placeholders = ["{" + word + "}" for word in ("first", "second", "third")]
        matching = [text for text in texts if sum(name in text for name in placeholders) == len(words)]
        return tuple(text.format(**words) for text in matching)


def _alternatives(variation: int, colors: tuple[int, ...]) -> list[int]:
    """Other sequences of these colours; none is a prefix of the requested one or the reverse."""
    requested = SEQUENCES[variation]
    return [
        other
        for other, sequence in enumerate(SEQUENCES)
        if set(sequence) <= set(colors) and any(one != two for one, two in zip(requested, sequence, strict=False))
    ]


def _button_xml(name: str) -> str:
    """A base with a button on it; the button's origin is the centre of the base's top."""
    cap = rod((0, 0, 0), (0, 0, _CAP_HEIGHT), 0.025, ".10 .10 .11", more='mass=".05"')
    ring = rod((0, 0, _BASE_HEIGHT - 0.002), (0, 0, _BASE_HEIGHT + 0.002), 0.032, ".80 .80 .82", kind="marker")
    base = box((0, 0, _BASE_HEIGHT / 2), (_BASE, _BASE, _BASE_HEIGHT / 2), "1 1 1", more=f'name="{name}_base"')
    return f"""
    <body name="{name}_base" mocap="true">{base}{ring}
      <body name="{name}" pos="0 0 {_BASE_HEIGHT}" gravcomp="1">
        <joint name="{name}" type="slide" axis="0 0 -1" range="0 {_TRAVEL}" stiffness="300" damping="6"/>{cap}
      </body>
    </body>"""
