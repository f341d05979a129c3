"""Random overrides: a valid configuration or an error of one line, for every command."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from instructrl.cli.compose import compose, hydra_compose, merge, schema_of
from instructrl.cli.overrides import groups, options
from instructrl.config.fields import format_value, known_keys
from instructrl.config.kinds import chosen_kinds, specialize
from instructrl.config.resolve import without_types
from instructrl.config.training import TrainConfig
from instructrl.errors import InputError
from tests.fixtures.settings import REQUIRED, SCHEMAS, every_leaf

KEYS = sorted(
    {*(key for schema in SCHEMAS.values() for key in (*known_keys(schema), *every_leaf(schema))), *groups("train")}
)
OPTIONS = {option for name in SCHEMAS for group in groups(name) for option in options(group)}
WORDS = sorted(OPTIONS | {"abc", "front", "wrist", "trained", "off", "auto", "best"})
ODD = [
    "", "''", "' '", "null", "???", "nan", "inf", "-inf", "true", "False", "[]", "{}", "[1,[2]]", "{a: 1}", "{1: 2}",
    "[front,front]", "[front,{a: b}]", "a,b", "1,2", "choice(1,2)", "range(0,3)", "interval(0,1)", "glob(*)",
    "shuffle(1,2)", "sort(3,1)", "int(3.7)", "int(x)", "str(3)", "float(1)", "bool(1)", "tag(t, 1)", "extend_list(1)",
    "${seed}", "${name}", "${x.y}", "${}", "${", "${oc.env:HOME}", "${oc.env:NO_SUCH,3}", "${oc.env:NO_SUCH}",
    "${oc.env:NO_SUCH,null}", "${now:%Y}", "${hydra:job.name}", "${oc.decode:'['}", "${oc.dict.keys:policy}",
    "${policy}", "${.name}", "${..seed}", "${oc.create:[1]}", "${oc.select:x,3}", "'${seed}'", r"\${seed}", "$x",
    "a b", "a=b", "a:b", "\"a\nb\"", "'a\tb'", "a\nb", "\x00", "é", "日本", "🤖", "'\u200b'", "\\", "(", ")", "[", "]",
    "{", "}", "'", '"', ",", "=", "@", "~", "+", "../x", "/abs", ".", "..", "1e400", "1e-400", "-0.0", "1_000",
    "0x10", "9" * 30, "9" * 400, "9" * 5000, "-1", "0", "3.0", "x" * 3000, "hydra", "[null]", "[true,1]", "[1.5]",
]  # fmt: skip
PREFIXES = ["", "", "", "", "", "", "+", "++", "~", "/", "-", "@"]


def misspelled(key: str, at: int) -> str:
    at %= max(len(key), 1)
    return key[:at] + key[at + 1 :]


def plausible(key: str) -> st.SearchStrategy[str]:
    """A plausible value of a key."""
    if key in groups("train"):
        return st.sampled_from([*options(key), *options("policy")])
    fields = [every_leaf(schema)[key] for schema in SCHEMAS.values() if key in every_leaf(schema)]
    choices = list(fields[0].metadata.get("choices", [])) if fields else []
    listed = fields and "list" in str(fields[0].type)
    if choices:
        return st.lists(st.sampled_from(choices), max_size=4).map(lambda some: f"[{','.join(some)}]") if listed else (
            st.sampled_from(choices))  # fmt: skip
    if listed:
        return st.lists(st.integers(-1, 30), max_size=3).map(str)
    return st.one_of(st.integers(-1, 128).map(str), st.floats(0, 2).map(str), st.sampled_from(WORDS))


STRANGE = [
    "hydra", "hydra.run.dir", "hydra.verbose", "hydra/launcher", "hydra.job.chdir", "hydra.mode", "hydra/x", "", " ",
    "a b", "é", "_target_", "defaults", "__class__", "sim.cameras[0]", "sim.cameras.0", "policy/vit_base", ".",
]  # fmt: skip
keys = st.one_of(
    st.sampled_from(KEYS),
    st.builds(misspelled, st.sampled_from(KEYS), st.integers(0, 30)),
    st.builds("{}.{}".format, st.sampled_from(KEYS), st.sampled_from([*KEYS, "0", "x"])),
    st.builds("{}@{}".format, st.sampled_from(KEYS), st.sampled_from([*KEYS, "_global_", "_here_", ""])),
    st.sampled_from(STRANGE),
    st.text(max_size=8),
)  # fmt: skip
values = st.one_of(
    st.sampled_from(ODD), st.sampled_from(WORDS), st.text(max_size=12), st.integers().map(str), st.floats().map(str)
)
likely = st.sampled_from(KEYS).flatmap(lambda key: plausible(key).map(lambda value: f"{key}={value}"))
unlikely = st.one_of(
    st.builds("{}{}={}".format, st.sampled_from(PREFIXES), st.sampled_from(KEYS), values),
    st.builds("{}{}={}".format, st.sampled_from(PREFIXES), keys, st.one_of(values, st.sampled_from(WORDS))),
    st.sampled_from(KEYS).map("~{}".format),
    keys,
    st.text(max_size=20),
)
near_valid = st.lists(likely, max_size=2)  # typical mistakes
anything = st.one_of(
    st.tuples(st.lists(likely, max_size=1), unlikely).map(lambda both: [*both[0], both[1]]),
    st.lists(unlikely, max_size=3),
)


@st.composite
def commands(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A command and its overrides: half of them nearly valid, some with an odd value at a valid key."""
    name, kind = draw(st.sampled_from(["train", "train", "eval", "collect"])), draw(st.integers(0, 9))
    if kind in (5, 6, 7):
        return name, [f"{draw(st.sampled_from(known_keys(SCHEMAS[name])))}={draw(st.sampled_from(ODD))}"]
    return name, draw(near_valid if kind < 5 else anything)


