"""The unpickler rebuilds plain data as Python does, and never imports, calls or changes anything else."""

import codecs
import collections
import contextlib
import copyreg
import os
import pickle
import sys
import tracemalloc

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.core import FrozenDict
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from data_tools.weights.__main__ import main
from data_tools.weights.m3ae import read_m3ae
from instructrl.errors import InputError
from instructrl.storage.pickles.safe_pickle_types import InertObject
from instructrl.storage.pickles.safe_unpickler import load
from tests.fixtures import malicious
from tests.fixtures.commands import run_main
from tests.fixtures.malicious import HARMLESS, MODULE, PIECES, PLACES, called, named, text
from tests.fixtures.pickles import published_pickle

WATCHED = ("import", "exec", "compile", "os.", "subprocess.", "shutil.", "ctypes.", "socket.", "pickle.", "marshal.",
           "code.__new__", "function.__new__", "object.__setattr__", "sys.")  # fmt: skip
events: list[str] | None = None
codecs.lookup("raw-unicode-escape")  # imported by Python on first use


def record_event(event, arguments):
    """Audit hook: records events while `events` is a list."""
    if events is not None and event.startswith(WATCHED):
        events.append(f"{event} {arguments[:2]}")


sys.addaudithook(record_event)


@contextlib.contextmanager
def nothing_happens():
    """Fail if anything is imported, executed or started."""
    global events
    before, events = set(sys.modules), []
    try:
        yield
    finally:
        recorded, events = events, None
    assert recorded == []
    assert set(sys.modules) == before


def read(content, path, **options):
    path.write_bytes(content)
    with nothing_happens():
        return load(path, **options)


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """A file that a successful attack creates, with the module that the attack needs."""
    path = tmp_path / "mark"
    (tmp_path / "there").mkdir()
    (tmp_path / f"there/{MODULE}.py").write_text(malicious.SOURCE.format(path=str(path)))
    monkeypatch.syspath_prepend(tmp_path / "there")
    copyreg.add_extension(MODULE, "mark", malicious.NAMED)
    copyreg.add_extension("os", "system", malicious.CACHED)
    copyreg._extension_cache[malicious.CACHED] = os.system
    yield path
    copyreg.remove_extension(MODULE, "mark", malicious.NAMED)
    copyreg.remove_extension("os", "system", malicious.CACHED)
    sys.modules.pop(MODULE, None)


# Malicious files.


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", PIECES | HARMLESS)
def test_nothing_of_it_runs(name, place, mark, tmp_path):
    params = {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}
    file = tmp_path / "model.pkl"
    file.write_bytes(PLACES[place]((PIECES | HARMLESS)[name](str(mark)), params))
    cached = dict(copyreg._extension_cache)
    with nothing_happens():
        try:
            found = read_m3ae(file).arrays
        except InputError as error:
            assert str(error).startswith(str(file)) and "\n" not in str(error) and len(str(error)) < 400
            found = None
    if found is not None:
        assert place == "beside params"
        np.testing.assert_array_equal(found.pop("a/kernel"), params["a"]["kernel"])
        assert found == {}
    assert not mark.exists() and MODULE not in sys.modules
    assert copyreg._extension_cache == cached


@pytest.mark.parametrize("name", PIECES)
def test_a_reader_that_expects_its_own_classes_refuses_all_others(name, mark, tmp_path):
    with pytest.raises(InputError):
        read(malicious.as_all(PIECES[name](str(mark)), {}), tmp_path / "x.pkl", unknown="refuse")
    assert not mark.exists() and MODULE not in sys.modules


def test_the_command_runs_nothing_either(mark, tmp_path):
    file = tmp_path / "model.pkl"
    pieces = b""
    for piece in PIECES.values():
        with contextlib.suppress(InputError):  # collects those that are read without an error
            read(malicious.as_all(piece(str(mark)), {}), file)
            pieces += piece(str(mark)) + b"0"
    assert len(pieces) > 1000
    file.write_bytes(b"\x80\x05" + pieces + b"}.")
    done = run_main(main, "convert", "kind=m3ae", f"src={file}", f"out={tmp_path}/o")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "without params" in done.stderr
    assert not mark.exists() and MODULE not in sys.modules and not (tmp_path / "o").exists()


