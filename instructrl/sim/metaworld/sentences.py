"""Instructions for Meta-World's tasks, which has none of its own.

Each task has three phrases for what to do and two names for what to do it with. Four of the six sentences are for
training and show every phrase and name; the other two are held out: known words, put together in a new way.
"""

_PHRASES: dict[str, tuple[tuple[str, str, str], tuple[str, str]]] = {
    "assembly-v3": (
        ("put {} on the peg", "place {} over the peg", "lift {} onto the peg"),
        ("the ring", "the nut with the handle"),
    ),
    "basketball-v3": (
        ("put {} into the basket", "drop {} through the hoop", "bring {} to the basket"),
        ("the ball", "the basketball"),
    ),
    "bin-picking-v3": (
        ("move {} to the other bin", "put {} into the empty bin", "take {} across to the other bin"),
        ("the cube", "the small block"),
    ),
    "box-close-v3": (
        ("put {} on the box", "close the box with {}", "place {} on top of the box"),
        ("the lid", "the cover"),
    ),
    "button-press-topdown-v3": (
        ("press {} from above", "push {} down", "press down on {}"),
        ("the button", "the red button"),
    ),
    "button-press-topdown-wall-v3": (
        ("press {} behind the wall from above", "push {} down past the wall", "reach over the wall and press {}"),
        ("the button", "the red button"),
    ),
    "button-press-v3": (
        ("press {}", "push {} in", "press {} from the front"),
        ("the button", "the red button"),
    ),
    "button-press-wall-v3": (
        ("press {} behind the wall", "reach past the wall and push {} in", "go around the wall and press {}"),
        ("the button", "the red button"),
    ),
    "coffee-button-v3": (
        ("press {} of the coffee machine", "push {} on the coffee machine", "start the coffee machine with {}"),
        ("the button", "the round button"),
    ),
    "coffee-pull-v3": (
        ("pull {} away from the coffee machine", "take {} from the coffee machine", "move {} to the front"),
        ("the mug", "the cup"),
    ),
    "coffee-push-v3": (
        ("push {} under the coffee machine", "move {} to the coffee machine", "slide {} below the spout"),
        ("the mug", "the cup"),
    ),
    "dial-turn-v3": (
        ("turn {}", "rotate {} by half a turn", "twist {} around"),
        ("the dial", "the knob"),
    ),
    "disassemble-v3": (
        ("take {} off the peg", "lift {} from the peg", "remove {} from the peg"),
        ("the ring", "the nut with the handle"),
    ),
    "door-close-v3": (
        ("close {}", "push {} shut", "shut {}"),
        ("the door", "the door of the cabinet"),
    ),
    "door-lock-v3": (
        ("lock {}", "turn the lock of {} down", "rotate the lock to close {}"),
        ("the door", "the safe"),
    ),
    "door-open-v3": (
        ("open {}", "pull {} open", "swing {} open by its handle"),
        ("the door", "the door of the cabinet"),
    ),
    "door-unlock-v3": (
        ("unlock {}", "turn the lock of {} back", "rotate the lock to free {}"),
        ("the door", "the safe"),
    ),
    "drawer-close-v3": (
        ("close {}", "push {} shut", "slide {} in"),
        ("the drawer", "the green drawer"),
    ),
    "drawer-open-v3": (
        ("open {}", "pull {} open", "slide {} out by its handle"),
        ("the drawer", "the green drawer"),
    ),
    "faucet-close-v3": (
        ("close {}", "turn {} off", "rotate the handle of {} to the right"),
        ("the faucet", "the tap"),
    ),
    "faucet-open-v3": (
        ("open {}", "turn {} on", "rotate the handle of {} to the left"),
        ("the faucet", "the tap"),
    ),
    "hammer-v3": (
        ("drive {} in with the hammer", "hit {} with the hammer", "take the hammer and strike {}"),
        ("the nail", "the nail in the wall"),
    ),
    "hand-insert-v3": (
        ("put the hand into {}", "lower the gripper into {}", "reach into {}"),
        ("the hole", "the hole in the table"),
    ),
    "handle-press-side-v3": (
        ("press {} down from the side", "push {} down at its side", "lower {} from its side"),
        ("the handle", "the handle of the box"),
    ),
    "handle-press-v3": (
        ("press {} down", "push down on {}", "lower {}"),
        ("the handle", "the handle of the box"),
    ),
    "handle-pull-side-v3": (
        ("pull {} up from the side", "raise {} from its side", "lift {} up at its side"),
        ("the handle", "the handle of the box"),
    ),
    "handle-pull-v3": (
        ("pull {} up", "raise {}", "lift {} to the top"),
        ("the handle", "the handle of the box"),
    ),
    "lever-pull-v3": (
        ("pull {} up", "raise {} until it stands", "turn {} upwards"),
        ("the lever", "the bar"),
    ),
    "peg-insert-side-v3": (
        ("insert {} into the hole", "put {} into the side of the box", "push {} into the box"),
        ("the peg", "the green peg"),
    ),
    "peg-unplug-side-v3": (
        ("unplug {}", "pull {} out of the box", "take {} out of its hole"),
        ("the peg", "the plug"),
    ),
    "pick-out-of-hole-v3": (
        ("take {} out of the hole", "pick {} up from the hole", "lift {} out of the hole to the goal"),
        ("the puck", "the small cylinder"),
    ),
    "pick-place-v3": (
        ("carry {} to the goal", "pick {} up and bring it to the goal", "lift {} to the colored point"),
        ("the puck", "the red cylinder"),
    ),
    "pick-place-wall-v3": (
        ("carry {} over the wall to the goal", "lift {} past the wall to the goal", "bring {} across the wall"),
        ("the puck", "the red cylinder"),
    ),
    "plate-slide-back-side-v3": (
        ("slide {} out of the cabinet to the side", "pull {} sideways out of the goal", "take {} out to the side"),
        ("the plate", "the black disc"),
    ),
    "plate-slide-back-v3": (
        ("slide {} out of the cabinet", "pull {} back out of the goal", "take {} out to the front"),
        ("the plate", "the black disc"),
    ),
    "plate-slide-side-v3": (
        ("slide {} sideways into the cabinet", "push {} to the side into the goal", "move {} across into the cabinet"),
        ("the plate", "the black disc"),
    ),
    "plate-slide-v3": (
        ("slide {} into the cabinet", "push {} into the goal", "move {} forward into the cabinet"),
        ("the plate", "the black disc"),
    ),
    "push-back-v3": (
        ("push {} back to the goal", "pull {} towards the robot", "move {} back to the colored point"),
        ("the block", "the cube"),
    ),
    "push-v3": (
        ("push {} to the goal", "slide {} over the table to the goal", "move {} to the colored point"),
        ("the puck", "the red cylinder"),
    ),
    "push-wall-v3": (
        ("push {} around the wall to the goal", "slide {} past the wall", "move {} around the wall"),
        ("the puck", "the red cylinder"),
    ),
    "reach-v3": (
        ("reach {}", "move the gripper to {}", "touch {} with the gripper"),
        ("the goal", "the red point in the air"),
    ),
    "reach-wall-v3": (
        ("reach {} behind the wall", "move the gripper past the wall to {}", "go over the wall and touch {}"),
        ("the goal", "the red point"),
    ),
    "shelf-place-v3": (
        ("put {} on the shelf", "place {} into the shelf", "lift {} onto the shelf"),
        ("the cube", "the blue block"),
    ),
    "soccer-v3": (
        ("kick {} into the goal", "push {} into the net", "roll {} into the goal"),
        ("the ball", "the soccer ball"),
    ),
    "stick-pull-v3": (
        ("pull {} with the stick", "take the stick and drag {} closer", "hook {} with the stick and pull"),
        ("the bottle", "the thermos"),
    ),
    "stick-push-v3": (
        ("push {} with the stick", "take the stick and move {} away", "use the stick to shove {}"),
        ("the bottle", "the thermos"),
    ),
    "sweep-into-v3": (
        ("sweep {} into the hole", "push {} into the hole in the table", "wipe {} over the table into the hole"),
        ("the cube", "the small block"),
    ),
    "sweep-v3": (
        ("sweep {} off the table", "push {} over the edge", "wipe {} from the table"),
        ("the cube", "the small block"),
    ),
    "window-close-v3": (
        ("close {}", "slide {} shut", "push the handle of {} to the left"),
        ("the window", "the sliding window"),
    ),
    "window-open-v3": (
        ("open {}", "slide {} open", "push the handle of {} to the right"),
        ("the window", "the sliding window"),
    ),
}
_TRAINING, _HELD_OUT = ((0, 0), (0, 1), (1, 0), (2, 1)), ((1, 1), (2, 0))  # numbers of phrase and name


def sentences(task: str) -> tuple[str, ...]:
    """The instructions for training."""
    return _sentences(task, _TRAINING)


def held_out_sentences(task: str) -> tuple[str, ...]:
    """The instructions that training never shows."""
    return _sentences(task, _HELD_OUT)


def _sentences(task: str, pairs: tuple[tuple[int, int], ...]) -> tuple[str, ...]:
    phrases, names = _PHRASES[task]
    return tuple(phrases[phrase].format(names[name]) for phrase, name in pairs)
