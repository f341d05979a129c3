"""Field constraints of the settings, their validation, and one-line messages for wrong keys and values.

A field's type and its metadata (`one_of`, `number`, `word`, `choice_list`, ...) say what it accepts and what it means.
Of the settings themselves this file only knows former names and common synonyms, for the messages. It needs no package:
the processes of a simulator with its own interpreter import it.
"""

import dataclasses
import difflib
import functools
import math
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import Field, field
from types import UnionType
from typing import Any

from instructrl.errors import InputError, format_value, shorten
from instructrl.redaction import is_confidential

MISSING = "???"  # OmegaConf's mark of a setting without a default

MAX_NAME_BYTES = 200  # file systems allow 255, and names of temporary files contain it

MAX_EPISODES = 1_000_000  # ranges of seeds of demonstrations and evaluations do not overlap

MAX_EPOCHS = 100_000

MAX_STEPS = 1_000_000_000

MAX_BATCH_SIZE = 65_536

MAX_VARIATION = 999_999

# Former names, current names. A command line or a YAML file that uses the former is refused with the current one;
# recorded configurations (a run's config.yaml) are read under both.
RENAMED_KEYS = {
    "training.fresh": "training.reinit",
    "training.sentences": "training.max_instructions",
    "optimizer.end_share": "optimizer.end_factor",
    "optimizer.encoder_rate": "optimizer.encoder_lr_scale",
    "optimizer.base_batch": "optimizer.base_batch_size",
    "optimizer.layer_decay": "optimizer.layer_lr_decay",
    "hardware.processes": "hardware.num_processes",
    "hardware.process": "hardware.process_id",
    "pretraining.pictures": "pretraining.num_visualized",
    "pretraining.canvas": "pretraining.load_size",
    "pretraining.image_mask": "pretraining.image_mask_ratio",
    "pretraining.text_mask": "pretraining.text_mask_ratio",
    "sim.tries": "sim.planner_attempts",
    "protocol.tries": "protocol.max_unreachable",
    "protocol.keyframes": "protocol.max_keyframes",
    "protocol.rows": "protocol.conditions",
    "rows": "conditions",
}

RENAMED_CONDITIONS = {
    "held_out": "held_out_instructions",
    "removed": "no_instruction",
    "swapped": "swapped_instruction",
}

RENAMED_PROTOCOLS = {"ours": "default"}

RENAMED_VALUES = {  # of a setting, of each item of a list, or of a group
    "conditions": RENAMED_CONDITIONS,
    "protocol": RENAMED_PROTOCOLS,
    "protocol.conditions": RENAMED_CONDITIONS,
    "protocol.name": RENAMED_PROTOCOLS,
    "objective": {"cloning": "behavior_cloning", "masked": "masked_pretraining"},
}

SYNONYMS = {  # last parts of keys that people type, and the setting that they mean
    "lr": "optimizer.learning_rate",
    "scheduler": "optimizer.schedule",
    "lr_scheduler": "optimizer.schedule",
    "wd": "optimizer.weight_decay",
    "grad_clip": "optimizer.clip_norm",
    "gradient_clip": "optimizer.clip_norm",
    "max_grad_norm": "optimizer.clip_norm",
    "warmup": "optimizer.warmup_epochs",
    "ema_decay": "optimizer.ema",
    "bs": "training.batch_size",
    "batch": "training.batch_size",
    "num_epochs": "training.epochs",
    "max_epochs": "training.epochs",
    "n_epochs": "training.epochs",
    "dropout": "training.token_dropout",
    "finetune": "init_from",
    "pretrained": "encoder.weights",
    "device": "hardware.platform",
    "dtype": "hardware.precision",
    "gpus": "hardware.local_devices",
    "num_gpus": "hardware.local_devices",
    "num_devices": "hardware.local_devices",
    "grad_accum": "hardware.accumulation",
    "gradient_accumulation": "hardware.accumulation",
    "gradient_accumulation_steps": "hardware.accumulation",
    "num_workers": "sim.workers",
    "world_size": "hardware.num_processes",
    "rank": "hardware.process_id",
    "max_steps": "training.epochs",
    "data_dir": "data.dir",
    "data_path": "data.dir",
    "hidden_dim": "policy.dim",
    "num_layers": "policy.depth",
    "num_heads": "policy.heads",
    "context_length": "policy.window",
    "num_episodes": "episodes",
}