# Refusals and their messages.


class Thing:
    pass


def thing():
    instance = Thing()
    instance.x = np.arange(3)
    return instance


def test_classes_that_are_expected_keep_their_state(tmp_path):
    content = pickle.dumps({"demo": thing()})
    allowed = f"{Thing.__module__}.Thing"
    found = read(content, tmp_path / "x.pkl", unknown="refuse", allowed=[allowed])["demo"]
    assert type(found) is InertObject and found.name == allowed
    np.testing.assert_array_equal(found.state["x"], np.arange(3))
    with pytest.raises(
        InputError, match=rf"x.pkl: found {Thing.__module__}.Thing, which is not one of the expected classes"
    ):
        read(content, tmp_path / "x.pkl", unknown="refuse", allowed=["other.Thing"])


@pytest.mark.parametrize("protocol", range(6))
def test_an_object_that_is_not_known_is_only_its_name_and_state(tmp_path, protocol):
    found = read(pickle.dumps(thing(), protocol), tmp_path / "x.pkl")
    assert type(found) is InertObject and found.name == f"{Thing.__module__}.Thing"
    np.testing.assert_array_equal(found.state["x"], np.arange(3))


@pytest.mark.parametrize("array", [np.array([1, "a", None], object), np.array(["a"]), np.array([(1, 2)], "i4,f4"),
                                   np.array("2020-01-01", "M8[D]"), np.str_("a")])  # fmt: skip
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_of_anything_but_numbers_are_named(tmp_path, array, protocol):
    with pytest.raises(InputError, match=r"x.pkl: found an array of dtype .*; only arrays of numbers"):
        read(pickle.dumps(array, protocol), tmp_path / "x.pkl")


def test_a_hostile_name_is_shown_harmlessly(tmp_path):
    with pytest.raises(InputError) as caught:
        read(b"\x80\x05" + malicious.stack_named("a\n\x1b[2J" * 1000, "b") + b".", tmp_path / "x.pkl", unknown="refuse")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "missing.pkl", tmp_path):
        with pytest.raises(InputError, match=rf"{path}: no such file"):
            load(path)


# Files that try to exhaust memory or time.

HUGE = {
    "bytes": b"\x8e" + b"\xff" * 7 + b"\x0f",
    "text": b"\x8d" + b"\xff" * 7 + b"\x0f",
    "bytearray": b"\x96" + b"\xff" * 5 + b"\x00" * 3,
    "bytearray of a terabyte": b"\x96" + (1 << 40).to_bytes(8, "little"),
    "frame": b"\x95" + b"\xff" * 7 + b"\x0f",
    "long": b"\x8b\xff\xff\xff\x7f",
    "memo": b"Nr\xff\xff\xff\xff" * 20,
    "bytearray of a number": called(named("builtins", "bytearray"), b"J\xff\xff\xff\x7f"),
    "bytes of a number": called(named("builtins", "bytes"), b"J\xff\xff\xff\x7f"),
    "a dtype of a gigabyte": called(malicious.DTYPE, text("V1000000000"), b"\x89", b"\x88"),
    "copies": text("x" * 100_000) + b"q\x010(" + called(named("_codecs", "encode"), b"h\x01", text("latin1")) * 20_000,
    "copies of a set": b"\x8f(" + b"".join(b"J%s" % n.to_bytes(4, "little") for n in range(20_000)) + b"\x90q\x010("
    + called(named("builtins", "set"), b"h\x01") * 20_000,
}  # fmt: skip


@pytest.mark.parametrize("name", HUGE)
def test_lengths_that_are_claimed_are_not_believed(tmp_path, name):
    content = b"\x80\x05" + HUGE[name] + b"."
    tracemalloc.start()
    with contextlib.suppress(InputError):
        read(content, tmp_path / "x.pkl")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * len(content) + 1_000_000


