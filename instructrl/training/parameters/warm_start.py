"""Parameter initialization: random, pretrained weights, or warm start from another run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import jax
from jax.tree_util import KeyPath
from jaxtyping import Array

from instructrl.config.fields import format_value
from instructrl.config.resolve import differences
from instructrl.config.training import TrainConfig
from instructrl.data.text.tokenizer import Tokenizer, make_tokenizer
from instructrl.errors import InputError
from instructrl.models.parameter_files import flatten_params, params_checksum, write_parameters
from instructrl.storage.paths import storage_path
from instructrl.storage.synced_dir import working_dir
from instructrl.training.model_factory import abstract_params, dummy_batch, make_agent
from instructrl.training.param_paths import example_paths, matches, path_of
from instructrl.training.parameters.encoder_weights import (
    check_encoder_files,
    load_encoder_weights,
    store_frozen_encoder,
    weight_source,
)
from instructrl.training.parameters.load_agent import (
    AGENT_FILE,
    FROZEN_FILE,
    LoadedAgent,
    agent_words,
    load_agent,
    read_frozen,
    run_frozen_params,
)
from instructrl.training.parameters.training_words import WORDS_FILE, write_words
from instructrl.training.run_dir import DataEntry, DataRecord, check_agent, read_config, read_data
from instructrl.training.state import merge_params, split_params
from instructrl.training.types import Params

VOCABULARY_PARAMS = ("*/words", "*/word_weight", "*/text_embedding", "*/token_embedding")  # one row per token
MAX_LISTED = 4  # parameters or settings named in an error message


def init_params(
    config: TrainConfig, params: Params, tokenizer: Tokenizer, *, run: Path, resuming: bool
) -> tuple[Params, DataRecord]:
    """Replace random parameters by those that the settings name; returns them and their entries of data.json.

    If `resuming`, the trainable parameters are placeholders: a checkpoint overwrites them. Frozen parameters are
    those with which the run started.

    Raises:
        InputError: the weights or the run `init_from` are missing, damaged, changed, or incompatible.
    """
    record: DataRecord = {}
    if config.init_from is not None and resuming:
        record["init_from"] = read_data(run).get("init_from", {})
    elif config.init_from is not None:
        params, record["init_from"] = warm_start(config, params, tokenizer, run=run)
    elif config.encoder.weights is not None and not config.encoder.frozen:
        params = load_encoder_weights(config.encoder, params, tokenizer)
        record["encoder"] = weight_source(config.encoder, run, init_from=config.init_from).record()
    if config.encoder.frozen:
        params, origin = store_frozen_encoder(
            config.encoder,
            params,
            tokenizer,
            run=run,
            rendered_size=config.sim.image_size,
            resuming=resuming,
            seed=config.seed,
            init_from=config.init_from,
        )
        record["encoder"] = origin.record()
    if run_frozen_params(config.encoder, split_params(params, config.training, config.encoder)[1]):
        params, record["frozen"] = store_frozen(config, params, run=run, resuming=resuming)
    return params, record


def record_words(config: TrainConfig, run: Path, words: frozenset[str], *, resuming: bool) -> None:
    """Record the words of a run's instructions, with those of the run that it starts from, unless that was done.

    If it starts from one that did not record its own, nothing is recorded, as the agent's words are not known.
    """
    if (run / WORDS_FILE).exists():
        return
    if config.init_from is not None and resuming:
        return  # begun before words were recorded, and the run that it started from may be gone
    if config.init_from is not None:
        with working_dir(storage_path(config.init_from, config.data), exclusive=False) as work_dir:
            before = agent_words(work_dir.folder)
        if before is None:
            return
        words |= before
    write_words(run, words)


def store_frozen(config: TrainConfig, params: Params, *, run: Path, resuming: bool) -> tuple[Params, DataEntry]:
    """Write the parameters that `training.freeze` selects to the run's file, or read them back if `resuming`.

    Returns:
        All parameters, and the file's entry of data.json.
    """
    trained, frozen = split_params(params, config.training, config.encoder)
    stored = run_frozen_params(config.encoder, frozen)
    if resuming:
        stored = read_frozen(run, like=stored)
        checksum = params_checksum(stored)
    else:
        checksum = write_parameters(run / FROZEN_FILE, stored, metadata={})
    others = {name: part for name, part in frozen.items() if name not in stored}
    return merge_params(trained, {**stored, **others}), DataEntry(path=str(run / FROZEN_FILE), checksum=checksum)


def warm_start(config: TrainConfig, params: Params, tokenizer: Tokenizer, *, run: Path) -> tuple[Params, DataEntry]:
    """Replace all parameters outside `training.reinit` by those of `init_from`; returns them and the data.json entry.

    Raises:
        InputError: the source run cannot be read, is incompatible, or has changed since this run started.
    """
    reinit = config.training.reinit or []
    with working_dir(storage_path(str(config.init_from), config.data), exclusive=False) as work_dir:
        source = load_agent(work_dir.folder, checkpoint=config.init_checkpoint, hardware=config.hardware)
    check_compatible(
        config,
        params,
        tokenizer,
        source=source.config,
        source_params=source.params,
        source_tokenizer=source.tokenizer,
    )
    checksum = params_checksum(source.params)
    known = read_data(run).get("init_from", {}) if (run / "data.json").exists() else {}
    if known and known.get("checksum") != checksum:
        raise InputError(
            f"init_from: {config.init_from} has changed since {run} started from it (step {known.get('step')} then, "
            f"{source.step} now); restore it, or add name=... for a new run"
        )
    if any(matches_any(path, reinit) for path in flatten_params(params["encoder"])):
        params = load_encoder_weights(config.encoder, params, tokenizer)
    leaves = flatten_params(source.params)

    def select(keys: KeyPath, leaf: Array) -> Array:
        path = path_of(keys)
        return leaf if matches_any(path, reinit) else leaves[path]

    print(describe_warm_start(config, params, source), flush=True)
    entry = DataEntry(path=str(config.init_from), checksum=checksum, step=source.step, fresh=reinit)
    return jax.tree_util.tree_map_with_path(select, params), entry


def describe_warm_start(config: TrainConfig, params: Params, source: LoadedAgent) -> str:
    """One line on the source of the parameters, with the settings in which the source run differs."""
    reinitialized = sum(matches_any(path, config.training.reinit or []) for path in flatten_params(params))
    checkpoint = f"{config.init_checkpoint} checkpoint, step {source.step}"
    lines = differing_settings(source.config, config)
    differing = f"; there -> here: {'; '.join(lines)}" if lines else ""
    loaded = len(flatten_params(params)) - reinitialized
    return (
        f"warm start from {config.init_from} ({checkpoint}): {loaded} arrays loaded, {reinitialized} re-initialized"
        f"{differing}"
    )


def check_initialization(config: TrainConfig, run: Path) -> None:
    """Validate the encoder's weights, `training.freeze` and `init_from` before any work starts, from settings alone.

    Raises:
        InputError: the weights are of other names or shapes, a pattern matches no parameter, or the source run is
            missing or incompatible.
    """
    if (run / "data.json").exists():
        return  # a run that already started is compared when it resumes
    if config.init_from is None:
        check_encoder_files(config.encoder, make_tokenizer(config.encoder))
    if config.objective == "masked_pretraining":
        return  # which has neither of the other settings
    tokenizer, params = abstract_agent(config)
    split_params(params, config.training, config.encoder)
    if config.init_from is None:
        return
    origin = storage_path(config.init_from, config.data)
    if not isinstance(origin, Path):
        if not (origin / "config.yaml").exists():
            raise InputError(f"init_from: no run found at {origin}; give the directory of a run or an exported agent")
        return
    if not origin.is_dir():
        raise InputError(f"init_from: found no directory {origin}; give the directory of a run or of an exported agent")
    source = read_config(origin)
    check_agent(source, origin, key="init_from")
    source.hardware = config.hardware
    if not (origin / AGENT_FILE).exists() and not (origin / "checkpoints").is_dir():
        raise InputError(f"init_from: {origin} has no checkpoint yet; train it first")
    agent_words(origin)  # opens the file of an exported agent
    source_tokenizer, source_params = abstract_agent(source)
    check_compatible(
        config, params, tokenizer, source=source, source_params=source_params, source_tokenizer=source_tokenizer
    )


def abstract_agent(config: TrainConfig) -> tuple[Tokenizer, Params]:
    """The tokenizer of a run, and the shapes of its agent's parameters."""
    tokenizer = make_tokenizer(config.encoder)
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    return tokenizer, abstract_params(agent, dummy_batch(config, tokenizer))


