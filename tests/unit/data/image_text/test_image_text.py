"""Image-text pairs: M3AE's HDF5 files as its release writes them; batches are a pure function of (seed, step)."""

import io
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from instructrl.data.image_text.hdf5_source import write_pairs
from instructrl.data.image_text.images import BadImageError, decode_image, encode_jpeg
from instructrl.data.image_text.loader import PairBatch, PairLoader, open_pairs
from instructrl.data.loading.loader import prefetch
from instructrl.errors import InputError
from tests.fixtures import pairs as samples

PAIRS = {"pair": 1.0}
TOKENIZER = samples.tokenizer()


def loader(sets: Any, **other: Any) -> PairLoader:
    options = {"batch_size": 4, "image_size": 16, "seed": 3, "rates": PAIRS} | other
    return PairLoader(sets, TOKENIZER, **options)


def same(one: PairBatch, other: PairBatch) -> bool:
    return all(np.array_equal(*parts) for parts in zip(one, other, strict=True))


def words(batch: PairBatch) -> list[str]:
    return [TOKENIZER.decode(row) for row in batch.tokens]


def numbers(batch: PairBatch) -> list[int]:
    """Return the numbers of a batch's images, identified by color."""
    colors = np.array([samples.color(number) for number in range(100)])
    return [int(np.abs(colors - image[8, 8]).sum(axis=1).argmin()) for image in batch.images]


def test_pictures_come_with_their_captions(tmp_path: Path) -> None:
    with open_pairs([str(samples.some(tmp_path / "a.hdf5"))], "train") as sets:
        batch = loader(sets).batch(0)
    assert batch.images.shape == (4, 16, 16, 3) and batch.images.dtype == np.uint8
    assert batch.tokens.shape == (4, 12) and batch.tokens.dtype == np.int32
    assert batch.text_padding_mask.dtype == np.float32
    assert words(batch) == [samples.sentence(number) for number in numbers(batch)]
    filled = [len(TOKENIZER.pieces(text)) for text in words(batch)]
    np.testing.assert_array_equal(batch.text_padding_mask, np.arange(12)[None] >= np.array(filled)[:, None])


def test_every_entry_is_shown_once_in_an_epoch_and_batches_are_full(tmp_path: Path) -> None:
    places = [str(samples.some(tmp_path / "a.hdf5", 7)), str(samples.some(tmp_path / "b.hdf5", 3))]
    with open_pairs(places, "train") as sets:
        pair_loader = loader(sets)
        assert pair_loader.steps_per_epoch == 3
        shown = [number for step in range(5) for number in numbers(pair_loader.batch(step))]  # two epochs of 10
        first, second = shown[:10], shown[10:]
        assert Counter(first) == Counter(second) == Counter([*range(7), *range(3)])  # in proportion to their sizes
        assert first != second
        straight = [numbers(loader(sets, shuffle=False).batch(step)) for step in range(3)]
    assert straight == [[0, 1, 2, 3], [4, 5, 6, 0], [1, 2, 0, 1]]


@pytest.mark.parametrize("rates", [PAIRS, {"pair": 0.5, "image": 0.25, "text": 0.25}])
def test_a_batch_follows_from_files_seed_and_step(tmp_path: Path, rates: dict[str, float]) -> None:
    with open_pairs([str(samples.some(tmp_path / "a.hdf5", 30))], "train") as sets:
        one, other = loader(sets, rates=rates), loader(sets, rates=rates, threads=3)
        batches = {step: one.batch(step) for step in range(12)}
        for step in reversed(range(12)):  # requested in another order, decoded by several threads
            assert same(other.batch(step), batches[step])
        assert not all(same(loader(sets, rates=rates, seed=4).batch(step), batches[step]) for step in range(4))
        with ThreadPoolExecutor(4) as threads:
            assert all(map(same, threads.map(one.batch, range(12)), batches.values()))
        with closing(prefetch(one, 5, 8, depth=2, put=lambda batch: batch)) as ahead:
            assert all(same(found, batches[step]) for step, found in zip(range(5, 8), ahead, strict=True))