@pytest.mark.parametrize("content", [
    b"(" * 300_000 + b".", b"(" * 300_000 + b"l" * 299_999 + b".", b")" + b"\x85" * 300_000 + b".",
    b"}K\x01" + b"\x85" * 300_000 + b"K\x01s.", b"\x8f(K\x01" + b"\x85" * 300_000 + b"\x90.",
    b"(K\x01" + b"\x85" * 300_000 + b"\x91.", b"(K\x01" + b"\x85" * 300_000 + b"K\x01d.",
])  # fmt: skip
def test_what_is_nested_very_deep_does_not_end_the_process(tmp_path, content):
    with contextlib.suppress(InputError):
        read(content, tmp_path / "x.pkl")


def test_a_tree_that_repeats_itself_is_refused(tmp_path):
    tree = {"x": np.ones(3, np.float32)}
    for _ in range(15):
        tree = dict.fromkeys("abcdefgh", tree)
    file = tmp_path / "x.pkl"
    file.write_bytes(pickle.dumps({"step": 0, "state": {"params": tree}}))
    with pytest.raises(InputError, match="contains itself"):
        read_m3ae(file)
    file.write_bytes(b"\x80\x05}q\x01" + text("params") + b"h\x01s.")  # params contains itself
    with pytest.raises(InputError):
        read_m3ae(file)


# Plain data are read as Python reads them.

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
keys = st.text(max_size=5) | st.integers() | st.tuples(st.text(max_size=3), st.integers())
numbers = hnp.arrays(
    hnp.boolean_dtypes() | hnp.integer_dtypes(endianness="?") | hnp.floating_dtypes(sizes=(16, 32, 64), endianness="?"),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)
special = st.sampled_from([
    FrozenDict({"a": {"b": np.arange(3)}}), collections.OrderedDict(b=1, a=2), np.float32(1.5), np.bool_(True), 1 + 2j,
    bytearray(b"abc\xff"), np.arange(6).reshape(2, 3).T, np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2),
    np.arange(5).astype(ml_dtypes.bfloat16), np.arange(8)[::2], np.zeros((0, 3)), np.asfortranarray(np.ones((2, 3))),
])  # fmt: skip
data = st.recursive(
    scalars | numbers | special | st.sets(keys) | st.frozensets(keys),
    lambda inner: st.lists(inner) | st.dictionaries(keys, inner) | st.tuples(inner, inner),
    max_leaves=20,
)


def alike(found, expected):
    if isinstance(expected, np.ndarray | np.generic):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype.newbyteorder("=") == expected.dtype.newbyteorder("=") and found.shape == expected.shape
    elif isinstance(expected, dict | FrozenDict):
        assert isinstance(found, dict) and list(found) == list(expected)
        for key in expected:
            alike(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert type(found) is type(expected) and len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            alike(one, other)
    else:
        assert type(found) is type(expected) and found == expected


@settings(max_examples=150)
@given(value=data, protocol=st.integers(0, 5))
@example(value={"x": b"", "y": frozenset(), "z": [set(), bytearray()]}, protocol=0)
def test_plain_data_are_read_as_python_reads_them(tmp_path_factory, value, protocol):
    found = read(pickle.dumps(value, protocol), tmp_path_factory.getbasetemp() / "plain.pkl")
    alike(found, value)


OLDER_JAX = [
    ("jax._src.device_array", "reconstruct_device_array"),
    ("jax.experimental.array", "_reconstruct_array"),
    ("jax.interpreters.xla", "reconstruct_device_array"),
]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "bool"])
def test_jax_arrays_become_numpys(tmp_path, protocol, dtype):
    array = jnp.arange(6).reshape(2, 3).astype(dtype)
    content = pickle.dumps({"x": array, "y": array[0, 0]}, protocol)
    found = read(content, tmp_path / "x.pkl")
    alike(found, {"x": np.asarray(array), "y": np.asarray(array)[0, 0, ...]})
    for module, name in OLDER_JAX if protocol < 4 else ():
        other = content.replace(b"cjax._src.array\n_reconstruct_array\n", named(module, name))
        alike(read(other, tmp_path / "x.pkl"), {"x": np.asarray(array), "y": np.asarray(array)[0, 0, ...]})