OUTCOMES: dict[bool, int] = {True: 0, False: 0}


@settings(max_examples=260, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(commands())
def test_any_override_gives_a_configuration_or_one_line(asked: tuple[str, list[str]]) -> None:
    name, words = asked
    try:
        config = compose(name, SCHEMAS[name], [*REQUIRED[name], *words])
    except InputError as error:
        line = str(error)
        assert line.strip() and "\n" not in line and len(line) < 1000
        key = line.partition(":")[0].strip("'")
        named = any(
            key in word or line.startswith(format_value(word)) for word in words
        )  # the key, or an unreadable word
        assert named or key in KEYS, line
        OUTCOMES[False] += 1
    else:
        assert isinstance(config, SCHEMAS[name])
        OUTCOMES[True] += 1


@settings(max_examples=80, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(["train", "eval", "collect"]), st.lists(likely, max_size=4))
def test_values_are_put_in_place_as_hydra_does_it(name: str, words: list[str]) -> None:
    words = [*REQUIRED[name], *words]
    try:
        known = schema_of(name, SCHEMAS[name], words)
        config = merge(name, known, words)
    except InputError:
        return
    by_hydra = hydra_compose(name, words, known)
    assert repr(OmegaConf.to_container(config)) == repr(OmegaConf.to_container(by_hydra))
    assert all(OmegaConf.get_type(config, key) == OmegaConf.get_type(by_hydra, key) for key in config)
    try:
        resolved = compose(name, SCHEMAS[name], words)
    except InputError:
        return
    values = OmegaConf.to_container(without_types(by_hydra), resolve=True)
    chosen = specialize(SCHEMAS[name], chosen_kinds(values, SCHEMAS[name]))
    whole = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(chosen), values))
    assert repr(vars(resolved)) == repr(vars(whole))


def test_equal_groups_of_two_configurations_are_not_one() -> None:
    first, second = (compose("train", TrainConfig, [*REQUIRED["train"], f"seed={seed}"]) for seed in (0, 1))
    assert first.sim == second.sim and first.sim is not second.sim
    first.sim.cameras.append("a camera")
    assert first.sim != compose("train", TrainConfig, [*REQUIRED["train"], "seed=2"]).sim == second.sim


def test_the_random_overrides_were_neither_all_right_nor_all_wrong() -> None:
    if sum(OUTCOMES.values()) >= 250:  # else the test above did not run, or failed
        assert min(OUTCOMES.values()) >= 30, OUTCOMES
