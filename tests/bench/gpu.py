"""Encoder, training steps and acting on a GPU, compared with its rate of bfloat16 matrix products and with PyTorch.

python tests/bench/gpu.py      at most 12 minutes; without a GPU three minutes of small sizes, to check the bench

- `encoder`: m3ae_l16's features of 128 images of 256 pixels.
- `step`: vit_large on these features, with one block compiled for all and nothing rematerialized; sequences of 4
  keyframes and 4 cameras. The attention is cuDNN's.
- `spatial`: a step with the spatial head; its features are gathered on the device, its loader runs beside it.
- `acting`: an action of one agent, with the images encoded and the memory of earlier keyframes.
- `ours`, `PyTorch`: the step of the smallest batch, each waiting for its loss; PyTorch's by `torch.compile` and SDPA.

Rates are FLOPs of the matrix products in the traced program per second of wall time; those of an action are a
keyframe's share of an episode. PyTorch is given the FLOPs of our step.
"""

import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.6")  # PyTorch needs the rest

import jax
import numpy as np

from instructrl.cli.entry import compose
from instructrl.config.training import HardwareConfig, TrainConfig
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.text.tokenizer import Tokenizer, make_tokenizer
from instructrl.inference.batched_agent import BatchedAgent
from instructrl.models.agent import Agent
from instructrl.training.distributed.platform import compute_dtype, select_platform
from instructrl.training.feature_extraction import feature_sizes, make_encode_fn
from instructrl.training.model_factory import dummy_batch, make_agent, random_params
from instructrl.training.objectives.behavior_cloning import DemonstrationSplits, prepare_behavior_cloning
from instructrl.types import BatchSizes, Observation, fake_batch
from tests.bench.features import demonstrations
from tests.fixtures.utilization import Work, encoding, fastest_products, measure, repeated, traced, training

STEPS, ASK, ENDLESS = 16, "pick up the red cup", 1_000_000
SETTINGS = (
    "head=regression", "head.slots=0", "task=pick_and_lift", "training.max_instructions=1", "hardware.scan=true",
    "sim.cameras=[front,left_shoulder,right_shoulder,wrist]", "sim.image_size=256",
    "encoder.tokenizer=small", "encoder.weights=null",
)  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """Measurements of a device."""

    settings: tuple[str, ...]
    frames: int  # observations of 4 cameras that are encoded at a time
    batches: tuple[int, ...]
    episodes: int  # of the spatial head's batch


SIZES = {
    "gpu": Sizes(("hardware=gpu", "encoder=m3ae_l16", "policy=vit_large"), 32, (256, 512, 1024), 64),
    "cpu": Sizes(("hardware=cpu", "encoder=m3ae_tiny", "policy=vit_debug"), 2, (2, 4, 8), 4),
}


@dataclass(frozen=True)
class Setup:
    """An agent with random parameters, and the products that everything is compared with."""

    config: TrainConfig
    tokenizer: Tokenizer
    agent: Agent
    params: Any
    products: Work
    sizes: Sizes

    def print_shares(self, works: dict[str, Work]) -> None:
        """Print the milliseconds and the rate of each work, and its share of the products' rate."""
        for name, (rate, share) in measure({"products": self.products, **works}).items():
            if name in works:
                each = 1e3 * works[name].flops / rate
                print(f"{name}: {each:.3g} ms, {rate / 1e12:.3g} TFLOP/s, {share} of the products' rate", flush=True)


def set_up(sizes: Sizes) -> Setup:
    """Build the agent, and find the fastest products."""
    config = compose("train", TrainConfig, [*SETTINGS, *sizes.settings])
    tokenizer = make_tokenizer(config.encoder)
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    params = jax.device_put(random_params(agent, dummy_batch(config, tokenizer), seed=0))
    return Setup(config, tokenizer, agent, params, fastest_products(compute_dtype(config.hardware)), sizes)


def compare_encoder(setup: Setup) -> None:
    """Print what the encoder reaches."""
    frozen, frames, size = {"encoder": setup.params["encoder"]}, setup.sizes.frames, setup.config.sim.image_size
    work = encoding(setup.agent, frozen, setup.tokenizer, size, frames)
    setup.print_shares({f"encoder {setup.config.encoder.name}, {4 * frames} images of {size} pixels": work})


def with_batch(config: TrainConfig, size: int) -> TrainConfig:
    """The settings with another batch size."""
    return replace(config, training=replace(config.training, batch_size=size))


def compare_step(setup: Setup, batch_size: int) -> None:
    """Print what a training step reaches."""
    size, tokenizer = setup.config.sim.image_size, setup.tokenizer
    encode = make_encode_fn(setup.agent, {"encoder": setup.params["encoder"]})
    features = feature_sizes(encode, np.zeros((1, 4, size, size, 3), np.uint8), *tokenizer([""]))
    config = with_batch(setup.config, batch_size)
    work, _ = training(config, setup.agent, setup.params, features, tokenizer.length)
    setup.print_shares({f"step {config.policy.name}, batch {batch_size}": work})