def test_arrays_of_older_numpys(tmp_path):
    content = pickle.dumps(np.arange(6.0), 2)
    old = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != content
    alike(read(old, tmp_path / "x.pkl"), np.arange(6.0))


def test_the_state_form_of_a_frozen_dict(tmp_path):
    kind = named("flax.core.frozen_dict", "FrozenDict")
    state = b"N}" + text("_dict") + b"}" + text("a") + b"K\x01ss\x86b"
    for instance in (
        kind + b")\x81",
        called(named("copyreg", "_reconstructor"), kind, named("builtins", "object"), b"N"),
    ):
        assert read(b"\x80\x05" + instance + state + b".", tmp_path / "x.pkl") == {"a": 1}


# Any damage gives a one-line error.

SMALL = {"encoder": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.ones(3, np.float32)}}
CONTENTS = [published_pickle(SMALL, protocol=protocol, bound=False) for protocol in (2, 5)]
OPCODES = [bytes([pickle.__dict__[name][0]]) for name in sorted(pickle.__all__) if name.isupper()
           and isinstance(pickle.__dict__[name], bytes) and len(pickle.__dict__[name]) == 1]  # fmt: skip
TYPES = (dict, list, tuple, set, frozenset, str, bytes, bytearray, int, float, complex, bool, type(None), np.ndarray)


def only_plain(found):
    """Walk the result and check that all types are inert."""
    pending, visited = [found], set()
    while pending:
        part = pending.pop()
        if id(part) in visited:
            continue
        visited.add(id(part))
        name = type(part).__module__
        assert type(part) in TYPES or name in ("instructrl.storage.pickles.safe_pickle_types", "numpy"), type(part)
        if isinstance(part, np.ndarray):
            assert part.dtype.kind in "biufcV" and not part.dtype.hasobject
        pending += [*part, *part.values()] if isinstance(part, dict) else []
        pending += part if isinstance(part, list | tuple | set | frozenset) else []
        pending += [part.state] if type(part) is InertObject else []


def survives(content, path):
    path.write_bytes(content)
    with nothing_happens(), contextlib.suppress(InputError):
        only_plain(load(path))
    with nothing_happens(), contextlib.suppress(InputError):
        for value in read_m3ae(path).arrays.values():
            assert value.dtype == np.float32 and np.isfinite(value).all()


@settings(max_examples=200)
@given(content=st.sampled_from(CONTENTS), data=st.data())
def test_flipped_bytes_give_one_line_or_plain_data(tmp_path_factory, content, data):
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    survives(bytes(damaged), tmp_path_factory.getbasetemp() / "flipped.pkl")


@settings(max_examples=100)
@given(content=st.sampled_from(CONTENTS), share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_gives_one_line(tmp_path_factory, content, share):
    path = tmp_path_factory.getbasetemp() / "truncated.pkl"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match="damaged or not a pickle") as caught:
        load(path)
    assert "\n" not in str(caught.value)


HAND = [
    malicious.EMPTY,
    malicious.DTYPE,
    malicious.THING,
    text("a"),
    b"K\x01",
    b"h\x01",
    b"q\x01",
    b"(",
    b")",
    b"R",
    b"b",
]
words = st.sampled_from([*OPCODES, *(piece("/tmp/mark") for piece in HARMLESS.values()), *HAND])


@settings(max_examples=300)
@given(parts=st.lists(words | st.binary(max_size=3), max_size=40))
def test_random_programs_give_one_line_or_plain_data(tmp_path_factory, parts):
    survives(b"\x80\x05" + b"".join(parts) + b".", tmp_path_factory.getbasetemp() / "random.pkl")