MAX_TEXT_LENGTH = 1000  # characters

FLAGS = ("true", "false")

SHORT_TYPE_NAMES = {int: "integer", float: "number", bool: "true | false", str: "text"}

TYPE_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a text in one line, not empty"}


def setting(default: Any = MISSING, *, help: str = "") -> Any:
    """A field without constraints beyond its type; `help` says in a phrase what it means."""
    return field(default=default, metadata={"help": help})


def shell_lines(*, help: str = "") -> Any:
    """A field that accepts a list of shell lines, or null. They may set passwords and tokens, and are not recorded."""
    return field(default=None, metadata={"confidential": True, "help": help})


def word_list(*default: str, pattern: str, allowed: str, help: str = "") -> Any:
    """A field that accepts a list of distinct words, maybe none, that match a regular expression."""
    return field(default_factory=lambda: list(default), metadata={"pattern": pattern, "allowed": allowed, "help": help})


def pairs(*, keys: str, pattern: str, allowed: str, help: str = "") -> Any:
    """A field that accepts a dict of texts, numbers or flags; keys, and values as texts, match regular expressions.

    Its type must be `dict[str, Any]`. Dicts of several files and of the command line are merged.
    """
    limits = {"keys": keys, "pattern": pattern, "allowed": allowed, "help": help}
    return field(default_factory=dict, metadata=limits)


def is_pairs(entry: Field) -> bool:
    """Return True if a field accepts a dict of keys that no schema names."""
    return "keys" in entry.metadata


def one_of(*choices: str, default: Any = MISSING, help: str = "") -> Any:
    """A field that accepts one of the given words."""
    return field(default=default, metadata={"choices": choices, "help": help})


def word(pattern: str, allowed: str, *, default: Any = None, help: str = "") -> Any:
    """A field that accepts texts that match a regular expression, which `allowed` describes.

    For words that reach a shell, a scheduler, another program's options, a path or an address of the web: a quoted word
    is safe in a shell, but `..` still leaves a folder, a leading `-` is an option, and some programs replace `%`.
    """
    return field(default=default, metadata={"pattern": pattern, "allowed": allowed, "help": help})


def number(
    default: Any = MISSING,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: float = -math.inf,
    help: str = "",
) -> Any:
    """A field that accepts a finite number with low <= number <= high and number > above."""
    return field(default=default, metadata={"low": low, "high": high, "above": above, "help": help})


def choice_list(*default: str, choices: tuple[str, ...], help: str = "") -> Any:
    """A field that accepts a list of distinct words, at least one; on a command line also a single word."""
    return field(default_factory=lambda: list(default), metadata={"choices": choices, "help": help})


def number_list(
    *default: float,
    low: float = -math.inf,
    high: float = math.inf,
    above: float = -math.inf,
    help: str = "",
) -> Any:
    """A field that accepts a list of numbers, each constrained as by `number`; by default null, without numbers."""
    limits = {"low": low, "high": high, "above": above, "help": help}
    return field(default_factory=lambda: list(default) or None, metadata=limits)


def choice_or_integers(*choices: str, default: str, low: int, high: int, help: str = "") -> Any:
    """A field that accepts one of the given words, or a list of distinct integers with low <= integer <= high.

    Its type must be Any, which stands for `str | list[int]`: OmegaConf has no such union.
    """
    return field(default=default, metadata={"choices": choices, "integers": range(low, high + 1), "help": help})


def flag_or_word(*choices: str, default: bool, help: str = "") -> Any:
    """A field that accepts true, false or one of the given words; its type must be Any."""
    return field(default=default, metadata={"choices": choices, "flag": True, "help": help})


def takes_words(entry: Field) -> bool:
    """Return True if a field accepts a list of given words."""
    return "choices" in entry.metadata and typing.get_origin(unwrap_optional(entry)[0]) is list


def is_group(entry: Field) -> bool:
    """Return True if a field holds further settings."""
    return isinstance(entry.type, type) and dataclasses.is_dataclass(entry.type)


def leaves(schema: type) -> dict[str, Field]:
    """Every setting of a schema by its dotted key."""
    return dict(_leaves(typing.cast(Any, schema)))


@functools.cache
def _leaves(schema: type) -> tuple[tuple[str, Field], ...]:
    found: list[tuple[str, Field]] = []
    for entry in dataclasses.fields(schema):
        if is_group(entry):
            found += [(f"{entry.name}.{key}", below) for key, below in _leaves(typing.cast(Any, entry.type))]
        else:
            found.append((entry.name, entry))
    return tuple(found)