def test_the_parts_of_several_processes_are_the_batch_of_one(tmp_path: Path) -> None:
    rates = {"pair": 1.0, "image": 1.0, "text": 1.0}
    images = [samples.jpeg(number) if number % 4 else b"bad" for number in range(20)]
    with open_pairs([str(samples.some(tmp_path / "a.hdf5", 20, images=images))], "train") as sets:
        whole = loader(sets, rates=rates)
        parts = [loader(sets, rates=rates, shard=(index, 2)) for index in range(2)]
        for step in range(12):
            found = [part.batch(step) for part in parts]
            assert same(PairBatch(*map(np.concatenate, zip(*found, strict=True))), whole.batch(step))
            assert {part.kind(step) for part in parts} == {whole.kind(step)}
        with pytest.raises(InputError, match=r"batch_size: found 4; allowed: a multiple .*, 3"):
            loader(sets, shard=(0, 3))


def test_kinds_come_at_their_rates_and_lack_the_other_half(tmp_path: Path) -> None:
    places = [
        str(samples.some(tmp_path / "pairs.hdf5", 10)),
        str(samples.m3ae_file(tmp_path / "images.hdf5", images=[samples.jpeg(number) for number in (50, 51, 52)])),
        str(samples.m3ae_file(tmp_path / "text.hdf5", texts=["push the button", "open the drawer"])),
    ]
    with open_pairs(places, "train") as sets:
        assert [(one.has_images, one.has_texts) for one in sets] == [(True, True), (True, False), (False, True)]
        assert sets[1].text(0) is None and sets[2].image(0) is None
        mixed = loader(sets, rates={"pair": 2, "image": 1, "text": 1})
        assert Counter(mixed.kind(step) for step in range(1000)) == {"pair": 500, "image": 250, "text": 250}
        assert Counter(mixed.kind(step) for step in range(1000, 2000))["pair"] == 500
        assert mixed.steps_per_epoch == 5  # half of the steps are of the 10 pairs
        steps = {kind: [step for step in range(40) if mixed.kind(step) == kind] for kind in ("pair", "image", "text")}
        for step in steps["image"]:
            batch = mixed.batch(step)
            assert set(numbers(batch)) <= {50, 51, 52}
            assert not batch.tokens.any() and batch.text_padding_mask.all()
        for step in steps["text"]:
            batch = mixed.batch(step)
            assert not batch.images.any() and set(words(batch)) == {"push the button", "open the drawer"}
        shown = [number for step in steps["pair"][:5] for number in numbers(mixed.batch(step))]
        assert Counter(shown) == dict.fromkeys(range(10), 2)  # no entry is lost to the other kinds
        halves = loader(sets[:1], rates={"image": 1, "text": 1})  # from pairs, if there is nothing else
        assert {halves.kind(step) for step in range(20)} == {"image", "text"}
        for kind, lacking in (("text", sets[1:2]), ("image", sets[2:]), ("pair", sets[1:])):
            with pytest.raises(InputError, match=rf"rates.{kind}: above 0, but no set has .*\.hdf5"):
                loader(lacking, rates={kind: 1.0})


@pytest.mark.parametrize(
    "rates", [{}, {"pair": 0.0}, {"pair": -1.0, "text": 1.0}, {"pair": float("nan")}, {"pear": 1.0}]
)
def test_rates_that_make_no_sense_are_refused(tmp_path: Path, rates: dict[str, float]) -> None:
    with (
        open_pairs([str(samples.some(tmp_path / "a.hdf5"))], "train") as sets,
        pytest.raises(InputError, match="rates"),
    ):
        loader(sets, rates=rates)


def test_bad_pictures_are_replaced_by_the_next_good_one_and_counted(tmp_path: Path) -> None:
    images = [samples.jpeg(number) for number in range(8)]
    images[2], images[3], images[7] = b"no image", images[3][:40], b""
    with open_pairs([str(samples.some(tmp_path / "a.hdf5", 8, images=images))], "train") as sets:
        straight = loader(sets, shuffle=False)
        assert straight.skipped == 0
        batches = [straight.batch(0), straight.batch(1)]
        assert [numbers(batch) for batch in batches] == [[0, 1, 4, 4], [4, 5, 6, 0]]
        assert [words(batch) for batch in batches] == [
            [samples.sentence(number) for number in shown] for shown in ([0, 1, 4, 4], [4, 5, 6, 0])
        ]
        assert straight.skipped == 3
        assert same(straight.batch(0), batches[0]) and straight.skipped == 3  # found again, not counted again
    with open_pairs([str(samples.some(tmp_path / "b.hdf5", 3, images=[b"x"] * 3))], "train") as sets:
        for _ in range(2):
            with pytest.raises(InputError, match=r"b\.hdf5: 3 images in a row cannot be decoded"):
                loader(sets).batch(0)


