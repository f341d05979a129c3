"""The training step, compared with the same model in plain PyTorch (SDPA, fused AdamW, torch.compile): ratios.

python tests/bench/torch_peer.py [NAME...]             all of CASES, eager and compiled: about ten minutes on two cores
taskset -c 0 python tests/bench/torch_peer.py --eager  on one core, without torch.compile, which needs a C++ compiler

Both have the same parameters, whose losses are compared first, the same batch in float32 and the cores that this
process may use. Ours also computes the decoded actions' errors and the norms of parameters and update in every step;
PyTorch is given the targets. Rounds of a second or more alternate. A ratio is PyTorch's time over ours, above 1 where
ours is faster: the median of the rounds, and the smallest and largest. Processor time is what a busy machine leaves
comparable; the other is wall time.
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax
import numpy as np

from instructrl.cli.entry import compose
from instructrl.config.heads import RegressionConfig, SpatialConfig
from instructrl.config.model import pooled_layers
from instructrl.config.training import TrainConfig
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.models.agent import Agent
from instructrl.models.heads.base import CameraParams
from instructrl.models.heads.registry import make_head
from instructrl.models.layers.positional import sinusoid
from instructrl.models.parameter_files import flatten_params
from instructrl.models.patch_reader import patch_places
from instructrl.models.policy import action_features
from instructrl.models.token_order import attention_mask
from instructrl.training.distributed.platform import select_platform
from instructrl.training.model_factory import dummy_batch, make_agent, random_params
from instructrl.training.objectives.bc_step import agent_loss, make_train_step
from instructrl.training.optimizer import make_optimizer
from instructrl.training.state import initial_state
from instructrl.types import Batch, BatchSizes, FeatureSizes, fake_batch
from tests.fixtures.rounds import alternate, ratio

try:
    import torch
    from torch.nn import functional
except ImportError:
    print("skipped: torch is not installed; pip install --group bench")
    sys.exit()

KEYFRAMES = 4
CACHED = ("encoder=m3ae_b16", "encoder.weights=null", "encoder.tokenizer=small", "head=regression", "head.slots=0",
          "hardware=cpu", "training.batch_size=8")  # fmt: skip
CASES = {
    "quickstart": ("experiment=quickstart", "training.batch_size=16"),
    "vit_small": (*CACHED, "policy=vit_small"),
    "vit_base": (*CACHED, "policy=vit_base"),
}


class Peer:
    """The agent's loss in PyTorch, with parameters named by their paths in the agent.

    Kernels lie as PyTorch's own layers have them, outputs first. Shapes as in the agent's modules.
    """

    def __init__(self, config: TrainConfig, params: Any):
        self.config = config
        found = {path: np.asarray(leaf) for path, leaf in flatten_params(params).items()}
        self.params = {path: torch.nn.Parameter(_as_torch_has_it(path, leaf)) for path, leaf in found.items()}

    def linear(self, name: str, x: Any) -> Any:
        return functional.linear(x, self.params[f"{name}/kernel"], self.params.get(f"{name}/bias"))

    def norm(self, name: str, x: Any) -> Any:
        return functional.layer_norm(
            x, x.shape[-1:], self.params[f"{name}/scale"], self.params[f"{name}/bias"], eps=1e-6
        )

    def mlp(self, name: str, x: Any) -> Any:
        return self.linear(f"{name}/contract", gelu(self.linear(f"{name}/expand", x)))

    def loss(self, given: dict[str, Any]) -> Any:
        """The mean loss over all steps of a batch."""
        pooled, text, patches = self.encode(given) if "images" in given else (given["pooled"], given["text"], None)
        hidden = self.policy(pooled, text, given)
        head = self.spatial if self.config.head.kind == "spatial" else self.regression
        return head(hidden, patches, given).mean()

    def policy(self, pooled: Any, text: Any, given: dict[str, Any]) -> Any:
        batch, steps, cameras, _ = pooled.shape
        width = self.config.policy.dim
        sentence = text[:, None, None].expand(batch, steps, cameras, text.shape[-1])
        views = self.linear("policy/embed_camera", torch.cat([pooled, sentence], -1))
        numbers = given["state"][..., None] * self.params["policy/state_direction"]
        predict = views.new_zeros(batch, steps, 1, width)
        if text.shape[-1]:
            predict = predict + self.linear("policy/embed_text", text)[:, None, None]
        action = self.linear("policy/embed_action", given["action_features"])[:, :, None]
        x = torch.cat([views, numbers, predict, action], 2) + self.params["policy/token_kind"]
        x = (x + given["position"][None, :, None]).reshape(batch, -1, width)
        observations = cameras + numbers.shape[2]
        for index in range(self.config.policy.depth):
            last = index == self.config.policy.depth - 1
            x = self.block(f"policy/block_{index}", x, given["mask"], observations if last else 0,
                           observations + 2 if last else 1)  # fmt: skip
        return self.norm("policy/norm", x)

    def block(self, name: str, x: Any, mask: Any, first: int, stride: int) -> Any:
        """A transformer block, whose outputs are those of every `stride`th token from `first` on."""
        heads, width = self.config.policy.heads, x.shape[-1]
        normed = self.norm(f"{name}/norm_attention", x)
        kernel, bias = (self.params[f"{name}/attention/query_key_value/{part}"] for part in ("kernel", "bias"))
        if stride == 1:
            parts = functional.linear(normed, kernel, bias).chunk(3, -1)
        else:
            query = functional.linear(normed[:, first::stride], kernel[:width], bias[:width])
            parts = query, *functional.linear(normed, kernel[width:], bias[width:]).chunk(2, -1)
        query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask[first::stride])
        x = x[:, first::stride] + self.linear(f"{name}/attention/out", mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(f"{name}/mlp", self.norm(f"{name}/norm_mlp", x))

    def regression(self, hidden: Any, patches: Any, given: dict[str, Any]) -> Any:
        del patches
        out, head = self.mlp("head/mlp", hidden), cast(RegressionConfig, self.config.head)
        position = (out[..., :3] - given["target_position"]).square().mean(-1)
        quaternion, wanted = out[..., 3:7], given["target_quaternion"]
        rotation = torch.minimum((quaternion - wanted).square().mean(-1), (quaternion + wanted).square().mean(-1))
        gripper = (torch.sigmoid(out[..., 7]) - given["target_gripper"]).square()
        return head.position_weight * position + head.rotation_weight * rotation + head.gripper_weight * gripper

    def encode(self, given: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Pooled, text and patch features of the quickstart's encoder."""
        config, images = self.config.encoder, given["images"]
        words = functional.embedding(given["tokens"], self.params["encoder/words/embedding"])
        weight = functional.embedding(given["tokens"], self.params["encoder/word_weight/embedding"]).exp()
        weight = weight * (1 - given["text_padding_mask"])[..., None]
        text = (words * weight).sum(1) / weight.sum(1).clamp_min(1e-6)
        per_image = text.repeat_interleave(images.shape[1] * images.shape[2], 0)
        x = merge_cells((images.flatten(0, 2).float() - 127.5) / 64.0, 4)
        x = merge_cells(gelu(self.linear("encoder/embed_cells", x)), config.patch_size // 4)
        x = self.linear("encoder/embed_patches", x)
        for index in range(config.depth):
            name = f"encoder/block_{index}"
            gain, shift = self.linear(f"{name}/film", per_image)[:, None, None].chunk(2, -1)
            y = self.norm(f"{name}/norm", x).permute(0, 3, 1, 2)  # channels last, without a copy
            kernel, bias = self.params[f"{name}/mix/kernel"], self.params[f"{name}/mix/bias"]
            y = functional.conv2d(y, kernel, bias, padding=1).permute(0, 2, 3, 1)
            x = x + self.linear(f"{name}/out", gelu(y * (1 + gain) + shift))
        x = self.norm("encoder/norm", x)
        shape = images.shape[:3]
        return x.mean((1, 2)).unflatten(0, shape), text, x.flatten(1, 2).unflatten(0, shape)

    def spatial(self, hidden: Any, patches: Any, given: dict[str, Any]) -> Any:
        reader, head = "head/reader", cast(SpatialConfig, self.config.head)
        places = given["places"]
        key = self.linear(f"{reader}/key", patches) + self.linear(f"{reader}/place", places)
        gain, shift = self.linear(f"{reader}/film", hidden)[:, :, None, None].chunk(2, -1)
        x = gelu(key * (1 + gain) + shift)
        wanted = self.linear(f"{reader}/query", hidden)
        scores = self.linear(f"{reader}/score", x)[..., 0] + torch.einsum("btkpw,btw->btkp", key, wanted) * (
            head.dim**-0.5
        )
        scores = torch.cat([scores, self.linear(f"{reader}/absent", x.mean(-2))], -1)
        attention = scores.softmax(-1)[..., :-1]
        attended = torch.einsum("btkp,btkpd->btkd", attention, patches)
        summary = torch.cat(
            [self.linear(f"{reader}/read", attended), attention @ places, attention.sum(-1, keepdim=True)], -1
        )
        out = self.mlp("head/pose", torch.cat([hidden, summary.flatten(2), attended.sum(2)], -1))
        heatmap = -(given["target_scores"] * scores.log_softmax(-1)).sum(-1).mean(-1)
        errors = (self.linear("head/offset", x) - given["target_offsets"]).abs().sum(-1)
        offset = (given["target_scores"][..., :-1] * errors).sum(-1).mean(-1)
        angles = out[..., :-1].unflatten(-1, (3, -1)).log_softmax(-1)
        shares = given["target_rotation"]
        rotation = -(shares * angles + torch.special.entr(shares)).sum(-1).mean(-1)
        gripper = functional.softplus(out[..., -1]) - given["target_gripper"] * out[..., -1]
        loss = head.heatmap_weight * heatmap + head.offset_weight * offset
        return loss + head.rotation_weight * rotation + head.gripper_weight * gripper


gelu = partial(functional.gelu, approximate="tanh")


def merge_cells(x: Any, factor: int) -> Any:
    """Stack each factor x factor cell into channels."""
    x = x.unflatten(2, (-1, factor)).unflatten(1, (-1, factor))
    return x.permute(0, 1, 3, 2, 4, 5).flatten(3)


def _as_torch_has_it(path: str, leaf: np.ndarray) -> Any:
    if path.endswith("kernel") and leaf.ndim == 4 and "query_key_value" not in path:
        return torch.tensor(leaf).permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    if path.endswith("query_key_value/kernel"):
        leaf = leaf.reshape(len(leaf), -1)
    elif path.endswith("out/kernel") and leaf.ndim == 3:
        leaf = leaf.reshape(-1, leaf.shape[-1])
    elif path.endswith("query_key_value/bias"):
        leaf = leaf.reshape(-1)
    return torch.tensor(np.ascontiguousarray(leaf.T if path.endswith("kernel") else leaf))


def random_batch(config: TrainConfig, length: int, text: int) -> Batch:
    """A batch of random images, or features with `text` numbers of the sentence, and random actions."""
    rng = np.random.default_rng(0)
    cached = config.head.kind == "regression"
    width = len(pooled_layers(config.encoder)) * config.encoder.dim
    features = FeatureSizes(width, text, None, "float32") if cached else None
    cameras, size = len(config.sim.cameras), config.sim.image_size
    batch = fake_batch(BatchSizes(config.training.batch_size, KEYFRAMES, cameras, size, length, features))
    batch.state[:] = rng.normal(size=batch.state.shape)
    batch.actions[:] = rng.normal(size=batch.actions.shape)
    batch.actions[..., :3] = rng.uniform((0.0, -0.3, 0.8), (0.5, 0.3, 1.3), size=(*batch.actions.shape[:2], 3))
    batch.actions[..., 3:7] /= np.linalg.norm(batch.actions[..., 3:7], axis=-1, keepdims=True)
    batch.actions[..., 7] = batch.actions[..., 7] > 0
    batch.extrinsics[..., 2, 3] = -1.0  # a metre above the workspace, looking along z
    if batch.features is not None:
        for values in (batch.features.pooled, batch.features.text):
            values[:] = rng.normal(size=values.shape)
    elif batch.images is not None:
        batch.images[:] = rng.integers(0, 256, batch.images.shape)
        batch.tokens[:, :5] = rng.integers(5, 50, (len(batch.tokens), 5))
        batch.text_padding_mask[:, 5:] = 1.0
    return batch


def torch_batch(config: TrainConfig, agent: Agent, batch: Batch) -> dict[str, Any]:
    """The same batch for the peer, with the head's targets and what does not depend on parameters."""
    steps, observations = batch.actions.shape[1], len(config.sim.cameras) + batch.state.shape[-1]
    arrays = {
        "state": batch.state,
        "action_features": action_features(batch.actions, agent.workspace),
        "position": sinusoid(np.arange(steps), config.policy.dim),
        "mask": attention_mask(steps, observations),
    }
    cameras = CameraParams(batch.intrinsics, batch.extrinsics, agent.image_size, agent.patch_side)
    targets = make_head(config.head, agent.workspace, dtype=np.float32).targets(batch.actions, cameras)
    targets = getattr(targets, "pose", targets)._asdict()
    arrays |= {f"target_{name}": value for name, value in targets.items()}
    if batch.features is not None:
        arrays |= {"pooled": batch.features.pooled, "text": batch.features.text}
    else:
        arrays |= {name: getattr(batch, name) for name in ("images", "tokens", "text_padding_mask")}
        arrays["places"] = patch_places(agent.patch_side)
    return {name: torch.tensor(np.asarray(value)) for name, value in arrays.items()}


def our_step(config: TrainConfig, agent: Agent, params: Any, batch: Batch) -> Callable[[], float]:
    """A function that makes one step and returns the loss before it."""
    optimizer = make_optimizer(config.optimizer, lambda _: config.optimizer.learning_rate)
    step = make_train_step(agent, optimizer, seed=0, token_dropout=0.0)
    held, given = [initial_state(params, optimizer)], jax.device_put(batch)

    def work() -> float:
        held[0], metrics = step(held[0], given, {})
        return float(metrics["loss"])

    return work


def torch_step(peer: Peer, given: dict[str, Any], *, compiled: bool) -> Callable[[], float]:
    """The same in PyTorch."""
    config, parameters = peer.config.optimizer, list(peer.params.values())
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, betas=(config.beta1, config.beta2),
                                  weight_decay=config.weight_decay, fused=True)  # fmt: skip
    loss = torch.compile(peer.loss) if compiled else peer.loss

    def work() -> float:
        optimizer.zero_grad(set_to_none=True)
        value = loss(given)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm or 1e9)
        optimizer.step()
        return float(value.detach())

    return work


