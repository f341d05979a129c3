"""Where a run's parameters come from before its first step: chance, a file of weights, another run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax

from instructrl.config import TrainConfig, differences
from instructrl.data.mirror import workshop
from instructrl.data.storage import place
from instructrl.data.tokenizer import Tokenizer, make_tokenizer
from instructrl.errors import InputError
from instructrl.models.encoder import by_name
from instructrl.schema import shown
from instructrl.training.encoder import kept_encoder, origin_of, with_weights
from instructrl.training.parameters import identity, write_parameters
from instructrl.training.paths import examples, matches, path_of
from instructrl.training.run_directory import check_agent, read_config, read_data
from instructrl.training.state import abstract_params, make_agent, merged, one_step, split
from instructrl.training.trained import EXPORTED, FROZEN, Trained, kept_parts, read_frozen, read_trained

Record = dict[str, dict[str, Any]]
WORDS = ("*/words", "*/word_weight", "*/text_embedding", "*/token_embedding")  # what belongs to one vocabulary
SHOWN = 4  # parameters, or settings, that an error names


def begin(config: TrainConfig, params: Any, tokenizer: Tokenizer, *, run: Path, resumes: bool) -> tuple[Any, Record]:
    """A run's parameters in place of the random ones, and what data.json says of where they are from.

    With `resumes` the trained ones are of no account, since a checkpoint follows; those that are frozen are the same
    as at the beginning.

    Raises:
        InputError: weights or the run to begin from are missing, damaged, changed, or do not fit.
    """
    record: Record = {}
    if config.init_from is not None and resumes:
        record["init_from"] = read_data(run).get("init_from", {})
    elif config.init_from is not None:
        params, record["init_from"] = inherited(config, params, tokenizer, run=run)
    elif config.encoder.weights is not None and not config.encoder.frozen:
        params = with_weights(config, params, tokenizer)
        record["encoder"] = origin_of(config, run).described()
    if config.encoder.frozen:
        params, origin = kept_encoder(config, params, tokenizer, run=run, resumes=resumes)
        record["encoder"] = origin.described()
    if kept_parts(config, split(params, config)[1]):
        params, record["frozen"] = kept_frozen(config, params, run=run, resumes=resumes)
    return params, record


def kept_frozen(config: TrainConfig, params: Any, *, run: Path, resumes: bool) -> tuple[Any, dict[str, Any]]:
    """The parameters with those that `training.freeze` keeps, from the run's file, and its entry of data.json."""
    trained, frozen = split(params, config)
    kept = kept_parts(config, frozen)
    if resumes:
        kept = read_frozen(run, like=kept)
        checksum = identity(kept)
    else:
        checksum = write_parameters(run / FROZEN, kept, about={})
    others = {name: part for name, part in frozen.items() if name not in kept}
    return merged(trained, {**kept, **others}), {"path": str(run / FROZEN), "checksum": checksum}


def inherited(config: TrainConfig, params: Any, tokenizer: Tokenizer, *, run: Path) -> tuple[Any, dict[str, Any]]:
    """The parameters with those of `init_from` in place of all that do not begin anew, and its entry of data.json.

    Raises:
        InputError: the other run cannot be read, does not fit, or is not what this one began with.
    """
    fresh = config.training.fresh or []
    with workshop(place(str(config.init_from), config.data), alone=False) as shop:
        source = read_trained(shop.folder, checkpoint=config.init_checkpoint, hardware=config.hardware)
    check_fit(config, params, tokenizer, source=source.config, other=source.params, theirs=source.tokenizer)
    checksum = identity(source.params)
    known = read_data(run).get("init_from", {}) if (run / "data.json").exists() else {}
    if known and known.get("checksum") != checksum:
        raise InputError(
            f"init_from: {config.init_from} is not what {run} began with (step {known.get('step')} then, {source.step} "
            "now); restore it, or add name=... for a new run"
        )
    if any(meant(path, fresh) for path in by_name(params["encoder"])):
        params = with_weights(config, params, tokenizer)
    leaves = by_name(source.params)

    def taken(keys: Any, leaf: Any) -> Any:
        path = path_of(keys)
        return leaf if meant(path, fresh) else leaves[path]

    print(told(config, params, source), flush=True)
    entry = {"path": str(config.init_from), "checksum": checksum, "step": source.step, "fresh": fresh}
    return jax.tree_util.tree_map_with_path(taken, params), entry


def told(config: TrainConfig, params: Any, source: Trained) -> str:
    """Where the parameters come from, in a line, and in which settings that run was another one."""
    fresh = sum(meant(path, config.training.fresh or []) for path in by_name(params))
    which = f"{config.init_checkpoint} checkpoint, step {source.step}"
    lines = settings_that_differ(source.config, config)
    other = f"; there -> here: {'; '.join(lines)}" if lines else ""
    return f"begins from {config.init_from} ({which}): {len(by_name(params)) - fresh} arrays, {fresh} anew{other}"


