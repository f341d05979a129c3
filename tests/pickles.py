"""M3AE's training state as pickled by its authors: by cloudpickle, with TrainState, optimizer and functions."""

import sys
import types
from typing import Any

import cloudpickle
import flax
import jax
import optax
from flax.training.train_state import TrainState

from instructrl.models.m3ae import M3AE
from tests import encoders
from tests.encoders import M3AE_TINY, M3AE_WORDS

PARAMS = encoders.nested(encoders.published(encoders.golden("m3ae_tiny")))


def train_state_class(module: str) -> type:
    """Stand-in for the published M3AETrainState; it cannot be imported, so cloudpickle includes the class itself."""

    class M3AETrainState(TrainState):
        tokenizer_params: Any = None

        def norm(self) -> Any:
            return optax.global_norm(self.params)

    M3AETrainState.__module__, M3AETrainState.__qualname__ = module, "M3AETrainState"
    return M3AETrainState


def training_state(params: Any, *, kind: type, bound: bool = True) -> dict[str, Any]:
    """Content of the pickle: the state with two moments per parameter, closures, and a bound method of a model."""
    schedule = optax.warmup_cosine_decay_schedule(0, 1e-3, 10, 100)
    decayed = {"cls_token", "bias"}

    def mask(tree: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in decayed, tree)

    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.95, weight_decay=0.05, mask=mask))
    model = M3AE(M3AE_TINY, M3AE_WORDS)
    state = kind.create(params=params, tx=tx, apply_fn=model.apply if bound else None, tokenizer_params=None)
    state = jax.device_get(state)
    return {"step": 1234, "epoch": 49, "variant": {"seed": 42, "m3ae.model_type": "tiny"}, "state": state}


def published_pickle(
    params: Any = None, *, protocol: int = 5, by_reference: bool = False, keep: bool = False, bound: bool = True
) -> bytes:
    """Pickle a training state, with its class included or by reference; `keep` keeps jax arrays unchanged."""
    params = PARAMS if params is None else params
    module = "m3ae.model" if by_reference else "__main__"
    kind = train_state_class(module)
    content = training_state(params, kind=kind, bound=bound)
    if keep:
        content["state"] = content["state"].replace(params=params)
    if not by_reference:
        return cloudpickle.dumps(content, protocol=protocol)
    package, model = types.ModuleType("m3ae"), types.ModuleType("m3ae.model")
    model.M3AETrainState = kind  # type: ignore[attr-defined]
    sys.modules |= {"m3ae": package, "m3ae.model": model}
    try:
        return cloudpickle.dumps(content, protocol=protocol)
    finally:
        del sys.modules["m3ae"], sys.modules["m3ae.model"]


def frozen(params: Any) -> Any:
    """Convert a tree to flax's FrozenDict."""
    return flax.core.freeze(params)