def flatten(values: Any, prefix: str = "", *, separator: str = ".") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dicts by their dotted keys."""
    if not isinstance(values, dict):
        yield prefix, values
        return
    for key, value in values.items():
        yield from flatten(value, f"{prefix}{separator}{key}" if prefix else f"{key}", separator=separator)


def group_keys(schema: type) -> set[str]:
    """The dotted keys of all groups of a schema, those that hold nothing but groups included."""
    return {key[: dot.start()] for key in leaves(schema) for dot in re.finditer(r"\.", key)}


def known_keys(schema: type) -> list[str]:
    """Every dotted key of a schema, groups included."""
    return sorted(group_keys(schema) | set(leaves(schema)))


def describe_allowed(entry: Field) -> str:
    """The values that a field accepts, as text."""
    kind, optional = unwrap_optional(entry)
    limits = entry.metadata
    if is_pairs(entry):
        text = f"a dict like {{KEY: VALUE}} of {limits['allowed']}"
    elif "integers" in limits:
        among = f"integers from {limits['integers'][0]} to {limits['integers'][-1]}"
        text = f"{', '.join(limits['choices'])}, or a list of {among}, without repetition"
    elif typing.get_origin(kind) is list and "low" in limits:
        text = f"a list of numbers {describe_bounds(limits)}"
    elif typing.get_origin(kind) is list and "pattern" in limits:
        text = f"a list like [A,B] of {limits['allowed']}, without repetition"
    elif typing.get_origin(kind) is list:
        [item] = typing.get_args(kind)
        example = "[0,1]" if item is int else "[a,b]"
        of = f"of {', '.join(limits['choices'])}" if "choices" in limits else f"like {example}"
        text = f"a list {of}, without repetition"
    elif "choices" in limits:
        text = ", ".join([*FLAGS * ("flag" in limits), *limits["choices"]])
    elif "pattern" in limits:
        text = limits["allowed"]
    else:
        text = f"{TYPE_NAMES[kind]} {describe_bounds(limits)}".strip()
    return f"{text}, or null" if optional else text


def summarize_allowed(entry: Field) -> str:
    """The values that a field accepts in short notation for the help, like `integer 1..64 | null`."""
    kind, optional = unwrap_optional(entry)
    limits = entry.metadata
    low, high, above = (limits.get(name, math.inf) for name in ("low", "high", "above"))
    bounds = f"{low:.12g}..{high:.12g}" if math.isfinite(low) and math.isfinite(high) else ""
    bounds = bounds or " ".join(
        [f">= {low:.12g}"] * math.isfinite(low)
        + [f"> {above:.12g}"] * math.isfinite(above)
        + [f"<= {high:.12g}"] * math.isfinite(high)
    )
    if is_pairs(entry):
        options = ["{KEY: VALUE}"]
    elif "integers" in limits:
        options = [*limits["choices"], "list of integers"]
    elif "choices" in limits:
        options = [*FLAGS * ("flag" in limits), *limits["choices"]]
    else:
        item = typing.get_args(kind)[0] if typing.get_origin(kind) is list else kind
        text = f"{SHORT_TYPE_NAMES[item]} {bounds}".strip()
        options = [text if item is kind else f"list of {text}"]
    text = " | ".join([*options, *["null"] * optional])
    return f"list of {text}" if "choices" in limits and typing.get_origin(kind) is list else text


def describe_bounds(limits: Mapping[str, Any]) -> str:
    """A field's bounds as text; empty without any."""
    low, high, above = (limits.get(name, math.inf) for name in ("low", "high", "above"))
    found = [f"at least {low:.12g}"] * math.isfinite(low) + [f"above {above:.12g}"] * math.isfinite(above)
    return " and ".join(found + [f"at most {high:.12g}"] * math.isfinite(high))


def is_union(kind: Any) -> bool:
    """Return True for a type such as `int | None`, also as `Optional[int]`."""
    return typing.get_origin(kind) in (UnionType, typing.Union)


def unwrap_optional(entry: Field) -> tuple[Any, bool]:
    """A field's type without `| None`, and True if it had that."""
    options = typing.get_args(entry.type) if is_union(entry.type) else (entry.type,)
    [kind] = [option for option in options if option is not type(None)]
    return kind, type(None) in options


