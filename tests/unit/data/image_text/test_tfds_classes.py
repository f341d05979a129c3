"""A tensorflow-datasets directory of others runs none of its own code."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data_tools.rlds.__main__ import main
from instructrl.data.image_text.loader import open_pairs
from instructrl.errors import InputError
from tests.fixtures import foreign_rlds
from tests.fixtures import pairs as samples
from tests.fixtures.commands import run_main

EVIL = "evil_features.evilmod.Evil"
OWN = "tensorflow_datasets.core.features"


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that the module of the class EVIL creates when it is imported."""
    path, package = tmp_path / "mark", tmp_path / "there" / "evil_features"
    package.mkdir(parents=True)
    for name in ("__init__.py", "evilmod.py"):
        (package / name).write_text(f"from pathlib import Path\nPath({str(path)!r}).touch()\n")
    monkeypatch.syspath_prepend(tmp_path / "there")
    yield path
    for name in [name for name in sys.modules if name.startswith("evil_features")]:
        del sys.modules[name]


def dataset(folder: Path) -> Path:
    import tensorflow_datasets as tfds

    has = tfds.features
    features = has.FeaturesDict({"image": has.Image(shape=(None, None, 3)), "caption": has.Text()})
    example = {"image": samples.jpeg(1), "caption": samples.sentence(1)}
    return foreign_rlds.dataset(folder, {"train": [example]}, kind="array_record", has=features)


def with_feature(feature: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Add a feature to features.json."""

    def edit(features: dict[str, Any]) -> dict[str, Any]:
        features["featuresDict"]["features"]["extra"] = feature
        return features

    return edit


EVIL_FEATURE = {"pythonClassName": EVIL, "jsonFeature": {"json": "{}"}}
LEGACY_EVIL = {"type": EVIL, "content": {}}
IN_JSON = {
    "pythonClassName": f"{OWN}.features_dict.FeaturesDict",
    "jsonFeature": {"json": json.dumps({"x": LEGACY_EVIL})},
}
PLACES: dict[str, tuple[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "the whole": ("features.json", lambda features: features | {"pythonClassName": EVIL}),
    "a feature": ("features.json", with_feature(EVIL_FEATURE)),
    "the other spelling": ("features.json", with_feature({"python_class_name": EVIL, "jsonFeature": {"json": "{}"}})),
    "a feature within a sequence": (
        "features.json",
        with_feature({"pythonClassName": f"{OWN}.sequence_feature.Sequence", "sequence": {"feature": EVIL_FEATURE}}),
    ),
    "the form before messages": ("features.json", lambda _: LEGACY_EVIL),
    "within the form before messages": (
        "features.json",
        lambda _: {"type": f"{OWN}.features_dict.FeaturesDict", "content": {"type": LEGACY_EVIL}},
    ),
    "a text within": ("features.json", with_feature(IN_JSON)),
    "dataset_info.json": ("dataset_info.json", lambda info: info | {"features": EVIL_FEATURE}),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("below", ["", "config/1.0.0"])
def test_a_class_of_others_is_refused_by_name_before_its_module_is_imported(
    tmp_path: Path, mark: Path, place: str, below: str
) -> None:
    file, edit = PLACES[place]
    path = dataset(tmp_path / "set" / below) / file
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))
    with pytest.raises(InputError) as caught:
        open_pairs([str(tmp_path / "set")], "train").__enter__()
    assert not mark.exists()
    assert str(caught.value).startswith(f"{path}: found the class {EVIL}, whose module would be run; allowed: ")
    done = run_main(main, "import", f"src={tmp_path / 'set'}", f"out={tmp_path / 'out'}", "mapping=x.yaml")
    assert done.returncode == 2 and done.stderr == f"error: {caught.value}\n" and not mark.exists()


def test_of_a_key_that_is_given_twice_both_are_checked(tmp_path: Path, mark: Path) -> None:
    path = dataset(tmp_path / "set") / "features.json"
    text = path.read_text()
    key = '"pythonClassName": '
    path.write_text(text.replace(key, f'{key}"{EVIL}", {key}', 1))
    with pytest.raises(InputError, match=EVIL):
        open_pairs([str(path.parent)], "train").__enter__()
    assert not mark.exists()


def test_the_module_of_the_builder_is_recorded_but_not_imported(tmp_path: Path, mark: Path) -> None:
    path = dataset(tmp_path / "set") / "dataset_info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"moduleName": "evil_features.evilmod"}))
    with open_pairs([str(path.parent)], "train") as [found]:
        assert found.text(0) == samples.sentence(1)
    assert not mark.exists() and "evil_features" not in sys.modules


@pytest.mark.parametrize("former", [f"{OWN}.feature.Tensor", f"{OWN}.tensor_feature.Tensor"])
def test_former_names_and_features_with_any_name_are_read(tmp_path: Path, former: str) -> None:
    path = dataset(tmp_path / "set") / "features.json"
    tensor = {"pythonClassName": former, "tensor": {"shape": {}, "dtype": "int64", "encoding": "none"}}
    features = json.loads(path.read_text())
    features["featuresDict"]["features"] |= {"type": tensor, "content": tensor}
    features["featuresDict"]["features"]["type"] |= {"description": "{not JSON"}
    path.write_text(json.dumps(features))
    with open_pairs([str(path.parent)], "train", image="image", text="caption") as [found]:
        assert len(found) == 1
