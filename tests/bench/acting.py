"""Time of an action in an episode of 20 keyframes, with a memory against the whole history at every keyframe.

Both run the same network with random parameters. The history is padded to 20 keyframes, as one compiled program needs,
and its images are not encoded again. The ratio is of the wall time of an episode; `p99/median` is of all actions with
the memory but the first, which compiles.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from instructrl.cli.entry import compose
from instructrl.config.training import HardwareConfig, TrainConfig
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.inference.batched_agent import BatchedAgent
from instructrl.models.agent import Agent
from instructrl.training.distributed.platform import select_platform
from instructrl.training.model_factory import dummy_batch, make_agent, random_params
from instructrl.types import Batch, Features, Observation
from tests.fixtures.rounds import alternate, ratio, wall

STEPS, ASK = 20, "reach the red ball"
POLICIES = ("vit_debug", "vit_small")


def whole_history(network: Agent, params: Any, like: Batch) -> Callable[[Observation, int], np.ndarray]:
    """The action at a keyframe from all keyframes so far, of which only the new one's images are encoded."""

    def decode(params: Any, features: Features, batch: Batch) -> Any:
        def actions(agent: Agent) -> Any:
            return agent.head.decode(agent.predict(batch._replace(features=features))[0], agent.cameras(batch))

        return network.apply({"params": params}, method=actions)

    encode = jax.jit(lambda params, *inputs: network.apply({"params": params}, *inputs, method=Agent.encode))
    program = jax.jit(decode)
    frames: list[Any] = []

    def act(seen: Observation, number: int) -> np.ndarray:
        if number == 0:
            frames.clear()
        features = encode(params, seen.images[None, None], like.tokens, like.text_padding_mask)
        frames.append([np.asarray(features.pooled), np.asarray(features.patches)])
        pooled, patches = (
            np.concatenate([*parts, *[np.zeros_like(parts[0])] * (STEPS - len(parts))], axis=1)
            for parts in zip(*frames, strict=True)
        )
        return np.asarray(program(params, Features(pooled, np.asarray(features.text), patches), like))[0, number]

    return act


def measure(policy: str) -> str:
    """A line of the table."""
    config = compose("train", TrainConfig, ["experiment=quickstart", "task=reach_target", f"policy={policy}"])
    select_platform(HardwareConfig("auto"))
    tokenizer = make_tokenizer(config.encoder)
    network = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    one = dummy_batch(config, tokenizer)
    params = jax.device_put(random_params(network, one, seed=0))
    tokens, padding = tokenizer([ASK])
    steps = jax.tree.map(partial(np.repeat, repeats=STEPS, axis=1), one._replace(tokens=None, text_padding_mask=None))
    whole = whole_history(network, params, steps._replace(tokens=tokens, text_padding_mask=padding, images=None))
    remembering = BatchedAgent(network, params, tokenizer, slots=1, steps=STEPS)
    assert one.images is not None
    images = np.random.default_rng(0).integers(0, 256, (STEPS, *one.images.shape[2:])).astype(np.uint8)
    seen = [Observation(image, one.state[0, 0], one.intrinsics[0, 0], one.extrinsics[0, 0], ASK) for image in images]

    seconds: list[float] = []  # of each action with the memory

    def remember() -> None:
        remembering.start_episode(0, ASK)
        for observation in seen:
            began = time.perf_counter()
            remembering.act({0: observation})
            seconds.append(time.perf_counter() - began)

    def read_again() -> None:
        for number, observation in enumerate(seen):
            whole(observation, number)

    found = alternate({"memory": remember, "history": read_again})
    (first, *beginning), rest = seconds[:STEPS], seconds[STEPS:]
    median = np.median(rest)
    return (
        f"{policy:<12}{1000 * median:>10.1f}{ratio(wall(found['history']), wall(found['memory'])):>27}"
        f"{np.percentile(rest, 99) / median:>14.2f}{first:>16.1f}{max(beginning) / median:>24.2f}"
    )


def main() -> None:
    print(
        f"{'policy':<12}{'action ms':>10}{'history/memory':>27}{'p99/median':>14}{'first action s':>16}"
        f"{'slowest later/median':>27}"
    )
    for policy in POLICIES:
        print(measure(policy), flush=True)


if __name__ == "__main__":
    main()
