"""Image-text pairs from a generated tensorflow-datasets directory, read without TensorFlow."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instructrl.data.image_text.loader import PairLoader, open_pairs
from instructrl.errors import InputError
from tests.fixtures import foreign_rlds as foreign
from tests.fixtures import pairs as samples

KINDS = ("array_record", "tfrecord")


def features(**more: Any) -> Any:
    import tensorflow_datasets as tfds

    has = tfds.features
    return has.FeaturesDict({"image": has.Image(shape=(None, None, 3)), "caption": has.Text(), "id": np.int64} | more)


def example(number: int, **more: Any) -> dict[str, Any]:
    return {"image": samples.jpeg(number), "caption": samples.sentence(number), "id": number} | more


def written(folder: Path, *, kind: str = "array_record", has: Any = None, **splits: list[dict[str, Any]]) -> Path:
    return foreign.dataset(folder, splits, kind=kind, has=has or features())


@pytest.mark.parametrize("kind", KINDS)
def test_a_set_is_read_as_it_was_written(tmp_path: Path, kind: str) -> None:
    train, val = [example(number) for number in range(8)], [example(number) for number in range(20, 24)]
    src = written(tmp_path / "others" / "2.1.0", kind=kind, train=train, validation=val)
    for place in (src, tmp_path / "others"):
        with open_pairs([str(place)], "train") as [found]:
            assert len(found) == 8 and found.has_images and found.has_texts
            assert [found.image(number) for number in range(8)] == [samples.jpeg(number) for number in range(8)]
            assert [found.text(number) for number in range(8)] == [samples.sentence(number) for number in range(8)]
    with open_pairs([str(src)], "val") as [other], open_pairs([f"{src}@train@50-100%"], "val") as [part]:
        assert (len(other), other.text(0)) == (4, samples.sentence(20))
        assert (len(part), part.text(0)) == (4, samples.sentence(4))
        assert other.checksum() != found.checksum() == found.checksum()


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_those_of_the_same_pairs_in_hdf5(tmp_path: Path, kind: str) -> None:
    src = written(tmp_path / "set", kind=kind, train=[example(number) for number in range(10)])
    file = samples.some(tmp_path / "a.hdf5", 10)
    tokenizer = samples.tokenizer()
    with open_pairs([str(src)], "train") as ours, open_pairs([str(file)], "train") as theirs:
        how: Any = {"batch_size": 4, "image_size": 16, "seed": 1, "rates": {"pair": 1, "image": 1}}
        one, other = PairLoader(ours, tokenizer, threads=2, **how), PairLoader(theirs, tokenizer, **how)
        for step in range(6):
            for found, expected in zip(one.batch(step), other.batch(step), strict=True):
                np.testing.assert_array_equal(found, expected)
        one.close()


def test_a_set_by_name_lies_where_tensorflow_datasets_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    written(tmp_path / "others" / "2.1.0", train=[example(1)])
    with open_pairs(["tfds:others"], "train") as [found]:
        assert found.text(0) == samples.sentence(1)
    with pytest.raises(InputError, match=r"tfds:absent: found no .*; prepare it with: tfds build absent --file_format"):
        open_pairs(["tfds:absent"], "train").__enter__()


def test_the_feature_is_the_only_one_or_the_one_that_is_named(tmp_path: Path) -> None:
    import tensorflow_datasets as tfds

    has = tfds.features
    more = {
        "title": has.Text(),
        "label": has.ClassLabel(names=["red_ball", "cup"]),
        "mask": has.Image(shape=(None, None, 1)),
    }
    one = example(1, title="a title", label=1, mask=samples.jpeg(9, kind="PNG", mode="L"))
    src = written(tmp_path / "set", has=features(**more), train=[one, {**one, "label": 0}])

    def text(**keys: Any) -> Any:
        with open_pairs([str(src)], "train", **keys) as [found]:
            return found.text(1), len(found.image(1) or b"")

    assert text(image="image", text="title") == ("a title", len(samples.jpeg(1)))
    assert text(image="mask", text="label") == ("red ball", len(one["mask"]))
    for keys, message in (
        ({}, "image key: .* has several: image, mask; name one of them"),
        ({"image": "image"}, "text key: .* has several: caption, title"),
        ({"image": "imag", "text": "title"}, "imag: .* has no such key; did you mean image"),
        ({"image": "image", "text": "zzz"}, "zzz: .* has no such key; it has caption, id, image"),
        ({"image": "title", "text": "title"}, "image key: found title, a Text; .* has of that kind: image, mask"),
        ({"image": "image", "text": "id"}, "text key: found id, a .*; .* has of that kind: caption, label, title"),
    ):
        with pytest.raises(InputError, match=message):
            text(**keys)


@pytest.mark.parametrize("kind", KINDS)
def test_one_of_several_captions_is_drawn(tmp_path: Path, kind: str) -> None:
    import tensorflow_datasets as tfds

    has = tfds.features
    nested = features(captions=has.Sequence({"text": has.Text(), "number": np.int32}))
    del nested._feature_dict["caption"]
    rows = [{"text": f"caption {number}", "number": number} for number in range(3)]
    examples: list[dict[str, Any]] = [example(1, captions=rows), example(2, captions=[])]
    for one in examples:
        del one["caption"]
    src = written(tmp_path / "nested", kind=kind, has=nested, train=examples)
    with open_pairs([str(src)], "train") as [found]:
        assert [found.text(0, draw) for draw in range(4)] == ["caption 0", "caption 1", "caption 2", "caption 0"]
        assert found.text(1, 5) == ""
    plain = features(caption=has.Sequence(has.Text()))
    src = written(tmp_path / "plain", kind=kind, has=plain, train=[example(1, caption=["one", "two"])])
    with open_pairs([str(src)], "train") as [found]:
        assert [found.text(0, draw) for draw in range(2)] == ["one", "two"]


def test_sets_of_pictures_or_of_text_alone(tmp_path: Path) -> None:
    import tensorflow_datasets as tfds

    has = tfds.features
    text = has.FeaturesDict({"text": has.Text()})
    src = written(tmp_path / "text", has=text, train=[{"text": "push the button"}])
    with open_pairs([str(src)], "train") as [found]:
        assert found.text(0) == "push the button" and found.image(0) is None and not found.has_images
    images = has.FeaturesDict({"image": has.Image(shape=(None, None, 3))})
    src = written(tmp_path / "images", has=images, train=[{"image": samples.jpeg(3)}])
    with open_pairs([str(src)], "train") as [found]:
        assert found.image(0) == samples.jpeg(3) and found.text(0) is None and not found.has_texts
    neither = has.FeaturesDict({"id": np.int64})
    src = written(tmp_path / "neither", has=neither, train=[{"id": 3}])
    with pytest.raises(InputError, match="has neither images nor text; found id"):
        open_pairs([str(src)], "train").__enter__()


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    src = written(tmp_path / "set", kind="tfrecord", train=[example(number) for number in range(3)])
    for place, split, message in (
        (str(src), "val", r"found the splits train, not val or validation or test; .*@train@95-100%"),
        (f"{src}@dev", "train", "found the splits train, not dev"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            open_pairs([place], split).__enter__()
        assert "\n" not in str(caught.value)
    [records] = src.glob("*.tfrecord-*")
    content = bytearray(records.read_bytes())
    content[-100] ^= 1
    records.write_bytes(content)
    with open_pairs([str(src)], "train") as [found]:
        assert found.text(0) == samples.sentence(0)
        with pytest.raises(InputError, match=r"record at byte \d+: damaged"):
            found.image(2)
    records.unlink()
    with pytest.raises(InputError, match=r"no such file, but .*dataset_info.json lists it"):
        open_pairs([str(src)], "train").__enter__()


def test_tensorflow_is_never_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "tensorflow" not in sys.modules, "nothing that these tests import needs it"
    src = written(tmp_path / "set", train=[example(1)])
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # importing it fails
    with open_pairs([str(src)], "train") as [found]:
        assert (found.text(0), found.image(0)) == (samples.sentence(1), samples.jpeg(1))
