"""A bundle on pictures in files: the engine's waits, what is shown, and pictures that must not judge it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dnexport.build.network import reference_factory
from dnexport.build.pipeline import build
from dnexport.bundle.verify import Bundle
from dnexport.data.images import pixels_from_file, thumbnail_from_pixels
from dnexport.deploy.remeasure import validate_bundle
from dnexport.errors import DataError
from dnexport.spec.metrics import Accuracy
from dnexport.spec.progress import Silent
from dnexport.spec.recipe import Recipe
from tests.data.test_synsets import IDS, MAP

TARGET = "onnxruntime:cpu"


def pictures(folder: Path, wnids: tuple[str, ...], count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    for wnid in wnids:
        (folder / wnid).mkdir(parents=True)
        for index in range(count):
            coarse = generator.integers(0, 256, (4, 4, 3), np.uint8)
            Image.fromarray(coarse).resize((40, 32)).save(folder / wnid / f"{index}.png")


def recipe(data: Path, **values: object) -> Recipe:
    fields = {"arch": "densenet-bc-40-12", "weights": "random", "targets": (TARGET,)}
    return Recipe(name="r", data=str(data), **{**fields, **values})


def validated(bundle: Bundle, data: Path) -> Accuracy:
    return validate_bundle(bundle, None, str(data), reference_factory(bundle.manifest), Silent())[TARGET].accuracy


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("imagenet")
    (root / "LOC_synset_mapping.txt").write_text(MAP)
    pictures(root / "train", IDS, 4, 0)
    pictures(root / "val", IDS, 3, 1)
    return root


@pytest.fixture(scope="module")
def bundle(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    quick = {"rounding": "nearest", "correct_bias": False}
    made = recipe(data, classes=4, precision="int8", quantization=quick, allow_execution=("f32",))
    return build(made, tmp_path_factory.mktemp("built") / "b", Silent(), bench=False).bundle


def test_files_are_waited_for_and_shown_as_the_network_sees_them(bundle: Bundle, data: Path) -> None:
    built = bundle.reports[TARGET].accuracy
    again = validated(bundle, data)
    files = [path for wnid in IDS for path in sorted((data / "val" / wnid).iterdir())]
    for found in (built, again):
        assert 0 < found.waited_share < 1
        assert (found.samples, found.labelled) == (12, 12)
        assert 0 < len(found.shown) <= 8
        for each in found.shown:
            pixels = pixels_from_file(files[each.index], bundle.manifest.preprocess)
            assert each.thumbnail == thumbnail_from_pixels(pixels, bundle.manifest.preprocess)
            assert each.label == each.index // 3
    assert again.shown == built.shown
    assert validated(bundle, data / "val").samples == 12, "its parts by name, and not a fifth of it"
    assert len(built.model_dump_json()) < 60_000
    golden = validate_bundle(bundle, None, None, None, Silent())[TARGET].accuracy
    assert golden.waited_share is None
    assert golden.shown == built.shown


def test_some_of_the_classes_keep_their_indices(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "synset_words.txt").write_text(MAP)
    pictures(tmp_path / "data", IDS[2:], 10, 2)
    found = validated(bundle, tmp_path / "data")
    assert {each.label for each in found.shown} <= {2, 3}
    assert found.labelled == 20, "the whole of a folder without parts"


def test_a_folder_that_was_split_for_the_build_is_split_again(tmp_path: Path) -> None:
    pictures(tmp_path / "data", IDS[:2], 5, 5)
    (tmp_path / "synset_words.txt").write_text(MAP)
    made = recipe(tmp_path / "data", classes=4, precision="fp32")
    bundle = build(made, tmp_path / "b", Silent(), bench=False).bundle
    assert validated(bundle, tmp_path / "data").samples == bundle.reports[TARGET].accuracy.samples == 2


def test_pictures_that_calibrated_are_counted_and_refused(bundle: Bundle, data: Path, tmp_path: Path) -> None:
    for part, source in (("train", "val"), ("val", "train")):
        (tmp_path / part).symlink_to(data / source)
    (tmp_path / "synset_words.txt").write_text(MAP)
    with pytest.raises(DataError, match="16 of 16 test images were used for calibration; keep the two apart"):
        validated(bundle, tmp_path)


def test_other_classes_and_broken_pictures_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "synset_words.txt").write_text(MAP)
    pictures(tmp_path / "five" / "data", (*IDS, "n00000000"), 5, 3)
    with pytest.raises(DataError, match="has 5 classes and the network 4; give the data that it was trained on"):
        validated(bundle, tmp_path / "five" / "data")
    pictures(tmp_path / "data", IDS[:1], 5, 4)
    (tmp_path / "data" / IDS[0] / "4.png").write_bytes(b"no picture")
    for part in ("train", "val"):
        (tmp_path / "broken" / part).parent.mkdir(exist_ok=True)
        (tmp_path / "broken" / part).symlink_to(tmp_path / "data")
    (tmp_path / "broken" / "synset_words.txt").write_text(MAP)
    with pytest.raises(DataError, match=r"1 image of 5 cannot be decoded: .*4\.png; remove them"):
        validated(bundle, tmp_path / "broken")


def test_a_network_of_one_class_and_one_picture_is_built(tmp_path: Path) -> None:
    pictures(tmp_path / "data" / "train", ("yes",), 1, 0)
    pictures(tmp_path / "data" / "val", ("yes",), 1, 1)
    made = recipe(tmp_path / "data", classes=1, precision="fp32", require=("top1-drop<=1", "snr>=10"))
    built = build(made, tmp_path / "b", Silent(), bench=False).bundle
    found = built.reports[TARGET].accuracy
    assert found.one_class
    assert not found.centred
    assert found.snr_db is None or found.snr_db > 60
    top1, snr = built.judgements
    assert (top1.verdict, snr.verdict) == ("undecided", "undecided")
    assert top1.reason == "a network of one class has no top-1: it always names that class"
    assert snr.reason.startswith("images with one answer, or a single one, have no centred ratio")