def check_compatible(
    config: TrainConfig,
    params: Params,
    tokenizer: Tokenizer,
    *,
    source: TrainConfig,
    source_params: Params,
    source_tokenizer: Tokenizer,
) -> None:
    """Raise InputError unless both agents' parameter trees match outside `training.reinit`.

    Args:
        config: settings of the new run.
        params: its parameters, or their shapes.
        tokenizer: its tokenizer.
        source: settings of the run that it starts from.
        source_params: that run's parameters, or their shapes.
        source_tokenizer: that run's tokenizer.
    """
    reinit = config.training.reinit or []
    here, there = (
        {name: tuple(leaf.shape) for name, leaf in flatten_params(tree).items()} for tree in (params, source_params)
    )
    both = sorted(here.keys() | there.keys())
    for pattern in reinit:
        if not any(matches(path, pattern) for path in both):
            raise InputError(
                f"training.reinit: found {format_value(pattern)}, which no parameter matches here or there; "
                f"there are {example_paths(both)}"
            )
    if all(matches_any(path, reinit) for path in here):
        raise InputError(
            f"training.reinit: found {format_value(reinit)}, which leaves nothing of init_from; leave init_from out"
        )
    words = [path for path in here if matches_any(path, VOCABULARY_PARAMS) and not matches_any(path, reinit)]
    if config.encoder.text and words and tokenizer.checksum != source_tokenizer.checksum:
        patterns = format_patterns([*reinit, *minimal_patterns(words, both)])
        raise InputError(
            f"encoder.tokenizer: found {config.encoder.reader.tokenizer} with {tokenizer.vocabulary_size} entries, but "
            f"{config.init_from} was trained with {source.encoder.reader.tokenizer}, which has "
            f"{source_tokenizer.vocabulary_size} other ones; use that tokenizer, or re-initialize the embeddings with "
            f"'training.reinit={patterns}'"
        )
    mismatched = [path for path in both if here.get(path) != there.get(path) and not matches_any(path, reinit)]
    if mismatched:
        raise mismatch_error(config, source, mismatched, here=here, there=there)