def check_beginning(config: TrainConfig, run: Path) -> None:
    """Look at `training.freeze` and `init_from` before any work is done; nothing is read but settings.

    Raises:
        InputError: a pattern means no parameter, or the other run is missing or does not fit.
    """
    if config.objective == "masked" or (run / "data.json").exists():
        return  # it has nothing of that, or began; whether it goes on as it did is told when it does
    tokenizer, params = described_agent(config)
    split(params, config)
    if config.init_from is None:
        return
    origin = place(config.init_from, config.data)
    if not isinstance(origin, Path):
        if not (origin / "config.yaml").exists():
            raise InputError(f"init_from: found no run at {origin}; give the directory of one, or of an exported agent")
        return
    if not origin.is_dir():
        raise InputError(f"init_from: found no directory {origin}; give that of a run, or of an exported agent")
    source = read_config(origin)
    check_agent(source, origin, key="init_from")
    source.hardware = config.hardware
    if not (origin / EXPORTED).exists() and not (origin / "checkpoints").is_dir():
        raise InputError(f"init_from: {origin} has no checkpoint yet; train it first")
    theirs, other = described_agent(source)
    check_fit(config, params, tokenizer, source=source, other=other, theirs=theirs)


def described_agent(config: TrainConfig) -> tuple[Tokenizer, Any]:
    """A run's tokenizer, and its agent's parameters as shapes."""
    tokenizer = make_tokenizer(config.encoder)
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    return tokenizer, abstract_params(agent, one_step(config, tokenizer))


def check_fit(
    config: TrainConfig, params: Any, tokenizer: Tokenizer, *, source: TrainConfig, other: Any, theirs: Tokenizer
) -> None:
    """Raise InputError unless the two agents have the same parameters but for those that begin anew.

    Args:
        config: of the run that begins.
        params: its parameters, or their shapes.
        tokenizer: its tokenizer.
        source: the settings of the run that it begins from.
        other: that run's parameters, or their shapes.
        theirs: its tokenizer.
    """
    fresh = config.training.fresh or []
    here, there = ({name: tuple(leaf.shape) for name, leaf in by_name(one).items()} for one in (params, other))
    both = sorted(here.keys() | there.keys())
    for pattern in fresh:
        if not any(matches(path, pattern) for path in both):
            raise InputError(
                f"training.fresh: found {shown(pattern)}, which no parameter matches here or there; "
                f"there are {examples(both)}"
            )
    if all(meant(path, fresh) for path in here):
        raise InputError(f"training.fresh: found {shown(fresh)}, which leaves nothing of init_from; leave that out")
    words = [path for path in here if meant(path, WORDS) and not meant(path, fresh)]
    if config.encoder.text and words and tokenizer.checksum != theirs.checksum:
        raise InputError(
            f"encoder.tokenizer: found {config.encoder.tokenizer} of {tokenizer.vocabulary_size} entries, but "
            f"{config.init_from} learnt with {source.encoder.tokenizer} of {theirs.vocabulary_size} others; take that, "
            f"or let the words begin anew with 'training.fresh={listed([*fresh, *smallest(words, both)])}'"
        )
    wrong = [path for path in both if here.get(path) != there.get(path) and not meant(path, fresh)]
    if wrong:
        raise misfit(config, source, wrong, here=here, there=there)


def misfit(
    config: TrainConfig,
    source: TrainConfig,
    wrong: Sequence[str],
    *,
    here: Mapping[str, tuple[int, ...]],
    there: Mapping[str, tuple[int, ...]],
) -> InputError:
    """The line for parameters that two agents do not share: which, why, and what to write."""

    def what(path: str) -> str:
        if path not in here or path not in there:
            return f"{path} only {'there' if path not in here else 'here'}"
        return f"{path} {there[path]} there and {here[path]} here"

    parts = listed([*(config.training.fresh or []), *smallest(wrong, sorted(here.keys() | there.keys()))])
    more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    settings = settings_that_differ(source, config)
    because = f" (there -> here: {'; '.join(settings)})" if settings else ""
    return InputError(
        f"init_from: {config.init_from} is another agent: {', '.join(map(what, wrong[:SHOWN]))}{more}{because}; "
        f"take its settings, or let these begin anew with 'training.fresh={parts}'"
    )


def settings_that_differ(source: TrainConfig, config: TrainConfig) -> list[str]:
    """Lines `key: there -> here` for what the agents are and see; the first few."""
    groups = ("encoder", "policy", "head", "task", "sim")
    there, here = ({group: asdict(getattr(one, group)) for group in groups} for one in (source, config))
    for one in (there, here):
        one["sim"] = {key: one["sim"][key] for key in ("cameras", "image_size")}
        one["task"] = {key: one["task"][key] for key in ("name",)}
        for key in ("weights", "frozen"):
            del one["encoder"][key]
    lines = differences(there, here)
    return lines[: 2 * SHOWN] + ([f"and {len(lines) - 2 * SHOWN} more"] if len(lines) > 2 * SHOWN else [])


def meant(path: str, patterns: Iterable[str]) -> bool:
    """Whether one of several patterns means a parameter."""
    return any(matches(path, pattern) for pattern in patterns)


def smallest(paths: Sequence[str], known: Sequence[str]) -> list[str]:
    """The fewest branches that hold these of the known paths and no others."""
    wanted, found = set(paths), []
    for path in paths:
        names = path.split("/")
        for length in range(1, len(names) + 1):
            branch = "/".join(names[:length])
            if all(other in wanted for other in known if matches(other, branch)):
                found.append(branch)
                break
    return list(dict.fromkeys(found))


def listed(patterns: Sequence[str]) -> str:
    """Patterns as a setting is written."""
    return f"[{','.join(patterns)}]"
