"""The trained agent in a rollout: it remembers each episode's keyframes and answers many at once."""

import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from instructrl.batch import ACTION_SIZE, Batch, Features, Observation
from instructrl.config import HardwareConfig
from instructrl.data.tokenizer import Tokenizer
from instructrl.models.agent import Agent
from instructrl.training.hardware import select_platform
from instructrl.training.state import make_agent
from instructrl.training.trained import read_trained


class AgentActor:
    """Acts in up to `slots` episodes of up to `steps` keyframes in lock-step; each frame is encoded once.

    Both sizes are fixed, so that an action depends, bit for bit, on nothing that happens in other slots.
    """

    def __init__(self, agent: Agent, params: Any, tokenizer: Tokenizer, *, slots: int, steps: int) -> None:
        self.params = params
        self.steps = steps
        self.tokenizer = tokenizer
        self.slots = slots
        self.tokens, self.text_padding_mask = tokenizer([""] * slots)
        self.text: Any = None
        self.history: list[list[dict[str, Any]]] = [[] for _ in range(slots)]
        self.encode = jax.jit(lambda params, *inputs: agent.apply({"params": params}, *inputs, method=Agent.encode))
        self.decode = jax.jit(lambda params, *inputs: agent.apply({"params": params}, *inputs, method=Agent.decode))

    def begin(self, slot: int, instruction: str) -> None:
        """Forget the slot's last episode; the next one is asked for by this instruction."""
        tokens, padding = self.tokenizer([instruction])
        self.tokens[slot], self.text_padding_mask[slot] = tokens[0], padding[0]
        self.history[slot] = []

    def act(self, observations: dict[int, Observation]) -> dict[int, np.ndarray]:
        """The next keyframe action, float32[8], for every slot that shows an observation."""
        self.remember(observations)
        features, batch = self.recall(set(observations))
        decoded = np.asarray(self.decode(self.params, features, batch))
        chosen = {slot: decoded[slot, len(self.history[slot]) - 1] for slot in observations}
        for slot, action in chosen.items():
            self.history[slot][-1]["actions"] = action
        return chosen

    def remember(self, observations: dict[int, Observation]) -> None:
        """Encode the new frames, all slots at once, and append them to the episodes' histories."""
        shape = next(iter(observations.values())).images.shape
        images = np.zeros((self.slots, 1, *shape), np.uint8)
        for slot, observation in observations.items():
            images[slot, 0] = observation.images
        features = self.encode(self.params, images, self.tokens, self.text_padding_mask)
        self.text = np.asarray(features.text)
        pooled, patches = np.asarray(features.pooled)[:, 0], np.asarray(features.patches)[:, 0]
        for slot, observation in observations.items():
            self.history[slot].append(
                {
                    "pooled": pooled[slot],
                    "patches": patches[slot],
                    "state": observation.state,
                    "intrinsics": observation.intrinsics,
                    "extrinsics": observation.extrinsics,
                    "actions": np.zeros(ACTION_SIZE, np.float32),
                }
            )

    def recall(self, acting: set[int]) -> tuple[Any, Batch]:
        """The acting slots' histories, padded behind to the same number of steps; the others are blank."""
        steps = self.steps
        histories = [moments if slot in acting else [] for slot, moments in enumerate(self.history)]
        blank = jax.tree.map(np.zeros_like, next(moments[0] for moments in histories if moments))
        moments = [moment for known in histories for moment in known + [blank] * (steps - len(known))]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves).reshape(self.slots, steps, *leaves[0].shape), *moments)
        features = Features(stacked.pop("pooled"), self.text, stacked.pop("patches"))
        mask = np.array([[float(step < len(known)) for step in range(steps)] for known in histories], np.float32)
        return features, Batch(
            images=None, tokens=self.tokens, text_padding_mask=self.text_padding_mask, step_mask=mask, **stacked
        )


def fingerprint(actor: AgentActor) -> str:
    """What tells an agent's parameters from those of another training that reached the same step."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(actor.params):
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()[:16]


def load_actor(
    run: Path, *, checkpoint: str, slots: int, steps: int, hardware: HardwareConfig
) -> tuple[AgentActor, int]:
    """The agent of a run's `best` or `last` checkpoint, and the checkpoint's step.

    Raises:
        InputError: there is no run, no readable checkpoint, or its tokenizer or frozen weights are gone or others.
    """
    select_platform(hardware)
    trained = read_trained(run, checkpoint=checkpoint, hardware=hardware)
    agent = make_agent(trained.config, vocabulary_size=trained.tokenizer.vocabulary_size)
    params = jax.device_put(trained.params)
    return AgentActor(agent, params, trained.tokenizer, slots=slots, steps=steps), trained.step