def compare(name: str, *, eager_only: bool) -> None:
    """Print the ratios of one case.

    Raises:
        SystemExit: the two losses differ, so that they are not the same model.
    """
    config = compose("train", TrainConfig, list(CASES[name]))
    select_platform(config.hardware)
    tokenizer = make_tokenizer(config.encoder)
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    params = random_params(agent, dummy_batch(config, tokenizer), seed=0)
    batch = random_batch(config, tokenizer.length, len(params["policy"]["embed_text"]["kernel"]))
    if batch.features is not None:
        params = {part: tree for part, tree in params.items() if part != "encoder"}
    given, peer = torch_batch(config, agent, batch), Peer(config, params)
    ours, theirs = float(jax.jit(partial(agent_loss, agent))(params, batch)[0]), float(peer.loss(given).detach())
    if abs(ours - theirs) > 1e-4 * abs(ours):
        sys.exit(f"{name}: found losses {ours} and {theirs} of the same parameters; expected equal ones: correct Peer")
    works = {"ours": our_step(config, agent, params, batch), "eager": torch_step(peer, given, compiled=False)}
    if not eager_only:
        works["compiled"] = torch_step(Peer(config, params), given, compiled=True)
    rounds = alternate(works)
    cost = {kind: 1e3 * np.median(found, axis=0) for kind, found in rounds.items()}
    print(f"{name}: ours {cost['ours'][0]:.1f} ms of processor time a step, {cost['ours'][1]:.1f} ms of wall time")
    for kind in list(works)[1:]:
        processor, wall = (ratio(*pair) for pair in zip(rounds[kind].T, rounds["ours"].T, strict=True))
        took = f"{cost[kind][0]:.1f} and {cost[kind][1]:.1f} ms"
        print(f"  {kind} PyTorch {took}; over ours: processor {processor}, wall {wall}", flush=True)


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    names = [name for name in sys.argv[1:] if name != "--eager"] or list(CASES)
    unknown = [name for name in names if name not in CASES]
    if unknown:
        sys.exit(f"found {unknown[0]}; allowed: {', '.join(CASES)}")
    print(f"{cores} cores, load {os.getloadavg()[0]:.1f}, jax {jax.__version__}, torch {torch.__version__}")
    for name in names:
        compare(name, eager_only="--eager" in sys.argv)


if __name__ == "__main__":
    main()