def compare_spatial(setup: Setup) -> None:
    """Print what a step with the spatial head reaches, with its loader and its features on the device."""
    episodes = setup.sizes.episodes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = [f"features_dir={folder}", f"output_dir={folder}", "name=spatial", f"training.batch_size={episodes}"]
        words += ["head=spatial", "features=cached", "hardware.feature_cache=devices"]
        settings = [word for word in SETTINGS if not word.startswith("head")]
        config = compose("train", TrainConfig, [*settings, *setup.sizes.settings, *words])
        with DemonstrationDataset(demonstrations(folder, episodes)) as data:
            objective, state = prepare_behavior_cloning(config, folder / "run", DemonstrationSplits([data], [data]))
            batches, held = objective.batches(objective.train, 0, ENDLESS), [state]
            flops = int(objective.flops(state, next(batches)))

            def call() -> Any:
                held[0], metrics = objective.train_step(held[0], next(batches), objective.frozen)
                return metrics

            setup.print_shares({f"spatial {config.policy.name}, batch {episodes}": repeated(call, flops)})
            batches.close()


def compare_acting(setup: Setup) -> None:
    """Print what acting reaches, in one episode at a time."""
    config, like = setup.config, dummy_batch(setup.config, setup.tokenizer)
    assert like.images is not None
    images = np.random.default_rng(0).integers(0, 256, (STEPS, *like.images.shape[2:])).astype(np.uint8)
    seen = [Observation(image, like.state[0, 0], like.intrinsics[0, 0], like.extrinsics[0, 0], ASK) for image in images]
    acting = BatchedAgent(setup.agent, setup.params, setup.tokenizer, slots=1, steps=STEPS)

    def play() -> None:
        acting.start_episode(0, ASK)
        for observation in seen:
            acting.act({0: observation})

    shape = BatchSizes(1, STEPS, len(config.sim.cameras), config.sim.image_size, setup.tokenizer.length)
    flops = traced(lambda params, batch: setup.agent.apply({"params": params}, batch), setup.params, fake_batch(shape))
    setup.print_shares({f"acting {config.encoder.name}, {config.policy.name}": Work(play, STEPS, flops // STEPS)})


def compare_with_torch(setup: Setup) -> None:
    """Print what the same step reaches in PyTorch, beside ours.

    Raises:
        RuntimeError: the two losses differ, or PyTorch cannot compile.
    """
    import torch

    from tests.bench import torch_peer

    class Peer(torch_peer.Peer):
        """The peer on the GPU, in bfloat16."""

        def __init__(self, config: TrainConfig, params: Any) -> None:
            super().__init__(config, params)
            self.params = {path: torch.nn.Parameter(leaf.detach().cuda()) for path, leaf in self.params.items()}

        def loss(self, given: dict[str, Any]) -> Any:
            with torch.autocast("cuda", torch.bfloat16):
                return super().loss(given)

    config = with_batch(setup.config, setup.sizes.batches[0])
    params = {part: jax.tree.map(np.array, tree) for part, tree in setup.params.items() if part != "encoder"}
    text = len(params["policy"]["embed_text"]["kernel"])
    batch = torch_peer.random_batch(config, setup.tokenizer.length, text)
    given = {name: leaf.cuda() for name, leaf in torch_peer.torch_batch(config, setup.agent, batch).items()}
    ours = torch_peer.our_step(config, setup.agent, jax.device_put(params), batch)
    theirs = torch_peer.torch_step(Peer(config, params), given, compiled=True)
    losses = ours(), theirs()
    if abs(losses[0] - losses[1]) > 0.02 * abs(losses[0]):
        raise RuntimeError(
            f"losses of the same parameters: found {losses[0]} and {losses[1]}; expected about equal ones"
        )
    flops = traced(jax.grad(lambda params, batch: torch_peer.agent_loss(setup.agent, params, batch)[0]), params, batch)
    label = f"{config.policy.name}, batch {config.training.batch_size}"
    setup.print_shares({f"ours, {label}": Work(ours, 1, flops), f"PyTorch, {label}": Work(theirs, 1, flops)})


def torch_sees_the_gpu() -> bool:
    """Return True if PyTorch is installed and has a GPU."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def main() -> None:
    """Print a line for each work; those after one that fails are still measured.

    Raises:
        SystemExit: something failed.
    """
    select_platform(HardwareConfig("auto"))
    sizes, device = SIZES.get(jax.default_backend()), jax.devices()[0]
    if sizes is None:
        sys.exit(f"jax platform: found {jax.default_backend()}; allowed: {', '.join(SIZES)}")
    with_gpu = jax.default_backend() == "gpu"
    print(device.device_kind if with_gpu else "no GPU: small sizes on the CPU, which only check the bench", flush=True)
    setup = set_up(sizes)
    parts: dict[str, Callable[[], None]] = {"encoder": partial(compare_encoder, setup)}
    parts |= {f"step, batch {size}": partial(compare_step, setup, size) for size in sizes.batches}
    parts |= {"spatial": partial(compare_spatial, setup), "acting": partial(compare_acting, setup)}
    if with_gpu and torch_sees_the_gpu():
        parts["PyTorch"] = partial(compare_with_torch, setup)
    else:
        print("PyTorch: left out, because it is not installed or sees no GPU")
    failures = 0
    for name, compare in parts.items():
        try:
            compare()
        except RuntimeError as error:  # such as memory that does not suffice
            failures += 1
            print(f"{name}: {(str(error).splitlines() or [type(error).__name__])[0]}", flush=True)
    if failures:
        sys.exit(f"{failures} of {len(parts)} failed")


if __name__ == "__main__":
    main()