def mismatch_error(
    config: TrainConfig,
    source: TrainConfig,
    mismatched: Sequence[str],
    *,
    here: Mapping[str, tuple[int, ...]],
    there: Mapping[str, tuple[int, ...]],
) -> InputError:
    """InputError for parameters that two agents do not share: their paths, the cause, and the setting to use."""

    def describe(path: str) -> str:
        if path not in here or path not in there:
            return f"{path} only {'there' if path not in here else 'here'}"
        return f"{path} {there[path]} there and {here[path]} here"

    patterns = format_patterns(
        [*(config.training.reinit or []), *minimal_patterns(mismatched, sorted(here.keys() | there.keys()))]
    )
    more = f" and {len(mismatched) - MAX_LISTED} more" if len(mismatched) > MAX_LISTED else ""
    settings = differing_settings(source, config)
    cause = f" (there -> here: {'; '.join(settings)})" if settings else ""
    listed = ", ".join(map(describe, mismatched[:MAX_LISTED]))
    return InputError(
        f"init_from: the parameters of {config.init_from} do not match: {listed}{more}{cause}; "
        f"use its settings, or re-initialize these parameters with 'training.reinit={patterns}'"
    )


def differing_settings(source: TrainConfig, config: TrainConfig) -> list[str]:
    """Lines `key: there -> here` for settings of the agent and its inputs that differ; the first few."""
    groups = ("encoder", "policy", "head", "task", "sim")
    there, here = ({group: asdict(getattr(one, group)) for group in groups} for one in (source, config))
    for one in (there, here):
        one["sim"] = {key: one["sim"][key] for key in ("cameras", "image_size", "workspace", "state")}
        one["task"] = {key: one["task"][key] for key in ("name",)}
        for key in ("weights", "frozen"):
            del one["encoder"][key]
    lines = differences(there, here)
    return lines[: 2 * MAX_LISTED] + (
        [f"and {len(lines) - 2 * MAX_LISTED} more"] if len(lines) > 2 * MAX_LISTED else []
    )


def matches_any(path: str, patterns: Iterable[str]) -> bool:
    """Return True if one of several patterns matches a parameter's path."""
    return any(matches(path, pattern) for pattern in patterns)


def minimal_patterns(paths: Sequence[str], known: Sequence[str]) -> list[str]:
    """The fewest patterns that match these of the known paths and no others."""
    wanted, found = set(paths), []
    for path in paths:
        names = path.split("/")
        for length in range(1, len(names) + 1):
            branch = "/".join(names[:length])
            if all(other in wanted for other in known if matches(other, branch)):
                found.append(branch)
                break
    return list(dict.fromkeys(found))


def format_patterns(patterns: Sequence[str]) -> str:
    """Format patterns as the value of a setting."""
    return f"[{','.join(patterns)}]"