def test_long_captions_are_cut_and_empty_ones_are_padding(tmp_path: Path) -> None:
    captions = ["the red ball " * 20, "", "   ", "push the button"]
    with open_pairs([str(samples.some(tmp_path / "a.hdf5", 4, captions=captions))], "train") as sets:
        batch = loader(sets, shuffle=False).batch(0)
    assert words(batch) == [" ".join(["the red ball"] * 4), "", "", "push the button"]
    assert batch.text_padding_mask.sum(axis=1).tolist() == [0, 12, 12, 9]


@pytest.mark.parametrize(
    "kind", [h5py.string_dtype(), h5py.string_dtype("ascii"), h5py.string_dtype(length=40), h5py.vlen_dtype(np.uint8)]
)
def test_captions_may_be_strings_or_bytes(tmp_path: Path, kind: Any) -> None:
    texts: list[Any] = ["the red ball", "café"]
    if h5py.check_string_dtype(kind) is None:
        texts = [np.frombuffer(text.encode(), np.uint8) for text in texts]
    elif h5py.check_string_dtype(kind).encoding == "ascii":
        texts = [text.encode() for text in texts]
    path = samples.some(tmp_path / "a.hdf5", 2, captions=texts, text_type=kind)
    with open_pairs([str(path)], "train") as [found]:
        assert [found.text(0), found.text(1)] == ["the red ball", "café"]


def test_what_is_no_utf8_does_not_stop_a_run(tmp_path: Path) -> None:
    raw = [np.frombuffer(b"the \xff\xfe ball", np.uint8)] * 4
    path = samples.some(tmp_path / "a.hdf5", 4, captions=raw, text_type=h5py.vlen_dtype(np.uint8))
    with open_pairs([str(path)], "train") as sets:
        assert words(loader(sets).batch(0))[0].startswith("the ")


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (400, 200), (7, 5)])
def test_the_centre_of_a_picture_is_kept(size: tuple[int, int]) -> None:
    width, height = size
    image = np.zeros((height, width, 3), np.uint8)
    side = min(size)
    left, top = (width - side) // 2, (height - side) // 2
    image[top : top + side, left : left + side] = 200
    found = decode_image(encode_jpeg(image, 95), 16)
    assert found.shape == (16, 16, 3)
    assert np.abs(found[2:-2, 2:-2].astype(int) - 200).max() < 30