def number_ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Increasing numbers as ranges without a gap, the first and the last of each: 0, 1, 2, 5 are (0, 2), (5, 5)."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1] = found[-1][0], number
        else:
            found.append((number, number))
    return found


def renamed_value(key: str, value: Any) -> str | None:
    """The current name of a value of a setting, or of one of a list's items; None if it was never renamed."""
    table = RENAMED_VALUES.get(key, {})
    found = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)]
    return next((f"{item} is now called {table[item]}" for item in found if item in table), None)


def invalid_value(key: str, value: Any, entry: Field) -> InputError:
    """An InputError that names the setting, the value found and the values allowed."""
    renamed = renamed_value(key, value)
    beside = f" ({renamed})" if renamed else ""
    return InputError(f"{key}: found {format_value(value)}{beside}; allowed: {describe_allowed(entry)}", key=key)


def with_current_name(override: str) -> str:
    """A recorded override, KEY=VALUE, with former names of the setting and its values replaced by the current ones."""
    key, equals, value = override.partition("=")
    key = RENAMED_KEYS.get(key, key)
    return f"{key}{equals}{replace_items(value, RENAMED_VALUES.get(key, {}))}"


def with_former_name(override: str) -> str:
    """The inverse of `with_current_name`."""
    key, equals, value = override.partition("=")
    former_values = {current: former for former, current in RENAMED_VALUES.get(key, {}).items()}
    former_keys = {current: former for former, current in RENAMED_KEYS.items()}
    return f"{former_keys.get(key, key)}{equals}{replace_items(value, former_values)}"


def replace_items(text: str, table: Mapping[str, str]) -> str:
    """Replace each item of a value, a single one or a list like [a,b], that the table contains."""
    return re.sub(r"[^][,\s'\"]+", lambda match: table.get(match[0], match[0]), text) if table else text


def subdict(values: Any, names: list[str]) -> dict[Any, Any]:
    """The dict at a path of keys in nested dicts; an empty one if there is none."""
    for name in names:
        values = values.get(name) if isinstance(values, dict) else None
    return values if isinstance(values, dict) else {}


def check_literals(values: Any, key: str = "") -> None:
    """Raise InputError for a resolved value with `${`: it was escaped, and OmegaConf would resolve it a second time."""
    if isinstance(values, dict):
        for name, value in values.items():
            check_literals(value, f"{key}.{name}" if key else str(name))
    elif "${" in str(values):
        line = f"{key}: found {format_value(values)}; allowed: ${{...}} without a backslash, or no ${{"
        raise InputError(line, key=key)


def check_values(values: Any, schema: type) -> None:
    """Raise InputError for a group of settings in place of a value, for which OmegaConf does not name the key."""
    for key, entry in leaves(schema).items():
        *path, name = key.split(".")
        value = subdict(values, path).get(name)
        if isinstance(value, dict) and not is_pairs(entry):
            names = shorten(", ".join(map(str, value)))
            line = f"{key}: found a group of settings ({names}); allowed: {describe_allowed(entry)}"
            raise InputError(line, key=key)


def check_fields(config: Any, prefix: str = "") -> None:
    """Raise InputError naming the first field whose value lies outside what its metadata allow."""
    for entry in dataclasses.fields(config):
        key, value = prefix + entry.name, getattr(config, entry.name)
        if "confidential" not in entry.metadata:
            check_not_confidential(key, value)
        if dataclasses.is_dataclass(value):
            check_fields(value, key + ".")
        elif value is not None or "integers" in entry.metadata:
            check_field(key, value, entry)


def check_not_confidential(key: str, value: Any) -> None:
    """Raise InputError for a text, or a list with one, that contains a password or a token: settings are recorded."""
    texts = [f"{name}={item}" for name, item in value.items()] if isinstance(value, dict) else value
    for text in texts if isinstance(texts, list) else [texts]:
        if isinstance(text, str) and is_confidential(text):
            raise InputError(
                f"{key}: found a password or a token ({format_value(text)}), but settings are recorded; allowed: one "
                "in a variable of the environment, such as WANDB_API_KEY, HF_TOKEN or HTTPS_PROXY, which jobs get too"
            )


