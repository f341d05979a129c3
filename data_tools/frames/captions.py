"""Caption generator: describes the objects in a camera image with words of the small vocabulary.

Left, right, above and below are relative to the image, so mirrored images must not keep their captions.
"""

from collections.abc import Sequence

import numpy as np

from instructrl.sim.tabletop.things import GripperState, SceneObject

MAX_OBJECTS = 3  # objects in one caption
NEXT_TO = 0.10  # as a share of the image: closer objects are `next to` each other
AT_GRIPPER = 0.07  # metres between the gripper's tip and an object that it is `at`
MASS_NOUNS = ("money", "rubbish", "crumpled paper")
NUMBER_WORDS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight"}


def caption(things: Sequence[SceneObject], gripper: GripperState, rng: np.random.Generator) -> str:
    """Caption of the visible objects, or of the gripper if there are none."""
    visible = [thing for thing in things if thing.visible]
    if not visible:
        return describe_gripper(things, gripper, rng)
    forms = [list_objects, list_objects, locate_object]
    if len(visible) > 1:
        forms += [relate_objects, relate_objects]
    if any(len(group) > 1 for group in group_by_name(visible).values()):
        forms.append(count_objects)
    if rng.random() < 0.12:
        return describe_gripper(things, gripper, rng)
    return forms[rng.integers(len(forms))](visible, rng)


def list_objects(visible: Sequence[SceneObject], rng: np.random.Generator) -> str:
    """List objects: a red ball at the top left, a blue ball in the middle and a lime ball at the right."""
    some = [visible[number] for number in rng.permutation(len(visible))[:MAX_OBJECTS]]
    text = join_phrases([f"{noun_phrase(thing, rng)} {location(thing)}" for thing in some])
    return f"there is {text}" if rng.random() < 0.3 else text


def locate_object(visible: Sequence[SceneObject], rng: np.random.Generator) -> str:
    """Locate one object: the red ball is at the left."""
    thing = visible[int(rng.integers(len(visible)))]
    return f"{noun_phrase(thing, rng, article='the')} is {location(thing)}"


def relate_objects(visible: Sequence[SceneObject], rng: np.random.Generator) -> str:
    """Relate two objects: a red cube to the left of a blue cube."""
    first, *others = (visible[number] for number in rng.permutation(len(visible)))
    second = next((other for other in others if (other.names, other.color) != (first.names, first.color)), None)
    if second is None:  # all others have the same description
        return list_objects(visible, rng)
    right, down = first.pixel - second.pixel
    if max(abs(right), abs(down)) < NEXT_TO:
        relation = "next to"
    elif abs(right) >= abs(down):
        relation = "to the left of" if right < 0 else "to the right of"
    else:
        relation = "below" if down > 0 else "above"
    if rng.random() < 0.5:
        return f"{noun_phrase(first, rng)} {relation} {noun_phrase(second, rng)}"
    return f"{noun_phrase(first, rng, article='the')} is {relation} {noun_phrase(second, rng, article='the')}"


def count_objects(visible: Sequence[SceneObject], rng: np.random.Generator) -> str:
    """Count objects of one kind: three balls, red, blue and lime."""
    groups = [group for group in group_by_name(visible).values() if len(group) > 1]
    group = groups[rng.integers(len(groups))]
    noun = str(rng.choice(group[0].names))
    plural = f"{noun}es" if noun.endswith(("o", "s")) else f"{noun}s"
    colors = list(dict.fromkeys(group[number].color for number in rng.permutation(len(group))))
    if None in colors:
        return f"{NUMBER_WORDS[len(group)]} {plural}"
    return f"{NUMBER_WORDS[len(group)]} {plural}, {join_phrases([str(color) for color in colors])}"


def describe_gripper(things: Sequence[SceneObject], gripper: GripperState, rng: np.random.Generator) -> str:
    """Describe the gripper: the gripper holds the red cube."""
    held = next((thing for thing in things if thing.body == gripper.held), None)
    if held is not None:
        return f"the gripper holds {noun_phrase(held, rng, article='the')}"
    state = "open" if gripper.opened else "closed"
    gaps = [float(np.linalg.norm(thing.position - gripper.tip)) for thing in things]
    if gaps and min(gaps) < AT_GRIPPER:
        return f"the {state} gripper is at {noun_phrase(things[int(np.argmin(gaps))], rng, article='the')}"
    return f"the gripper is {state}"


def noun_phrase(thing: SceneObject, rng: np.random.Generator, *, article: str | None = None) -> str:
    """Noun phrase of an object with its colour: a red ball."""
    noun = str(rng.choice(thing.names))
    words = f"{thing.color} {noun}" if thing.color else noun
    indefinite = "some" if noun in MASS_NOUNS else "an" if words[0] in "aeiou" else "a"
    return f"{article or indefinite} {words}"


def location(thing: SceneObject) -> str:
    """Location of an object in the image, on a 3 x 3 grid."""
    across, down = (int(np.clip(share * 3, 0, 2)) for share in thing.pixel)
    words = f"{('top', '', 'bottom')[down]} {('left', '', 'right')[across]}".strip()
    return f"at the {words}" if words else "in the middle"


def group_by_name(visible: Sequence[SceneObject]) -> dict[tuple[str, ...], list[SceneObject]]:
    """Group objects by their names."""
    groups: dict[tuple[str, ...], list[SceneObject]] = {}
    for thing in visible:
        groups.setdefault(thing.names, []).append(thing)
    return groups


def join_phrases(parts: Sequence[str]) -> str:
    """Join phrases: one, two and three."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
