"""Sentences that say what a camera sees: our own, in words of the small vocabulary.

Left, right, above and below are meant in the picture, so pictures that are mirrored must not keep their captions.
"""

from collections.abc import Sequence

import numpy as np

from instructrl.sim.tabletop.things import Gripper, Thing

MOST = 3  # things in one sentence
APART = 0.10  # of the picture, from which one thing is beside another
AT = 0.07  # metres from the gripper's tip to a thing that it is at
UNCOUNTED = ("money", "rubbish", "crumpled paper")
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight"}


def caption(things: Sequence[Thing], gripper: Gripper, rng: np.random.Generator) -> str:
    """A sentence about what is seen; about the gripper if nothing else is."""
    seen = [thing for thing in things if thing.seen]
    if not seen:
        return of_gripper(things, gripper, rng)
    forms = [listed, listed, at_place]
    if len(seen) > 1:
        forms += [related, related]
    if any(len(group) > 1 for group in alike(seen).values()):
        forms.append(counted)
    if rng.random() < 0.12:
        return of_gripper(things, gripper, rng)
    return forms[rng.integers(len(forms))](seen, rng)


def listed(seen: Sequence[Thing], rng: np.random.Generator) -> str:
    """Such as: a red ball at the top left, a blue ball in the middle and a lime ball at the right."""
    some = [seen[number] for number in rng.permutation(len(seen))[:MOST]]
    text = joined([f"{named(thing, rng)} {where(thing)}" for thing in some])
    return f"there is {text}" if rng.random() < 0.3 else text


def at_place(seen: Sequence[Thing], rng: np.random.Generator) -> str:
    """Such as: the red ball is at the left."""
    thing = seen[int(rng.integers(len(seen)))]
    return f"{named(thing, rng, article='the')} is {where(thing)}"


def related(seen: Sequence[Thing], rng: np.random.Generator) -> str:
    """Such as: a red cube to the left of a blue cube."""
    first, *others = (seen[number] for number in rng.permutation(len(seen)))
    second = next((other for other in others if (other.names, other.color) != (first.names, first.color)), None)
    if second is None:  # one of them could not be told from the other
        return listed(seen, rng)
    right, down = first.pixel - second.pixel
    if max(abs(right), abs(down)) < APART:
        relation = "next to"
    elif abs(right) >= abs(down):
        relation = "to the left of" if right < 0 else "to the right of"
    else:
        relation = "below" if down > 0 else "above"
    if rng.random() < 0.5:
        return f"{named(first, rng)} {relation} {named(second, rng)}"
    return f"{named(first, rng, article='the')} is {relation} {named(second, rng, article='the')}"


def counted(seen: Sequence[Thing], rng: np.random.Generator) -> str:
    """Such as: three balls, red, blue and lime."""
    groups = [group for group in alike(seen).values() if len(group) > 1]
    group = groups[rng.integers(len(groups))]
    noun = str(rng.choice(group[0].names))
    plural = f"{noun}es" if noun.endswith(("o", "s")) else f"{noun}s"
    colors = list(dict.fromkeys(group[number].color for number in rng.permutation(len(group))))
    if None in colors:
        return f"{NUMBERS[len(group)]} {plural}"
    return f"{NUMBERS[len(group)]} {plural}, {joined([str(color) for color in colors])}"


def of_gripper(things: Sequence[Thing], gripper: Gripper, rng: np.random.Generator) -> str:
    """Such as: the gripper holds the red cube."""
    held = next((thing for thing in things if thing.body == gripper.held), None)
    if held is not None:
        return f"the gripper holds {named(held, rng, article='the')}"
    state = "open" if gripper.opened else "closed"
    gaps = [float(np.linalg.norm(thing.position - gripper.tip)) for thing in things]
    if gaps and min(gaps) < AT:
        return f"the {state} gripper is at {named(things[int(np.argmin(gaps))], rng, article='the')}"
    return f"the gripper is {state}"


def named(thing: Thing, rng: np.random.Generator, *, article: str | None = None) -> str:
    """A thing with its colour, such as: a red ball."""
    noun = str(rng.choice(thing.names))
    words = f"{thing.color} {noun}" if thing.color else noun
    indefinite = "some" if noun in UNCOUNTED else "an" if words[0] in "aeiou" else "a"
    return f"{article or indefinite} {words}"


def where(thing: Thing) -> str:
    """Where in the picture a thing is, in ninths of it."""
    across, down = (int(np.clip(share * 3, 0, 2)) for share in thing.pixel)
    words = f"{('top', '', 'bottom')[down]} {('left', '', 'right')[across]}".strip()
    return f"at the {words}" if words else "in the middle"


def alike(seen: Sequence[Thing]) -> dict[tuple[str, ...], list[Thing]]:
    """Things that are called the same."""
    groups: dict[tuple[str, ...], list[Thing]] = {}
    for thing in seen:
        groups.setdefault(thing.names, []).append(thing)
    return groups


def joined(parts: Sequence[str]) -> str:
    """Such as: one, two and three."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