def check_field(key: str, value: Any, entry: Field) -> None:
    """Raise InputError if one value of the right type is out of bounds, not a choice, or no usable text."""
    limits = entry.metadata
    if is_pairs(entry):
        for name, item in value.items():
            check_pair(key, name, item, entry)
        return
    if "integers" in limits and isinstance(value, list):
        valid = bool(value) and all(type(item) is int and item in limits["integers"] for item in value)
        valid = valid and len(set(value)) == len(value)
    elif isinstance(value, list) and "low" in limits:
        valid = bool(value) and all(in_bounds(item, limits) for item in value)
    elif isinstance(value, list) and "pattern" in limits:
        valid = len(set(value)) == len(value) and all(re.fullmatch(limits["pattern"], item) for item in value)
    elif isinstance(value, list):
        valid = bool(value) and all(isinstance(item, int | str) for item in value)
        valid = valid and len(set(value)) == len(value) and set(value) <= set(limits.get("choices", value))
    elif "choices" in limits:
        valid = value in limits["choices"] or ("flag" in limits and isinstance(value, bool))
    elif "low" in limits:
        valid = in_bounds(value, limits)
    else:
        valid = not isinstance(value, str) or (value.strip() == value != "" and value.isprintable())
        valid = valid and (not isinstance(value, str) or len(value) <= MAX_TEXT_LENGTH)
        valid = valid and ("pattern" not in limits or re.fullmatch(limits["pattern"], value) is not None)
    if not valid:
        raise invalid_value(key, value, entry)


def check_pair(key: str, name: Any, value: Any, entry: Field) -> None:
    """Raise InputError if one key of a dict, or its value, is not allowed; null takes a pair away."""
    limits, text = entry.metadata, str(value).lower() if isinstance(value, bool) else str(value)
    valid = isinstance(name, str) and re.fullmatch(limits["keys"], name) is not None
    if value is not None:
        valid = valid and isinstance(value, str | int | float) and text.isprintable() and len(text) <= MAX_TEXT_LENGTH
        valid = valid and re.fullmatch(limits["pattern"], text) is not None
    if not valid:
        raise invalid_value(key, {name: value}, entry)


def in_bounds(value: Any, limits: Mapping[str, Any]) -> bool:
    """Return True if a value is a finite number within a field's bounds."""
    finite = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return finite and limits["low"] <= value <= limits["high"] and value > limits["above"]


def unknown_key(key: str, schema: type) -> str:
    """One line for a key that the schema does not have: its current name, the nearest known ones, or its siblings."""
    keys = known_keys(schema)
    if RENAMED_KEYS.get(key, "").partition(".")[0] in keys:  # its group, of which another kind may have it
        return f"{key}: is now called {RENAMED_KEYS[key]}; write {RENAMED_KEYS[key]}=..."
    above, _, name = key.rpartition(".")
    if above in keys and is_pairs(leaves(schema).get(above, field())):  # type: ignore[arg-type]
        return f"{format_value(key)}: no such setting; write '{above}={{{name}: VALUE}}'"
    similar = similar_keys(key, keys)
    if similar:
        return f"{format_value(key)}: no such setting; did you mean {' or '.join(similar)}?"
    parent = key
    while parent and parent not in keys:
        parent = parent.rpartition(".")[0]
    siblings = [known for known in keys if known.rpartition(".")[0] == parent] or [parent]
    scope = f"in {parent}" if parent else "here"
    return f"{format_value(key)}: no such setting; allowed {scope}: {', '.join(siblings)}"


def similar_keys(key: str, keys: list[str]) -> list[str]:
    """At most two known keys that a wrong one may stand for: a synonym, or like it in its group, name or spelling."""
    group, _, name = key.rpartition(".")
    if SYNONYMS.get(name) in keys:
        return [SYNONYMS[name]]
    siblings = [known.rpartition(".")[2] for known in keys if group and known.rpartition(".")[0] == group]
    if close := difflib.get_close_matches(name, siblings, n=1, cutoff=0.85):
        return [f"{group}.{close[0]}"]
    same_name = [known for known in keys if known.endswith(f".{name}")]
    if len(same_name) == 1 or (same_name and "." not in key):
        return same_name[:2]
    others = [known for known in keys if not key.startswith(f"{known}.")]  # not the group of training.nonsense
    found = difflib.get_close_matches(key, others, n=2, cutoff=0.8) or same_name[:2]
    if not found and len(name) > 3:  # of shorter ones, too many are near
        near = difflib.get_close_matches(name, {known.rpartition(".")[2] for known in keys}, n=1, cutoff=0.8)
        found = [known for known in keys if [known.rpartition(".")[2]] == near][:2]
    return found