def test_pictures_of_all_modes_become_rgb() -> None:
    for kind, mode in [("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "LA")]:
        assert decode_image(samples.jpeg(7, kind=kind, mode=mode), 16).shape == (16, 16, 3)
    file = io.BytesIO()
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(file, "PNG")
    assert (decode_image(file.getvalue(), 8) == 255).all()  # transparent pixels become white
    with pytest.raises(BadImageError):
        decode_image(b"GIF89a", 16)


def test_addresses_name_files_folders_and_parts(tmp_path: Path) -> None:
    for split, count in (("train", 10), ("val", 4)):
        samples.some(tmp_path / f"{split}.hdf5", count)
    file = str(tmp_path / "train.hdf5")

    def sizes(*places: str, split: str = "train") -> list[int]:
        with open_pairs(places, split) as sets:
            return [len(one) for one in sets]

    assert sizes(str(tmp_path)) == [10] and sizes(str(tmp_path), split="val") == [4]
    assert sizes(f"{tmp_path}@val", file, split="train") == [4, 10]
    assert sizes(f"{file}@0-70%", f"{file}@70-100%", split="val") == [7, 3]
    with open_pairs([f"{file}@70-100%", file, file, str(tmp_path / "val.hdf5")], "train") as [part, whole, again, val]:
        assert part.text(0) == samples.sentence(7) and part.image(2) == whole.image(9) and part.path == file
        assert len({part.checksum(), whole.checksum(), val.checksum()}) == 3
        assert again.checksum() == whole.checksum()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": None, "captions": None}, r"found nothing; allowed: jpg and caption"),
        ({"captions": ["a"]}, r"arrays of unequal length: \{'jpg': 3, 'caption': 1\}"),
    ],
)
def test_files_of_another_layout_are_one_line(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    path = samples.some(tmp_path / "a.hdf5", 3, **arrays)
    with pytest.raises(InputError, match=message), open_pairs([str(path)], "train"):
        pass


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    samples.some(tmp_path / "good.hdf5")
    (tmp_path / "text.hdf5").write_text("hello")
    (tmp_path / "empty").mkdir()
    with h5py.File(tmp_path / "pixels.hdf5", "w") as file:
        file["jpg"] = np.zeros((4, 8, 8, 3), np.uint8)
    with h5py.File(tmp_path / "floats.hdf5", "w") as file:
        file["jpg"] = np.zeros(4)
    with h5py.File(tmp_path / "none.hdf5", "w") as file:
        file.create_dataset("text", (0,), h5py.string_dtype())
    for place, message in (
        ("missing.hdf5", "no such file"),
        ("text.hdf5", "not an HDF5 file, or damaged"),
        ("empty", "found neither train.hdf5 nor a tensorflow-datasets directory"),
        ("", "it has floats.hdf5, good.hdf5, .*: name one of them"),
        ("pixels.hdf5", r"jpg: found shape \(4, 8, 8, 3\)"),
        ("floats.hdf5", "jpg: found float64; allowed: uint8 arrays of any length"),
        ("none.hdf5", "has no entries"),
        ("good.hdf5@90-10%", "a range is between 0 and 100 %"),
        ("good.hdf5@3-4%", "has no entries"),
    ):
        with pytest.raises(InputError, match=message) as caught, open_pairs([str(tmp_path / place)], "train"):
            pass
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="found an empty list"), open_pairs([], "train"):
        pass


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = samples.some(tmp_path / "a.hdf5", 200)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"a\.hdf5: not an HDF5 file, or damaged"), open_pairs([str(path)], "train"):
        pass
    heap = content.index(b"GCOL")  # start of the heap with the entries
    path.write_bytes(content[:heap] + bytes(4) + content[heap + 4 :])
    with pytest.raises(InputError, match=r"a\.hdf5: /jpg: entry 0: damaged"), open_pairs([str(path)], "train") as sets:
        loader(sets, shuffle=False).batch(0)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    def broken() -> Any:
        yield samples.jpeg(0), "one"
        raise RuntimeError("stop")

    path = tmp_path / "new" / "a.hdf5"
    with pytest.raises(RuntimeError):
        write_pairs(path, broken(), {})
    assert list(path.parent.iterdir()) == []
    pairs = [(samples.jpeg(number), samples.sentence(number)) for number in range(2500)]
    assert write_pairs(path, pairs, {"seed": 3}) == 2500
    write_pairs(tmp_path / "b.hdf5", iter(pairs), {"seed": 3})
    assert path.read_bytes() == (tmp_path / "b.hdf5").read_bytes()
    with open_pairs([str(path)], "train") as [found]:
        assert len(found) == 2500
        assert (found.image(2047), found.text(2047)) == pairs[2047]


def test_images_of_the_same_length_are_written_like_others(tmp_path: Path) -> None:
    for count in (1, 2, 1025):  # 1025: a block of 1024 and one of a single image
        for length in (1, 3):
            pairs = [(bytes([number % 256, 8, 7][:length]), f"caption {number}") for number in range(count)]
            path = tmp_path / f"{count}-{length}.hdf5"
            assert write_pairs(path, pairs, {}) == count
            with open_pairs([str(path)], "train") as [found]:
                assert [(found.image(row), found.text(row)) for row in range(count)] == pairs


def test_threads_end_with_the_loader(tmp_path: Path) -> None:
    with open_pairs([str(samples.some(tmp_path / "a.hdf5"))], "train") as sets:
        several = loader(sets, threads=2)
        several.batch(0)
        several.close()
    assert not [one for one in threading.enumerate() if one.name.startswith("decode")]
